"""A model as NeuroSim's network: a line for each layer, and the reasons why NeuroSim cannot hold the other layers.

A line is ``H, W, C_in, kernel height, kernel width, C_out, pooling follows, stride``, where H and W are the height and
width of the activations before padding. A fully connected layer is ``1, 1, inputs, 1, 1, outputs, 0, 1``
(``getNetStructure`` in ``main.cpp``, ``NetWork_VGG8.csv``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.neurosim.windows import Windows, windows_of
from onnx_gconv.handoff.formats.sample import LayerInput, Sample
from onnx_gconv.weights.constants import constant_tensor

__all__ = ["NetworkLayer", "network_of", "novel_mapping_fits", "rows_of_subarrays"]

_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"})
_MEANS = frozenset({"ReduceMean", "ReduceMax"})
_IMAGE_AXES = ({2, 3}, {-2, -1})

_CONVOLUTIONS = frozenset({"Conv", "FusedConv"})

# Ops that multiply the last axis of their activations, or the one before it if an attribute says so. The values are the
# names of this attribute if the weight is the right operand, and if it is the left one; None for ops without it.
_PRODUCTS: dict[str, tuple[str | None, str | None]] = {
    "MatMul": (None, None),
    "Gemm": ("transA", "transB"),
    "FusedGemm": ("transA", "transB"),
    "FusedMatMul": ("transA", "transB"),
    "TransposeMatMul": ("transA", "transB"),
    "GemmFastGelu": (None, None),
    "MatMulNBits": (None, None),
}


@dataclass(frozen=True, eq=False)
class NetworkLayer:
    """A layer that NeuroSim can hold.

    Attributes:
        layer: The layer.
        line: The line of the layer in the network file.
        windows: The activations of one sample, and where the kernel stands on them.
    """

    layer: Layer
    line: tuple[int, int, int, int, int, int, int, int]
    windows: Windows

    @property
    def positions_read(self) -> int:
        """Number of kernel positions that NeuroSim reads from the input file; it reads the first ones.

        NeuroSim truncates ``(H - kernel height + 1) / stride * (W - kernel width + 1) / stride``, which ignores padding
        (``numInVector`` in ``Chip.cpp``).
        """
        return _positions_read(self.line)

    @property
    def with_padding(self) -> tuple[int, int, int]:
        """Height and width with the padding, and the number of positions that NeuroSim would read with these."""
        rows, columns = self.windows.padding
        height, width = self.line[0] + sum(rows), self.line[1] + sum(columns)
        return height, width, _positions_read((height, width, *self.line[2:]))


def _positions_read(line: Sequence[int]) -> int:
    height, width, _, kernel_height, kernel_width, _, _, stride = line
    return int((height - kernel_height + 1) / stride * (width - kernel_width + 1) / stride)


def network_of(layers: Sequence[Layer], sample: Sample) -> tuple[tuple[NetworkLayer, ...], dict[str, str]]:
    """Split the layers into those that NeuroSim can hold and those that it cannot.

    Args:
        layers: The layers of the model.
        sample: A run of the model, with the activations of the layers.

    Returns:
        The layers that NeuroSim can hold, in the order in which they run, and the reasons why it cannot hold the
        others, by their ids.
    """
    found: list[tuple[ir.Node, NetworkLayer]] = []
    refused: dict[str, str] = {}
    for layer, arriving in zip(layers, sample.inputs, strict=True):
        item = _network_layer(layer, arriving, sample.batch)
        if isinstance(item, str):
            refused[layer.id] = item
        elif not isinstance(arriving, str):
            found.append((arriving.node, item))
    graph = found[0][0].graph if found else None
    order = {} if graph is None else {node: number for number, node in enumerate(graph)}
    found.sort(key=lambda item: order[item[0]])
    nodes = frozenset(arriving.node for arriving in sample.inputs if not isinstance(arriving, str))
    pooled = _followed_by_pools(nodes, order)
    return tuple(_with_pool(item, is_pooled=node in pooled) for node, item in found), refused


def _with_pool(item: NetworkLayer, *, is_pooled: bool) -> NetworkLayer:
    height, width, channels, kernel_height, kernel_width, outputs, _, stride = item.line
    return replace(item, line=(height, width, channels, kernel_height, kernel_width, outputs, int(is_pooled), stride))


def _network_layer(layer: Layer, arriving: LayerInput | str, batch: int) -> NetworkLayer | str:
    """The layer, for now without a mark for pooling; or the reason why NeuroSim cannot hold it."""
    if (reason := _why_no_matrix(layer)) is not None:
        return reason
    if isinstance(arriving, str):
        return arriving
    values = _real_numbers(arriving.values)
    if isinstance(values, str):
        return values
    if layer.consumers[0].op_type in _CONVOLUTIONS:
        return _convolution(layer, arriving.node, values)
    return _product(layer, arriving.node, values, batch)


def _real_numbers(values: NDArray[Any]) -> NDArray[np.float64] | str:
    if not values.size:
        return "its activations are empty in a run of one sample"
    values = values.astype(np.float64)
    return values if np.isfinite(values).all() else "its activations are not finite in a run of one sample"


def _why_no_matrix(layer: Layer) -> str | None:
    consumer, matrices = layer.consumers[0], layer.layout.matrices
    if len(layer.consumers) > 1:
        return f"{len(layer.consumers)} nodes multiply with it, but a layer of NeuroSim runs once"
    if layer.op.convolution is not None and matrices > 1:
        is_depthwise = layer.layout.rows == math.prod(layer.op.kernel_shape(layer.view))
        kind = "depthwise convolution" if is_depthwise else f"convolution of {matrices} groups"
        return f"it is a {kind}, but a layer of NeuroSim is one matrix"
    if matrices > 1:
        return f"it has {matrices} matrices, but a layer of NeuroSim is one"
    if consumer.op_type not in {*_CONVOLUTIONS, *_PRODUCTS}:
        return f"it is a weight of {consumer.op_type}, but NeuroSim knows only convolutions and products with a matrix"
    return None


def _convolution(layer: Layer, node: ir.Node, values: NDArray[np.float64]) -> NetworkLayer | str:
    kernel = layer.op.kernel_shape(layer.view)
    windows = windows_of(node, kernel, values[0])
    if isinstance(windows, str):
        return windows
    channels, height, width = windows.values.shape
    line = (height, width, channels, *windows.kernel, layer.layout.columns, 0, windows.stride)
    item = NetworkLayer(layer, line, windows)
    if item.positions_read < 1:
        size = "x".join(map(str, values.shape[2:]))
        return (
            f"its kernel of {'x'.join(map(str, kernel))} is larger than the activations of {size} before padding, and "
            "NeuroSim, which ignores padding, would compute nothing"
        )
    return item


def _product(layer: Layer, node: ir.Node, values: NDArray[np.float64], batch: int) -> NetworkLayer | str:
    positions = _positions(layer, node, values)
    if isinstance(positions, str):
        return positions
    if len(positions) % batch == 0:
        positions = positions[: len(positions) // batch]
    count, inputs = positions.shape
    windows = Windows(positions.T.reshape(inputs, count, 1))
    return NetworkLayer(layer, (count, 1, inputs, 1, 1, layer.layout.columns, 0, 1), windows)


def _positions(layer: Layer, node: ir.Node, values: NDArray[np.float64]) -> NDArray[np.float64] | str:
    """The activations of a product, float64 [positions, inputs]; or the reason why NeuroSim cannot take them."""
    consumer = layer.consumers[0]
    slot = layer.op.slot(consumer.slot)
    is_right = slot is not None and slot.activation < consumer.slot
    right, left = _PRODUCTS[consumer.op_type]
    attribute = right if is_right else left
    is_swapped = attribute is not None and bool(node.attributes.get_int(attribute, 0))
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        return f"{consumer.op_type} moves the batch axis of its activations"
    if values.ndim > 1 and is_swapped is is_right:
        values = np.moveaxis(values, -2, -1)
    if values.shape[-1] != layer.layout.rows:
        return f"its activations are vectors of {values.shape[-1]} numbers, but it has {layer.layout.rows} inputs"
    return values.reshape(-1, layer.layout.rows)


def _followed_by_pools(layers: frozenset[ir.Node], order: dict[ir.Node, int]) -> set[ir.Node]:
    """The layers to mark for pooling: for each pooling node, the last layer that feeds it, as in NeuroSim V1.5.

    NeuroSim V1.5 sets this mark in its ``add_pool``.

    Args:
        layers: The nodes of all layers, also of those that NeuroSim cannot hold.
        order: The nodes of the graph with their numbers in the order in which they run.
    """
    found = set()
    for node in order:
        if _is_pool(node) and (feeding := _feeding(node, layers)):
            found.add(max(feeding, key=order.__getitem__))
    return found


def _feeding(node: ir.Node, layers: frozenset[ir.Node]) -> set[ir.Node]:
    """The layers that feed a node directly or through nodes that are neither layers nor pooling nodes."""
    found: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    rest = list(_producers(node.inputs[:1]))
    while rest:
        one = rest.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in layers:
            found.add(one)
        elif not _is_pool(one):
            rest.extend(_producers(one.inputs))
    return found


def _producers(values: Iterable[ir.Value | None]) -> Iterable[ir.Node]:
    return (node for value in values if value is not None and (node := value.producer()) is not None)


def _is_pool(node: ir.Node) -> bool:
    """Whether a node pools neighbouring positions of an image, or all of them."""
    if node.op_type in _POOLS:
        return True
    if node.op_type not in _MEANS:
        return False
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_tensor(node.inputs[1])
        axes = None if tensor is None else tensor.numpy().tolist()
    return set(axes or ()) in _IMAGE_AXES


def rows_of_subarrays(
    lines: Sequence[Sequence[int]], columns_per_weight: int, rows: int, *, is_novel: bool = True
) -> int:
    """Number of rows of NeuroSim's sub-arrays: that of the chip's arrays, halved until NeuroSim accepts it.

    With ``novelMapping``, NeuroSim maps a layer to processing elements if it has the most frequent kernel size and at
    least as many inputs as a sub-array has rows. The number of columns of the widest of these layers, rounded up to a
    power of two, must be at least twice the rows of a sub-array. Without ``novelMapping``, that of the widest of all
    layers must be at least four times the rows (``ChipDesignInitialize`` and ``ChipFloorPlan`` in ``Chip.cpp``).
    Otherwise NeuroSim prints "SubArray Size is too large" and crashes with a memory fault.

    Args:
        lines: The lines of the network.
        columns_per_weight: Number of cells that hold a weight.
        rows: Number of rows of the chip's arrays.
        is_novel: Whether Param.cpp has ``novelMapping = true``, which is its default.
    """
    while rows > 1:
        mapped = _novel_lines(lines, rows) if is_novel else lines
        if _highest_power(mapped, columns_per_weight) >= (2 if is_novel else 4) * rows:
            break
        rows //= 2
    return rows


def novel_mapping_fits(lines: Sequence[Sequence[int]], columns_per_weight: int, rows: int) -> bool:
    """Whether NeuroSim, with ``novelMapping``, reads nothing but the weights of the layers.

    It cuts a layer that it maps to processing elements into parts of the size of an element. It copies equal shares of
    the channels and columns, rounded down, but reads as many as the element has (``ReshapeArray`` in ``Chip.cpp``,
    ``CopyPEArray`` in ``Tile.cpp``). So it reads memory behind the weights, which may be a fault or may pass unnoticed,
    unless one element holds a layer, or whole elements do. The elements have the size, from the power of two above the
    columns of the widest layer down to twice the rows of a sub-array, that is used best (``ChipFloorPlan``).

    Args:
        lines: The lines of the network.
        columns_per_weight: Number of cells that hold a weight.
        rows: Number of rows of a sub-array.
    """
    mapped = [(line[2], line[5] * columns_per_weight) for line in _novel_lines(lines, rows)]
    size = max(_highest_power(_novel_lines(lines, rows), columns_per_weight), 2 * rows)
    cells, best, element = sum(map(math.prod, mapped)), 0.0, size
    while size > 2 * rows:
        parts = sum(-(-channels // size) * -(-columns // size) for channels, columns in mapped)
        if (used := cells / (parts * size * size)) > best:
            best, element = used, size
        size //= 2
    return all(length <= element or length % element == 0 for layer in mapped for length in layer)


def _novel_lines(lines: Sequence[Sequence[int]], rows: int) -> list[Sequence[int]]:
    """The layers that NeuroSim maps to processing elements if it has ``novelMapping``."""
    kernels = [line[3] * line[4] for line in lines]
    counts = [1 + (kernels.count(kernel) if kernel != 1 else 0) for kernel in kernels]
    commonest = kernels[counts.index(max(counts))]
    return [
        line for line, kernel in zip(lines, kernels, strict=True) if kernel == commonest and line[2] * kernel >= rows
    ]


def _highest_power(lines: Iterable[Sequence[int]], columns_per_weight: int) -> int:
    """The number of columns of the widest layer, rounded up to a power of two; 0 without layers."""
    widest = max((line[5] * columns_per_weight for line in lines), default=0)
    return 1 << (widest - 1).bit_length() if widest else 0
