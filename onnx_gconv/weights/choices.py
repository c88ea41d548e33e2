"""Nodes that choose matrices from a stack while the model runs, such as experts by index, or layers by a Scan.

A stack is a constant that holds several matrices. An activation decides which of them is multiplied; the whole stack is
mapped as one weight::

    W [experts, K, N], i -> Gather -> w [..., K, N];  x, w -> MatMul
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.weights.constants import ConstantValues, constant_tensor
from onnx_gconv.weights.evaluation.evaluated_ops import EvaluationError
from onnx_gconv.weights.rearrangement import Evaluate, Rearrangement, is_rearranging, rearrangement, step_shape

__all__ = ["PART_OPS", "Choice", "ChoosingStep", "StackOnItsWay", "choice_of", "choosing_step"]

# These ops read the stack at their first input and the indices at the second.
_BY_INDEX = frozenset({"Gather", "GatherND"})

# These ops pass on a part of what was chosen, such as one of two matrices that stand side by side.
PART_OPS = frozenset({"Slice", "Split"})

_SHAPE_KEEPING = frozenset({"Abs", "Cast", "Clip", "Identity", "Neg"})


@dataclass(frozen=True)
class Choice:
    """Along which axes of a stack a node chooses, and which axes take their place in its result.

    Attributes:
        first: The first axis of the stack along which the node chooses.
        axes: The number of neighbouring axes along which it chooses.
        indices: The number of axes of the indices that take the place of these axes in the result.
    """

    first: int
    axes: int
    indices: int


@dataclass(frozen=True)
class ChoosingStep:
    """One step back from a value that is chosen while the model runs.

    Attributes:
        node: The node that computes the value.
        source: The input that the node chooses from, or takes a part of.
        choosers: The node and the index of that input; empty if the node only takes a part.
    """

    node: ir.Node
    source: ir.Value
    choosers: dict[ir.Node, int]


def choosing_step(value: ir.Value, values: ConstantValues) -> ChoosingStep | None:
    """The step from a value to the value that it was chosen from, or is a part of; None if the value was not chosen.

    A node chooses by indices that are not constant. A Scan chooses one matrix after the other for an input of its body.
    """
    if values.is_constant(value):
        return None
    if (scanned := _scanned_input(value, values)) is not None:
        node, index = scanned
        source = node.inputs[index]
        return None if source is None else ChoosingStep(node, source, {node: index})
    producer = value.producer()
    if producer is None or producer.domain != "" or not producer.inputs or (source := producer.inputs[0]) is None:
        return None
    others = [item for item in producer.inputs[1:] if item is not None]
    are_constant = all(values.is_constant(item) for item in others)
    if producer.op_type in _BY_INDEX and others and not are_constant:
        return ChoosingStep(producer, source, {producer: 0})
    return ChoosingStep(producer, source, {}) if producer.op_type in PART_OPS and are_constant else None


def _scanned_input(value: ir.Value, values: ConstantValues) -> tuple[ir.Node, int] | None:
    """The Scan node whose body gets `value` as one matrix of a stack after the other, and the input with the stack.

    None for other values, and for the Scan of opset 8, which takes lengths of sequences.
    """
    graph = value.graph
    if not isinstance(graph, ir.Graph) or not value.is_graph_input():
        return None
    node = values.owner(graph)
    if node is None or node.domain != "" or node.op_type != "Scan" or len(node.inputs) != len(graph.inputs):
        return None
    index = next(number for number, item in enumerate(graph.inputs) if item is value)
    return (node, index) if index >= _states(node) else None


def choice_of(node: ir.Node, index: int, rank: int) -> Choice:
    """How a node chooses from a stack.

    Args:
        node: A Gather, GatherND or Scan.
        index: The index of the input that takes the stack.
        rank: The number of axes of the stack.

    Raises:
        EvaluationError: If the model does not say how many axes the indices have.
        ValueError: If the node chooses along an axis that the stack does not have.
    """
    if node.op_type == "Scan":
        axes, scanned = node.attributes.get_ints("scan_input_axes") or (), index - _states(node)
        return Choice(_counted(axes[scanned] if scanned < len(axes) else 0, rank), 1, 0)
    indices = node.inputs[1]
    shape = None if indices is None else _shape(indices)
    if shape is None:
        raise EvaluationError(f"the model does not say how many axes the indices of '{node.name}' have")
    if node.op_type == "Gather":
        return Choice(_counted(node.attributes.get_int("axis", 0), rank), 1, len(shape))
    batch = node.attributes.get_int("batch_dims", 0)
    axes_of_stack = shape[-1] if shape else None
    if axes_of_stack is None:
        raise EvaluationError(f"the model does not say by how many indices '{node.name}' chooses")
    if not 0 <= batch < len(shape) or batch + axes_of_stack > rank:
        raise ValueError(f"batch_dims {batch} and {axes_of_stack} indices for {rank} axes")
    return Choice(batch, axes_of_stack, len(shape) - 1 - batch)


class StackOnItsWay:
    """Tracks a weight, perhaps a stack, on its way to a weight slot: its rearrangements, and the shape that nodes see.

    After a choice, nodes see one chosen matrix. The axes along which it was chosen are moved to the front of the weight
    and hidden from the nodes behind. Axes of indices get the size 1, as if one matrix were chosen, because the same
    happens to each chosen matrix.

    Args:
        shape: The shape of the weight.

    Attributes:
        shape: The shape that the next node sees.
        hidden: The sizes of the axes along which nodes have chosen.
        steps: The rearrangements of the whole weight so far, with the hidden axes first.
        has_indices: Whether `shape` has axes of indices.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape: tuple[int, ...] = shape
        self.hidden: tuple[int, ...] = ()
        self.steps: list[Rearrangement] = []
        self.has_indices: bool = False
        self._indices_stand_first = True
        self._is_whole = True

    def choose(self, choice: Choice) -> None:
        """Record a node that chooses."""
        chosen = tuple(range(choice.first, choice.first + choice.axes))
        before, after = self.shape[: choice.first], self.shape[choice.first + choice.axes :]
        kept = (axis for axis in range(len(self.shape)) if axis not in chosen)
        self._append(Rearrangement("transpose", (*chosen, *kept)))
        self.hidden += self.shape[choice.first : choice.first + choice.axes]
        self.shape = (*before, *(1,) * choice.indices, *after)
        if choice.indices:
            self.has_indices = True
            self._indices_stand_first &= math.prod(before) == 1
            self.steps.append(Rearrangement("reshape", (*self.hidden, *self.shape)))

    def take_part(self) -> None:
        """Record a node that passes on a part. The whole stack is mapped anyway: other nodes may read the rest."""
        self._is_whole = False

    def rearrange(self, node: ir.Node, evaluate: Evaluate) -> None:
        """Record a node that rearranges.

        Raises:
            EvaluationError: If a new shape or an axis cannot be computed.
            ValueError: If the node does not fit the shape, or merges axes of matrices with axes of indices.
        """
        if self.hidden and not self._is_whole and node.op_type in {"Reshape", "Flatten"}:
            raise ValueError(f"{node.op_type} of a part of what was chosen")
        step: Rearrangement | None
        if self.has_indices and node.op_type == "Reshape":
            step = Rearrangement("reshape", self._with_indices(_new_shape(node, self.shape, evaluate)))
        else:
            step = rearrangement(node, self.shape, evaluate)
            if self.has_indices and step is not None:
                self._require_separate(node, step)
        if step is not None:
            self._append(step)
            self.shape = step_shape(step, self.shape)

    def _append(self, step: Rearrangement) -> None:
        """Append a rearrangement of the axes that nodes see, extended by the hidden axes in front."""
        hidden = len(self.hidden)
        if step.op == "reshape":
            self.steps.append(Rearrangement("reshape", (*self.hidden, *step.argument)))
        elif step.argument != tuple(range(len(step.argument))):
            argument = (*range(hidden), *(axis + hidden for axis in step.argument))
            self.steps.append(Rearrangement("transpose", argument))

    def _require_separate(self, node: ir.Node, step: Rearrangement) -> None:
        if node.op_type == "Squeeze" and len(node.inputs) < 2 and "axes" not in node.attributes:  # noqa: PLR2004 - axes
            raise ValueError("Squeeze of all axes of size 1, which those of indices may have")
        if node.op_type == "Flatten" and (step.argument[0] > 1 or not self._indices_stand_first):
            raise ValueError("Flatten of axes of indices together with others")
        if step.op == "transpose":
            first = next((place for place, size in enumerate(self.shape) if size > 1), len(self.shape))
            self._indices_stand_first &= step.argument[:first] == tuple(range(first))

    def _with_indices(self, wanted: Sequence[int | None]) -> tuple[int, ...]:
        """A new shape with axes of size 1 for indices: its last axes hold one matrix, and all others indices."""
        size, last = math.prod(self.shape), 0
        held = 1
        while held < size and last < len(wanted) and (length := wanted[-1 - last]) is not None:
            held *= length
            last += 1
        if held != size or not self._indices_stand_first:
            shape = ["?" if length is None else length for length in wanted]
            raise ValueError(f"a reshape to {shape} of chosen matrices of {list(self.shape)}")
        matrix = [length or 1 for length in wanted[len(wanted) - last :]]
        return (*(1,) * (len(wanted) - last), *matrix)


def _new_shape(node: ir.Node, shape: Sequence[int], evaluate: Evaluate) -> list[int | None]:
    """The shape that a Reshape gives, with None for lengths that are not known.

    Raises:
        EvaluationError: If not even the number of axes is known.
    """
    try:
        said = node.inputs[1] if len(node.inputs) > 1 else None
        numbers = node.attributes.get_ints("shape", ()) if said is None else evaluate(said).reshape(-1).tolist()
    except EvaluationError:
        if (found := _shape(node.outputs[0])) is None:
            raise
        return list(found)
    lengths: list[int | None] = []
    for axis, number in enumerate(numbers):
        length: int | None = int(number)
        if length == 0 and not node.attributes.get_int("allowzero", 0):
            length = shape[axis] if axis < len(shape) and shape[axis] > 1 else None
        lengths.append(None if length is None or length < 1 else length)
    return lengths


def _states(scan: ir.Node) -> int:
    """The number of state inputs of a Scan, which come before the inputs that it scans."""
    return len(scan.inputs) - scan.attributes.get_int("num_scan_inputs", 0)


def _counted(axis: int, rank: int) -> int:
    """The non-negative number of an axis that may be counted from the end.

    Raises:
        ValueError: If there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} axes")
    return axis % rank


def _shape(value: ir.Value) -> tuple[int | None, ...] | None:
    """The shape of a value, from the model or from the nodes that compute it as indices; None if it is not known.

    Lengths that are not known are None.
    """
    if (tensor := constant_tensor(value)) is not None:
        return tuple(tensor.shape.numpy())
    if value.shape is not None:
        return tuple(length if isinstance(length, int) else None for length in value.shape)
    node = value.producer()
    if node is None or node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    before = _shape(node.inputs[0])
    if node.op_type in _SHAPE_KEEPING:
        return before
    if node.op_type in {"ArgMax", "TopK"}:
        lost = 1 if node.op_type == "ArgMax" and not node.attributes.get_int("keepdims", 1) else 0
        return None if before is None else (None,) * (len(before) - lost)
    return _rearranged(node, before)


def _rearranged(node: ir.Node, before: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
    """The shape of the result of a node that rearranges indices; None if its shape or axes are not constant."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if given is None else constant_tensor(given)
    axes = node.attributes.get_ints("axes") if given is None else None
    said = axes if tensor is None else tensor.numpy().reshape(-1).tolist()
    if not is_rearranging(node) or said is None:
        return None
    if node.op_type == "Reshape":
        return tuple(length if length > 0 else None for length in said)
    if before is None or node.op_type not in {"Squeeze", "Unsqueeze"}:
        return None
    rank = len(before) + (len(said) if node.op_type == "Unsqueeze" else 0)
    places = {_counted(int(axis), rank) for axis in said}
    if node.op_type == "Squeeze":
        return tuple(length for axis, length in enumerate(before) if axis not in places)
    lengths: Iterator[int | None] = iter(before)
    return tuple(1 if axis in places else next(lengths) for axis in range(rank))
