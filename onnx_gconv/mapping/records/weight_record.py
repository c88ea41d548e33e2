"""The records of one weight in the manifest: mapped, or skipped with the reason."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeAlias

import numpy as np
import onnx_ir as ir
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from onnx_gconv.converters import Decoding
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.errors import ModelError
from onnx_gconv.known_names import is_anonymous, known_as, quoted_name
from onnx_gconv.mapping.records.chip_records import MeasuredRecord, ReadNoiseRecord
from onnx_gconv.mapping.records.code_records import BlocksRecord, DecodedRecord, DequantizationRecord, PackingRecord
from onnx_gconv.mapping.records.consumer_records import ConsumerRecord
from onnx_gconv.mapping.records.converter_record import ConverterRecord
from onnx_gconv.mapping.records.record import Record
from onnx_gconv.mapping.records.scheme_records import (
    ClippingRecord,
    LevelsRecord,
    LossRecord,
    PartRecord,
    ScaleRecord,
    TilingRecord,
    ZeroRecord,
)
from onnx_gconv.schemes.granularity import GranularityKind
from onnx_gconv.schemes.parts import ColumnParts
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.packed import Packing
from onnx_gconv.tensors.types import dtype_of_name, finite_range

__all__ = [
    "ComputeDtype",
    "ConductanceRecord",
    "OtherParameterRecord",
    "SameSourceRecord",
    "SkippedRecord",
    "WeightRecord",
]

_FEWEST_PARTS = 2  # a weight with one part is not divided

ComputeDtype: TypeAlias = Literal["float16", "bfloat16", "float32", "float64"]


class SameSourceRecord(Record):
    """Another constant with the same values: the fields of `weights.same_source.SameSource`."""

    name: str
    graph: str
    relation: Literal["equal", "transposed", "rearranged"]


class OtherParameterRecord(Record):
    """A further parameter of the exported program that this tensor holds, too: tied weights, or merged equal ones."""

    name: str
    relation: Literal["tied", "merged", "tied or merged"]


# Keys that were added to the format later are left out while they are empty, so that manifests of before they existed
# stay the same byte by byte. These belong to weights of integer codes:
_OF_CODES = frozenset({"packing", "dequantization", "limited", "zero_point_blocks", "decoded_from"})

# These belong to weights and to skipped constants:
_SAID_IF_KNOWN = frozenset({"parameter", "other_parameters", "folded_norms", "equal_values"})

# All of a mapped weight, with the parts of divided weights:
_LEFT_OUT = frozenset({*_SAID_IF_KNOWN, *_OF_CODES, "parts"})


def _known_as(record: WeightRecord | SkippedRecord) -> str:
    """The name that people know a weight by.

    Manifests of older versions have no `parameter`; there, the only one of `parameters`, the constants that the weight
    was computed from, takes its place.
    """
    parameter = record.parameter
    if parameter is None and is_anonymous(record.name) and len(record.parameters) == 1 and "." in record.parameters[0]:
        [parameter] = record.parameters
    return known_as(record.name, parameter, record.modules)


class ConductanceRecord(Record):
    """The initializer of a device's conductances, in µS or as level codes, and the coefficient c_k of the device."""

    name: str
    device: str
    coefficient: float


class WeightRecord(Record):
    """One mapped weight: ``W = (sum_k c_k * G_k - offset_us) / scale + zero``.

    Scale and zero are numbers, or arrays with an entry for each group of elements that share one. If the weight holds
    integer codes, the codes are ``round(W) + zero point``.
    """

    name: str = Field(min_length=1)
    graph: str
    moved_from: str | None = None
    dtype: str
    shape: tuple[int, ...]
    stored_as: Literal["initializer", "constant", "computed"]
    sources: tuple[str, ...] = ()
    converter: ConverterRecord
    granularity: GranularityKind
    axis: int | None
    tiling: TilingRecord | None = None
    clipping: ClippingRecord | None = None
    levels: LevelsRecord | None = None
    loss: LossRecord | None = None
    compute_dtype: ComputeDtype
    conductances: tuple[ConductanceRecord, ...] = Field(min_length=1)
    offset_us: float
    scale: ScaleRecord
    zero: float | ZeroRecord
    rounded: bool = False
    zero_point: str | None = None
    max_abs: float
    notes: tuple[str, ...]
    consumers: tuple[ConsumerRecord, ...]
    parameters: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    same_source_as: tuple[SameSourceRecord, ...] = ()
    digital_copy: str | None = None
    measured: MeasuredRecord | None = None
    parameter: str | None = None
    other_parameters: tuple[OtherParameterRecord, ...] = ()
    folded_norms: tuple[str, ...] = ()
    equal_values: tuple[SameSourceRecord, ...] = ()
    packing: PackingRecord | None = None
    dequantization: DequantizationRecord | None = None
    limited: bool = False
    parts: tuple[PartRecord, ...] = ()
    zero_point_blocks: BlocksRecord | None = None
    decoded_from: DecodedRecord | None = None

    @property
    def is_of_known_program(self) -> bool:
        """Whether the model says which parameter, or which module's weight, this was in the exported program."""
        return self.parameter is not None or bool(self.modules)

    @property
    def known_as(self) -> str:
        """The name that people know the weight by: its parameter in the exported program, its module, or its name."""
        return _known_as(self)

    @property
    def quoted(self) -> str:
        """The name for messages, in quotes: `known_as`, and the name in the model if that is another one."""
        return quoted_name(self.name, self.known_as)

    @model_serializer(mode="wrap")
    def _without_what_is_unknown(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        return {name: value for name, value in found.items() if value or name not in _LEFT_OUT}

    @model_validator(mode="after")
    def _is_packed_as_it_can_be(self) -> Self:
        if self.packing is not None:
            if self.dtype != "uint8" or not self.rounded or self.zero_point is None:
                raise ValueError("it is packed, but has no codes of uint8 with a zero point")
            try:
                packing = Packing(self.packing.bits, self.shape, self.packing.shape)
            except ModelError as error:
                raise ValueError(str(error)) from None
            if bool(packing.padding) != (self.packing.padding is not None):
                has = "no padding" if self.packing.padding is None else "padding"
                raise ValueError(
                    f"rows of {packing.shape[-1]} codes are packed in {packing.row_codes}, but it has {has}"
                )
        return self

    @model_validator(mode="after")
    def _has_blocks_of_zero_points(self) -> Self:
        if (said := self.zero_point_blocks) is not None:
            if self.zero_point is None or self.packing is not None:
                raise ValueError("it has blocks of zero points, but no zero points that follow its axes")
            try:
                said.blocks.shape(self.shape)
            except ModelError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _has_each_conductance_once(self) -> Self:
        for what, names in (
            ("initializer", [item.name for item in self.conductances]),
            ("device", [item.device for item in self.conductances]),
        ):
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"the {what} '{twice}' stands for two of its conductances")
        return self

    @model_validator(mode="after")
    def _has_the_consumer_of_its_scale(self) -> Self:
        found, count = self.scale.consumer, len(self.consumers)
        if found is not None and not 0 <= found < count:
            raise ValueError(f"its scale follows consumer {found}, but it has {count} consumers, numbered from 0")
        return self

    @model_validator(mode="after")
    def _has_the_parts_of_its_matrices(self) -> Self:
        if not self.parts:
            return self
        found = None if self.scale.consumer is None else self.consumers[self.scale.consumer].matrix_view
        columns = 0 if found is None else found.columns
        sizes = [part.columns for part in self.parts]
        if sum(sizes) != columns or len(sizes) < _FEWEST_PARTS:
            raise ValueError(f"its parts have {' + '.join(map(str, sizes))} columns, but its matrices {columns}")
        names = [part.name for part in self.parts]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two of its parts are called '{twice}'")
        return self

    @model_validator(mode="after")
    def _has_numbers_of_its_type(self) -> Self:
        zero, scale = self.zero, self.scale
        numbers = [*(item.coefficient for item in self.conductances), self.offset_us]
        numbers += [zero.minimum, zero.maximum] if isinstance(zero, ZeroRecord) else [zero]
        numbers += [number for number in (scale.value, scale.minimum, scale.maximum) if number is not None]
        limit = finite_range(_data_type(self.compute_dtype))[1]
        if beyond := next((number for number in numbers if abs(number) > limit), None):
            raise ValueError(f"the number {beyond:g} is beyond {self.compute_dtype}, in which the weight is computed")
        return self

    @model_validator(mode="after")
    def _has_noise_of_each_device(self) -> Self:
        count = len(self.read_noise)
        if count and count != len(self.conductances):
            raise ValueError(f"it has noise of {count} devices, but {len(self.conductances)} conductances")
        return self

    @property
    def read_noise(self) -> tuple[ReadNoiseRecord, ...]:
        """How nodes draw readings of each device, in the order of the conductances; empty if they draw none."""
        simulated = None if self.measured is None else self.measured.simulated
        return () if simulated is None else simulated.read_noise

    @property
    def column_parts(self) -> ColumnParts | None:
        """The parts of each matrix of the weight, which do not share a scale; None for an undivided weight."""
        if not self.parts:
            return None
        return ColumnParts(tuple(part.name for part in self.parts), tuple(part.columns for part in self.parts))

    @property
    def levels_of_codes(self) -> LevelsRecord | None:
        """The levels whose codes the initializers hold; None if they hold conductances in µS."""
        return self.levels if self.levels is not None and self.levels.is_coded else None

    @property
    def packing_of_codes(self) -> Packing | None:
        """How the codes of the weight are packed into bytes; None if they are not packed.

        Raises:
            ModelError: If the shapes of codes and bytes do not fit together.
        """
        return None if self.packing is None else Packing(self.packing.bits, self.shape, self.packing.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the value that nodes rebuild: the weight, or the bytes into which its codes are packed."""
        return self.shape if self.packing is None else self.packing.shape

    @property
    def number_range(self) -> tuple[float, float]:
        """The lowest and the highest number that the weight's type, or the bits of its packed codes, can hold."""
        packing = self.packing_of_codes
        return finite_range(self.ir_dtype) if packing is None else (0.0, float(packing.highest))

    @property
    def has_narrow_codes(self) -> bool:
        """Whether codes of levels are stored in four bits."""
        return self.levels is not None and self.levels.storage == "uint4"

    @property
    def saturation_limits(self) -> tuple[float, float] | None:
        """The range that nodes clip the rebuilt weight to; None if no weight can be beyond the range of its type."""
        return self.number_range if self.limited or (self.measured is not None and self.measured.saturated) else None

    @property
    def grid(self) -> ScaleGrid | None:
        """Which elements share a scale; None if all do.

        Raises:
            ModelError: If the manifest contradicts itself.
        """
        if self.scale.form == "number":
            return None
        try:
            assert self.tiling is not None and self.scale.consumer is not None  # noqa: PT018, S101 - caught below
            consumer = self.consumers[self.scale.consumer]
            assert consumer.matrix_view is not None  # noqa: S101 - caught below
            layout = consumer.matrix_view.layout(self.shape, consumer.path)
            is_broadcast = self.scale.form == "broadcast"
            repeats_columns = self.granularity == "tensor" and bool(self.parts)
            starts = self.tiling.row_starts, self.tiling.column_starts
            grid = ScaleGrid(layout, *starts, is_broadcast=is_broadcast, repeats_columns=repeats_columns)
        except (AssertionError, IndexError, ValueError) as error:
            raise ModelError(f"the manifest does not say which elements share a scale ({error!r})") from None
        if grid.stored_shape != self.scale.shape:
            raise ModelError(f"the manifest gives the scale a shape of {list(self.scale.shape)} that does not fit")
        return grid

    def decoding(self, scale: FloatArray, zero: FloatArray | None) -> Decoding:
        """How the conductances become the weight again.

        Args:
            scale: The scale, in the shape of its initializer.
            zero: The zero w0, in the shape of its initializer; None for 0.
        """
        grid = self.grid
        return Decoding(
            coefficients=tuple(item.coefficient for item in self.conductances),
            offset_us=self.offset_us,
            scale=_entries(scale, grid),
            zero=0.0 if zero is None else _entries(zero, grid),
        )

    @property
    def ir_dtype(self) -> ir.DataType:
        """The type of the weight."""
        return _data_type(self.dtype)

    @property
    def ir_compute_dtype(self) -> ir.DataType:
        """The type of the conductances, and of the nodes that rebuild the weight."""
        return _data_type(self.compute_dtype)


class SkippedRecord(Record):
    """A weight, or another constant of at least two axes, that is not mapped."""

    name: str
    shape: tuple[int, ...] | None
    graph: str
    reason: str
    detail: str
    is_mvm: bool
    consumers: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    same_source_as: tuple[SameSourceRecord, ...] = ()
    parameter: str | None = None
    other_parameters: tuple[OtherParameterRecord, ...] = ()
    modules: tuple[str, ...] = ()
    folded_norms: tuple[str, ...] = ()
    equal_values: tuple[SameSourceRecord, ...] = ()

    @property
    def known_as(self) -> str:
        """The name that people know the weight by: its parameter in the exported program, its module, or its name."""
        return _known_as(self)

    @property
    def quoted(self) -> str:
        """The name for messages, in quotes: `known_as`, and the name in the model if that is another one."""
        return quoted_name(self.name, self.known_as)

    @model_serializer(mode="wrap")
    def _without_what_is_unknown(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        return {name: value for name, value in found.items() if value or name not in {*_SAID_IF_KNOWN, "modules"}}


def _entries(stored: FloatArray, grid: ScaleGrid | None) -> float | FloatArray:
    return float(stored.reshape(-1)[0]) if grid is None else grid.values(stored.astype(np.float64))


def _data_type(name: str) -> ir.DataType:
    dtype = dtype_of_name(name)
    if dtype is None:
        raise ModelError(f"the manifest names the type '{name}', which this version does not know")
    return dtype
