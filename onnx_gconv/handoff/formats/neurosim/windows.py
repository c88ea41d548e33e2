"""The activations of a layer as integer codes, unrolled over the positions of the layer's kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["Windows", "windows_of"]

_PLANE = 2


@dataclass(frozen=True, eq=False)
class Windows:
    """The activations of a layer for one sample, and the positions of its kernel on them.

    Attributes:
        values: The activations before padding, [channels, height, width].
        kernel: Height and width of the kernel.
        stride: The step of the kernel in both directions.
        padding: Numbers of rows of zeros above and below, and of columns of zeros to the left and to the right.
    """

    values: NDArray[np.float64]
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def steps(self) -> tuple[int, int]:
        """Number of positions of the kernel downwards and across."""
        sizes = zip(self.values.shape[1:], self.kernel, self.padding, strict=True)
        height, width = (max((size + sum(pads) - kernel) // self.stride + 1, 0) for size, kernel, pads in sizes)
        return height, width

    @property
    def positions(self) -> int:
        """Number of positions of the kernel."""
        return math.prod(self.steps)

    @property
    def largest(self) -> float:
        """The largest magnitude of the activations, max|x|."""
        return float(np.abs(self.values).max())

    def codes(self, bits: int) -> Iterator[NDArray[np.int64]]:
        """Quantize the activations to integers, ``round(x / max|x| * (2^(bits - 1) - 1))``, as NeuroSim V1.5 does.

        Args:
            bits: Bits of an integer, including the sign.

        Yields:
            An int64 array [positions] for each input of the layer; inputs are (channel, kernel row, kernel column).
        """
        largest = self.largest or 1.0
        whole = np.rint(self.values / largest * (2 ** (bits - 1) - 1)).astype(np.int64)
        padded = np.pad(whole, ((0, 0), *self.padding))
        (height, width), stride = self.steps, self.stride
        for channel in padded:
            for row in range(self.kernel[0]):
                for column in range(self.kernel[1]):
                    yield channel[row::stride, column::stride][:height, :width].reshape(-1)


def windows_of(node: ir.Node, kernel: Sequence[int], values: NDArray[np.float64]) -> Windows | str:
    """The windows of a convolution, or the reason why NeuroSim cannot hold it.

    Args:
        node: The convolution.
        kernel: The sizes of its kernel.
        values: The activations of one sample, [channels, one or two axes].
    """
    rank = len(kernel)
    if rank > _PLANE:
        return f"its kernel has {rank} axes, but NeuroSim knows two"
    strides = node.attributes.get_ints("strides", None) or (1,) * rank
    if any(step != 1 for step in node.attributes.get_ints("dilations", None) or ()):
        return "its kernel has gaps (dilations), which NeuroSim does not know"
    if len({*strides}) > 1:
        return f"its strides are {' and '.join(map(str, strides))}, but NeuroSim has one for both directions"
    if rank < _PLANE and strides[0] > 1:
        return f"it moves by {strides[0]} along one axis, but NeuroSim divides by the stride in both directions"
    pads = _padding(node, kernel, strides, values.shape[1:])
    if (
        rank < _PLANE
    ):  # the axis becomes the height, the width is 1: where NeuroSim uses only one size, it is the height
        return Windows(values[:, :, None], (kernel[0], 1), strides[0], (pads[0], (0, 0)))
    return Windows(values, (kernel[0], kernel[1]), strides[0], (pads[0], pads[1]))


def _padding(
    node: ir.Node, kernel: Sequence[int], strides: Sequence[int], sizes: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The padding before and behind each axis."""
    rank, auto = len(kernel), node.attributes.get_string("auto_pad", "NOTSET")
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        totals = [
            max((math.ceil(size / step) - 1) * step + length - size, 0)
            for size, step, length in zip(sizes, strides, kernel, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return tuple(half if auto == "SAME_UPPER" else half[::-1] for half in halves)
    given = (node.attributes.get_ints("pads", None) if auto != "VALID" else None) or (0,) * 2 * rank
    return tuple(zip(given[:rank], given[rank:], strict=True))
