"""A layer of a bundle: its tiles, scales and bias, and the weight rebuilt from its conductances."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.tiles import touched_pieces
from onnx_gconv.errors import BundleError, ModelError
from onnx_gconv.handoff.bundle_arrays import LayerScales
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import (
    MANIFEST_FILE,
    ArrayRecord,
    PackedLayerRecord,
    StuckRecord,
    TileRecord,
    ValuesRecord,
)
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.matrix_reader import stored_from_matrices
from onnx_gconv.tensors.packed import BlockZeroPoint, Packing
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.types import dtype_of_name

__all__ = ["BundleLayer", "BundlePart"]

_INDEX = np.dtype("<i8")
_BIAS_DTYPES = (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8"))


@dataclass(frozen=True, eq=False)
class BundlePart:
    """One of several matrices that stand side by side in each matrix of a layer, such as the query of a QKV weight.

    Attributes:
        name: Name of the part, such as ``query``.
        full_name: Name of the weight and of the part, such as ``layers.0.attn.qkv/query``.
        outputs: The part's first column in the matrix, and the one after its last.
        tiles: The tiles that hold the part. They hold nothing else.
    """

    name: str
    full_name: str
    outputs: tuple[int, int]
    tiles: tuple[BundleTile, ...]


class BundleLayer(LayerScales):
    """A mapped weight of a bundle.

    Attributes:
        bundle: The open bundle.
        record: The layer's entry in the manifest.
    """

    @property
    def tiles(self) -> tuple[BundleTile, ...]:
        """The tiles of the layer, sorted by matrix, row and column."""
        return tuple(BundleTile(self, record) for record in self.record.tiles)

    @property
    def parts(self) -> tuple[BundlePart, ...]:
        """The parts that stand side by side in each matrix of the layer; empty if a matrix has one part."""
        found = []
        for part in self.record.parts:
            columns = range(*part.tile_columns)
            tiles = tuple(tile for tile in self.tiles if tile.record.grid[1] in columns)
            found.append(BundlePart(part.name, f"{self.record.known_as}/{part.name}", part.outputs, tiles))
        return tuple(found)

    def conductances(self) -> dict[str, FloatArray]:
        """The target conductances in µS by the name of the device, each in the shape of the weight.

        They are put together from all tiles. Rows of the bias are not included.

        Raises:
            BundleError: If a tile cannot be read, or a conductance is out of the range of the device.
        """
        rows, layout = self.record.matrix_view.rows, self.record.layout
        return {name: stored_from_matrices(found[:, :rows], layout) for name, found in self._matrices().items()}

    def _matrices(self) -> dict[str, FloatArray]:
        """The conductances in µS by device, each [matrices, inputs + rows of the bias, outputs]."""
        record, view = self.record, self.record.matrix_view
        shape, dtype = (view.matrices, view.rows + record.bias_rows, view.columns), np.dtype(record.array_dtype)
        whole = {device.name: np.empty(shape, dtype) for device in record.devices}
        for tile in self.tiles:
            rows, columns = slice(*tile.record.inputs), slice(*tile.record.outputs)
            for name, part in tile.conductances().items():
                whole[name][tile.record.matrix, rows, columns] = part
        return whole

    def rebuilt_weight(self) -> NDArray[Any]:
        """The weight rebuilt from the conductances, bit-identical to what the nodes of model.onnx compute.

        If the weight consists of packed integer codes, the result is the packed bytes (uint8).

        Raises:
            BundleError: If a tile cannot be read, or a conductance is out of the range of the device.
        """
        record = self.record
        compute = np.dtype(_dtype(record.compute_dtype).numpy())
        conductances = [ir.Tensor(array.astype(compute, copy=False)) for array in self.conductances().values()]
        row_starts, column_starts = self.scale_starts()
        packing, zero_point = record.packing, self._zero_point()
        decoding = Decoding(
            tuple(device.coefficient for device in record.devices),
            record.offset_us,
            _number_or_array(record.scale, self.scale()),
            _number_or_array(record.zero, self.zero()),
        )
        weight = RebuiltTensor(
            conductances,
            decoding,
            dtype=_dtype(record.dtype),
            name=record.weight,
            rounded=record.rounded or packing is not None,
            zero_point=zero_point,
            grid=record.scale_grid(row_starts.tolist(), column_starts.tolist()),
        ).numpy()
        if packing is None:
            return weight
        padding = None if packing.padding is None else self.bundle.read(packing.padding)
        return Packing(packing.bits, record.shape, packing.shape).pack(weight, padding)

    def _zero_point(self) -> ZeroPoint | BlockZeroPoint | None:
        record = self.record
        if record.packing is not None:
            return BlockZeroPoint(self.bundle.read(record.packing.zero_point), record.packing.block, record.shape)
        if record.zero_point is None:
            return None
        said = record.zero_point_blocks
        return ZeroPoint(self.bundle.read(record.zero_point), record.shape, None if said is None else said.blocks)

    def block_scales(self) -> NDArray[np.floating] | None:
        """The dequantization scales of integer codes, in the model's shape, or [..., blocks] for packed codes.

        None if the weight has no integer codes, or if the scales are not constant in the model.
        """
        said = self.record.dequantization
        return None if said is None or said.scales is None else self.bundle.read(said.scales)

    def bias(self) -> NDArray[Any] | None:
        """The bias in the shape of its initializer; None if the layer has no bias.

        The dtype is float64 if the model's is, float32 for all other floats, and int64 for integers. The values are not
        multiplied by `beta` of the record.
        """
        return None if self.record.bias is None else self.bundle.read(self.record.bias.values)

    def rebuilt_bias(self) -> FloatArray | None:
        """What the rows of the bias add to each output, float64 [matrices, outputs]; None if the bias is digital.

        This is the bias times `beta` of the record. The factor of the matrix view (alpha of a Gemm) is applied already.

        Raises:
            BundleError: If a tile cannot be read, or a conductance is out of the range of the device.
        """
        record, view = self.record, self.record.matrix_view
        if not record.bias_rows:
            return None
        column_starts = self.scale_starts()[1]
        columns = np.searchsorted(column_starts, np.arange(view.columns), side="right") - 1
        scale, zero = (values[:, -1][:, None, columns].astype(np.float64) for values in (self.scale(), self.zero()))
        found = self._matrices()
        total = sum(
            device.coefficient * found[device.name][:, view.rows :].astype(np.float64) for device in record.devices
        )
        weights: FloatArray = (total - record.offset_us) / scale + zero
        added: FloatArray = view.factor * weights.sum(axis=1)
        return added

    def arrays(self) -> Iterator[ArrayRecord]:
        """The records of all arrays that the arrays file holds for the layer."""
        return self.record.every_array()

    def check(self) -> None:
        """Check that the layer's record is consistent, and that all arrays exist with the right shape and dtype.

        Raises:
            BundleError: For the first contradiction, and for the first array that is missing or wrong.
        """
        record = self.record
        if (problem := record.problem()) is not None:
            raise self._contradiction(problem)
        for name in (record.dtype, record.compute_dtype):
            _dtype(name)
        for tile in record.tiles:
            shape = (tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0])
            for array in tile.conductances:
                self._expect(array, shape, np.dtype(record.array_dtype))
            for array in tile.codes or ():
                self._expect(array, shape, record.code_dtype)
            for stuck in tile.stuck:
                self._check_stuck(tile, stuck, shape)
        self._check_scales()
        if record.zero_point is not None:
            self._check_zero_point(record.zero_point)
        if record.bias is not None:
            self._check_bias(record.bias.values)
        if record.packing is not None:
            self._check_packing(record.packing)

    def _check_packing(self, said: PackedLayerRecord) -> None:
        record, packing = self.record, Packing(said.bits, self.record.shape, said.shape)
        shape, _ = self.bundle.form(said.zero_point)
        blocks = -(-record.shape[-1] // said.block)
        wanted = (*record.shape[:-1], blocks)
        self._expect(said.zero_point, wanted if shape else (), np.dtype("<f8"))
        if said.padding is not None:
            self._expect(said.padding, (packing.rows, packing.padding), np.dtype(np.uint8))
        found = record.dequantization
        if found is not None and found.scales is not None and found.block is not None:
            _, dtype = self.bundle.form(found.scales)
            blocks = -(-record.shape[-1] // found.block)
            self._expect(found.scales, (*record.shape[:-1], blocks), np.dtype("<f8" if dtype.itemsize > 4 else "<f4"))  # noqa: PLR2004 - float64 or float32

    def _check_zero_point(self, array: ArrayRecord) -> None:
        shape, dtype = self.bundle.form(array)
        said, wanted = self.record.zero_point_blocks, self.record.shape
        if said is not None:
            try:
                wanted = said.blocks.shape(wanted)
            except ModelError as error:
                raise self._contradiction(str(error)) from None
        if dtype != _INDEX or not _broadcasts(shape, wanted):
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{array.key}' is {dtype} {list(shape)}, but it should be {_INDEX} "
                f"and broadcast to {list(wanted)}; copy the bundle again"
            )

    def _check_bias(self, array: ArrayRecord) -> None:
        dtype = self.bundle.form(array)[1]
        if dtype not in _BIAS_DTYPES:
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{array.key}' is {dtype}, but it should be "
                f"{', '.join(map(str, _BIAS_DTYPES[:-1]))} or {_BIAS_DTYPES[-1]}; copy the bundle again"
            )

    def _check_stuck(self, tile: TileRecord, stuck: StuckRecord, shape: tuple[int, int]) -> None:
        count = self.bundle.form(stuck.conductances)[0]
        self._expect(stuck.conductances, None, np.dtype(self.record.array_dtype))
        self._expect(stuck.cells, (*count, 2), _INDEX)
        cells = self.bundle.read(stuck.cells)
        conductances = self.bundle.read(stuck.conductances)
        if not (np.isfinite(conductances) & (conductances >= 0)).all():
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{stuck.conductances.key}' should hold conductances, finite and "
                "not below 0; copy the bundle again"
            )
        if ((cells < 0) | (cells >= shape)).any():
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{stuck.cells.key}' names cells that tile {tile.id} of "
                f"{shape[0]}x{shape[1]} does not have; copy the bundle again"
            )

    def _check_scales(self) -> None:
        record, view, dtype = self.record, self.record.matrix_view, np.dtype(self.record.array_dtype)
        rows = self._checked_starts(record.scale_row_starts, view.rows)
        columns = self._checked_starts(record.scale_column_starts, view.columns)
        self._expect(record.scale.array, (view.matrices, len(rows), len(columns)), dtype)
        self._expect(record.zero.array, (view.matrices, len(rows), len(columns)), dtype)
        scale = self.scale()
        is_scale = np.isfinite(scale) & (scale > 0)
        if not is_scale.all():
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{record.scale.array.key}' holds the scale "
                f"{scale[~is_scale][0]:g}, but scales are positive and finite; hand off the model again"
            )
        zero = self.zero()
        if not np.isfinite(zero).all():
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{record.zero.array.key}' holds {zero[~np.isfinite(zero)][0]:g}, "
                "but zeros are finite; hand off the model again"
            )
        for name, values, said in (("scale", scale, record.scale.value), ("zero", zero, record.zero.value)):
            if said is not None and (values != said).any():
                found = float(values[values != said][0])
                raise self._contradiction(f"it gives the {name} as {said!r} everywhere, but its array has {found!r}")
        for tile in record.tiles:
            expected = touched_pieces(rows, *tile.inputs), touched_pieces(columns, *tile.outputs)
            if (tile.scale_rows, tile.scale_columns) != expected:
                raise self._contradiction(f"tile {tile.id} names other pieces of the scale than it has")

    def _checked_starts(self, array: ArrayRecord, size: int) -> list[int]:
        self._expect(array, None, _INDEX)
        starts: list[int] = self.bundle.read(array).tolist()
        if not starts or starts[0] != 0 or starts[-1] >= size or any(a >= b for a, b in itertools.pairwise(starts)):
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{array.key}' should rise from 0 to below {size}; "
                "hand off the model again"
            )
        return starts

    def _contradiction(self, problem: str) -> BundleError:
        place = f"'{self.bundle.path / MANIFEST_FILE}': layer {self.record.id} ('{self.record.weight}')"
        return BundleError(f"{place}: {problem}; hand off the model again")

    def _expect(self, array: ArrayRecord, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> None:
        found_shape, found_dtype = self.bundle.form(array)
        if found_dtype != dtype or (found_shape != shape if shape is not None else len(found_shape) != 1):
            expected = "one axis" if shape is None else list(shape)
            raise BundleError(
                f"'{self.bundle.arrays_path}': array '{array.key}' is {found_dtype} {list(found_shape)}, but it should "
                f"be {dtype} {expected}; copy the bundle again"
            )


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def _number_or_array(record: ValuesRecord, values: FloatArray) -> float | FloatArray:
    return values if record.value is None else record.value


def _dtype(name: str) -> ir.DataType:
    dtype = dtype_of_name(name)
    if dtype is None:
        raise BundleError(f"the bundle names the type '{name}', which this version does not know")
    return dtype
