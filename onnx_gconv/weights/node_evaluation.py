"""Computes one node from constants, by the rule of the opset that the model imports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_gconv.weights.evaluated_ops import EvaluationError, evaluated_op

__all__ = ["NodeValue", "evaluate_node"]

NodeValue: TypeAlias = "NDArray[Any] | list[NodeValue] | None"
"""What a node reads or gives: a tensor, a sequence of values, or an optional one that is not there."""

_MOST_IN_MESSAGE = 120

# They give what they are given. The reference implementation (onnx 1.23) makes a list of it, and so an axis more.
_PASSING_OPS = frozenset({"Optional", "OptionalGetElement"})

# What they give for infinite numbers, or for those that are none, differs from runtime to runtime.
_FINITE_OPS = frozenset({"Clip", "Sign"})

_HALF_TYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_FLOAT_TYPES = frozenset(
    np.dtype(dtype)
    for dtype in (
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
)
_SMALL_INTEGERS = frozenset(map(np.dtype, (ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.int4, ml_dtypes.uint4)))

# The versions by which the reference implementation computes what older ones meant.
_FLATTENED_UNTIL, _NORMALIZED_SINCE, _QUANTIZED_SINCE = 13, 15, 19


def evaluate_node(node: onnx.NodeProto, inputs: Sequence[NodeValue], opset: int | None) -> list[NodeValue]:
    """What a node gives.

    It is computed with ONNX's reference implementation, in the type of its inputs; in float16 and bfloat16 it is
    computed in float32 and rounded once, as ONNX Runtime does it.

    Args:
        node: The node.
        inputs: The values of its inputs; None for one that is left out.
        opset: The version of the node's domain that the model imports; None if it imports none.

    Raises:
        EvaluationError: If it cannot be computed, or is not known to be computed as a runtime does.
    """
    row, schema = evaluated_op(node.domain, node.op_type, opset)
    if node.op_type in _PASSING_OPS:
        return [inputs[0] if inputs else None]
    complete = _with_defaults(node, schema)
    _refuse_undefined(complete, inputs)
    if row.precision == "moved":
        return _computed(complete, inputs, schema.since_version)
    results = _computed(complete, [_widened(value) for value in inputs], schema.since_version)
    types = [_type_of(number, complete, inputs, schema) for number in range(len(results))]
    return [_of_type(value, dtype) for value, dtype in zip(results, types, strict=True)]


def _with_defaults(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> onnx.NodeProto:
    """A node with all of its attributes; the reference implementation has the defaults of the newest version."""
    complete = onnx.NodeProto()
    complete.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        is_tensor = default.type == onnx.AttributeProto.TENSOR
        if name not in given and default.type != onnx.AttributeProto.UNDEFINED and not is_tensor:
            complete.attribute.add().CopyFrom(default)
    return complete


def _computed(node: onnx.NodeProto, inputs: Sequence[NodeValue], version: int) -> list[NodeValue]:
    """What a node gives by the rule of its version, expressed by newer rules where the reference has only these."""
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
    """Softmax and the like before opset 13: all axes from `axis` on count as one."""
    tensor = _tensor(inputs[0])
    axis = _integer(node, "axis")
    axis += tensor.ndim if axis < 0 else 0
    if not 0 <= axis <= tensor.ndim:
        raise EvaluationError(f"{node.op_type} has the axis {axis} for {tensor.ndim} axes")
    matrix = tensor.reshape(math.prod(tensor.shape[:axis]), math.prod(tensor.shape[axis:]))
    [result] = _by_reference(_changed(node, axis=1), [matrix], _FLATTENED_UNTIL)
    return [_tensor(result).reshape(tensor.shape)]


def _normalized(node: onnx.NodeProto, inputs: Sequence[NodeValue], _: int) -> list[NodeValue]:
    """BatchNormalization before opset 14: with the statistics that it is given, unless it has further outputs."""
    if len(node.output) > 1:
        raise EvaluationError("BatchNormalization that trains is not computed")
    if _integer(node, "spatial", 1) != 1:
        raise EvaluationError("BatchNormalization with statistics for each position is not computed")
    return _by_reference(_changed(node, momentum=None, spatial=None, training_mode=0), inputs, _NORMALIZED_SINCE)


def _quantized(node: onnx.NodeProto, inputs: Sequence[NodeValue], _: int) -> list[NodeValue]:
    """QuantizeLinear and DequantizeLinear before opset 19, whose rule for these inputs is the same since."""
    return _by_reference(node, inputs, _QUANTIZED_SINCE)


def _cast_like(node: onnx.NodeProto, inputs: Sequence[NodeValue], version: int) -> list[NodeValue]:
    """CastLike: a Cast to the type of its second input."""
    target = onnx.helper.np_dtype_to_tensor_dtype(_tensor(inputs[1]).dtype)
    cast = _changed(node, to=target)
    cast.op_type = "Cast"
    del cast.input[1:]
    return _by_reference(cast, inputs[:1], version)


_OlderRule: TypeAlias = Callable[[onnx.NodeProto, Sequence[NodeValue], int], list[NodeValue]]

# Before which version an op has another rule than the reference implementation.
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
    """Raise EvaluationError if ONNX does not say what a node gives for these inputs; runtimes disagree then."""
    if node.op_type == "Cast":
        target = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(_integer(node, "to")))
        _refuse_unrepresentable(inputs[0], target)
    elif node.op_type == "CastLike":
        _refuse_unrepresentable(inputs[0], _tensor(inputs[1]).dtype)
    elif node.op_type in _FINITE_OPS and not np.isfinite(_tensor(inputs[0])).all():
        raise EvaluationError(f"{node.op_type} of numbers that are not finite is not computed, because runtimes differ")
    elif node.op_type == "Range" and not all(_is_whole(value) for value in inputs):
        raise EvaluationError("Range of fractions is not computed, because runtimes add them up in other ways")
    elif node.op_type == "ReduceProd" and not _fits_product(_tensor(inputs[0])):
        raise EvaluationError("ReduceProd of integers beyond their type is not defined")
    elif node.op_type == "LpNormalization" and _integer(node, "p") == 1:
        raise EvaluationError("LpNormalization with p = 1 is not computed, because runtimes differ in the signs")


def _refuse_unrepresentable(value: NodeValue, target: np.dtype[Any]) -> None:
    tensor = _tensor(value)
    is_from_float = tensor.dtype.kind == "f" or tensor.dtype in _FLOAT_TYPES
    if not is_from_float or not tensor.size or (target.kind not in "iu" and target not in _SMALL_INTEGERS):
        return
    limits = ml_dtypes.iinfo(target)
    numbers = tensor.astype(np.float64)
    if not ((numbers > limits.min - 1.0) & (numbers < limits.max + 1.0)).all():
        raise EvaluationError(f"Cast of numbers that {target.name} cannot hold is not defined")


def _is_whole(value: NodeValue) -> bool:
    numbers = _tensor(value).astype(np.float64)
    return bool((numbers == np.rint(numbers)).all())


def _fits_product(tensor: NDArray[Any]) -> bool:
    """Whether the product of all elements, those that are 0 left out, is one of their type, if they are integers."""
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
    """The type of a result if it is that of an input, by the op's definition; else None."""
    if node.op_type == "DequantizeLinear":
        return None if _integer(node, "output_dtype") else _tensor(inputs[1]).dtype
    wanted = schema.outputs[min(number, len(schema.outputs) - 1)].type_str
    for value, type_str in zip(inputs, _input_types(schema), strict=False):
        if type_str == wanted and isinstance(value, np.ndarray):
            return value.dtype
    return None


def _input_types(schema: onnx.defs.OpSchema) -> Iterator[str]:
    """The names of the types of an op's inputs; the last one is repeated, as it may stand for several."""
    names = [item.type_str for item in schema.inputs]
    yield from names
    while names:
        yield names[-1]


def _changed(node: onnx.NodeProto, **attributes: int | None) -> onnx.NodeProto:
    """A node with other attributes; those that are None are left out."""
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
