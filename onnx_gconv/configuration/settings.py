"""The settings of a configuration, as pydantic models, which check their values.

Each setting is defined here once: its default, its check, the sentence that the schema, ``config init`` and the command
line show, and examples of values in files, the default first. Beside each model are the types that callers in Python
may give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypedDict, get_args

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from onnx_gconv.configuration.setting_tables import (
    ClippingSetting,
    ClippingSettings,
    ConverterSetting,
    ConverterSettings,
    DeviceSetting,
    DeviceSettings,
    Flag,
    GranularityName,
    GranularitySetting,
    GranularitySettings,
    Number,
    SettingsTable,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.parts import PartsChoice
from onnx_gconv.schemes.scheme import LevelStorage
from onnx_gconv.validation_messages import shown
from onnx_gconv.weights import LOOKUP_OPS
from onnx_gconv.weights.names import NameKind

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
    "LevelsSetting",
    "ModelOptions",
    "ModelSettings",
    "Override",
    "QuantizedWeights",
    "SharedPolicy",
    "WeightOptions",
    "WeightSettings",
]

QuantizedWeights: TypeAlias = Literal["map", "skip", "dequantized"]
ConductanceDtype: TypeAlias = Literal["float32", "weight"]
SharedPolicy: TypeAlias = Literal["rebuild", "split"]

_FEWEST_LEVELS = 2
_FEWEST_PARTS = 2


def _levels(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, ConductanceLevels):
        return value
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= _FEWEST_LEVELS
    is_table = isinstance(value, (list, tuple)) and len(value) >= _FEWEST_LEVELS and all(map(_is_number, value))
    if not (is_count or is_table or (isinstance(value, str) and value in {"none", "preset", "weight"})):
        raise ValueError(
            'should be a number of levels, at least two, or a list of them in µS, "weight", or "preset" or "none", but '
            f"it is {shown(value)}"
        )
    return handler(value)


def _parts(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    is_list = isinstance(value, (list, tuple)) and len(value) >= _FEWEST_PARTS and all(map(_is_count, value))
    if not (is_list or (isinstance(value, str) and value in {"auto", "none"})):
        raise ValueError(
            f'should be "auto", "none" or a list of two or more numbers of outputs, but it is {shown(value)}'
        )
    return handler(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _patterns(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"should be a pattern or a list of patterns, but it is {shown(value)}")  # noqa: TRY004
    return handler([value] if isinstance(value, str) else value)


def _list(value: object, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what pydantic makes of it
    if isinstance(value, str):
        raise ValueError(f"should be a list of patterns, but it is the text '{value}'; put it into a list")  # noqa: TRY004
    return handler(value)


Levels: TypeAlias = Annotated[int, Field(ge=_FEWEST_LEVELS)] | tuple[Number, ...] | Literal["none", "preset", "weight"]

Parts: TypeAlias = (
    Literal["auto", "none"] | Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=_FEWEST_PARTS)]
)

if TYPE_CHECKING:
    LevelsSetting: TypeAlias = int | tuple[float, ...] | Literal["none", "preset", "weight"] | ConductanceLevels
    PartsSetting: TypeAlias = PartsChoice
else:  # what is written in files and in the schema
    PartsSetting = Annotated[Parts, WrapValidator(_parts, json_schema_input_type=Parts)]
    LevelsSetting = Annotated[Levels, WrapValidator(_levels, json_schema_input_type=Levels)]
_Patterns: TypeAlias = Annotated[
    tuple[str, ...], Field(min_length=1), WrapValidator(_patterns, json_schema_input_type=str | tuple[str, ...])
]
_Globs: TypeAlias = Annotated[tuple[str, ...], WrapValidator(_list, json_schema_input_type=tuple[str, ...])]


class WeightSettings(SettingsTable):
    """How weights are mapped. A setting that is not given keeps its earlier value."""

    device: DeviceSetting | None = Field(
        default=None,
        examples=[{"g_min": 0.0, "g_max": 25.0}, "pcm-joshi", {"preset": "pcm-joshi", "g_max": 20.0}],
    )
    """The devices: a preset, e.g. "pcm-joshi", or a table with preset, g_max and g_min in µS, all of them optional.
    Default: the range of the converter, for pairs 0 to 25 µS."""
    converter: ConverterSetting | None = Field(
        default=None,
        examples=["single-pair", {"name": "n-pair", "factors": [1, 3]}, {"name": "single-pair", "exact": True}],
    )
    """The rule from weights to conductances: a name, or a table with name and the parameters of the converter.
    Default: that of the preset, or else "single-pair"."""
    granularity: GranularitySetting | None = Field(
        default=None,
        examples=["tensor", "channel", "tile", "tile-channel", {"kind": "tile", "tile": "256x256"}],
    )
    """What shares one scale: a kind, or a table with kind, tile and partition. Default: "tensor"."""
    clipping: ClippingSetting | None = Field(default=None, examples=["max", {"percentile": 99.9}, {"value": 0.5}])
    """The weight that the largest conductance stands for: "max" for max|W|, or a table with percentile or value.
    Default: "max"."""
    levels: LevelsSetting | None = Field(default=None, examples=["none", 256, [0.0, 1.5, 25.0], "preset", "weight"])
    """The levels to which conductances are rounded: a number of equally spaced levels, a list of levels in µS, "preset"
    for those of the preset, "weight" for one level for each magnitude of a weight's integers, so that these come back
    exactly, or "none". Default: "none", also with a preset that has levels."""
    storage: LevelStorage | None = Field(default=None, examples=["float", "codes"])
    """Whether conductances are stored in µS (float), or as codes of their levels. Default: "float"."""
    parts: PartsSetting | None = Field(default=None, examples=["auto", "none", [2048, 512, 512]])
    """Whether a weight is several matrices side by side, such as queries, keys and values, which share no scale and no
    tile: "auto" if the op, or a Split of its output, shows that, a list of the number of outputs of each matrix, or
    "none" for one matrix. Default: "auto"."""


class WeightOptions(TypedDict, total=False):
    """The types that callers in Python may give for settings of the same names, which `WeightSettings` describes."""

    device: DeviceSettings | str | Mapping[str, Any] | None
    granularity: Granularity | GranularitySettings | GranularityName | Mapping[str, Any] | None
    clipping: Clipping | ClippingSettings | Literal["max"] | Mapping[str, Any] | None
    levels: ConductanceLevels | int | Sequence[float] | Literal["none", "preset", "weight"] | None
    storage: LevelStorage | None
    parts: Sequence[int] | Literal["auto", "none"] | None


SETTING_NAMES = tuple(WeightSettings.model_fields)
PATTERN_KINDS: tuple[NameKind, ...] = get_args(NameKind)


class Override(WeightSettings):
    """Settings for selected weights: those that match each kind of pattern that is given here."""

    match: _Patterns | None = None
    """Globs over all names: of the weight, its parameters, nodes, modules and op types."""
    weight: _Patterns | None = None
    """Globs over the names of weights."""
    parameter: _Patterns | None = None
    """Globs over the parameters of the exported program that weights come from."""
    node: _Patterns | None = None
    """Globs over the names of the nodes that read weights."""
    module: _Patterns | None = None
    """Globs over the modules of the exported program that contain these nodes, directly or in inner modules."""
    op: _Patterns | None = None
    """Globs over the op types of these nodes: "Conv", "com.microsoft.FusedConv"."""
    skip: Flag | None = None
    """Leave these weights as they are; false maps them although an earlier override skips them."""

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
        """The patterns by the kind of names that they match; None stands for all kinds."""
        kinds: dict[NameKind | None, tuple[str, ...] | None] = {None: self.match}
        kinds |= {kind: getattr(self, kind) for kind in PATTERN_KINDS}
        return {kind: patterns for kind, patterns in kinds.items() if patterns is not None}


class ModelSettings(SettingsTable):
    """Settings of the whole model."""

    include: _Globs = Field(default=(), examples=[[], ["encoder.*", "Conv"]])
    """Map only weights that match one of these globs by their name, by their parameter or module in the exported
    program, or by the name or op type of a node that reads them. All are mapped if there is none."""
    exclude: _Globs = Field(default=(), examples=[[], ["classifier.*"]])
    """Leave weights that match one of these globs as they are."""
    include_ops: _Globs = Field(default=(), examples=[[], ["Gather"]])
    """Map the tables of these ops, too, although they are no MVM ops: "Gather", "GatherBlockQuantized"."""
    quantized: QuantizedWeights = "map"
    """What to do with weights of integer codes: map the codes less their zero points, which come back exactly; skip
    them; or map the numbers that DequantizeLinear or MatMulNBits makes of them, which MatMul then reads."""
    allow_lossy_integers: Flag = False
    """Map weights of integer codes even if there are too few levels to tell the codes apart, so that nearby codes come
    back; else that is refused."""
    conductance_dtype: ConductanceDtype = "float32"
    """The type of the conductances of float16 and bfloat16 weights: float32, or that of the weight."""
    freeze_inputs: Flag = False
    """Make constants of weights that are also graph inputs, so that callers cannot replace them any more; else leave
    them as they are."""
    include_adapters: Flag = False
    """Also map weights that callers may swap: matrices of adapters, such as those of LoRA, and weights that are graph
    inputs, which become constants; else they stay digital."""
    inline_functions: Flag = True
    """Inline local functions that use weights first, so that these can be mapped; else leave them as they are."""
    upgrade_opset: Flag = False
    """Raise the opset first if weights cannot be mapped at the one that the model has."""
    shared: SharedPolicy = "rebuild"
    """What other nodes than MVM ops read if they use a mapped weight, such as the Gather of a tied embedding: the
    rebuilt weight, or a digital copy that is split off."""

    @property
    def freezes_inputs(self) -> bool:
        """Whether weights that are graph inputs become constants."""
        return self.freeze_inputs or self.include_adapters

    @model_validator(mode="after")
    def _ops_are_known(self) -> ModelSettings:
        known = sorted(op_type for _, op_type in LOOKUP_OPS)
        for op_type in self.include_ops:
            if op_type not in known:
                raise ValueError(
                    f"include_ops knows {', '.join(known)}, but not '{op_type}'; MVM ops are always mapped"
                )
        return self


class ModelOptions(TypedDict, total=False):
    """The types that callers in Python may give for settings of the same names, which `ModelSettings` describes."""

    include: Sequence[str] | None
    exclude: Sequence[str] | None
    include_ops: Sequence[str] | None
    quantized: QuantizedWeights | None
    allow_lossy_integers: bool | None
    conductance_dtype: ConductanceDtype | None
    freeze_inputs: bool | None
    include_adapters: bool | None
    inline_functions: bool | None
    upgrade_opset: bool | None
    shared: SharedPolicy | None
