"""Convolutions whose weights stand on tiles and whose other arithmetic is digital, in NumPy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from tests.handoff.rounded import Rounded, growth, sum_at_places
from tests.handoff.simulated_products import Operands, activated, requantized
from tests.handoff.tile_products import TiledLayer


@dataclass(frozen=True)
class Window:
    """The kernel of a convolution and how it moves, each by axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @classmethod
    def of(cls, o: Operands, layer: TiledLayer, axes: int) -> Window:
        """That of a node."""
        strides, dilations = (tuple(o.attribute(name, (1,) * axes)) for name in ("strides", "dilations"))
        return cls(
            tuple(layer.view["split_shape"][-axes:]), strides, dilations, tuple(o.attribute("pads", (0,) * (2 * axes)))
        )

    @property
    def reach(self) -> tuple[int, ...]:
        """How far a kernel reaches."""
        return tuple(d * (size - 1) + 1 for d, size in zip(self.dilations, self.kernel, strict=True))


def patches(x: np.ndarray, window: Window) -> np.ndarray:
    """The inputs of every position: [images, positions..., channels, kernel...]."""
    axes = len(window.kernel)
    margins = zip(window.pads[:axes], window.pads[axes:], strict=True)
    padded = np.pad(x, [(0, 0), (0, 0), *margins])
    found = np.lib.stride_tricks.sliding_window_view(padded, window.reach, axis=tuple(range(2, 2 + axes)))
    steps = (slice(None, None, step) for step in (*window.strides, *window.dilations))
    return np.moveaxis(found[(slice(None), slice(None), *steps)], 1, 1 + axes)


def grouped_product(layer: TiledLayer, rows: Rounded) -> Rounded:
    """Products of [images, positions..., channels, kernel...], a matrix for each group.

    The result is [images, outputs, positions...].
    """
    view, axes = layer.view, (len(rows.shape) - 2) // 2
    places = rows.shape[: 1 + axes]
    groups = rows.reshape(-1, view["matrices"], view["rows"])
    y = Rounded.concatenate([layer.product(groups[:, number], number) for number in range(view["matrices"])], axis=1)
    return y.reshape(*places, -1).rearranged(lambda array: np.moveaxis(array, -1, 1))


def along_channels(array: np.ndarray, axes: int) -> np.ndarray:
    """An array [channels] that broadcasts to [images, channels, positions...]; a scalar stays one."""
    return array if array.ndim == 0 or array.size == 1 else array.reshape(-1, *(1,) * axes)


def conv(o: Operands) -> list[Rounded]:
    x = o.value(0)
    axes = len(x.shape) - 2
    window = Window.of(o, o.layer, axes)
    y = grouped_product(o.layer, x.rearranged(lambda array: patches(array, window)))
    if o.bias() is not None:
        y += Rounded.exact(along_channels(o.bias().value, axes))
    if o.array(3) is not None:  # of FusedConv: a branch that is added before the activation
        y += o.value(3)
    return [activated(o, y)]


def causal_conv(o: Operands) -> list[Rounded]:
    """A depthwise convolution of [images, channels, positions], each output from its position and those before it."""
    [size], dilation = o.layer.view["split_shape"][2:], o.attribute("dilation", 1)
    window = Window((size,), (1,), (dilation,), ((size - 1) * dilation, 0))
    y = grouped_product(o.layer, o.value(0).rearranged(lambda array: patches(array, window)))
    return [y if o.bias() is None else y + Rounded.exact(along_channels(o.bias().value, 1))]


def causal_conv_of_tokens(o: Operands) -> list[Rounded]:
    """The same of one sequence [positions, channels], which goes on from the inputs of a state."""
    [size] = o.layer.view["split_shape"][2:]
    x = Rounded.exact(np.concatenate([o.array(4), o.array(0).T[None]], axis=2))
    y = grouped_product(o.layer, x.rearranged(lambda array: patches(array, Window((size,), (1,), (1,), (0, 0)))))
    y += Rounded.exact(along_channels(o.bias().value, 1))
    return [y.rearranged(lambda array: array[0].T)]


def code_conv(o: Operands, x: Rounded, weight_zero: np.ndarray | None) -> np.ndarray:
    """A convolution of integer codes less their zero points, exactly; margins hold the zero point of x."""
    axes = len(x.shape) - 2
    window = Window.of(o, o.layer, axes)
    rows = x.rearranged(lambda array: patches(array, window))
    y = grouped_product(o.layer, rows).value
    if weight_zero is None:
        return y
    groups = rows.value.reshape(*rows.shape[: 1 + axes], o.layer.view["matrices"], o.layer.view["rows"])
    sums = np.repeat(groups.sum(axis=-1), o.layer.view["columns"], axis=-1)  # of the inputs of each output
    return y - along_channels(weight_zero.astype(np.float64), axes) * np.moveaxis(sums, -1, 1)


def conv_integer(o: Operands) -> list[Rounded]:
    return [Rounded.exact(code_conv(o, o.shifted(0, 2), o.array(3)))]


def qlinear_conv(o: Operands) -> list[Rounded]:
    x, is_last = o.shifted(0, 2), o.attribute("channels_last", 0)
    if is_last:
        x = x.rearranged(lambda array: np.moveaxis(array, -1, 1))
    y, axes = code_conv(o, x, o.array(5)), len(x.shape) - 2
    if (bias := o.bias()) is not None:
        y = y + along_channels(bias.value, axes)
    ratio = along_channels(o.array(4).astype(np.float64), axes) * o.array(1) / o.array(6)
    found = requantized(y, ratio, o.array(7))
    return [found.rearranged(lambda array: np.moveaxis(array, 1, -1)) if is_last else found]


def conv_transpose(o: Operands) -> list[Rounded]:
    """Each position of the input gives (output, kernel...), which are added where they overlap."""
    x, layer = o.value(0), o.layer
    axes, matrices = len(x.shape) - 2, layer.view["matrices"]
    window, images, positions = Window.of(o, layer, axes), x.shape[0], x.shape[2:]
    rows = x.rearranged(lambda array: np.moveaxis(array, 1, -1)).reshape(-1, matrices, layer.view["rows"])
    y = Rounded.concatenate([layer.product(rows[:, number], number) for number in range(matrices)], axis=1)
    parts = y.reshape(images, *positions, -1, *window.kernel)
    parts = parts.rearranged(
        lambda array: np.moveaxis(array, 1 + axes, 1)
    )  # [images, outputs, positions..., kernel...]
    extra = o.attribute("output_padding", (0,) * axes)
    size = [s * (n - 1) + r + e for s, n, r, e in zip(window.strides, positions, window.reach, extra, strict=True)]
    placed = []
    for tap in itertools.product(*map(range, window.kernel)):
        first = [d * place for d, place in zip(window.dilations, tap, strict=True)]
        slices = [slice(f, f + s * (n - 1) + 1, s) for f, s, n in zip(first, window.strides, positions, strict=True)]
        placed.append(((slice(None), slice(None), *slices), parts[(..., *tap)]))
    whole = sum_at_places(placed, (images, parts.shape[1], *size))
    inner = [slice(low, n - high) for low, high, n in zip(window.pads[:axes], window.pads[axes:], size, strict=True)]
    y = whole[(slice(None), slice(None), *inner)]
    return [y if o.bias() is None else y + Rounded.exact(along_channels(o.bias().value, axes))]


def deform_conv(o: Operands) -> list[Rounded]:
    """A convolution whose every tap reads between the pixels, at an offset of its own."""
    x, offset, mask = o.array(0).astype(np.float64), o.array(2), o.array(4)
    window = Window.of(o, o.layer, 2)
    positions, taps = offset.shape[2:], list(itertools.product(*map(range, window.kernel)))
    value = np.zeros((x.shape[0], *positions, x.shape[1], len(taps)))
    size = np.zeros_like(value)
    for image, (row, column), tap in itertools.product(range(x.shape[0]), np.ndindex(*positions), range(len(taps))):
        place = [
            position * stride - pad + index * dilation + offset[image, 2 * tap + axis, row, column]
            for axis, (position, stride, pad, index, dilation) in enumerate(
                zip((row, column), window.strides, window.pads, taps[tap], window.dilations, strict=False)
            )
        ]
        weight = 1.0 if mask is None else mask[image, tap, row, column]
        value[image, row, column, :, tap] = weight * bilinear(x[image], place)
        size[image, row, column, :, tap] = abs(weight) * bilinear(np.abs(x[image]), place)
    # Places are exact; a sample is four products of three factors, their sum, and the mask.
    sampled = Rounded(value, growth(7) * size)
    y = grouped_product(o.layer, sampled.reshape(x.shape[0], *positions, x.shape[1], *window.kernel))
    return [y if o.bias() is None else y + Rounded.exact(along_channels(o.bias().value, 2))]


def bilinear(image: np.ndarray, place: list[float]) -> np.ndarray:
    """All channels of an image [channels, high, wide] at a place between pixels; it is 0 outside."""
    found = np.zeros(image.shape[0])
    for corner in itertools.product(*((math.floor(p), math.floor(p) + 1) for p in place)):
        if all(0 <= c < n for c, n in zip(corner, image.shape[1:], strict=True)):
            found += image[(slice(None), *corner)] * np.prod(
                [1 - abs(p - c) for p, c in zip(place, corner, strict=True)]
            )
    return found
