"""The configuration of a mapping: defaults, settings of the whole model, and overrides for selected weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from onnx_gconv.configuration.resolve import EffectiveSettings, Given, scheme_of
from onnx_gconv.configuration.settings import (
    SETTING_NAMES,
    ClippingSettings,
    ConverterSettings,
    DeviceSettings,
    GranularitySettings,
    ModelSettings,
    Override,
    WeightSettings,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.validation_messages import first_problem, key_path
from onnx_gconv.weights import FoundWeight, SkippedWeight, SkipReason, WeightSelection, WeightSurvey
from onnx_gconv.weights.names import NameKind, WeightNames, as_glob
from onnx_gconv.weights.selection import unmatched
from onnx_gconv.weights.weight_parts import wrong_parts

__all__ = ["Configuration", "ConfigurationSource", "ResolvedSurvey"]


@dataclass(frozen=True)
class ConfigurationSource:
    """Where a configuration comes from.

    Attributes:
        name: Its name in messages: the file in quotes; empty if it comes from no file.
        lines: The line of each key in the file, counted from 1, as far as it is known.
        files: The file, which no output may replace; empty if it comes from no file.
    """

    name: str = ""
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def place(self, *key: str | int) -> str:
        """Return the name of a key in messages, e.g. ``'gconv.toml', line 7: overrides[1].op``."""
        line = next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), None)
        where = [*([self.name] if self.name else []), *([f"line {line}"] if line is not None else [])]
        return ": ".join((*([", ".join(where)] if where else []), *([key_path(key)] if key else [])))


@dataclass(frozen=True)
class ResolvedSurvey:
    """A configuration applied to the weights of a model.

    Attributes:
        survey: The weights that are mapped, and the skipped ones.
        schemes: For each mapped weight, how it is mapped.
        overrides: For each mapped weight, the indices of the overrides that apply to it.
        matches: For each override, how many weights that could be mapped it matches.
    """

    survey: WeightSurvey
    schemes: tuple[MappingScheme, ...]
    overrides: tuple[tuple[int, ...], ...]
    matches: tuple[int, ...]


def _overrides(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (list, tuple)):
        raise ValueError("should be a list of tables; write [[overrides]] above each of them")  # noqa: TRY004
    return handler(value)


class Configuration(BaseModel):
    """How the weights of a model are mapped: of each setting, the last given value is used.

    The order is: the defaults, the overrides in their order, the settings that `with_settings` puts on top. A later
    value replaces an earlier one as a whole, with all its parts.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        title="onnx_gconv",
        json_schema_extra={"description": "How onnx-gconv maps the weights of a model to conductances."},
    )

    defaults: WeightSettings = WeightSettings()
    """How weights are mapped, unless an override changes it."""
    model: ModelSettings = ModelSettings()
    """Which weights are mapped, and other settings of the whole model."""
    overrides: Annotated[
        tuple[Override, ...], WrapValidator(_overrides, json_schema_input_type=tuple[Override, ...])
    ] = ()
    """Settings for selected weights, applied in their order."""

    _source: ConfigurationSource = PrivateAttr(default_factory=ConfigurationSource)
    _on_top: WeightSettings = PrivateAttr(default_factory=WeightSettings)
    _names_on_top: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any], source: ConfigurationSource | None = None) -> Configuration:
        """Return a configuration from the content of a file.

        Args:
            data: The content of a file, as tables and lists.
            source: Where it comes from, for messages.

        Raises:
            ConfigError: If a key is unknown or a value is wrong; the message names the key.
        """
        source = ConfigurationSource() if source is None else source
        try:
            configuration = cls.model_validate(data)
        except ValidationError as error:
            problem = first_problem(error, cls, data)
            raise ConfigError(f"{source.place(*problem.key)}: {problem.text}".removeprefix(": ")) from None
        configuration._source = source  # noqa: SLF001 - of this class
        return configuration

    @classmethod
    def of_scheme(cls, scheme: MappingScheme, model: ModelSettings | None = None) -> Configuration:
        """Return a configuration that maps all weights by a scheme, whose converter may be of the user's own class.

        The range of the scheme is taken as µS, even if it is so low that a configuration would ask for its unit.
        """
        defaults = WeightSettings(
            device=DeviceSettings(unit="uS"),
            converter=scheme.converter,
            granularity=GranularitySettings.of(scheme.granularity),
            clipping=ClippingSettings(percentile=scheme.clipping.percentile, value=scheme.clipping.value),
            levels=scheme.levels,
            storage=scheme.storage,
            parts=scheme.parts,
        )
        return cls(defaults=defaults, model=ModelSettings() if model is None else model)

    @property
    def source(self) -> ConfigurationSource:
        """Where the configuration comes from."""
        return self._source

    def override_name(self, index: int) -> str:
        """Return the name of an override in messages, e.g. ``overrides[1] of 'gconv.toml'``."""
        return f"overrides[{index}]" + (f" of {self._source.name}" if self._source.name else "")

    def with_settings(
        self,
        settings: WeightSettings | None = None,
        model: ModelSettings | None = None,
        *,
        names: Mapping[str, str] | None = None,
    ) -> Configuration:
        """Return the configuration with settings on top, such as those of the command line or of a caller.

        Args:
            settings: Settings that override the defaults and all overrides. Weights that an override skips stay
                skipped.
            model: Settings of the whole model. Those that are given explicitly (its `model_fields_set`) override the
                configuration's.
            names: The names of the settings in messages, such as options of the command line.
        """
        on_top = {} if settings is None else dict(settings)
        on_top = {name: value for name, value in on_top.items() if value is not None}
        for_model = {} if model is None else {name: getattr(model, name) for name in model.model_fields_set}
        changed = self.model_copy(update={"model": self.model.model_copy(update=for_model)})
        changed._on_top = self._on_top.model_copy(update=on_top)  # noqa: SLF001 - of this class
        changed._names_on_top = {**self._names_on_top, **(names or {})}  # noqa: SLF001 - of this class
        return changed

    def with_range(self, g_min: float, g_max: float) -> Configuration:
        """Return the configuration with a range of conductances, in µS, for all weights without one.

        A range is given by a device, a list of levels, a table of conductances, or a converter object. If the defaults,
        or the settings on top, give a range, nothing is added.
        """
        of_all = (self.defaults, self._on_top)
        has_lists = any(isinstance(each.levels, (tuple, ConductanceLevels)) for each in (*of_all, *self.overrides))
        if has_lists or any(each.device is not None or _has_a_range(each.converter) for each in of_all):
            return self
        defaults = self.defaults.model_copy(update={"device": DeviceSettings(g_min=g_min, g_max=g_max)})
        return self.model_copy(update={"defaults": defaults})

    def resolve(self, survey: WeightSurvey) -> ResolvedSurvey:
        """Decide for every weight whether and how it is mapped.

        A pattern of an override may also match weights that `model.include` and `model.exclude` leave out.

        Raises:
            ConfigError: If a pattern matches no weight that could be mapped, settings contradict each other, or the
                sizes of a weight's parts do not add up to its number of outputs.
        """
        applied = self._applied(survey)
        matches = tuple(sum(index in each for each in applied) for index in range(len(self.overrides)))
        indices = dict(zip(survey.weights, applied, strict=True))
        selected = WeightSelection(self.model.include, self.model.exclude).apply(survey)
        schemes: dict[tuple[int, ...], MappingScheme] = {}
        mapped: list[FoundWeight] = []
        skipped: list[SkippedWeight] = []
        for weight in selected.weights:
            overrides = indices[weight]
            skipping = self._skipping(overrides)
            if skipping is not None:
                detail = f"skipped by {self.override_name(skipping)}"
                skipped.append(SkippedWeight.of(weight, SkipReason.NOT_SELECTED, detail))
                continue
            if overrides not in schemes:
                schemes[overrides] = self._scheme(overrides)
            parts = schemes[overrides].parts
            if not isinstance(parts, str) and (problem := wrong_parts(weight, parts)) is not None:
                self._given(overrides)["parts"].refuse(problem)
            mapped.append(weight)
        return ResolvedSurvey(
            WeightSurvey(tuple(mapped), (*selected.skipped, *skipped)),
            tuple(schemes[indices[weight]] for weight in mapped),
            tuple(indices[weight] for weight in mapped),
            matches,
        )

    def check(self) -> None:
        """Check, without a model, that the settings fit together: the defaults, and each override on the defaults.

        Raises:
            ConfigError: If settings contradict each other.
        """
        self._scheme(())
        for index, override in enumerate(self.overrides):
            if not override.skip:
                self._scheme((index,))

    def scheme(self) -> MappingScheme:
        """Return the scheme of weights to which no override applies.

        Raises:
            ConfigError: If settings contradict each other.
        """
        return self._scheme(())

    def _applied(self, survey: WeightSurvey) -> list[tuple[int, ...]]:
        """Return the indices of the overrides that match each weight that could be mapped."""
        names = [weight.names for weight in survey.weights]
        globs = [
            {kind: {pattern: as_glob(pattern, names, kind) for pattern in patterns} for kind, patterns in kinds.items()}
            for kinds in (override.patterns for override in self.overrides)
        ]
        found = [[_matches(override, each) for each in names] for override in globs]
        for index, override in enumerate(self.overrides):
            for kind, patterns in globs[index].items():
                place = self._source.place("overrides", index, kind or "match")
                for pattern, glob in patterns.items():
                    if not any(each.match(glob, kind) for each in names):
                        raise ConfigError(f"{place}: {unmatched(pattern, survey, kind)}")
            if not any(found[index]):
                kinds = " and ".join(kind or "match" for kind in override.patterns)
                raise ConfigError(
                    f"{self._source.place('overrides', index)}: no weight matches its {kinds} at once; each of them "
                    "alone matches some, so give them in overrides of their own"
                )
        return [
            tuple(index for index in range(len(self.overrides)) if found[index][number]) for number in range(len(names))
        ]

    def _skipping(self, overrides: Sequence[int]) -> int | None:
        """Return the last override that has `skip`, if it says to skip; else None."""
        for index in reversed(overrides):
            if self.overrides[index].skip is not None:
                return index if self.overrides[index].skip else None
        return None

    def _scheme(self, overrides: Sequence[int]) -> MappingScheme:
        """Return the scheme of weights to which these overrides apply."""
        return scheme_of(EffectiveSettings(**self._given(overrides)), self._conductance_dtype())

    def _given(self, overrides: Sequence[int]) -> dict[str, Given[Any]]:
        """Return the settings of weights to which these overrides apply, by name."""
        layers: list[tuple[tuple[str | int, ...], WeightSettings]] = [
            (("defaults",), self.defaults),
            *((("overrides", index), self.overrides[index]) for index in overrides),
        ]
        given: dict[str, Given[Any]] = {}
        for rank, (key, settings) in enumerate(layers):
            for name in SETTING_NAMES:
                if (value := getattr(settings, name)) is not None:
                    given[name] = Given(value, self._source.place(*key, name), rank)
        for name in SETTING_NAMES:
            if (value := getattr(self._on_top, name)) is not None:
                given[name] = Given(value, self._names_on_top.get(name, name), len(layers))
        return given

    def _conductance_dtype(self) -> Given[str]:
        name = "conductance_dtype"
        origin = self._names_on_top.get(name) or self._source.place("model", name)
        return Given(self.model.conductance_dtype, origin)


def _has_a_range(converter: object) -> bool:
    """Whether a converter gives a range of conductances: it is an object, or has a table of conductances."""
    if isinstance(converter, ConverterSettings):
        return converter.table is not None
    return converter is not None


def _matches(globs: Mapping[NameKind | None, Mapping[str, str]], names: WeightNames) -> bool:
    """Whether a weight matches each kind of pattern that an override has."""
    return all(any(names.match(glob, kind) for glob in patterns.values()) for kind, patterns in globs.items())
