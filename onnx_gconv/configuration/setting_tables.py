"""Settings that consist of several parts: device, converter, granularity and clipping.

Each of them may be written in a short form, as a text, or as a table of its parts. The validators turn the short form
into a table, so that every error message names the wrong part.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.converters.converter_kind import ConverterKind
from onnx_gconv.converters.registry import CONVERTER_KINDS, converter_registry, kinds_taking
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity, GranularityKind, Partition, parse_tile
from onnx_gconv.suggestions import suggestion
from onnx_gconv.validation_messages import first_flaw, shown

__all__ = [
    "ClippingSetting",
    "ClippingSettings",
    "ConverterSetting",
    "ConverterSettings",
    "Count",
    "DeviceSetting",
    "DeviceSettings",
    "Flag",
    "GranularityName",
    "GranularitySetting",
    "GranularitySettings",
    "Number",
    "SettingsTable",
    "in_microsiemens",
]

GranularityName: TypeAlias = Literal["tensor", "channel", "tile", "tile-channel"]

Number: TypeAlias = Annotated[float, Strict()]
Count: TypeAlias = Annotated[int, Strict(), Field(ge=1)]
Flag: TypeAlias = Annotated[bool, Strict()]


_POWER_OF_MICRO = 6

# Devices of crossbar arrays conduct at most some hundredths of a siemens: a range of this size is µS by mistake.
_TOO_MUCH_IN_SIEMENS = 1.0


def in_microsiemens(siemens: float) -> float:
    """Convert a conductance from siemens to µS by its decimal digits: 25e-6 S are 25 µS, not 24.999999999999996 µS."""
    return float(Decimal(repr(siemens)).scaleb(_POWER_OF_MICRO))


class SettingsTable(BaseModel):
    """Settings that refuse unknown keys; the sentences beneath them are their descriptions."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )


class DeviceSettings(SettingsTable):
    """The devices that weights are mapped to."""

    preset: str | None = None
    """A published device: its conductance range, the size of its array, its converter, and its levels if asked for."""
    g_max: Number | None = None
    """Upper end of the conductance range, in µS. Default: that of the preset or converter, 25 for pairs."""
    g_min: Number | None = None
    """Lower end of the conductance range, in µS. Default: that of the preset or converter, 0 for pairs."""
    unit: Literal["uS", "S"] | None = None
    """Unit of g_max and g_min: uS, or S for siemens, which are converted. It has to be given for a range that ends
    below 0.001 µS, because such a range may be in siemens by mistake. Default: uS."""

    @property
    def range_us(self) -> tuple[float | None, float | None]:
        """g_min and g_max in µS, each None if it is not given."""
        if self.unit != "S":
            return self.g_min, self.g_max
        low, high = (None if end is None else in_microsiemens(end) for end in (self.g_min, self.g_max))
        return low, high

    @model_validator(mode="after")
    def _is_known(self) -> DeviceSettings:
        if self.preset is not None:
            from onnx_gconv.devices.presets import preset

            preset(self.preset)
        return self

    @model_validator(mode="after")
    def _is_in_siemens(self) -> DeviceSettings:
        if self.unit != "S":
            return self
        given = {name: end for name in ("g_max", "g_min") if (end := getattr(self, name)) is not None}
        if not given:
            raise ValueError(
                'the unit "S" is that of g_max and g_min, but neither is given with it; give them in siemens, or leave '
                "the unit out"
            )
        for name, end in given.items():
            if end >= _TOO_MUCH_IN_SIEMENS:
                raise ValueError(
                    f"{name} = {end:g} siemens is far more than a device conducts; is that µS? Then leave the unit out "
                    f"({end:g} µS are {end / 10**_POWER_OF_MICRO:g} siemens)"
                )
        return self


class ConverterSettings(SettingsTable):
    """The rule from weights to conductances, and its parameters besides the conductance range."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="allow"
    )  # the settings of converters of other packages, which `_are_known` checks

    name: str | None = None
    """The rule from weights to conductances. Default: that of the preset, or else single-pair."""
    exact: Flag | None = None
    """For single-pair, with g_min = 0: scale by the next lower power of two, so that the rebuilt weights are
    bit-identical; that uses at least half of the conductance range. Default: false."""
    factors: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    """For several pairs: how much each pair counts, in the order in which they are filled."""
    table: tuple[tuple[Number, ...], ...] | None = None
    """For custom-pair: the conductances of equally spaced weights, in µS: for each pair a row for G+ and one for G-."""
    invertibility_test: Flag | None = None
    """For custom-pair: refuse tables with which weights do not come back to within 1e-4. Default: true."""
    bits: Count | None = None
    """For bit-sliced converters: bits of the code of a weight. Default: 8."""
    slice_bits: Count | None = None
    """For bit-sliced converters: bits that one device holds. Default: 4."""

    @model_validator(mode="before")
    @classmethod
    def _are_known(cls, data: Any) -> Any:  # noqa: ANN401 - what a caller gave
        if not isinstance(data, Mapping):
            return data
        kind = None
        if isinstance(name := data.get("name"), str):
            try:
                kind = converter_registry().kind(name)
            except ConfigError:  # the unknown name is reported elsewhere; its settings cannot be checked
                return data
        known = {*cls.model_fields, *(kind.settings if kind is not None else ())}
        of_package = None if kind is None or kind.name in CONVERTER_KINDS else kind
        wrong = [
            InitErrorDetails(type=_unknown_setting(of_package, key), loc=(key,), input=value)
            for key, value in data.items()
            if key not in known
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data

    @field_validator("name")
    @classmethod
    def _is_there(cls, name: str | None) -> str | None:
        return None if name is None else converter_registry().kind(name).name

    @model_validator(mode="after")
    def _fit(self) -> ConverterSettings:
        if self.name is None:  # the preset decides it, which is known when all settings of a weight are combined
            return self
        kind = converter_registry().kind(self.name)
        for setting in self.given:
            if setting not in kind.settings:
                raise ValueError(
                    f"{setting} needs the converter {kinds_taking(setting)}, not {self.name}; leave it out"
                )
        for setting in kind.needs:
            if setting not in self.given:
                raise ValueError(f"the converter {self.name} needs {_EXAMPLES.get(setting, setting)}")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The given settings besides the name."""
        return {name: value for name, value in self if name != "name" and value is not None}

    def with_name(self, name: str) -> ConverterSettings:
        """Return the settings with a name, unless they have one.

        Raises:
            ConfigError: If the converter of that name does not take these settings.
        """
        if self.name is not None:
            return self
        try:
            return ConverterSettings(name=name, **self.given)
        except ValidationError as error:
            raise ConfigError(first_flaw(error).message) from None


def _unknown_setting(of_package: ConverterKind | None, key: str) -> str | PydanticCustomError:
    """Return pydantic's error for an unknown setting; a converter of another package has settings of its own."""
    if of_package is None:
        return "extra_forbidden"
    there = suggestion(key, of_package.settings) or "it has none"
    text = f"the converter {of_package.name} has no such setting; {there}"
    return PydanticCustomError("unknown_setting", "{text}", {"text": text})


_EXAMPLES = {
    "factors": "factors, one for each pair: e.g. factors = [1, 3]",
    "table": "a table of conductances in µS, two rows for each pair: table = [[...], [...]]",
}


def _tile(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    return handler(parse_tile(value) if isinstance(value, str) else value)


_Tile: TypeAlias = Annotated[list[Count], Field(min_length=2, max_length=2)]


class GranularitySettings(SettingsTable):
    """What shares one scale."""

    kind: GranularityName = "tile"
    """What shares one scale: the tensor, an output channel, a tile, or an output channel in one tile (tile-channel)."""
    tile: Annotated[tuple[Count, Count], WrapValidator(_tile, json_schema_input_type=str | _Tile)] | None = None
    """Rows (inputs) and columns (outputs) of a tile, at most: "256x256". Default: the array of the preset."""
    partition: Partition | None = None
    """How a matrix is cut: into as few tiles of equal size as suffice, or into full ones and a rest (max).
    Default: equal."""

    @model_validator(mode="after")
    def _have_tiles(self) -> GranularitySettings:
        if not self.has_tiles:
            for name in ("tile", "partition"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs the granularity tile or tile-channel, not {self.kind}")
        return self

    @property
    def has_tiles(self) -> bool:
        """Whether scales differ from tile to tile."""
        return self.kind in {"tile", "tile-channel"}

    def granularity(self, array: tuple[int, int] | None) -> Granularity:
        """Return the granularity of the settings.

        Args:
            array: The size of a tile (rows, columns) if the settings give none.

        Raises:
            ConfigError: If the granularity needs the size of a tile, and none is given.
        """
        kind = _GRANULARITY_KINDS[self.kind]
        return Granularity(kind, (self.tile or array) if self.has_tiles else None, self.partition or "equal")

    @classmethod
    def of(cls, granularity: Granularity) -> GranularitySettings:
        """Return the settings of a granularity."""
        names = {kind: name for name, kind in _GRANULARITY_KINDS.items()}
        partition = granularity.partition if granularity.has_tiles else None
        return cls(kind=names[granularity.kind], tile=granularity.tile, partition=partition)


_GRANULARITY_KINDS: dict[GranularityName, GranularityKind] = {
    "tensor": "tensor",
    "channel": "channel",
    "tile": "tile",
    "tile-channel": "tile_channel",
}


class ClippingSettings(SettingsTable):
    """The weight that the largest conductance stands for; weights beyond it are clipped. Without a setting, max|W|."""

    percentile: Number | None = None
    """Let this percentile of |W| have the largest conductance, and clip weights beyond it. It is the smallest |W| that
    is not below this percentage of all."""
    value: Number | None = None
    """Let this weight have the largest conductance, and clip weights beyond it."""

    @model_validator(mode="after")
    def _are_possible(self) -> ClippingSettings:
        self.clipping()
        return self

    def clipping(self) -> Clipping:
        """Return the clipping of the settings.

        Raises:
            ConfigError: If both are given, or one is out of its range.
        """
        return Clipping(self.percentile, self.value)


def _device(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    return handler({"preset": value} if isinstance(value, str) else _table(value, DeviceSettings, "a preset"))


def _converter(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if hasattr(value, "convert_chunk"):  # a converter of the user's own
        return value
    return handler({"name": value} if isinstance(value, str) else _table(value, ConverterSettings, "a name"))


def _granularity(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, Granularity):
        return GranularitySettings.of(value)
    return handler({"kind": value} if isinstance(value, str) else _table(value, GranularitySettings, "a kind"))


def _clipping(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, Clipping):
        return ClippingSettings(percentile=value.percentile, value=value.value)
    if isinstance(value, str) and value != "max":
        raise ValueError(f"""should be "max", {{ percentile = 99.9 }} or {{ value = 0.5 }}, but it is '{value}'""")
    return handler({} if isinstance(value, str) else _table(value, ClippingSettings, '"max"'))


def _table(value: object, settings: type[SettingsTable], short: str) -> object:
    if isinstance(value, (Mapping, settings)):
        return value
    raise ValueError(f"should be {short} or a table of {', '.join(settings.model_fields)}, but it is {shown(value)}")


if TYPE_CHECKING:
    DeviceSetting: TypeAlias = DeviceSettings
    ConverterSetting: TypeAlias = ConverterSettings | ConductanceConverter
    GranularitySetting: TypeAlias = GranularitySettings
    ClippingSetting: TypeAlias = ClippingSettings
else:  # what is written in files and in the schema
    DeviceSetting = Annotated[DeviceSettings, WrapValidator(_device, json_schema_input_type=str | DeviceSettings)]
    ConverterSetting = Annotated[
        ConverterSettings, WrapValidator(_converter, json_schema_input_type=str | ConverterSettings)
    ]
    GranularitySetting = Annotated[
        GranularitySettings, WrapValidator(_granularity, json_schema_input_type=GranularityName | GranularitySettings)
    ]
    ClippingSetting = Annotated[
        ClippingSettings, WrapValidator(_clipping, json_schema_input_type=Literal["max"] | ClippingSettings)
    ]
