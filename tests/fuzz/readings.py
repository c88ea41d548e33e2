"""What the constants of a model are, computed with NumPy from its protobuf; nothing of the project is used.

Two models are compared by it node by node: what the project wrote, with what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - lets NumPy compute with bfloat16
import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["NotJudgedError", "Reading", "WrongError", "check_same"]

Array = np.ndarray[Any, Any]
Tolerance = Callable[[Array], float]


class WrongError(AssertionError):
    """The project took an input and made something else of it than what it holds."""


class NotJudgedError(Exception):
    """The small evaluator here cannot say what a value is."""


class _NotConstantError(Exception):
    """A value depends on inputs of the model."""


@dataclass(eq=False)
class _Scope:
    """A graph: its path, and what it defines.

    Attributes:
        path: The first outputs of the nodes and the attributes that lead to it.
        graph: The graph.
        outer: The graph around it.
        tensors: Its initializers.
        producers: Its nodes by their outputs.
        known: What was evaluated already.
    """

    path: str
    graph: onnx.GraphProto
    outer: _Scope | None
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    known: dict[str, Array | Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            self.producers.update({name: node for name in node.output if name})


class Reading:
    """The constants of a model.

    Args:
        model: The model.
        folder: Where its external data lies.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.model = model
        self.opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0)
        self._folder = folder
        self.scopes = {scope.path: scope for scope in _scopes(model.graph)}

    def array(self, name: str, scope: _Scope) -> Array:
        """The value of a name as it is seen in a graph.

        Raises:
            NotJudgedError: If nothing here computes it.
            _NotConstantError: If it is not constant.
        """
        found = scope.known.get(name)
        if found is None:
            scope.known[name] = NotJudgedError("a cycle")
            try:
                found = self._array(name, scope)
            except (NotJudgedError, _NotConstantError) as error:
                found = error
            scope.known[name] = found
        if isinstance(found, Exception):
            raise found
        return found

    def _array(self, name: str, scope: _Scope) -> Array:
        if name in scope.producers:
            return self._computed(name, scope)
        if name in scope.tensors:
            try:
                return np.asarray(numpy_helper.to_array(scope.tensors[name], str(self._folder)))
            except Exception as error:  # noqa: BLE001 - whatever others make of damaged files
                raise NotJudgedError(f"the tensor '{name}': {error}") from None
        if any(value.name == name for value in scope.graph.input) or scope.outer is None:
            raise _NotConstantError(name)
        return self.array(name, scope.outer)

    def _computed(self, name: str, scope: _Scope) -> Array:
        node = scope.producers[name]
        if any(item.ref_attr_name or not item.type for item in node.attribute):
            raise NotJudgedError("an attribute without a value")
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        operands = [self.array(item, scope) if item else None for item in node.input]
        compute = _OPS.get(node.op_type) if node.domain in {"", "ai.onnx"} and node.output[0] == name else None
        if compute is None:
            raise (
                _NotConstantError(name) if not operands and node.op_type != "Constant" else NotJudgedError(node.op_type)
            )
        try:
            with np.errstate(all="ignore"):
                return np.asarray(compute(operands, attributes))
        except Exception as error:  # noqa: BLE001 - whatever others make of damaged files
            raise NotJudgedError(f"{node.op_type}: {error}") from None


def _scopes(graph: onnx.GraphProto, path: str = "", outer: _Scope | None = None) -> Iterator[_Scope]:
    scope = _Scope(path, graph, outer)
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _scopes(attribute.g, f"{path}/{_key(node)}.{attribute.name}", scope)


def _key(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")


# The ops that rebuild weights, and some that exporters put before them


def _same_types(operands: list[Array]) -> None:
    if len({operand.dtype for operand in operands}) != 1:
        raise NotJudgedError("operands of several types")


def _arithmetic(ufunc: np.ufunc) -> Callable[[list[Array], Mapping[str, Any]], Array]:
    def compute(operands: list[Array], _attributes: Mapping[str, Any]) -> Array:
        _same_types(operands)
        left, right = operands
        return np.asarray(ufunc(left, right))

    return compute


def _divided(operands: list[Array], _attributes: Mapping[str, Any]) -> Array:
    _same_types(operands)
    left, right = operands
    if left.dtype.kind in "iu":
        raise NotJudgedError("a quotient of integers")
    return np.asarray(left / right)


def _cast(operands: list[Array], attributes: Mapping[str, Any]) -> Array:
    [array], dtype = operands, helper.tensor_dtype_to_np_dtype(attributes["to"])
    if dtype.kind in "iu" and array.dtype.kind not in "iub":
        info = np.iinfo(dtype)
        if not (np.isfinite(array).all() and (array >= info.min).all() and (array <= info.max).all()):
            raise NotJudgedError("a cast of what the type does not hold")
    return array.astype(dtype)


def _reshaped(operands: list[Array], _attributes: Mapping[str, Any]) -> Array:
    array, shape = operands
    return array.reshape([array.shape[k] if size == 0 else int(size) for k, size in enumerate(shape.tolist())])


def _transposed(operands: list[Array], attributes: Mapping[str, Any]) -> Array:
    return operands[0].transpose(attributes.get("perm"))


def _gathered(operands: list[Array], attributes: Mapping[str, Any]) -> Array:
    return np.take(operands[0], operands[1], axis=attributes.get("axis", 0))


def _dequantized(operands: list[Array], attributes: Mapping[str, Any]) -> Array:
    codes, scale, *zero = operands
    if attributes.keys() - {"axis"}:
        raise NotJudgedError("blocks")
    if scale.ndim > 1 or (scale.ndim and scale.size != codes.shape[attributes.get("axis", 1)]):
        raise NotJudgedError("scales of another form")
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[attributes.get("axis", 1)] = -1
    point = np.zeros((), np.int64) if not zero or zero[0] is None else zero[0].astype(np.int64)
    if point.ndim != scale.ndim and zero and zero[0] is not None:
        raise NotJudgedError("zero points of another form")
    point = point.reshape(shape) if point.ndim else point
    return (codes.astype(np.int64) - point).astype(scale.dtype) * (scale.reshape(shape) if scale.ndim else scale)


def _constant(_operands: list[Array], attributes: Mapping[str, Any]) -> Array:
    [(name, value)] = attributes.items()
    if name == "value":
        return np.asarray(numpy_helper.to_array(value))
    if name in {"value_float", "value_floats"}:
        return np.asarray(value, np.float32)
    if name in {"value_int", "value_ints"}:
        return np.asarray(value, np.int64)
    raise NotJudgedError(f"a Constant of {name}")


_OPS: dict[str, Callable[[list[Any], Mapping[str, Any]], Array]] = {
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Max": _arithmetic(np.maximum),
    "Min": _arithmetic(np.minimum),
    "Div": _divided,
    "Cast": _cast,
    "Round": lambda operands, _: np.rint(operands[0]),
    "Floor": lambda operands, _: np.floor(operands[0]),
    "Identity": lambda operands, _: operands[0],
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Gather": _gathered,
    "DequantizeLinear": _dequantized,
    "Constant": _constant,
}


# Comparison


def check_same(before: Reading, after: Reading, tolerance: Tolerance | None = None) -> None:
    """Check that a model still computes what it was made of: the same nodes, reading equal constants.

    Args:
        before: What it was made of.
        after: The model that was written.
        tolerance: How far elements of a constant may be off, of the array before; bit for bit equal if None.

    Raises:
        WrongError: If it does not.
    """
    for path, scope in after.scopes.items():
        former = before.scopes.get(path)
        if former is None:
            raise WrongError(f"the graph '{path}' was not there before")
        _check_scope(before, former, after, scope, tolerance)
    if missing := before.scopes.keys() - after.scopes.keys():
        raise WrongError(f"the graphs {sorted(missing)} are gone")


def _check_scope(before: Reading, former: _Scope, after: Reading, scope: _Scope, tolerance: Tolerance | None) -> None:
    _check_ends(former, scope)
    for value in scope.graph.output:
        _check_value(before, former, value.name, after, scope, value.name, tolerance, f"the output '{value.name}'")
    ours = {_key(node): node for node in scope.graph.node}
    for node in former.graph.node:
        if _key(node) not in ours and _depends_on_inputs(before, former, node):
            raise WrongError(f"the node {node.op_type} of '{_key(node)}' is gone")
    for key, node in ours.items():
        if key in former.producers:
            _check_node(before, former, after, scope, node, tolerance)
        elif _depends_on_inputs(after, scope, node):
            raise WrongError(f"the node {node.op_type} of '{key}' was not there before")


def _check_ends(former: _Scope, scope: _Scope) -> None:
    """Check that a graph has the inputs and outputs that it had, but for weights that a caller could replace."""
    replaceable = set(former.tensors)
    inputs = ({value.name for value in graph.input} - replaceable for graph in (former.graph, scope.graph))
    outputs = ([value.name for value in graph.output] for graph in (former.graph, scope.graph))
    for what, (old, new) in {"inputs": tuple(inputs), "outputs": tuple(outputs)}.items():
        if old != new:
            raise WrongError(f"the {what} are {new}, they were {old}")


def _check_node(
    before: Reading, former: _Scope, after: Reading, scope: _Scope, node: onnx.NodeProto, tolerance: Tolerance | None
) -> None:
    key, old = _key(node), former.producers[_key(node)]
    is_same_op = node.op_type == old.op_type and len(node.input) == len(old.input)
    if is_same_op and _depends_on_inputs(after, scope, node):  # a Cast of constants may be one of the mapping's own
        for name, new in zip(old.input, node.input, strict=True):
            what = f"the input '{new}' of {node.op_type} of '{key}'"
            _check_value(before, former, name, after, scope, new, tolerance, what)
    else:
        what = f"the output '{key}' of {node.op_type}"
        _check_value(before, former, key, after, scope, key, tolerance, what)


def _depends_on_inputs(reading: Reading, scope: _Scope, node: onnx.NodeProto) -> bool:
    try:
        for name in node.output:
            if name:
                reading.array(name, scope)
    except _NotConstantError:
        return True
    except NotJudgedError:
        return False
    return False


def _check_value(
    before: Reading,
    former: _Scope,
    old: str,
    after: Reading,
    scope: _Scope,
    new: str,
    tolerance: Tolerance | None,
    what: str,
) -> None:
    if not old and not new:
        return
    try:
        expected = before.array(old, former)
    except NotJudgedError:
        return
    except _NotConstantError:
        if old != new:
            raise WrongError(f"{what} was '{old}'") from None
        return
    try:
        found = after.array(new, scope)
    except NotJudgedError:
        return
    except _NotConstantError:
        raise WrongError(f"{what} is no constant any more") from None
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise WrongError(f"{what} is {found.dtype} {found.shape}, it was {expected.dtype} {expected.shape}")
    if tolerance is None or found.dtype.kind in "iub":
        is_same = _is_equal(expected, found)
    else:
        is_same = _is_equal(expected, found) or _is_near(expected, found, tolerance)
    if not is_same:
        raise WrongError(f"{what} is {found.reshape(-1)[:8]}, it was {expected.reshape(-1)[:8]}")


def _is_equal(one: Array, other: Array) -> bool:
    """Equal as numbers; two NaN are, and two zeros."""
    if one.dtype.kind in "OUS":
        return bool(np.array_equal(one, other))
    with np.errstate(all="ignore"):
        return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - NaN


def _is_near(expected: Array, found: Array, tolerance: Tolerance) -> bool:
    wide, ours = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(ours).all()):
        return False
    return not wide.size or bool((np.abs(wide - ours) <= tolerance(wide)).all())
