"""What a chip's toolchain needs of a layer of packed codes: its zero points, and the scales of its blocks.

The conductances of such a layer stand for codes less their zero points. The op that reads the codes multiplies each
block of inputs with a scale of its own, which is therefore digital.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.weight_path import reached_inputs

__all__ = ["block_scales", "block_zero_points", "find_block_scales", "sums_several_blocks"]


def block_zero_points(mapped: MappedWeight) -> NDArray[np.float64] | None:
    """The zero points of packed codes: without axes if all have one, else [..., blocks]; None for other weights."""
    found = mapped.zero_point
    return found.values if isinstance(found, BlockZeroPoint) else None


def find_block_scales(mapped: MappedWeight) -> ir.TensorProtocol | None:
    """The scales of the blocks of packed codes.

    None for other weights, where they are no constant of the graph, and where they are those of groups of inputs.
    """
    record = mapped.record
    packing, said = record.packing_of_codes, record.dequantization
    if packing is None or said is None or said.scale is None or said.groups is not None:
        return None
    inputs = (value for node, _ in reached_inputs(mapped.value) for value in node.inputs)
    scale = next((value for value in inputs if value is not None and value.name == said.scale), None)
    tensor = None if scale is None or scale.is_graph_input() else constant_tensor(scale)
    blocks = math.ceil(packing.shape[-1] / said.block)
    return tensor if tensor is not None and tensor.size == packing.rows * blocks else None


def block_scales(scales: ir.TensorProtocol, lead: Sequence[int]) -> NDArray[np.floating]:
    """The scales of blocks as an array [..., blocks], float64 if they are so in the graph, else float32.

    Args:
        scales: What `find_block_scales` has found.
        lead: The leading axes, those of the weight but the last one.
    """
    dtype = np.dtype(np.float64 if scales.dtype == ir.DataType.DOUBLE else np.float32)
    found: NDArray[np.floating] = all_elements(scales).astype(dtype).reshape(*lead, -1)
    return found


def sums_several_blocks(block: int, inputs: tuple[int, int]) -> bool:
    """Whether a column of a tile sums inputs of several blocks, which have a scale each.

    Args:
        block: Inputs of a block.
        inputs: The first input of the tile, and the one after the last.
    """
    return inputs[0] // block != (inputs[1] - 1) // block
