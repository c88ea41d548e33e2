"""Writes the arrays of a layer, and builds the layer's entry in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.chip import LayerPlacement
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.packed_layer import block_scales, block_zero_points
from onnx_gconv.crossbars.tile_arrays import TileArrays, digest, little_endian
from onnx_gconv.crossbars.tiles import touched_pieces
from onnx_gconv.files.arrays import ArrayWriter, Label, LabelledArrayWriter
from onnx_gconv.handoff.manifest import (
    ArrayRecord,
    BiasRecord,
    BlockScalesRecord,
    DeviceRecord,
    LayerPartRecord,
    LayerRecord,
    NodeRecord,
    PackedLayerRecord,
    PlacementRecord,
    StuckRecord,
    TileRecord,
    ValuesRecord,
)
from onnx_gconv.mapping import MatrixViewRecord, RearrangementRecord

__all__ = ["LayerWriter", "rule_of"]


class LayerWriter:
    """Writes the arrays of a layer tile by tile, and collects the layer's record for the manifest.

    Args:
        layer: The layer.
        placement: Where its tiles stand on the chip.
        files: The files that each array is written to.
        labelled: The file among `files` that also stores labels (device, unit, ...) beside each array; None if none.
    """

    def __init__(
        self,
        layer: Layer,
        placement: LayerPlacement,
        files: Sequence[ArrayWriter],
        labelled: LabelledArrayWriter | None = None,
    ) -> None:
        self._layer = layer
        self._placement = placement
        self._files = files
        self._labelled = labelled
        self._tiles: dict[int, TileRecord] = {}

    def write(self, arrays: TileArrays) -> None:
        """Write the conductances, codes and stuck cells of a tile, and collect its record."""
        layer, tile = self._layer, arrays.tile
        name = layer.tile_id(tile.number)
        devices = [item.device for item in layer.record.conductances]
        keys = [f"{name}/{device}" for device in devices]
        if arrays.codes is not None:
            keys += [f"{name}/{device}_code" for device in devices]
        what: dict[str, Label] = {"layer": layer.id, "tile": name}
        for key, device, array in zip(keys, devices, arrays.conductances, strict=False):
            self._store(key, array, {**what, "device": device, "unit": "uS", "range": self._range})
        for key, device, array in zip(keys[len(devices) :], devices, arrays.codes or (), strict=False):
            self._store(key, array, {**what, "device": device, "unit": "number of the level"})
        found = [ArrayRecord.of_valid(key=key, sha256=sha) for key, sha in zip(keys, arrays.digests, strict=True)]
        grid = layer.scale_grid
        self._tiles[tile.number] = TileRecord.of_valid(
            id=name,
            matrix=tile.matrix,
            grid=tile.grid,
            inputs=tile.inputs,
            outputs=tile.outputs,
            scale_rows=touched_pieces(grid.row_starts, *tile.inputs),
            scale_columns=touched_pieces(grid.column_starts, *tile.outputs),
            conductances=tuple(found[: len(devices)]),
            codes=None if arrays.codes is None else tuple(found[len(devices) :]),
            placements=tuple(
                PlacementRecord.of_valid(
                    array=item.array,
                    devices=item.devices,
                    avoided_rows=item.avoided_rows,
                    avoided_columns=item.avoided_columns,
                )
                for item in self._placement.tiles[tile.number]
            ),
            stuck=tuple(
                StuckRecord(
                    device=item.device,
                    cells=self._array(f"{keys[item.device]}_stuck", item.cells, "row and column in the tile"),
                    conductances=self._array(f"{keys[item.device]}_stuck_us", item.conductances, "uS"),
                )
                for item in self._placement.stuck.get(tile.number, ())
            ),
        )

    def record(self) -> LayerRecord:
        """Write the arrays of the whole layer, such as scales, and return the layer's entry in the manifest.

        Call it after all tiles are written.
        """
        found = self._record()
        if self._labelled is not None:
            self._labelled.label(self._layer.id, self._of_layer(found))
        return found

    def _record(self) -> LayerRecord:
        layer, record, view = self._layer, self._layer.record, self._layer.consumers[0].matrix_view
        assert view is not None  # noqa: S101 - layers have one
        scale, zero = layer.scale_and_zero()
        zero_point = layer.zero_point()
        return LayerRecord(
            id=layer.id,
            weight=record.name,
            graph=record.graph,
            nodes=tuple(
                NodeRecord(**item.model_dump(include=set(NodeRecord.model_fields))) for item in layer.consumers
            ),
            dtype=record.dtype,
            shape=record.shape,
            path=layer.consumers[0].path,
            matrix_view=view,
            unroll=_unroll(view, layer.consumers[0].path),
            **rule_of(layer),
            scale=self._values("scale", scale, "uS per unit of weight"),
            scale_row_starts=self._starts("scale_row_starts", layer.scale_grid.row_starts),
            scale_column_starts=self._starts("scale_column_starts", layer.scale_grid.column_starts),
            zero=self._values("zero", zero, "unit of weight"),
            rounded=layer.has_integers,
            zero_point=None if zero_point is None else self._array(f"{layer.id}/zero_point", zero_point, "code"),
            bias=self._bias(),
            tile_row_starts=layer.grid.row_starts,
            tile_column_starts=layer.grid.column_starts,
            arrays=layer.arrays,
            utilization=layer.utilization,
            tiles=tuple(self._tiles[number] for number in range(len(layer.grid))),
            parameter=record.parameter,
            modules=record.modules,
            packing=self._packing(),
            dequantization=self._dequantization(),
            zero_point_blocks=record.zero_point_blocks,
            parts=self._parts(),
        )

    def _parts(self) -> tuple[LayerPartRecord, ...]:
        parts, starts = self._layer.record.column_parts, self._layer.grid.column_starts
        if parts is None:
            return ()
        return tuple(
            LayerPartRecord(name=name, outputs=outputs, tile_columns=touched_pieces(starts, *outputs))
            for name, outputs in zip(parts.names, parts.stretches, strict=True)
        )

    def _packing(self) -> PackedLayerRecord | None:
        layer, said = self._layer, self._layer.record.packing
        points, padding = block_zero_points(layer.mapped), layer.mapped.padding
        if said is None or points is None or padding is None:
            return None
        return PackedLayerRecord(
            bits=said.bits,
            shape=said.shape,
            block=said.block,
            zero_point=self._array(f"{layer.id}/zero_point", points, "code"),
            padding=self._array(f"{layer.id}/padding", padding, "code") if padding.size else None,
        )

    def _dequantization(self) -> BlockScalesRecord | None:
        layer, said = self._layer, self._layer.record.dequantization
        if said is None:
            return None
        found = layer.block_scales
        scales = None if found is None else block_scales(found, layer.record)
        return BlockScalesRecord(
            **said.model_dump(),
            scales=(
                None if scales is None else self._array(f"{layer.id}/block_scales", scales, "unit of weight per code")
            ),
        )

    def _values(self, name: str, values: NDArray[Any], unit: str) -> ValuesRecord:
        same = bool((values == values.flat[0]).all())
        key = f"{self._layer.id}/{name}"
        return ValuesRecord(value=float(values.flat[0]) if same else None, array=self._array(key, values, unit))

    def _bias(self) -> BiasRecord | None:
        found, rows = self._layer.bias, self._layer.bias_rows
        if found is None:
            return None
        values = self._array(f"{self._layer.id}/bias", found.array(), "unit of output")
        if isinstance(rows, BiasRows):
            return BiasRecord(
                mode="rows",
                initializer=found.name,
                values=values,
                beta=found.beta,
                rows=rows.rows,
                max_abs_error=rows.max_abs_error,
            )
        return BiasRecord(initializer=found.name, values=values, beta=found.beta, reason=rows)

    def _array(self, key: str, array: NDArray[Any], unit: str) -> ArrayRecord:
        array = little_endian(array)
        self._store(key, array, {"layer": self._layer.id, "unit": unit})
        return ArrayRecord(key=key, sha256=digest(array))

    def _starts(self, name: str, starts: Sequence[int]) -> ArrayRecord:
        line = "row of a matrix" if "row" in name else "column of a matrix"
        return self._array(f"{self._layer.id}/{name}", np.array(starts, "<i8"), line)

    def _store(self, key: str, array: NDArray[Any], labels: Mapping[str, Label]) -> None:
        for file in self._files:
            file.write(key, array)
        if self._labelled is not None:
            self._labelled.label(key, labels)

    @property
    def _range(self) -> tuple[float, float]:
        """The lowest and highest conductance that the devices reach, in µS."""
        parameters = self._layer.record.converter.parameters
        return float(parameters["g_min"]), float(parameters["g_max"])

    @staticmethod
    def _of_layer(record: LayerRecord) -> dict[str, Label]:
        """The labels of the layer's group in the arrays file."""
        view = record.matrix_view
        return {
            "layer": record.id,
            "weight": record.weight,
            "known_as": record.known_as,
            "parameter": record.parameter or "",
            "modules": " + ".join(record.modules),
            "op_type": record.nodes[0].op_type,
            "unit": "uS",
            "devices": ", ".join(device.name for device in record.devices),
            "range": (record.g_min, record.g_max),
            "matrices": view.matrices,
            "inputs": view.rows,
            "outputs": view.columns,
        }


def rule_of(layer: Layer) -> dict[str, Any]:
    """The entries of a layer's record that say how its conductances become weights, beside its arrays."""
    record = layer.record
    parameters = record.converter.parameters
    return {
        "converter": record.converter,
        "g_min": parameters["g_min"],
        "g_max": parameters["g_max"],
        "levels": record.levels,
        "compute_dtype": record.compute_dtype,
        "array_dtype": "float64" if layer.array_dtype == np.float64 else "float32",
        "devices": tuple(
            DeviceRecord(name=item.device, coefficient=item.coefficient, initializer=item.name)
            for item in record.conductances
        ),
        "pairs": layer.pairs,
        "offset_us": record.offset_us,
        "granularity": record.granularity,
    }


def _unroll(view: MatrixViewRecord, path: tuple[RearrangementRecord, ...]) -> str:
    """How the weight's tensor is unrolled into matrices, in words for people."""
    before = "".join(f"{step.op} it to {list(step.argument)}; " for step in path)
    axes = [
        f"{what} are {'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}" if axes else f"one of {what}"
        for what, axes in (("matrices", view.matrix_axes), ("rows", view.row_axes), ("columns", view.column_axes))
    ]
    return (
        f"{before}reshape it to {list(view.split_shape)}; {'; '.join(axes)}; the slowest first, all in row-major order"
    )
