"""Nodes that only rearrange the elements of a weight on its way to a weight slot, and the readers behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.weights.scopes import bodies

__all__ = [
    "REARRANGING_OPS",
    "Evaluate",
    "Rearrangement",
    "behind_node",
    "handed_on",
    "is_rearranging",
    "node_label",
    "readers",
    "rearrangement",
    "step_shape",
]

Evaluate: TypeAlias = Callable[[ir.Value], NDArray[np.generic]]
"""Returns the array of a constant value, or raises EvaluationError."""

REARRANGING_OPS = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Rearrangement:
    """One step: a transposition with the permutation of its axes, or a reshape (in row-major order) with the new shape.

    Attributes:
        op: ``transpose`` or ``reshape``.
        argument: The permutation, or the new shape.
    """

    op: Literal["transpose", "reshape"]
    argument: tuple[int, ...]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The rearranged array."""
        return array.transpose(self.argument) if self.op == "transpose" else array.reshape(self.argument)


def is_rearranging(node: ir.Node) -> bool:
    """Whether the output of a node has exactly the elements of its first input, perhaps in another order or shape."""
    return node.op_type in REARRANGING_OPS and node.domain == "" and bool(node.inputs) and node.inputs[0] is not None


def rearrangement(node: ir.Node, shape: Sequence[int], evaluate: Evaluate) -> Rearrangement | None:
    """The rearrangement that a node applies to a tensor of the given shape; None for an Identity.

    Args:
        node: The node.
        shape: The shape of its first input.
        evaluate: Returns the new shape or the axes, if they are an input.

    Raises:
        EvaluationError: If the new shape or the axes cannot be computed.
        ValueError: If the node does not fit the shape.
    """
    if node.op_type == "Identity":
        return None
    if node.op_type == "Transpose":
        permutation = node.attributes.get_ints("perm") or tuple(reversed(range(len(shape))))
        if sorted(permutation) != list(range(len(shape))):
            raise ValueError(f"permutation {list(permutation)} of shape {list(shape)}")
        return Rearrangement("transpose", tuple(permutation))
    new_shape = {"Reshape": _reshaped, "Flatten": _flattened, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed}[
        node.op_type
    ](node, tuple(shape), evaluate)
    if math.prod(new_shape) != math.prod(shape):
        raise ValueError(f"shape {list(shape)} does not become {list(new_shape)}")
    return Rearrangement("reshape", new_shape)


def step_shape(step: Rearrangement, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a tensor of shape `shape` after a step."""
    return tuple(shape[axis] for axis in step.argument) if step.op == "transpose" else step.argument


def _reshaped(node: ir.Node, shape: tuple[int, ...], evaluate: Evaluate) -> tuple[int, ...]:
    wanted = list(_integers(node, "shape", evaluate) or ())
    if not node.attributes.get_int("allowzero", 0):
        wanted = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if -1 in wanted:
        known = -math.prod(wanted)
        if known <= 0 or wanted.count(-1) != 1:
            raise ValueError(f"shape {wanted}")
        wanted[wanted.index(-1)] = math.prod(shape) // known
    if min(wanted, default=0) < 0:
        raise ValueError(f"shape {wanted}")
    return tuple(wanted)


def _flattened(node: ir.Node, shape: tuple[int, ...], _: Evaluate) -> tuple[int, ...]:
    axis = node.attributes.get_int("axis", 1)
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis <= len(shape):
        raise ValueError(f"axis {axis} of shape {list(shape)}")
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def _squeezed(node: ir.Node, shape: tuple[int, ...], evaluate: Evaluate) -> tuple[int, ...]:
    axes = _integers(node, "axes", evaluate)
    if axes is None:
        return tuple(size for size in shape if size != 1)
    removed = _counted_from_the_front(axes, len(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in removed)


def _unsqueezed(node: ir.Node, shape: tuple[int, ...], evaluate: Evaluate) -> tuple[int, ...]:
    axes = _integers(node, "axes", evaluate)
    if axes is None:
        raise ValueError("Unsqueeze without axes")
    rank = len(shape) + len(axes)
    added = _counted_from_the_front(axes, rank)
    sizes = iter(shape)
    return tuple(1 if axis in added else next(sizes) for axis in range(rank))


def _counted_from_the_front(axes: Sequence[int], rank: int) -> frozenset[int]:
    """The non-negative numbers of axes that may be negative.

    Raises:
        ValueError: If an axis is there twice, or does not exist.
    """
    counted = frozenset(axis + rank if axis < 0 else axis for axis in axes)
    if len(counted) != len(axes) or not counted <= set(range(rank)):
        raise ValueError(f"axes {list(axes)} of {rank} axes")
    return counted


def _integers(node: ir.Node, name: str, evaluate: Evaluate) -> tuple[int, ...] | None:
    """The integers of the second input, or of the attribute that older opsets have in its place; None if neither is.

    Raises:
        EvaluationError: If the input cannot be computed.
        ValueError: If it does not hold integers.
    """
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None:
        integers = node.attributes.get_ints(name)
        return None if integers is None else tuple(integers)
    numbers = evaluate(value)
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"the {name} of {node.op_type} is {numbers.dtype.name}")
    return tuple(int(number) for number in numbers.reshape(-1))


def readers(value: ir.Value, passed: Collection[ir.Node] = ()) -> Iterator[tuple[ir.Node, int]]:
    """All nodes that read a value, directly or through nodes that only rearrange it, with the index of their input.

    A rearranging node that no node reads, because it gives a graph output, counts as a reader itself.

    Args:
        value: The value.
        passed: Further nodes that are looked through.
    """
    waiting = [(node, index) for node, index in value.uses()][::-1]
    while waiting:
        node, index = waiting.pop()
        behind = behind_node(node, index, passed)
        if behind:
            waiting.extend(behind[::-1])
        else:
            yield node, index


def behind_node(node: ir.Node, index: int, passed: Collection[ir.Node] = ()) -> list[tuple[ir.Node, int]]:
    """The readers behind a node that is looked through, with the index of their input; empty for other nodes.

    Args:
        node: A node that reads a value.
        index: The index of the input by which it reads the value.
        passed: Nodes that are looked through, besides those that only rearrange.
    """
    if node not in passed and not (index == 0 and is_rearranging(node)):
        return []
    return [(user, slot) for value in handed_on(node, index) for user, slot in value.uses()]


def handed_on(node: ir.Node, index: int) -> list[ir.Value]:
    """The values that carry an input of a node further: the input of the body for a Scan, else the node's outputs."""
    if node.op_type != "Scan" or node.domain != "":
        return list(node.outputs)
    return [value for _, body in bodies(node) for value in body.inputs[index : index + 1]]


def node_label(node: ir.Node) -> str:
    """The text that names a node in messages: ``name (op_type)``, or the op type if it has no name."""
    return f"{node.name} ({node.op_type})" if node.name else node.op_type
