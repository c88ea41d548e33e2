"""Zero points and scales of a layer of integer codes, as the toolchain of a chip needs them.

The conductances of such a layer stand for codes minus zero points. The scales of the codes stay digital: nodes multiply
by one scale for all codes, for each output, or for each block of inputs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.mapping import WeightRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.weight_path import reached_inputs

__all__ = ["block_of_rows", "block_scales", "block_zero_points", "find_block_scales", "sums_several_blocks"]


def block_zero_points(mapped: MappedWeight) -> NDArray[np.float64] | None:
    """The zero points of packed codes, [..., blocks], or a scalar if all blocks share one; None for other weights."""
    found = mapped.zero_point
    return found.values if isinstance(found, BlockZeroPoint) else None


def find_block_scales(mapped: MappedWeight) -> ir.TensorProtocol | None:
    """The scales by which nodes multiply integer codes after subtracting their zero points.

    None for weights that are no integer codes, if the scales are no constant of the graph, and if they belong to groups
    of inputs.
    """
    record = mapped.record
    packing, said = record.packing_of_codes, record.dequantization
    if said is None or said.scale is None or said.groups is not None:
        return None
    inputs = (value for node, _ in reached_inputs(mapped.value) for value in node.inputs)
    scale = next((value for value in inputs if value is not None and value.name == said.scale), None)
    # A node after the op that reads the codes may apply the scale.
    if scale is None and isinstance(graph := mapped.nodes[0].graph, ir.Graph):
        scale = graph.initializers.get(said.scale)
    tensor = None if scale is None or scale.is_graph_input() else constant_tensor(scale)
    if tensor is None or packing is None or said.block is None:
        return tensor
    return tensor if tensor.size == packing.rows * math.ceil(packing.shape[-1] / said.block) else None


def block_scales(scales: ir.TensorProtocol, record: WeightRecord) -> NDArray[np.floating]:
    """The scales as an array: float64 if they are DOUBLE in the graph, else float32; [..., blocks] for packed codes.

    Args:
        scales: The result of `find_block_scales`.
        record: The manifest's entry of the weight.
    """
    dtype = np.dtype(np.float64 if scales.dtype == ir.DataType.DOUBLE else np.float32)
    found: NDArray[np.floating] = all_elements(scales).astype(dtype)
    return found if record.packing is None else found.reshape(*record.shape[:-1], -1)


def block_of_rows(record: WeightRecord, layout: MatrixLayout) -> int | None:
    """How many neighbouring rows of the matrices of integer codes share a scale; None if all do, or if it is unknown.

    Args:
        record: The manifest's entry of the weight.
        layout: The place of each element of the weight in the matrices.
    """
    said = record.dequantization
    if said is None or said.axis is None or said.block is None or said.groups is not None:
        return None
    rows = [factor for factor in layout.factors if factor.role == "row"]
    return said.block if [factor.axis for factor in rows] == [said.axis] else None


def sums_several_blocks(block: int, inputs: tuple[int, int]) -> bool:
    """Whether a column of a tile sums inputs of several blocks; each block has its own scale.

    Args:
        block: Number of inputs in a block.
        inputs: The first input of the tile, and the one after the last.
    """
    return inputs[0] // block != (inputs[1] - 1) // block
