"""Matrix products whose weights stand on tiles and whose other arithmetic is digital, in NumPy.

Each op is a function of its operands. Integer ops are exact, and so are their results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.handoff.rounded import Rounded, growth
from tests.handoff.tile_products import TiledLayer

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, eq=False)
class Operands:
    """What a node computes with.

    Attributes:
        attributes: By name.
        layers: The weights that stand on tiles, by the index of the input.
        arrays: The other inputs; None for those that are left out.
        biases: What the manifest says is added to the product of a weight, by the index of its input; None for nothing.
    """

    attributes: Mapping[str, object]
    layers: Mapping[int, TiledLayer]
    arrays: Mapping[int, np.ndarray | None]
    biases: Mapping[int, np.ndarray | None]

    @property
    def slot(self) -> int:
        """The index of the weight."""
        [slot] = self.layers
        return slot

    @property
    def layer(self) -> TiledLayer:
        """The only weight."""
        return self.layers[self.slot]

    def array(self, index: int) -> np.ndarray | None:
        """An input as it is, or None."""
        return self.arrays.get(index)

    def value(self, index: int) -> Rounded | None:
        """An input as an exact number, or None."""
        array = self.array(index)
        return None if array is None else Rounded.exact(array)

    def shifted(self, index: int, zero_point: int) -> Rounded:
        """Codes less their zero point."""
        zero = self.array(zero_point)
        return Rounded.exact(self.arrays[index].astype(np.float64) - (0.0 if zero is None else zero))

    def bias(self, slot: int | None = None) -> Rounded | None:
        """The bias of a weight, or of the only one."""
        found = self.biases[self.slot if slot is None else slot]
        return None if found is None else Rounded.exact(found)

    def attribute(self, name: str, default):
        """An attribute, or what holds without it."""
        return self.attributes.get(name, default)


def matrix_product(layer: TiledLayer, x: Rounded, *, is_left: bool) -> Rounded:
    """``x @ W``, or ``W @ x`` if the weight stands on the left, with the batches and vectors of NumPy's matmul."""
    is_vector, view = len(x.shape) == 1, layer.view
    if is_vector:
        x = x.reshape(1, -1)
    elif is_left:
        x = x.rearranged(lambda array: array.swapaxes(-1, -2))
    own_batch = [view["split_shape"][axis] for axis in view["matrix_axes"]]
    batch = np.broadcast_shapes(x.shape[:-2], tuple(own_batch))
    rows = x.rearranged(
        lambda array: np.broadcast_to(array, (*batch, *array.shape[-2:])).reshape(-1, *array.shape[-2:])
    )
    numbers = np.broadcast_to(np.arange(view["matrices"]).reshape(own_batch), batch).reshape(-1)
    y = Rounded.stack([layer.product(rows[place], number) for place, number in enumerate(numbers)])
    y = y.reshape(*batch, x.shape[-2], view["columns"])
    if is_left:
        y = y.rearranged(lambda array: array.swapaxes(-1, -2))
    column = -2 if is_left else -1
    dropped = [column] * (not (view["row_axes"] and view["column_axes"])) + [-3 - column] * is_vector
    return y.rearranged(lambda array: array.squeeze(tuple(dropped)))


def code_product(o: Operands, left: tuple[int, int], right: tuple[int, int]) -> np.ndarray:
    """``(A - a) @ (B - b)`` of integer codes, exactly; each operand is given by its input and its zero point's."""
    is_left = o.slot == left[0]
    own, other = (left, right) if is_left else (right, left)
    x = o.shifted(*other)
    y = matrix_product(o.layer, x, is_left=is_left).value
    zero = o.array(own[1])
    if zero is None:
        return y
    return y - zero.astype(np.float64) * x.value.sum(axis=-2 if is_left else -1, keepdims=True)


def requantized(y: np.ndarray, ratio: np.ndarray, zero_point: np.ndarray) -> Rounded:
    """Codes of an output: rounded to even, and clipped."""
    info = np.iinfo(zero_point.dtype)
    return Rounded.exact(np.clip(np.rint(y * ratio) + zero_point, info.min, info.max))


def matmul(o: Operands) -> list[Rounded]:
    return [matrix_product(o.layer, o.value(1 - o.slot), is_left=o.slot == 0)]


def fused_matmul(o: Operands) -> list[Rounded]:
    x, other = o.value(1 - o.slot), "AB"[1 - o.slot]
    if o.attribute(f"transBatch{other}", 0):
        x = x.rearranged(lambda array: np.moveaxis(array, 0, -2))
    if o.attribute(f"trans{other}", 0):
        x = x.rearranged(lambda array: array.swapaxes(-1, -2))
    return [matrix_product(o.layer, x, is_left=o.slot == 0)]


def gemm(o: Operands) -> list[Rounded]:
    x = o.value(1 - o.slot)
    if o.attribute("transB" if o.slot == 0 else "transA", 0):
        x = x.transpose()
    y = matrix_product(o.layer, x, is_left=o.slot == 0)
    if (bias := o.bias()) is not None:
        y += bias * Rounded.exact(o.attribute("beta", 1.0))
    return [activated(o, y)]


def activated(o: Operands, y: Rounded) -> Rounded:
    """What a fused op does in the end."""
    functions = {None: lambda z: z, "Relu": Rounded.relu, "Tanh": Rounded.tanh, "Sigmoid": Rounded.sigmoid}
    return functions[o.attribute("activation", None)](y)


def einsum(o: Operands) -> list[Rounded]:
    terms, result = o.attributes["equation"].replace(" ", "").split("->")
    labels, (weight, x) = terms.split(","), (o.slot, 1 - o.slot)
    view, value = o.layer.view, o.value(x)
    batch, rows, columns = (
        [labels[weight][axis] for axis in view[f"{name}_axes"]] for name in ("matrix", "row", "column")
    )
    free = [label for label in labels[x] if label not in labels[weight]]
    sizes = dict(zip(labels[x], value.shape, strict=True))
    sizes |= {label: view["split_shape"][axis] for axis, label in enumerate(labels[weight])}
    ordered = value.transpose(*(labels[x].index(label) for label in [*batch, *free, *rows]))
    ordered = ordered.reshape(view["matrices"], -1, view["rows"])
    y = Rounded.stack([o.layer.product(ordered[number], number) for number in range(view["matrices"])])
    found = [*batch, *free, *columns]
    y = y.reshape(*(sizes[label] for label in found))
    return [y.transpose(*(found.index(label) for label in result))]


def gather(o: Operands) -> list[Rounded]:
    """An index is a one-hot vector of inputs."""
    axis, indices, shape = o.attribute("axis", 0), o.array(1), o.layer.view["split_shape"]
    y = o.layer.product(Rounded.exact(np.eye(shape[axis])[indices.reshape(-1)]))
    others = [size for place, size in enumerate(shape) if place != axis]
    y = y.reshape(indices.size, *others).rearranged(lambda array: np.moveaxis(array, 0, axis))
    return [y.reshape(*shape[:axis], *indices.shape, *shape[axis + 1 :])]


def matmul_integer(o: Operands) -> list[Rounded]:
    return [Rounded.exact(code_product(o, (0, 2), (1, 3)))]


def qlinear_matmul(o: Operands) -> list[Rounded]:
    ratio = o.array(1).astype(np.float64) * o.array(4) / o.array(6)
    return [requantized(code_product(o, (0, 2), (3, 5)), ratio, o.array(7))]


def matmul_integer_to_float(o: Operands) -> list[Rounded]:
    y = Rounded.exact(code_product(o, (0, 4), (1, 5))) * (o.value(2) * o.value(3))
    return [y if o.bias() is None else y + o.bias()]


def dynamic_quantize_matmul(o: Operands) -> list[Rounded]:
    x, scale = quantized(o.value(0))
    y = matrix_product(o.layer, x, is_left=False)
    if (zero := o.array(3)) is not None:
        y = Rounded.exact(y.value - zero.astype(np.float64) * x.value.sum(axis=-1, keepdims=True))
    y *= scale * o.value(2)
    return [y if o.bias() is None else y + o.bias()]


def quantized(x: Rounded) -> tuple[Rounded, Rounded]:
    """The codes that a runtime quantizes activations to as it goes, less their zero point, and their scale.

    It is an error of the test's inputs if one lies so close to the middle of two codes that float32 may round it to
    either.
    """
    low, high = x.value.argmin(), x.value.argmax()
    least, most = (x.reshape(-1)[place] for place in (low, high))
    least = least if least.value < 0 else Rounded.exact(0)
    most = most if most.value > 0 else Rounded.exact(0)
    spread = (most - least) * Rounded.exact(1 / 255)
    scale = Rounded(spread.value, spread.error + growth(1) * spread.value) if spread.value else Rounded.exact(1)
    zero = surely_rint(-least.value / scale.value, (least.error + 255 * scale.error) / scale.value + growth(2) * 255)
    codes = surely_rint(x.value / scale.value, (x.error + 255 * scale.error) / scale.value + growth(2) * 255)
    return Rounded.exact(np.clip(codes + zero, 0, 255) - zero), scale


def surely_rint(values: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The nearest integers of values that are known only up to an error."""
    from_middle = np.abs(values - np.floor(values) - 0.5)
    is_exact = values == np.rint(values)
    assert np.all((from_middle > error) | is_exact), "another seed is needed: a rounding is not sure"
    return np.rint(values)


def qgemm(o: Operands) -> list[Rounded]:
    is_left = o.slot == 0
    x = o.shifted(*((3, 5) if is_left else (0, 2)))
    if o.attribute("transB" if is_left else "transA", 0):
        x = x.transpose()
    alpha = o.attribute("alpha", 1.0)
    y = matrix_product(o.layer, x, is_left=is_left).value
    zero = o.array(2 if is_left else 5).astype(np.float64)
    y = y - alpha * zero * x.value.sum(axis=-2 if is_left else -1, keepdims=True)
    if (bias := o.bias()) is not None:
        y = y + alpha * bias.value
    if o.array(7) is None:
        return [Rounded.exact(y) * (o.value(1) * o.value(4))]
    return [requantized(y, o.array(1).astype(np.float64) * o.array(4) / o.array(7), o.array(8))]
