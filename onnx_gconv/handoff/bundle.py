"""Reading a hand-off bundle: layers, tiles, physical arrays, and the weights that the conductances stand for."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.errors import BundleError
from onnx_gconv.handoff.array_files import ArrayReader, read_arrays
from onnx_gconv.handoff.device_range import first_out_of_range
from onnx_gconv.handoff.manifest import (
    MANIFEST_FILE,
    ArrayRecord,
    BundleManifest,
    LayerRecord,
    PlacementRecord,
    StuckRecord,
    TileRecord,
    ValuesRecord,
    read_bundle_manifest,
)
from onnx_gconv.handoff.matrix_reader import stored_from_matrices
from onnx_gconv.handoff.placement import ArrayPlacement, device_groups, lines_of_devices, units_of
from onnx_gconv.handoff.tile_arrays import digest
from onnx_gconv.handoff.tiles import ArrayGeometry, PairLayout, touched_pieces
from onnx_gconv.integer_weight import ZeroPoint
from onnx_gconv.rebuilt_tensor import RebuiltTensor
from onnx_gconv.weight_types import MAPPABLE_DTYPES

__all__ = ["Bundle", "BundleLayer", "BundleTile", "PhysicalArray", "TileScale", "open_bundle"]

_INDEX = np.dtype("<i8")


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a hand-off bundle and check that it is whole; its arrays are read only when they are asked for.

    Args:
        path: The folder.

    Raises:
        BundleError: If it is no bundle, is damaged or incomplete, or was written by a newer version.
    """
    folder = Path(path)
    manifest = read_bundle_manifest(folder)
    for name in (manifest.arrays.path, *(file.path for file in manifest.files)):
        if os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir):  # noqa: PTH117 - text, not yet a path
            raise BundleError(
                f"'{folder / MANIFEST_FILE}': the file '{name}' is outside of the bundle; do not trust it"
            )
    for file in manifest.files:
        _check_file(folder / file.path, file.bytes)
    arrays = read_arrays(folder / manifest.arrays.path, manifest.arrays.kind)
    try:
        bundle = Bundle(folder, manifest, arrays)
        for layer in bundle.layers:
            layer.check()
        bundle.check_placements()
    except BaseException:
        arrays.close()
        raise
    return bundle


class Bundle:
    """An open hand-off bundle. To be closed in the end, or used in a with statement.

    Attributes:
        path: The folder.
        manifest: Everything that is said of it.
        layers: The mapped weights.
    """

    def __init__(self, path: Path, manifest: BundleManifest, arrays: ArrayReader) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays = arrays
        self.layers = tuple(BundleLayer(self, record) for record in manifest.layers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file of the arrays."""
        self._arrays.close()

    @property
    def arrays_path(self) -> Path:
        """The file of the arrays."""
        return self.path / self.manifest.arrays.path

    @property
    def geometry(self) -> ArrayGeometry:
        """The arrays of the chip, and how tiles are placed on them."""
        return self.manifest.geometry.geometry

    def check_placements(self) -> None:
        """Check that every array of the chip is given to one tile, and that it has the lines that the tile needs.

        Raises:
            BundleError: If not; the message names the tile.
        """
        defects, taken = self.manifest.defects, set[int]()
        for layer in self.layers:
            for tile in layer.record.tiles:
                for item in tile.placements:
                    if item.array in taken:
                        raise self._misplaced(tile, f"array {item.array}, which another one stands on, too")
                    taken.add(item.array)
                    if defects is not None and defects.array_count is not None and item.array >= defects.array_count:
                        raise self._misplaced(tile, f"array {item.array}, but the chip has {defects.array_count}")
                    if not self._has_lines(tile, item):
                        raise self._misplaced(tile, f"lines that array {item.array} does not have")

    def _has_lines(self, tile: TileRecord, item: PlacementRecord) -> bool:
        geometry = self.geometry
        units = units_of(item.devices, geometry.pair_layout)
        shape = tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0]
        return all(
            list(avoided) == sorted({line for line in avoided if 0 <= line < size})
            and count * unit <= size - len(avoided)
            for avoided, size, count, unit in zip(
                (item.avoided_rows, item.avoided_columns),
                (geometry.rows, geometry.columns),
                shape,
                units,
                strict=True,
            )
        )

    def _misplaced(self, tile: TileRecord, where: str) -> BundleError:
        return BundleError(f"'{self.path / MANIFEST_FILE}': tile {tile.id} stands on {where}; copy the bundle again")

    def layer(self, name: str) -> BundleLayer:
        """A layer by its id or the name of its weight.

        Raises:
            BundleError: If there is none, or several weights in different graphs have that name.
        """
        found = [layer for layer in self.layers if name in {layer.record.id, layer.record.weight}]
        if len(found) != 1:
            known = ", ".join(f"{layer.record.id} ({layer.record.weight})" for layer in self.layers)
            what = "no layer" if not found else "more than one layer"
            raise BundleError(f"'{self.path}' has {what} '{name}'; there are {known}")
        return found[0]

    def tile(self, tile_id: str) -> BundleTile:
        """A tile by its id, e.g. ``L003/T0007``.

        Raises:
            BundleError: If there is none.
        """
        for layer in self.layers:
            if tile_id.startswith(f"{layer.record.id}/"):
                for record in layer.record.tiles:
                    if record.id == tile_id:
                        return BundleTile(layer, record)
        raise BundleError(f"'{self.path}' has no tile '{tile_id}'; ids are like {self._example_id()}")

    def verify_hashes(self) -> None:
        """Read everything, and check that it has not changed since it was written.

        Raises:
            BundleError: For the first file or array that has changed.
        """
        for file in self.manifest.files:
            with (self.path / file.path).open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.sha256:
                raise BundleError(
                    f"'{self.path / file.path}' has changed: its SHA-256 is {found}, but {MANIFEST_FILE} says "
                    f"{file.sha256}; copy the bundle again"
                )
        for layer in self.layers:
            for record in layer.arrays():
                found = digest(np.ascontiguousarray(self.read(record)))
                if found != record.sha256:
                    raise BundleError(
                        f"'{self.arrays_path}': array '{record.key}' has changed: its SHA-256 is {found}, but "
                        f"{MANIFEST_FILE} says {record.sha256}; copy the bundle again"
                    )

    def form(self, record: ArrayRecord) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array.

        Raises:
            BundleError: If it is missing or damaged.
        """
        try:
            found = self._arrays.form(record.key)
        except (OSError, ValueError) as error:
            raise self._damaged(record, error) from None
        if found is None:
            raise BundleError(f"'{self.arrays_path}': array '{record.key}' is missing; copy the bundle again")
        return found

    def read(self, record: ArrayRecord) -> NDArray[Any]:
        """An array.

        Raises:
            BundleError: If it is missing or damaged.
        """
        self.form(record)
        try:
            return self._arrays.read(record.key)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(record, error) from None

    def _damaged(self, record: ArrayRecord, error: Exception) -> BundleError:
        reason = " ".join(str(error).split())
        return BundleError(f"'{self.arrays_path}': array '{record.key}' cannot be read: {reason}; copy it again")

    def _example_id(self) -> str:
        return next((tile.id for layer in self.manifest.layers for tile in layer.tiles), "L000/T0000")


class BundleLayer:
    """A mapped weight of a bundle.

    Attributes:
        bundle: The bundle.
        record: What the manifest says of the layer.
    """

    def __init__(self, bundle: Bundle, record: LayerRecord) -> None:
        self.bundle = bundle
        self.record = record

    @property
    def tiles(self) -> tuple[BundleTile, ...]:
        """Its tiles, by matrix, row and column."""
        return tuple(BundleTile(self, record) for record in self.record.tiles)

    def scale(self) -> FloatArray:
        """The scales in µS per unit of weight, [matrices, pieces of rows, pieces of columns]."""
        return self.bundle.read(self.record.scale.array)

    def zero(self) -> FloatArray:
        """What is added to the quotients, in units of weight, of the shape of the scales."""
        return self.bundle.read(self.record.zero.array)

    def scale_starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows, and the columns, of a matrix at which pieces with a scale of their own begin."""
        record = self.record
        return self.bundle.read(record.scale_row_starts), self.bundle.read(record.scale_column_starts)

    def conductances(self) -> dict[str, FloatArray]:
        """For each device its conductances in µS, in the shape of the weight, put together from all tiles.

        Raises:
            BundleError: If a tile cannot be read, or a conductance is out of the range of the device.
        """
        rows, layout = self.record.matrix_view.rows, self.record.layout
        return {name: stored_from_matrices(found[:, :rows], layout) for name, found in self._matrices().items()}

    def _matrices(self) -> dict[str, FloatArray]:
        """For each device its conductances as [matrices, inputs and rows of the bias, outputs]."""
        record, view = self.record, self.record.matrix_view
        shape, dtype = (view.matrices, view.rows + record.bias_rows, view.columns), np.dtype(record.array_dtype)
        whole = {device.name: np.empty(shape, dtype) for device in record.devices}
        for tile in self.tiles:
            rows, columns = slice(*tile.record.inputs), slice(*tile.record.outputs)
            for name, part in tile.conductances().items():
                whole[name][tile.record.matrix, rows, columns] = part
        return whole

    def rebuilt_weight(self) -> NDArray[Any]:
        """The weight that the conductances stand for, bit-identical to what the nodes of model.onnx compute.

        Raises:
            BundleError: As `conductances`.
        """
        record = self.record
        compute = np.dtype(_dtype(record.compute_dtype).numpy())
        conductances = [ir.Tensor(array.astype(compute, copy=False)) for array in self.conductances().values()]
        row_starts, column_starts = self.scale_starts()
        zero_point = None
        if record.zero_point is not None:
            zero_point = ZeroPoint(self.bundle.read(record.zero_point), record.shape)
        decoding = Decoding(
            tuple(device.coefficient for device in record.devices),
            record.offset_us,
            _number_or_array(record.scale, self.scale()),
            _number_or_array(record.zero, self.zero()),
        )
        return RebuiltTensor(
            conductances,
            decoding,
            dtype=_dtype(record.dtype),
            name=record.weight,
            rounded=record.rounded,
            zero_point=zero_point,
            grid=record.scale_grid(row_starts.tolist(), column_starts.tolist()),
        ).numpy()

    def rebuilt_bias(self) -> FloatArray | None:
        """What the rows of the bias add to each output, [matrices, outputs]; None if the bias is digital.

        It includes the factor of the product (alpha of a Gemm); it is the bias times `beta` of the record.

        Raises:
            BundleError: As `conductances`.
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
        """All its arrays."""
        record = self.record
        for tile in record.tiles:
            yield from tile.conductances
            yield from tile.codes or ()
            for stuck in tile.stuck:
                yield from (stuck.cells, stuck.conductances)
        yield from (record.scale.array, record.zero.array, record.scale_row_starts, record.scale_column_starts)
        if record.zero_point is not None:
            yield record.zero_point

    def check(self) -> None:
        """Check that it does not contradict itself, and that all arrays are there, of the right shape and type.

        Raises:
            BundleError: If something is wrong.
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


@dataclass(frozen=True, eq=False)
class TileScale:
    """The scales of a tile.

    Attributes:
        values: In µS per unit of weight, [pieces of rows, pieces of columns].
        zeros: In units of weight, of the same shape.
        row_starts: The rows of the tile at which pieces begin; the first is 0.
        column_starts: The columns of the tile at which pieces begin; the first is 0.
    """

    values: FloatArray
    zeros: FloatArray
    row_starts: NDArray[np.int64]
    column_starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PhysicalArray:
    """What one array of the chip is programmed to.

    Attributes:
        devices: The devices that stand on it: one, or the two of a pair.
        targets: In µS, [rows, columns]; cells without a weight are at g_min.
        is_used: Which cells belong to a weight, of the same shape.
        is_avoided: Which cells are on a row or column that is left out because it cannot be used; they are not to be
            programmed.
        array: The number of the array on the chip; None in another pair layout than that of the bundle.
    """

    devices: tuple[str, ...]
    targets: FloatArray
    is_used: NDArray[np.bool_]
    is_avoided: NDArray[np.bool_]
    array: int | None


class BundleTile:
    """A tile of a layer.

    Attributes:
        layer: The layer.
        record: What the manifest says of the tile.
    """

    def __init__(self, layer: BundleLayer, record: TileRecord) -> None:
        self.layer = layer
        self.record = record

    @property
    def id(self) -> str:
        """E.g. ``L003/T0007``."""
        return self.record.id

    @property
    def shape(self) -> tuple[int, int]:
        """Its inputs and outputs."""
        (first_input, input_stop), (first_output, output_stop) = self.record.inputs, self.record.outputs
        return input_stop - first_input, output_stop - first_output

    def conductances(self) -> dict[str, FloatArray]:
        """For each device its targets in µS, [inputs, outputs].

        Raises:
            BundleError: If they cannot be read, or one is out of the range of the device.
        """
        found = {}
        layer, bundle = self.layer.record, self.layer.bundle
        for device, array in zip(layer.devices, self.record.conductances, strict=True):
            targets = bundle.read(array)
            cell = first_out_of_range(targets, layer.g_min, layer.g_max, layer.compute_dtype)
            if cell is not None:
                raise BundleError(
                    f"'{bundle.arrays_path}': tile {self.id}, {device.name}, row {cell[0]}, column {cell[1]} is "
                    f"{targets[cell]:g} µS, but the device reaches {layer.g_min:g} .. {layer.g_max:g} µS; copy the "
                    "bundle again"
                )
            found[device.name] = targets
        return found

    def codes(self) -> dict[str, NDArray[Any]] | None:
        """For each device the codes of its levels, [inputs, outputs]; None if the mapping has none."""
        if self.record.codes is None:
            return None
        devices = self.layer.record.devices
        return {
            device.name: self.layer.bundle.read(array) for device, array in zip(devices, self.record.codes, strict=True)
        }

    def scale(self) -> TileScale:
        """Its scales, and the cells that they hold for."""
        record = self.record
        rows, columns = slice(*record.scale_rows), slice(*record.scale_columns)
        row_starts, column_starts = self.layer.scale_starts()
        return TileScale(
            self.layer.scale()[record.matrix, rows, columns],
            self.layer.zero()[record.matrix, rows, columns],
            np.maximum(row_starts[rows] - record.inputs[0], 0),
            np.maximum(column_starts[columns] - record.outputs[0], 0),
        )

    def physical_arrays(self, pair_layout: PairLayout | None = None) -> tuple[PhysicalArray, ...]:
        """The arrays of the chip that the tile stands on.

        Args:
            pair_layout: Where the devices of a pair stand; as the bundle has it if None. In that layout arrays have the
                size of the chip's arrays; in another one, that of as many inputs and outputs as a tile may have.

        Raises:
            BundleError: As `conductances`.
        """
        layer, geometry = self.layer.record, self.layer.bundle.geometry
        chosen = geometry.pair_layout if pair_layout is None else pair_layout
        size, placements = (geometry.rows, geometry.columns), self._placements()
        if chosen != geometry.pair_layout:
            size = _size_in_other_layout(geometry, chosen, is_paired=bool(layer.pairs))
            groups = device_groups(len(layer.devices), layer.pairs, chosen)
            placements = [ArrayPlacement(-1, group) for group in groups]
        conductances = list(self.conductances().values())
        return tuple(self._physical_array(placement, size, chosen, conductances) for placement in placements)

    def _placements(self) -> list[ArrayPlacement]:
        return [
            ArrayPlacement(item.array, item.devices, item.avoided_rows, item.avoided_columns)
            for item in self.record.placements
        ]

    def _physical_array(
        self,
        placement: ArrayPlacement,
        size: tuple[int, int],
        pair_layout: PairLayout,
        conductances: list[FloatArray],
    ) -> PhysicalArray:
        layer = self.layer.record
        if len(placement.devices) == 1 and placement.array < 0:
            size = self.layer.bundle.geometry.capacity(is_paired=bool(layer.pairs))
        targets = np.full(size, layer.g_min, conductances[0].dtype)
        is_used, is_avoided = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        is_avoided[list(placement.avoided_rows)] = True
        is_avoided[:, list(placement.avoided_columns)] = True
        lines = lines_of_devices(size, self.shape, placement, pair_layout)
        for device, (rows, columns) in zip(placement.devices, lines, strict=True):
            targets[rows[:, None], columns] = conductances[device]
            is_used[rows[:, None], columns] = True
        return PhysicalArray(
            tuple(layer.devices[device].name for device in placement.devices),
            targets,
            is_used,
            is_avoided,
            None if placement.array < 0 else placement.array,
        )

    def stuck_cells(self) -> dict[str, tuple[NDArray[np.int64], FloatArray]]:
        """For each device that has stuck cells, their rows and columns in the tile, [cells, 2], and conductances in µS.

        Raises:
            BundleError: If they cannot be read.
        """
        bundle, devices = self.layer.bundle, self.layer.record.devices
        return {
            devices[item.device].name: (bundle.read(item.cells), bundle.read(item.conductances))
            for item in self.record.stuck
        }


def _size_in_other_layout(geometry: ArrayGeometry, pair_layout: PairLayout, *, is_paired: bool) -> tuple[int, int]:
    """The size of an array for as many inputs and outputs as a tile may have, in a layout that is not the bundle's."""
    rows, columns = geometry.capacity(is_paired=is_paired)
    if pair_layout == "separate_arrays":
        return rows, columns
    return (rows, 2 * columns) if pair_layout == "adjacent_columns" else (2 * rows, columns)


def _number_or_array(record: ValuesRecord, values: FloatArray) -> float | FloatArray:
    return values if record.value is None else record.value


def _dtype(name: str) -> ir.DataType:
    for dtype in MAPPABLE_DTYPES:
        if np.dtype(dtype.numpy()).name == name:
            return dtype
    raise BundleError(f"the bundle names the type '{name}', which this version does not know")


def _check_file(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise BundleError(f"'{path}' cannot be read: {error.strerror}; copy the bundle again") from None
    if found != size:
        raise BundleError(f"'{path}' has {found} bytes, but it should have {size}; copy the bundle again")
