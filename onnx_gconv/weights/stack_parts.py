"""Reads only the part of a stored tensor that a node passes on, such as one matrix of a stack of ten thousand.

Each matrix of a stack is a weight that is computed on its own. Reading the whole stack for each would take time that
grows with the square of their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.streamed import elements_along

__all__ = ["STACK_OPS", "part_outputs"]

# A part is read alone only if it is at most one half of the tensor and lies in at most so many places of the file.
_WORTH_IT = 2
_MOST_PLACES = 256

_Stretch: TypeAlias = tuple[int, int, int]
"""An axis, the first index along it, and the one after the last."""


def part_outputs(
    node: onnx.NodeProto, stack: ir.TensorProtocol, others: Sequence[NDArray[Any] | None], used: Sequence[bool]
) -> list[NDArray[Any] | None] | None:
    """The outputs of a Gather, Slice or Split, computed from only the part of a stored tensor that it passes on.

    Args:
        node: The node.
        stack: The first input of the node.
        others: The values of its other inputs; None for an omitted one.
        used: For each output, whether it is needed.

    Returns:
        The outputs, with None for those that are not needed; or None in place of all if the whole tensor has to be
        read, or if the node does not fit the tensor.
    """
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return None if rule is None else rule(stack, attributes, others, used)


def _gathered(
    stack: ir.TensorProtocol, attributes: dict[str, Any], others: Sequence[NDArray[Any] | None], _: Sequence[bool]
) -> list[NDArray[Any] | None] | None:
    shape, axis = stack.shape.numpy(), attributes.get("axis", 0)
    indices = others[0] if others else None
    if indices is None or indices.size == 0 or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    counted = np.where(indices < 0, indices + shape[axis], indices)
    first, stop = int(counted.min()), int(counted.max()) + 1
    part = _read(stack, (axis, first, stop))
    return None if part is None else [np.take(part, counted - first, axis=axis)]


def _sliced(
    stack: ir.TensorProtocol, _: dict[str, Any], others: Sequence[NDArray[Any] | None], __: Sequence[bool]
) -> list[NDArray[Any] | None] | None:
    shape = stack.shape.numpy()
    starts, ends, axes, steps = [*others, None, None, None, None][:4]
    if starts is None or ends is None or (steps is not None and (steps != 1).any()):
        return None
    along = range(starts.size) if axes is None else axes.tolist()
    stretches = {}
    for axis, *limits in zip(along, starts.tolist(), ends.tolist(), strict=False):
        if not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        first, stop = (min(max(limit + size if limit < 0 else limit, 0), size) for limit in limits)
        stretches[axis % len(shape)] = first, stop
    if not stretches:
        return None
    axis = min(stretches, key=lambda axis: (stretches[axis][1] - stretches[axis][0]) / max(shape[axis], 1))
    part = _read(stack, (axis, *stretches.pop(axis)))
    box = [slice(*stretches[axis]) if axis in stretches else slice(None) for axis in range(len(shape))]
    return None if part is None else [part[tuple(box)]]


def _split(
    stack: ir.TensorProtocol,
    attributes: dict[str, Any],
    others: Sequence[NDArray[Any] | None],
    used: Sequence[bool],
) -> list[NDArray[Any] | None] | None:
    shape, axis = stack.shape.numpy(), attributes.get("axis", 0)
    if sum(used) != 1 or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    said = others[0].tolist() if others and others[0] is not None else attributes.get("split")
    if said is None and shape[axis] % len(used):
        return None
    sizes = list(said) if said is not None else [shape[axis] // len(used)] * len(used)
    number = list(used).index(True)
    first = sum(sizes[:number])
    if len(sizes) != len(used) or sum(sizes) != shape[axis]:
        return None
    part = _read(stack, (axis, first, first + sizes[number]))
    return None if part is None else [part if needed else None for needed in used]


def _read(stack: ir.TensorProtocol, stretch: _Stretch) -> NDArray[Any] | None:
    """A stretch of a stored tensor; None if it is not within the tensor, or if reading it alone does not pay."""
    axis, first, stop = stretch
    shape = stack.shape.numpy()
    if not 0 <= first < stop <= shape[axis] or _WORTH_IT * (stop - first) > shape[axis]:
        return None
    return elements_along(stack, axis, first, stop) if math.prod(shape[:axis]) <= _MOST_PLACES else None


_Rule: TypeAlias = Callable[
    [ir.TensorProtocol, dict[str, Any], Sequence["NDArray[Any] | None"], Sequence[bool]],
    "list[NDArray[Any] | None] | None",
]
_RULES: dict[str, _Rule] = {"Gather": _gathered, "Slice": _sliced, "Split": _split}

STACK_OPS = frozenset(_RULES)
"""The op types that may pass on a part of a tensor."""
