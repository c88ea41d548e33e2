"""What a configuration can say, as pydantic models, which check values and describe themselves in a schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.converters.registry import CONVERTER_KINDS, ConverterName, kinds_taking
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity, GranularityKind, Partition, parse_tile
from onnx_gconv.schemes.scheme import LevelStorage
from onnx_gconv.validation_messages import shown
from onnx_gconv.weights import LOOKUP_OPS
from onnx_gconv.weights.names import NameKind

if TYPE_CHECKING:
    from onnx_gconv.devices.levels import ConductanceLevels

__all__ = [
    "PATTERN_KINDS",
    "SETTING_NAMES",
    "ClippingSettings",
    "ConductanceDtype",
    "ConverterSettings",
    "DeviceSettings",
    "GranularityName",
    "GranularitySettings",
    "Levels",
    "ModelSettings",
    "Override",
    "QuantizedWeights",
    "SharedPolicy",
    "WeightSettings",
]

GranularityName: TypeAlias = Literal["tensor", "channel", "tile", "tile-channel"]
QuantizedWeights: TypeAlias = Literal["map", "skip"]
ConductanceDtype: TypeAlias = Literal["float32", "weight"]
SharedPolicy: TypeAlias = Literal["rebuild", "split"]

_Number: TypeAlias = Annotated[float, Strict()]
_Count: TypeAlias = Annotated[int, Strict(), Field(ge=1)]
_Flag: TypeAlias = Annotated[bool, Strict()]

_FEWEST_LEVELS = 2


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)


# Each setting may be written in short, as a text, or as a table of its parts. The validators turn the short form into
# the long one, so that every error is told of the part that it is in.


class DeviceSettings(_Settings):
    """The devices that weights are mapped to."""

    preset: str | None = None
    """A published device, e.g. "pcm-joshi": its conductance range, array, levels and converter."""
    g_max: _Number | None = None
    """Upper end of the conductance range, in µS. Default: that of the preset, or else of the converter."""
    g_min: _Number | None = None
    """Lower end of the conductance range, in µS. Default: that of the preset, or else of the converter."""

    @model_validator(mode="after")
    def _is_known(self) -> DeviceSettings:
        if self.preset is not None:
            from onnx_gconv.devices.presets import preset

            preset(self.preset)
        return self


class ConverterSettings(_Settings):
    """The rule from weights to conductances, and what it needs besides the conductance range."""

    name: ConverterName
    """The converter."""
    exact: _Flag | None = None
    """For single-pair: scale by a power of two, so that the rebuilt weights are bit-identical. Default: false."""
    factors: Annotated[tuple[_Number, ...], Field(min_length=1)] | None = None
    """For several pairs: how much each pair counts, in the order in which they are filled."""
    table: tuple[tuple[_Number, ...], ...] | None = None
    """For custom-pair: the conductances of equally spaced weights, in µS: for each pair a row for G+ and one for G-."""
    invertibility_test: _Flag | None = None
    """For custom-pair: refuse tables with which weights do not come back to within 1e-4. Default: true."""
    bits: _Count | None = None
    """For bit-sliced converters: bits of the code of a weight. Default: 8."""
    slice_bits: _Count | None = None
    """For bit-sliced converters: bits that one device holds. Default: 4."""

    @model_validator(mode="after")
    def _fit(self) -> ConverterSettings:
        kind = CONVERTER_KINDS[self.name]
        for setting in self.given:
            if setting not in kind.takes:
                raise ValueError(
                    f"{setting} needs the converter {kinds_taking(setting)}, not {self.name}; leave it out"
                )
        for setting in kind.needs:
            if setting not in self.given:
                raise ValueError(f"the converter {self.name} needs {_EXAMPLES[setting]}")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What is given besides the name."""
        return {name: value for name, value in self if name != "name" and value is not None}


_EXAMPLES = {
    "factors": "factors, one for each pair: e.g. factors = [1, 3]",
    "table": "a table of conductances in µS, two rows for each pair: table = [[...], [...]]",
}


def _tile(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    return handler(parse_tile(value) if isinstance(value, str) else value)


_Tile: TypeAlias = Annotated[list[_Count], Field(min_length=2, max_length=2)]


class GranularitySettings(_Settings):
    """What shares one scale."""

    kind: GranularityName = "tile"
    """A whole weight (tensor), an output channel, a tile of the matrix, or an output channel in one tile."""
    tile: Annotated[tuple[_Count, _Count], WrapValidator(_tile, json_schema_input_type=str | _Tile)] | None = None
    """Rows (inputs) and columns (outputs) of a tile, at most: "256x256" or [256, 256]. Default: the preset's array."""
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
        """What the settings stand for.

        Args:
            array: The size of a tile if the settings give none.

        Raises:
            ConfigError: If a tile has no size.
        """
        kind = _GRANULARITY_KINDS[self.kind]
        return Granularity(kind, (self.tile or array) if self.has_tiles else None, self.partition or "equal")

    @classmethod
    def of(cls, granularity: Granularity) -> GranularitySettings:
        """The settings that stand for a granularity."""
        names = {kind: name for name, kind in _GRANULARITY_KINDS.items()}
        partition = granularity.partition if granularity.has_tiles else None
        return cls(kind=names[granularity.kind], tile=granularity.tile, partition=partition)


_GRANULARITY_KINDS: dict[GranularityName, GranularityKind] = {
    "tensor": "tensor",
    "channel": "channel",
    "tile": "tile",
    "tile-channel": "tile_channel",
}


class ClippingSettings(_Settings):
    """What the largest conductance stands for; weights beyond are clipped. Without a setting, max|W|."""

    percentile: _Number | None = None
    """The smallest |W| that is not below this percentage of all."""
    value: _Number | None = None
    """A weight."""

    @model_validator(mode="after")
    def _are_possible(self) -> ClippingSettings:
        self.clipping()
        return self

    def clipping(self) -> Clipping:
        """What the settings stand for.

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


def _levels(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    from onnx_gconv.devices.levels import ConductanceLevels

    if isinstance(value, ConductanceLevels):
        return value
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= _FEWEST_LEVELS
    is_table = isinstance(value, (list, tuple)) and len(value) >= _FEWEST_LEVELS and all(map(_is_number, value))
    if not (is_count or is_table or (isinstance(value, str) and value in {"none", "preset"})):
        raise ValueError(
            'should be a number of levels, at least two, or a list of them in µS, or "preset" or "none", but it is '
            f"{shown(value)}"
        )
    return handler(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _table(value: object, settings: type[_Settings], short: str) -> object:
    if isinstance(value, (Mapping, settings)):
        return value
    raise ValueError(f"should be {short} or a table of {', '.join(settings.model_fields)}, but it is {shown(value)}")


def _patterns(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"should be a pattern or a list of patterns, but it is {shown(value)}")  # noqa: TRY004
    return handler([value] if isinstance(value, str) else value)


def _list(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, str):
        raise ValueError(f"should be a list of patterns, but it is the text '{value}'; put it into a list")  # noqa: TRY004
    return handler(value)


Levels: TypeAlias = Annotated[int, Field(ge=_FEWEST_LEVELS)] | tuple[_Number, ...] | Literal["none", "preset"]

if TYPE_CHECKING:
    DeviceSetting: TypeAlias = DeviceSettings
    ConverterSetting: TypeAlias = ConverterSettings | ConductanceConverter
    GranularitySetting: TypeAlias = GranularitySettings
    ClippingSetting: TypeAlias = ClippingSettings
    LevelsSetting: TypeAlias = int | tuple[float, ...] | Literal["none", "preset"] | ConductanceLevels
else:  # what is written in files and in the schema
    DeviceSetting = Annotated[DeviceSettings, WrapValidator(_device, json_schema_input_type=str | DeviceSettings)]
    ConverterSetting = Annotated[
        ConverterSettings, WrapValidator(_converter, json_schema_input_type=ConverterName | ConverterSettings)
    ]
    GranularitySetting = Annotated[
        GranularitySettings, WrapValidator(_granularity, json_schema_input_type=GranularityName | GranularitySettings)
    ]
    ClippingSetting = Annotated[
        ClippingSettings, WrapValidator(_clipping, json_schema_input_type=Literal["max"] | ClippingSettings)
    ]
    LevelsSetting = Annotated[Levels, WrapValidator(_levels, json_schema_input_type=Levels)]
_Patterns: TypeAlias = Annotated[
    tuple[str, ...], Field(min_length=1), WrapValidator(_patterns, json_schema_input_type=str | tuple[str, ...])
]


class WeightSettings(_Settings):
    """How weights are mapped. A setting that is not given leaves what was said before."""

    device: DeviceSetting | None = None
    """The devices: a preset, e.g. "pcm-joshi", or a table with preset, g_max and g_min in µS, all of them optional.
    Default: the range of the converter, for pairs 0 to 25 µS."""
    converter: ConverterSetting | None = None
    """The rule from weights to conductances: a name, or a table with name and what the converter needs.
    Default: that of the preset, or else "single-pair"."""
    granularity: GranularitySetting | None = None
    """What shares one scale: a kind, or a table with kind, tile and partition. Default: "tensor"."""
    clipping: ClippingSetting | None = None
    """What the largest conductance stands for: "max" for max|W|, or a table with percentile or value.
    Default: "max"."""
    levels: LevelsSetting | None = None
    """The levels that conductances are rounded to: how many of equal distance, a list of them in µS, "preset" for those
    of the preset, or "none". Default: "none", also with a preset that has levels."""
    storage: LevelStorage | None = None
    """Whether conductances are stored in µS (float), or as codes of their levels. Default: "float"."""


SETTING_NAMES = tuple(WeightSettings.model_fields)
PATTERN_KINDS: tuple[NameKind, ...] = get_args(NameKind)


class Override(WeightSettings):
    """Other settings for the weights that match all kinds of patterns that are given here."""

    match: _Patterns | None = None
    """Globs over all names: of the weight, its parameters, nodes, modules and op types."""
    weight: _Patterns | None = None
    """Globs over the names of weights."""
    parameter: _Patterns | None = None
    """Globs over the parameters of the exported program that weights come from."""
    node: _Patterns | None = None
    """Globs over the names of the nodes that read weights."""
    module: _Patterns | None = None
    """Globs over the modules of the exported program that these nodes stand in, and all that contain them."""
    op: _Patterns | None = None
    """Globs over the op types of these nodes: "Conv", "com.microsoft.FusedConv"."""
    skip: _Flag | None = None
    """Leave these weights as they are; false takes back what an earlier override said."""

    @model_validator(mode="after")
    def _says_something(self) -> Override:
        if not self.patterns:
            raise ValueError(f"needs a pattern: one of match, {', '.join(PATTERN_KINDS)}")
        given = [name for name in SETTING_NAMES if getattr(self, name) is not None]
        if self.skip and given:
            raise ValueError(f"skip = true leaves the weights as they are, so that {given[0]} has no effect; drop one")
        if self.skip is None and not given:
            raise ValueError(f"changes nothing; give skip or one of {', '.join(SETTING_NAMES)}")
        return self

    @property
    def patterns(self) -> dict[NameKind | None, tuple[str, ...]]:
        """The patterns by the kind of names that they are for; None stands for all kinds."""
        kinds: dict[NameKind | None, tuple[str, ...] | None] = {None: self.match}
        kinds |= {kind: getattr(self, kind) for kind in PATTERN_KINDS}
        return {kind: patterns for kind, patterns in kinds.items() if patterns is not None}


class ModelSettings(_Settings):
    """What concerns the whole model."""

    include: Annotated[tuple[str, ...], WrapValidator(_list, json_schema_input_type=tuple[str, ...])] = ()
    """Globs over the names of weights, of their parameters and modules, and of the nodes that read them and their op
    types: only these are mapped. All are if the list is empty."""
    exclude: Annotated[tuple[str, ...], WrapValidator(_list, json_schema_input_type=tuple[str, ...])] = ()
    """Globs for weights to leave as they are."""
    include_ops: Annotated[tuple[str, ...], WrapValidator(_list, json_schema_input_type=tuple[str, ...])] = ()
    """Ops that are no MVM ops, but whose tables are mapped, too: "Gather"."""
    quantized: QuantizedWeights = "map"
    """What to do with weights of integer codes: map the codes less their zero points, or skip them."""
    conductance_dtype: ConductanceDtype = "float32"
    """The type of the conductances of float16 and bfloat16 weights: float32, or that of the weight."""
    freeze_inputs: _Flag = False
    """Make constants of weights that are graph inputs too, so that a caller may replace them."""
    inline_functions: _Flag = True
    """Inline local functions that use weights first; else these weights are skipped."""
    upgrade_opset: _Flag = False
    """Raise the opset first if weights cannot be mapped at the one that the model has."""
    shared: SharedPolicy = "rebuild"
    """What nodes read that use a weight otherwise than MVM ops do, such as the Gather of a tied embedding: the rebuilt
    weight, or a digital copy that is split off."""

    @model_validator(mode="after")
    def _ops_are_known(self) -> ModelSettings:
        known = sorted(op_type for _, op_type in LOOKUP_OPS)
        for op_type in self.include_ops:
            if op_type not in known:
                raise ValueError(
                    f"include_ops knows {', '.join(known)}, but not '{op_type}'; MVM ops are always mapped"
                )
        return self
