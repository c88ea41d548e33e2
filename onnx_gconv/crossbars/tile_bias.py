"""The bias that the bias rows of a chip add when their cells are not exactly at their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import as_stored

__all__ = ["TileBias", "bias_of_tiles"]


@dataclass(frozen=True, eq=False)
class TileBias:
    """A bias as a chip holds it.

    Attributes:
        values: What the bias rows add to each output, [matrices, outputs], in units of the output.
        largest_error: Largest difference from what the targets add, in units of the output.
        measured: How many cells of the bias rows have a measurement, over all devices.
    """

    values: NDArray[np.float64]
    largest_error: float
    measured: int

    def tensor(self, layer: Layer) -> ir.TensorProtocol | None:
        """The tensor that replaces the bias initializer; None if the node multiplies the bias by 0."""
        rows, bias, view = layer.bias_rows, layer.bias, layer.consumers[0].matrix_view
        assert isinstance(rows, BiasRows) and bias is not None and view is not None  # noqa: PT018, S101 - it has rows
        if not rows.beta:
            return None
        old = bias.tensor
        shape: tuple[int, ...] = tuple(old.shape.numpy())
        if self.values.size != old.size:
            # The bias was one number for all outputs, or shared by all matrices of a batch; measured ones differ.
            is_shared, is_last = view.matrices > 1, bias.slot.output_axis == -1
            batch = [view.split_shape[axis] for axis in view.matrix_axes] if is_shared else []
            shape = (*batch, 1, view.columns) if is_last else (*batch, view.columns, 1)
            shape = shape if is_shared or not is_last else (view.columns,)
        values = (self.values / rows.beta).reshape(shape)
        return ir.tensor(values.astype(old.dtype.numpy()), name=bias.name)


def bias_of_tiles(layer: Layer, read: Callable[[int, int], NDArray[np.floating[Any]] | None]) -> TileBias | None:
    """Compute the bias from measured or simulated conductances, and from targets where there are none.

    Args:
        layer: The layer.
        read: Takes the numbers of a tile and a device, and returns the conductances in µS, [inputs, outputs]: NaN where
            the cell keeps its target, or None if all cells of the tile do.

    Returns:
        The bias; None if it is digital.
    """
    rows = layer.bias_rows
    if not isinstance(rows, BiasRows):
        return None
    record, view, in_us = layer.record, layer.consumers[0].matrix_view, as_stored(layer)
    assert view is not None  # noqa: S101 - it has rows
    inputs = layer.layout.rows
    total = np.zeros((view.matrices, rows.rows, view.columns))
    change, measured = np.zeros_like(total), 0
    for number, device in enumerate(record.conductances):
        targets = in_us(rows.stored[number]).astype(np.float64)
        errors = np.zeros_like(targets)
        for tile in layer.grid.tiles:
            found = read(tile.number, number) if tile.inputs[1] > inputs else None
            if found is None:
                continue
            first = max(tile.inputs[0], inputs)
            place = tile.matrix, slice(first - inputs, tile.inputs[1] - inputs), slice(*tile.outputs)
            part = found[first - tile.inputs[0] :].astype(np.float64) - targets[place]
            measured += int(np.count_nonzero(~np.isnan(part)))
            errors[place] = np.nan_to_num(part, nan=0.0)
        total += device.coefficient * targets
        change += device.coefficient * errors
    scale, zero = (values.astype(np.float64)[:, None] for values in layer.scale_and_zero_of_bias())
    added = view.factor * ((total + change - record.offset_us) / scale + zero).sum(axis=1)
    error = view.factor * (change / scale).sum(axis=1)
    return TileBias(added, float(np.abs(error).max()), measured)
