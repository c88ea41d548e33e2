"""Follows values back to constants through nodes that choose or change their elements at run time.

Examples are experts that an index chooses, the weights of two branches of an If, or the layers of a Scan. Such a matrix
is multiplied with activations, but the inputs of the model decide which of its elements, or when::

    W, i -> Gather -> w;  x, w -> MatMul        W is multiplied, chosen by Gather
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.weights.constants import ConstantValues, is_foldable, leaves
from onnx_gconv.weights.ops.mvm_ops import mvm_op
from onnx_gconv.weights.scopes import bodies

__all__ = ["RunTimeWays", "Way"]

Way: TypeAlias = "dict[ir.Value, dict[str, None]]"
"""Constants from which the elements of a value come, each with the op types that choose or change them on the way."""

# These ops pass on elements of their first input.
_FIRST = """
CastLike Cast CenterCropPad Compress ConcatFromSequence DepthToSpace DequantizeLinear Dropout Expand Flatten Gather
GatherBlockQuantized GatherElements GatherND Identity Optional OptionalGetElement Pad Reshape ReverseSequence
SequenceAt SequenceErase Slice SpaceToDepth Split SplitToSequence Squeeze Tile Transpose Trilu Unsqueeze
"""

# The inputs whose elements an op passes on; None stands for all inputs.
_CARRIED: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(_FIRST.split(), (0,)),
    "Concat": None,
    "SequenceConstruct": None,
    "SequenceInsert": (0, 1),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "TensorScatter": (0, 1),
    "Where": (1, 2),
}

_CARRYING_DOMAINS = frozenset({"", "com.microsoft"})

# The first two inputs of the body of a Loop are the number of the iteration and the condition; its states follow.
_LOOP_STATES = 2

# Before this opset, the first input of a Scan held the lengths of its sequences.
_SCAN_WITH_LENGTHS_UNTIL = 9


class RunTimeWays:
    """The ways from constants to values that are not constant, because the inputs of the model choose or change them.

    Args:
        model: The model.
        values: The constant values of the model.
        opset: The version of ONNX's own ops that the model imports.
    """

    def __init__(self, model: ir.Model, values: ConstantValues, opset: int | None) -> None:
        self._values = values
        self._functions = model.functions
        self._opset = opset
        self._givers: dict[ir.Value, list[ir.Value | None]] = {}
        self._runners: dict[ir.Value, str] = {}
        self._known: dict[ir.Value, Way | None] = {}
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            for node in ir.traversal.RecursiveGraphIterator(graph):
                self._note_arguments(node)

    def _note_arguments(self, node: ir.Node) -> None:
        """Record the values that a node passes to the inputs of its bodies or of the function that it calls."""
        if function := self._functions.get(node.op_identifier()):
            for value, given in zip(function.inputs, node.inputs, strict=False):
                self._givers.setdefault(value, []).append(given)
        if node.domain != "" or node.op_type not in _BODY_INPUTS:
            return
        rule = _BODY_INPUTS[node.op_type]
        for _, body in bodies(node):
            for number, value in enumerate(body.inputs):
                self._runners[value] = node.op_type
                self._givers.setdefault(value, []).extend(rule(node, body, number, self._opset))

    def way(self, value: ir.Value) -> Way | None:
        """The constants that a value comes from, if activations only choose or change their elements; else None."""
        started: set[ir.Value] = set()
        waiting = [value]
        while waiting:
            current = waiting[-1]
            if current in self._known:
                waiting.pop()
                continue
            if current not in started:
                started.add(current)
                unknown = [item for item in self._read_by(current) if item not in self._known and item not in started]
                if unknown:
                    waiting.extend(unknown)
                    continue
            self._known[current] = self._joined(current)
            waiting.pop()
        return self._known[value]

    def _read_by(self, value: ir.Value) -> list[ir.Value]:
        """The values from which a value gets its elements directly; empty for constants and activations."""
        if self._values.is_constant(value):
            return []
        return [*self._handed_on(value), *self._computed_from(value)]

    def _joined(self, value: ir.Value) -> Way | None:
        if self._values.is_constant(value):
            return {leaf: {} for leaf in leaves(value, self._functions).values}
        if computed_from := self._computed_from(value):
            ways = [self._known.get(item, {}) for item in computed_from]
            parts = [] if any(way is None for way in ways) else [way for way in ways if way is not None]
        else:
            parts = [way for item in self._handed_on(value) if (way := self._known.get(item)) is not None]
        label = self._label(value)
        joined: Way = {}
        for way in parts:
            for leaf, ops in way.items():
                joined.setdefault(leaf, {}).update({**ops, **dict.fromkeys(label)})
        return joined or None

    def _computed_from(self, value: ir.Value) -> list[ir.Value]:
        """The inputs of a node that computes its result from all of them, such as Mul; empty for other nodes.

        The result comes from constants only if all of these inputs do.
        """
        node = value.producer()
        if node is None or self._handed_on(value) or any(True for _ in bodies(node)) or mvm_op(node) is not None:
            return []
        return [item for item in node.inputs if item is not None] if is_foldable(node, self._functions) else []

    def _handed_on(self, value: ir.Value) -> list[ir.Value]:
        """The values whose elements a value may have: inputs of its node, results of bodies, arguments of functions."""
        node, index = value.producer(), value.index()
        if node is None or index is None:
            return [item for item in self._givers.get(value, ()) if item is not None]
        if (function := self._functions.get(node.op_identifier())) is not None:
            # From constants alone, a function computes a constant, whatever it does with them.
            given = [item for item in node.inputs if item is not None]
            is_of_constants = bool(given) and all(map(self._values.is_constant, given))
            return [*function.outputs[index : index + 1], *(given if is_of_constants else [])]
        if node.domain == "" and node.op_type in _BODY_OUTPUTS:
            first = _BODY_OUTPUTS[node.op_type]
            results = (body.outputs[index + first : index + first + 1] for _, body in bodies(node))
            return [item for outputs in results for item in outputs]
        if node.domain in _CARRYING_DOMAINS and node.op_type in _CARRIED:
            carried = _CARRIED[node.op_type]
            indices = range(len(node.inputs)) if carried is None else carried
            found = (node.inputs[number] for number in indices if number < len(node.inputs))
            return [item for item in found if item is not None]
        return []

    def _label(self, value: ir.Value) -> tuple[str, ...]:
        """The op type of the node that computes a value, if activations steer it or it cannot be folded; else empty."""
        node = value.producer()
        if node is None:
            return (self._runners[value],) if value in self._runners else ()
        handed_on = {*self._handed_on(value), *self._computed_from(value)}
        inputs = [item for item in node.inputs if item is not None]
        is_steered = any(
            self._known.get(item) is None if item in handed_on else not self._values.is_constant(item)
            for item in inputs
        )
        is_other = not is_foldable(node, self._functions)
        return (node.op_type,) if is_steered or is_other else ()


_BodyInputs: TypeAlias = "Callable[[ir.Node, ir.Graph, int, int | None], list[ir.Value | None]]"


def _of_loop(node: ir.Node, body: ir.Graph, number: int, _: int | None) -> list[ir.Value | None]:
    """The values of an input of the body of a Loop: the initial value, and the body's result of the last iteration."""
    if number < _LOOP_STATES:
        return []
    return [*node.inputs[number : number + 1], *body.outputs[number - 1 : number]]


def _of_scan(node: ir.Node, body: ir.Graph, number: int, opset: int | None) -> list[ir.Value | None]:
    """The values of an input of the body of a Scan: those of a state, as in a Loop, or the tensor that is scanned."""
    first = 1 if opset is not None and opset < _SCAN_WITH_LENGTHS_UNTIL else 0
    states = len(body.inputs) - node.attributes.get_int("num_scan_inputs", len(body.inputs))
    results = body.outputs[number : number + 1] if number < states else ()
    return [*node.inputs[number + first : number + first + 1], *results]


def _of_sequence_map(node: ir.Node, _: ir.Graph, number: int, __: int | None) -> list[ir.Value | None]:
    """The value of an input of the body of a SequenceMap: the sequence whose elements it gets."""
    return [*node.inputs[number : number + 1]]


_BODY_INPUTS: dict[str, _BodyInputs] = {"Loop": _of_loop, "Scan": _of_scan, "SequenceMap": _of_sequence_map}

# The index of the output of a body that becomes the first output of its node; a Loop's first one is the condition.
_BODY_OUTPUTS = {"If": 0, "Loop": 1, "Scan": 0, "SequenceMap": 0}
