"""The mapped weights of a model as layers of a bundle: their matrices, nodes, bias and tiles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.bias import BiasRows, FoundBias, bias_as_rows, find_bias
from onnx_gconv.crossbars.packed_layer import block_of_rows, find_block_scales, sums_several_blocks
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.crossbars.tiles import ArrayGeometry, Tile, TileGrid, touched_pieces
from onnx_gconv.devices.presets import DevicePreset
from onnx_gconv.errors import BundleError, ConfigError, ModelError
from onnx_gconv.mapping import ConsumerRecord, WeightRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.schemes.matrix_layout import IncommensurableShapeError, MatrixLayout
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.weights.ops.mvm_ops import MvmOp, known_op

__all__ = ["Layer", "device_name_problem", "layers_of", "readers_and_layout"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A mapped weight and the tiles that it is cut into.

    Attributes:
        number: Number of the layer in the bundle, from 0 on.
        mapped: The weight in the graph.
        consumers: The MVM nodes that read the weight. The matrix view of the first one defines the matrices.
        op: The row of the first consumer's op in the table of MVM ops.
        layout: The place of each element of the weight in the matrices.
        grid: The tiles of the weight.
        geometry: The arrays on which the tiles stand.
        bias: The constant that is added to the product; None if there is none.
        bias_rows: The bias as extra rows of the matrices. If rows were requested but are impossible: the reason, as
            text. None if no rows were requested.
        block_scales: The scales by which nodes multiply the integer codes after subtracting their zero points; None
            for other weights, or if the scales are unknown.
    """

    number: int
    mapped: MappedWeight
    consumers: tuple[ConsumerRecord, ...]
    op: MvmOp
    layout: MatrixLayout
    grid: TileGrid
    geometry: ArrayGeometry
    bias: FoundBias | None
    bias_rows: BiasRows | str | None
    block_scales: ir.TensorProtocol | None = None

    @property
    def id(self) -> str:
        """E.g. ``L003``."""
        return f"L{self.number:03d}"

    def tile_id(self, number: int) -> str:
        """E.g. ``L003/T0007``."""
        return f"{self.id}/T{number:04d}"

    @property
    def record(self) -> WeightRecord:
        """The manifest's entry of the weight."""
        return self.mapped.record

    @property
    def view(self) -> MatrixView:
        """The matrix view of the first consumer."""
        view = self.consumers[0].matrix_view
        assert view is not None  # noqa: S101 - layers have one
        return view.view

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the devices of each pair, the positive one first."""
        return _pairs(self.record)

    @property
    def arrays(self) -> int:
        """How many arrays the tiles need, over all devices."""
        devices = len(self.record.conductances)
        shared = len(self.pairs) if self.geometry.pair_layout != "separate_arrays" else 0
        return len(self.grid) * (devices - shared)

    @property
    def cells(self) -> int:
        """How many cells hold conductances, over all devices."""
        return (math.prod(self.record.shape) + self.bias_cells) * len(self.record.conductances)

    @property
    def bias_cells(self) -> int:
        """How many cells hold the bias, counted for one device."""
        rows = self.bias_rows.rows if isinstance(self.bias_rows, BiasRows) else 0
        return self.layout.matrices * rows * self.layout.columns

    @property
    def utilization(self) -> float:
        """Share of the cells of the layer's arrays that hold conductances, from 0 to 1."""
        return self.cells / (self.arrays * self.geometry.rows * self.geometry.columns)

    def cut_for(self, geometry: ArrayGeometry) -> TileGrid:
        """The tiles of the layer on other arrays, with the number of bias rows that the layer has now.

        Raises:
            ConfigError: If a kernel has to stay whole and does not fit an array.
        """
        grid, kernel = self.grid, self.op.kernel(self.view)
        is_paired, parts = bool(self.pairs), self.record.column_parts
        return geometry.cut(grid.matrices, grid.rows, grid.columns, is_paired=is_paired, kernel=kernel, parts=parts)

    @property
    def array_dtype(self) -> np.dtype[np.floating]:
        """The type of conductances and scales in the bundle: float64 for float64 weights, float32 for all others."""
        return _array_dtype(self.record)

    @property
    def scale_grid(self) -> ScaleGrid:
        """Which elements share a scale; the grid has one piece if all of them do."""
        return _scale_grid(self.record, self.layout)

    def scale_and_zero(self) -> tuple[FloatArray, FloatArray]:
        """Scale (µS per unit of weight) and zero (units of weight), [matrices, pieces of rows, pieces of columns]."""
        return _scale_and_zero(self.mapped, self.scale_grid, self.array_dtype)

    def scale_and_zero_of_bias(self) -> tuple[FloatArray, FloatArray]:
        """Scale and zero of the bias rows, [matrices, columns]; they are those of the last piece of rows."""
        return _of_last_rows(self.scale_and_zero(), self.scale_grid, self.layout)

    def scale_of_cells(self, tile: Tile, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scale of each cell of a tile in µS per unit of weight, [inputs, outputs].

        Args:
            tile: The tile.
            scale: The scales of the layer, [matrices, pieces of rows, pieces of columns].
        """
        grid = self.scale_grid
        rows, columns = _pieces(grid.row_starts, tile.inputs), _pieces(grid.column_starts, tile.outputs)
        of_cells: NDArray[np.float64] = scale[tile.matrix][rows[:, None], columns]
        return of_cells

    @property
    def has_integers(self) -> bool:
        """Whether the conductances stand for integers: codes minus integer zero points."""
        points = self.mapped.zero_point
        return self.record.rounded and (points is None or points.is_integer)

    @property
    def tiles_of_several_blocks(self) -> int:
        """How many tiles have columns that sum inputs of several blocks of integer codes with a scale each."""
        block = block_of_rows(self.record, self.layout)
        if block is None:
            return 0
        rows = self.layout.rows  # further rows hold the bias
        ends = ((start, min(stop, rows)) for start, stop in (tile.inputs for tile in self.grid.tiles))
        return sum(start < stop and sums_several_blocks(block, (start, stop)) for start, stop in ends)

    def zero_point(self) -> NDArray[np.int64] | None:
        """The zero points of integer codes, in a shape that broadcasts to the weight; None if 0 or for packed codes."""
        found = self.mapped.zero_point
        return None if not isinstance(found, ZeroPoint) else np.ascontiguousarray(found.values.astype("<i8"))


def _pieces(starts: Sequence[int], stretch: tuple[int, int]) -> NDArray[np.intp]:
    """The piece of an axis to which each index of a stretch belongs; indices beyond the last piece belong to that one.

    Only the pieces that the stretch touches are searched, because an axis may have as many pieces as indices.
    """
    first, stop = touched_pieces(starts, *stretch)
    return np.searchsorted(starts[first:stop], np.arange(*stretch), side="right") + (first - 1)


def layers_of(model: ir.Model, geometry: ArrayGeometry, preset: DevicePreset | None) -> tuple[Layer, ...]:
    """The layers of a mapped model.

    Args:
        model: The model.
        geometry: The arrays that tiles stand on.
        preset: The device whose range the conductances have to fit; None for no check.

    Raises:
        ModelError: If the model is not mapped, or another tool has damaged its mapping.
        ConfigError: If a weight does not fit the arrays or the device.
        BundleError: If a weight has no matrix view.
    """
    layers = []
    for number, mapped in enumerate(target_weights(model, "handed off", "hand off", device_name_problem)):
        if preset is not None:
            _check_range(mapped.record, preset)
        layers.append(_layer(number, mapped, geometry))
    return tuple(layers)


def _layer(number: int, mapped: MappedWeight, geometry: ArrayGeometry) -> Layer:
    record = mapped.record
    consumers, layout = readers_and_layout(record)
    reader = consumers[0]
    op = _op_of(record, reader)
    bias = find_bias(mapped.value, reader, op)
    rows = _bias_rows(mapped, bias, reader, layout, geometry.bias_rows)
    assert reader.matrix_view is not None  # noqa: S101 - the first has one
    try:
        grid = geometry.cut(
            layout.matrices,
            layout.rows + (rows.rows if isinstance(rows, BiasRows) else 0),
            layout.columns,
            is_paired=bool(_pairs(record)),
            kernel=op.kernel(reader.matrix_view.view),
            parts=record.column_parts,
        )
    except ConfigError as error:
        raise ConfigError(f"the weight {record.quoted} of {reader.op_type}: {error}") from None
    scales = find_block_scales(mapped)
    return Layer(number, mapped, consumers, op, layout, grid, geometry, bias, rows, scales)


def _op_of(record: WeightRecord, consumer: ConsumerRecord) -> MvmOp:
    """The row of the op that reads a weight in the table of MVM ops."""
    op = known_op(consumer.domain, consumer.op_type)
    if op is None:
        name = f"{consumer.domain}.{consumer.op_type}" if consumer.domain else consumer.op_type
        raise BundleError(
            f"the weight {record.quoted} cannot be handed off: the op {name} that reads it is unknown, "
            "and so is its bias; add its row to the table of MVM ops (onnx_gconv.weights.register_mvm_op)"
        )
    return op


def _bias_rows(
    mapped: MappedWeight, bias: FoundBias | None, consumer: ConsumerRecord, layout: MatrixLayout, rows: int
) -> BiasRows | str | None:
    if bias is None or not rows:
        return None
    grid = _scale_grid(mapped.record, layout)
    scale, zero = _of_last_rows(_scale_and_zero(mapped, grid, _array_dtype(mapped.record)), grid, layout)
    return bias_as_rows(bias, mapped.value, mapped.record, consumer, scale=scale, zero=zero, rows=rows)


def _of_last_rows(
    values: tuple[FloatArray, FloatArray], grid: ScaleGrid, layout: MatrixLayout
) -> tuple[FloatArray, FloatArray]:
    column = np.searchsorted(grid.column_starts, np.arange(layout.columns), side="right") - 1
    scale, zero = (entries[:, -1][:, column] for entries in values)
    return scale, zero


def _array_dtype(record: WeightRecord) -> np.dtype[np.floating]:
    return np.dtype(np.float64 if record.compute_dtype == "float64" else np.float32)


def _scale_grid(record: WeightRecord, layout: MatrixLayout) -> ScaleGrid:
    return record.grid or ScaleGrid(layout, (0,), (0,))


def _scale_and_zero(
    mapped: MappedWeight, grid: ScaleGrid, dtype: np.dtype[np.floating]
) -> tuple[FloatArray, FloatArray]:
    decoding = mapped.decoding
    scale, zero = (
        np.ascontiguousarray(np.broadcast_to(np.asarray(values), grid.shape).astype(dtype))
        for values in (decoding.scale, decoding.zero)
    )
    return scale, zero


def readers_and_layout(record: WeightRecord) -> tuple[tuple[ConsumerRecord, ...], MatrixLayout]:
    """The MVM nodes that read a weight, and the layout of the matrices of the first one.

    The node whose matrices define the groups of elements that share a scale stands first, if the manifest names one and
    its matrices have whole axes.

    Raises:
        BundleError: If no node reads the weight as matrices.
        ModelError: If the manifest contradicts itself about the matrices.
    """
    found = list(record.consumers)
    if record.scale.consumer is not None:
        found.insert(0, found.pop(record.scale.consumer))
    readers = [consumer for consumer in found if consumer.is_mvm and consumer.matrix_view is not None]
    for place, consumer in enumerate(readers):
        assert consumer.matrix_view is not None  # noqa: S101 - those without have been left out
        try:
            layout = consumer.matrix_view.layout(record.shape, consumer.path)
        except IncommensurableShapeError:
            continue
        except ValueError as error:
            raise ModelError(
                f"the manifest contradicts itself about the matrices of the weight {record.quoted}: {error}; map the "
                "model again"
            ) from None
        view = consumer.matrix_view
        if (view.matrices, view.rows, view.columns) != (layout.matrices, layout.rows, layout.columns):
            raise ModelError(
                f"the manifest contradicts itself about the matrices of the weight {record.quoted}: it has "
                f"{view.matrices} of {view.rows}x{view.columns}, but its axes give {layout.matrices} of "
                f"{layout.rows}x{layout.columns}; map the model again"
            )
        return (consumer, *readers[:place], *readers[place + 1 :]), layout
    raise BundleError(
        f"the weight {record.quoted} cannot be handed off: no node reads it as matrices of whole axes; "
        "map the model without it (--exclude)"
    )


def _pairs(record: WeightRecord) -> tuple[tuple[int, int], ...]:
    """The indices of neighbouring devices with opposite coefficients, the positive one first."""
    coefficients = [item.coefficient for item in record.conductances]
    return tuple(
        (device, device + 1)
        for device in range(len(coefficients) - 1)
        if coefficients[device] > 0 and coefficients[device + 1] == -coefficients[device]
    )


def _check_range(record: WeightRecord, preset: DevicePreset) -> None:
    low, high = record.converter.parameters["g_min"], record.converter.parameters["g_max"]
    if low < preset.g_min or high > preset.g_max:
        raise ConfigError(
            f"the weight {record.quoted} is mapped to {low:g} .. {high:g} µS, but devices of preset '{preset.name}' "
            f"reach {preset.g_min:.6g} .. {preset.g_max:.6g} µS; map the model with --preset {preset.name}"
        )


# Such a name is a valid part of a key, a dataset path and a file name on every system. A leading point is not allowed:
# it would hide the file, and ".." would lead out of the folder.
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}")


def device_name_problem(record: WeightRecord) -> str | None:
    """Why arrays cannot be named after the devices of a weight; None if they can.

    A mapped model may come from anywhere, and names such as ``../../x`` would lead out of the bundle.
    """
    names = [item.device for item in record.conductances]
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        return f"its device {wrong!r} is no name for an array, which has letters, digits, '_', '+', '-' and '.'"
    codes = [] if record.levels_of_codes is None else [f"{name}_code" for name in names]
    twice = _first_repeated([*names, *codes])
    return None if twice is None else f"two of its arrays would have the name {twice!r}"


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
