"""Computes one node from constants, by the rule of the opset that the model imports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.weights.evaluation.evaluated_ops import EvaluationError, evaluated_op

__all__ = ["NodeValue", "added_bytes", "evaluate_node"]

NodeValue: TypeAlias = "NDArray[Any] | list[NodeValue] | None"
"""An input or output of a node: a tensor, a sequence of values, or None for an absent optional value."""

_MOST_IN_MESSAGE = 120

# These ops return their input. The reference implementation (onnx 1.23) wraps it in a list, which adds an axis.
_PASSING_OPS = frozenset({"Optional", "OptionalGetElement"})

# The results of these ops for infinity and NaN differ from runtime to runtime.
_FINITE_OPS = frozenset({"Clip", "Sign"})

_HALF_TYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_FLOAT8_TYPES = tuple(
    map(
        np.dtype,
        (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz),
    )
)
_SMALL_INTEGERS = (np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4))
_NUMPY_TYPES = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64"
_CAST_TYPES = frozenset((*_HALF_TYPES, *_FLOAT8_TYPES, *_SMALL_INTEGERS, *map(np.dtype, _NUMPY_TYPES.split())))

# The versions whose rules in the reference implementation also express older ones.
_FLATTENED_UNTIL, _NORMALIZED_SINCE, _QUANTIZED_SINCE = 13, 15, 19

# Since this version QuantizeLinear has an attribute for the type in which it divides; the default is its inputs' type.
_PRECISE_SINCE = 23


def evaluate_node(node: onnx.NodeProto, inputs: Sequence[NodeValue], opset: int | None) -> list[NodeValue]:
    """Compute the outputs of a node.

    ONNX's reference implementation computes them in the type of the inputs. For float16 and bfloat16 they are computed
    in float32 and rounded once, as in ONNX Runtime; from opset 23 on, QuantizeLinear divides in the type of its scale,
    as in ONNX Runtime 1.32.

    Args:
        node: The node.
        inputs: The values of the inputs; None for an omitted one.
        opset: The version of the node's domain that the model imports; None if it imports none.

    Raises:
        EvaluationError: If the node cannot be computed, or its result is not known to equal that of a runtime.
    """
    row, schema = evaluated_op(node.domain, node.op_type, opset)
    _require_inputs(node, inputs, schema)
    if node.op_type in _PASSING_OPS:
        return [inputs[0] if inputs else None]
    complete = _with_defaults(node, schema)
    _refuse_undefined(complete, inputs)
    if row.precision == "moved" or _divides_in_half_precision(node.op_type, schema.since_version):
        return _computed(complete, inputs, schema.since_version)
    results = _computed(complete, [_widened(value) for value in inputs], schema.since_version)
    types = [_type_of(number, complete, inputs, schema) for number in range(len(results))]
    return [_of_type(value, dtype) for value, dtype in zip(results, types, strict=True)]


def added_bytes(node: onnx.NodeProto, inputs: Sequence[NodeValue]) -> int:
    """The bytes that a node needs besides its inputs, estimated before it is computed.

    They are the float32 copies of float16 and bfloat16 inputs, and results whose size follows from the shapes or the
    values of the inputs.
    """
    halves = [value.nbytes for value in inputs if isinstance(value, np.ndarray) and value.dtype in _HALF_TYPES]
    copies = 2 * (sum(halves) + max(halves, default=0))
    rule = _SIZES.get(node.op_type) if node.domain == "" else None
    tensors = [value for value in inputs if isinstance(value, np.ndarray) and value.dtype.kind in "iufb"]
    if rule is None or len(tensors) != len(inputs):
        return copies
    try:
        return copies + int(rule(tensors))
    except (ArithmeticError, IndexError, ValueError):  # the node does not fit its inputs and is refused later
        return copies


def _count(sizes: NDArray[Any]) -> float:
    """The product of some sizes, as a float because it may be beyond NumPy's integers."""
    return math.prod(float(size) for size in sizes.reshape(-1))


def _broadcast(inputs: list[NDArray[Any]]) -> float:
    shape = np.broadcast_shapes(*(array.shape for array in inputs))
    return max(array.itemsize for array in inputs) * math.prod(map(float, shape))


_BROADCASTING_OPS = """
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul
Or Pow Sub Sum Where Xor
"""

# How to compute the bytes of a result, for ops whose result can be larger than all of their inputs together.
_SIZES: dict[str, Callable[[list[NDArray[Any]]], float]] = {
    **dict.fromkeys(_BROADCASTING_OPS.split(), _broadcast),
    "ConstantOfShape": lambda inputs: 8 * _count(inputs[0]),
    "Expand": lambda inputs: inputs[0].nbytes * _count(inputs[1]),
    "MatMul": lambda inputs: inputs[0].nbytes / inputs[0].shape[-1] * inputs[1].shape[-1],
    "OneHot": lambda inputs: inputs[2].itemsize * inputs[0].size * _count(inputs[1]),
    "Range": lambda inputs: inputs[0].itemsize * abs((_count(inputs[1]) - _count(inputs[0])) / _count(inputs[2])),
    "Tile": lambda inputs: inputs[0].nbytes * _count(inputs[1]),
}


def _require_inputs(node: onnx.NodeProto, inputs: Sequence[NodeValue], schema: onnx.defs.OpSchema) -> None:
    """Raise EvaluationError if a required input of a node is missing, or if it has too many."""
    needed = [item.option == onnx.defs.OpSchema.FormalParameterOption.Single for item in schema.inputs]
    is_lacking = any(is_needed and value is None for is_needed, value in zip(needed, inputs, strict=False))
    if is_lacking or not schema.min_input <= len(inputs) <= schema.max_input:
        raise EvaluationError(f"{node.op_type} lacks an input, or has too many")


def _divides_in_half_precision(op_type: str, version: int) -> bool:
    """Whether an op rounds a quotient to the type of its inputs first, and to an integer then."""
    return op_type == "QuantizeLinear" and version >= _PRECISE_SINCE


def _with_defaults(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> onnx.NodeProto:
    """A copy of a node with all defaults of its op's version that differ from those of the newest version.

    The reference implementation would use the defaults of the newest version.
    """
    complete = onnx.NodeProto()
    complete.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    newest = onnx.defs.get_schema(node.op_type, node.domain).attributes
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        is_known = name in newest and newest[name].default_value == default
        if name not in given and default.type != onnx.AttributeProto.UNDEFINED and not is_known:
            complete.attribute.add().CopyFrom(default)
    return complete


def _computed(node: onnx.NodeProto, inputs: Sequence[NodeValue], version: int) -> list[NodeValue]:
    """Compute a node by the rule of its version, expressed by a newer rule if the reference has only the newer one."""
    older = _OLDER_RULES.get(node.op_type)
    if older is not None and version < older[0]:
        return older[1](node, inputs, version)
    return _by_reference(node, inputs, version)


def _by_reference(node: onnx.NodeProto, inputs: Sequence[NodeValue], version: int) -> list[NodeValue]:
    from onnx.reference import ReferenceEvaluator

    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    untyped = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [node],
        node.op_type,
        [onnx.helper.make_value_info(name, untyped) for name in feeds],
        [onnx.helper.make_value_info(name, untyped) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(model).run(None, feeds)
    except MemoryError as error:
        raise EvaluationError(f"{node.op_type} takes too much memory") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:_MOST_IN_MESSAGE]
        raise EvaluationError(f"{node.op_type} cannot be computed ({type(error).__name__}: {reason})") from error
    return [np.asarray(result) if isinstance(result, np.generic) else result for result in results]


def _flattened(node: onnx.NodeProto, inputs: Sequence[NodeValue], _: int) -> list[NodeValue]:
    """Softmax, LogSoftmax and Hardmax before opset 13: all axes from `axis` on are flattened to one."""
    tensor = _tensor(inputs[0])
    axis = _integer(node, "axis")
    axis += tensor.ndim if axis < 0 else 0
    if not 0 <= axis <= tensor.ndim:
        raise EvaluationError(f"{node.op_type} has the axis {axis} for {tensor.ndim} axes")
    matrix = tensor.reshape(math.prod(tensor.shape[:axis]), math.prod(tensor.shape[axis:]))
    [result] = _by_reference(_changed(node, axis=1), [matrix], _FLATTENED_UNTIL)
    return [_tensor(result).reshape(tensor.shape)]


def _normalized(node: onnx.NodeProto, inputs: Sequence[NodeValue], _: int) -> list[NodeValue]:
    """BatchNormalization before opset 14: it applies the given statistics, unless it has further outputs and trains."""
    if len(node.output) > 1:
        raise EvaluationError("BatchNormalization that trains is not computed")
    if _integer(node, "spatial", 1) != 1:
        raise EvaluationError("BatchNormalization with statistics for each position is not computed")
    return _by_reference(_changed(node, momentum=None, spatial=None, training_mode=0), inputs, _NORMALIZED_SINCE)


def _quantized(node: onnx.NodeProto, inputs: Sequence[NodeValue], _: int) -> list[NodeValue]:
    """QuantizeLinear and DequantizeLinear before opset 19: for the types of that time, opset 19 has the same rule."""
    return _by_reference(node, inputs, _QUANTIZED_SINCE)


def _cast_like(node: onnx.NodeProto, inputs: Sequence[NodeValue], version: int) -> list[NodeValue]:
    """CastLike: a Cast to the type of its second input."""
    cast = _changed(node, to=ir.DataType.from_numpy(_tensor(inputs[1]).dtype).value)
    cast.op_type = "Cast"
    del cast.input[1:]
    return _by_reference(cast, inputs[:1], version)


_OlderRule: TypeAlias = Callable[[onnx.NodeProto, Sequence[NodeValue], int], list[NodeValue]]

# The rules of ops before a version that the reference implementation does not have.
_OLDER_RULES: dict[str, tuple[float, _OlderRule]] = {
    "CastLike": (math.inf, _cast_like),
    "Softmax": (_FLATTENED_UNTIL, _flattened),
    "LogSoftmax": (_FLATTENED_UNTIL, _flattened),
    "Hardmax": (_FLATTENED_UNTIL, _flattened),
    "BatchNormalization": (14, _normalized),
    "QuantizeLinear": (_QUANTIZED_SINCE, _quantized),
    "DequantizeLinear": (_QUANTIZED_SINCE, _quantized),
}


def _refuse_undefined(node: onnx.NodeProto, inputs: Sequence[NodeValue]) -> None:
    """Raise EvaluationError if ONNX does not define the result of a node for these inputs: runtimes disagree there."""
    if node.op_type == "Cast":
        _refuse_cast(inputs[0], _type(_integer(node, "to")))
    elif node.op_type == "CastLike":
        _refuse_cast(inputs[0], _tensor(inputs[1]).dtype)
    elif node.op_type in _FINITE_OPS and not np.isfinite(_tensor(inputs[0])).all():
        raise EvaluationError(f"{node.op_type} of numbers that are not finite is not computed, because runtimes differ")
    elif node.op_type == "Range" and not all(_is_whole(value) for value in inputs):
        raise EvaluationError("Range of fractions is not computed, because runtimes add them up in other ways")
    elif node.op_type == "ReduceProd" and not _fits_product(_tensor(inputs[0])):
        raise EvaluationError("ReduceProd of integers beyond their type is not defined")
    elif node.op_type == "LpNormalization" and _integer(node, "p") == 1:
        raise EvaluationError("LpNormalization with p = 1 is not computed, because runtimes differ in the signs")


def _refuse_cast(value: NodeValue, target: np.dtype[Any]) -> None:
    """Raise EvaluationError for numbers that the target type cannot hold, and for types not compared with a runtime."""
    tensor = _tensor(value)
    if target not in _CAST_TYPES or tensor.dtype not in _CAST_TYPES:
        raise EvaluationError(f"Cast from {tensor.dtype.name} to {target.name} is not computed")
    is_to_integer = target.kind in "iu" or target in _SMALL_INTEGERS
    if not is_to_integer or not _is_float(tensor.dtype) or not tensor.size:
        return
    limits = ml_dtypes.iinfo(target)
    with np.errstate(all="ignore"):
        least, most = float(tensor.min()), float(tensor.max())
    if not (least > limits.min - 1.0 and most < limits.max + 1.0):
        raise EvaluationError(f"Cast of numbers that {target.name} cannot hold is not defined")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in _HALF_TYPES or dtype in _FLOAT8_TYPES


def _type(number: int) -> np.dtype[Any]:
    try:
        return np.dtype(ir.DataType(number).numpy())
    except (TypeError, ValueError):
        raise EvaluationError(f"Cast to the type {number} is not computed") from None


def _is_whole(value: NodeValue) -> bool:
    numbers = _tensor(value).astype(np.float64)
    return bool((numbers == np.rint(numbers)).all())


def _fits_product(tensor: NDArray[Any]) -> bool:
    """Whether the product of all nonzero elements fits into their type; True for floating-point numbers."""
    if tensor.dtype.kind not in "iu":
        return True
    product = np.prod(np.maximum(np.abs(tensor.astype(np.float64)), 1.0))
    return bool(product <= np.iinfo(tensor.dtype).max)


def _widened(value: NodeValue) -> NodeValue:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype in _HALF_TYPES else value


def _of_type(result: NodeValue, dtype: np.dtype[Any] | None) -> NodeValue:
    return result.astype(dtype, copy=False) if isinstance(result, np.ndarray) and dtype is not None else result


def _type_of(
    number: int, node: onnx.NodeProto, inputs: Sequence[NodeValue], schema: onnx.defs.OpSchema
) -> np.dtype[Any] | None:
    """The type of a result, if the op's definition says that it is the type of an input; else None."""
    if node.op_type == "DequantizeLinear":
        return None if _integer(node, "output_dtype") else _tensor(inputs[1]).dtype
    wanted = schema.outputs[min(number, len(schema.outputs) - 1)].type_str
    for value, item in zip(inputs, schema.inputs, strict=False):  # the last item may stand for several inputs
        if item.type_str == wanted and isinstance(value, np.ndarray):
            return value.dtype
    return None


def _changed(node: onnx.NodeProto, **attributes: int | None) -> onnx.NodeProto:
    """A copy of a node with other values of some attributes; an attribute that is None is removed."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    kept = [item for item in node.attribute if item.name not in attributes]
    del changed.attribute[:]
    added = (onnx.helper.make_attribute(name, value) for name, value in attributes.items() if value is not None)
    changed.attribute.extend([*kept, *added])
    return changed


def _integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _tensor(value: NodeValue) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise EvaluationError("it reads a sequence or an optional value where a tensor has to stand")
    return value
