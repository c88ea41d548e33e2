"""Runs nodes in ONNX Runtime and as the evaluation of constants does, and says how far apart the results are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnxruntime
from onnx import helper, numpy_helper

from onnx_gconv.weights.evaluation.node_evaluation import NodeValue, evaluate_node
from tests.weights.evaluated_cases import Case, Tried, array

__all__ = ["OLDEST_OPSET", "ComparedNode", "largest_distance", "nodes_of", "run"]

OLDEST_OPSET = 7  # of the models that are mapped

_TRIED_TYPES = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in {
        "float": np.float32,
        "double": np.float64,
        "float16": np.float16,
        "int64": np.int64,
        "int32": np.int32,
        "int8": np.int8,
        "uint8": np.uint8,
        "bool": np.bool_,
    }.items()
}
_IR_VERSIONS = {7: 4, 11: 6, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12, 26: 13}
_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation", "data type is not supported")


@dataclass(frozen=True)
class ComparedNode:
    """A case for a version of its op, with one type of the inputs that are tried with several.

    Attributes:
        case: The case.
        version: The version of the op.
        dtype: The type; None if all inputs have a certain one.
    """

    case: Case
    version: int
    dtype: np.dtype[Any] | None

    @property
    def opset(self) -> int:
        """The oldest opset with this version that a model which is mapped can have."""
        return max(self.version, OLDEST_OPSET)

    @property
    def values(self) -> list[Any]:
        """The inputs."""
        return [self._value(item) for item in self.case.inputs]

    def _value(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._value(part) for part in item]
        if isinstance(item, Tried):
            assert self.dtype is not None
            return array(item, self.dtype)
        return item if item is None else np.asarray(item)

    def node(self, prefix: str = "") -> onnx.NodeProto:
        """The node; the names of its values start with `prefix`."""
        names = ["" if item is None else f"{prefix}i{number}" for number, item in enumerate(self.case.inputs)]
        outputs = [f"{prefix}o{number}" for number in range(self.case.outputs)]
        return helper.make_node(self.case.op_type, names, outputs, **self.case.attributes)

    def evaluated(self) -> list[NodeValue]:
        """What the evaluation of constants gives."""
        return evaluate_node(self.node(), self.values, self.opset)


def nodes_of(cases: Sequence[Case], op_type: str, version: int) -> Iterator[ComparedNode]:
    """The cases of a version of an op, each in all types of its inputs."""
    for case in cases:
        if case.op_type == op_type and case.since <= version < case.until:
            yield from (ComparedNode(case, version, dtype) for dtype in _dtypes(case, version))


def _dtypes(case: Case, version: int) -> list[np.dtype[Any] | None]:
    schema = onnx.defs.get_schema(case.op_type, max(version, OLDEST_OPSET))
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}
    tried = [number for number, item in enumerate(case.inputs) if _is_tried(item)]
    if not tried:
        return [None]
    found = {name for name, dtype in _TRIED_TYPES.items() if dtype.kind in (case.kinds or "fiub")}
    for number in tried:
        parameter = schema.inputs[min(number, len(schema.inputs) - 1)]
        types = allowed.get(parameter.type_str, {parameter.type_str})
        found &= {re.sub(r"^(seq|optional)\((tensor\(\w+\))\)$", r"\2", name) for name in types}
    return [dtype for name, dtype in _TRIED_TYPES.items() if name in found]


def _is_tried(item: Any) -> bool:
    return isinstance(item, Tried) or (isinstance(item, list) and any(map(_is_tried, item)))


def run(compared: Sequence[ComparedNode], expected: Sequence[Sequence[NodeValue]]) -> list[list[Any] | None]:
    """What ONNX Runtime gives for nodes of one version of an op; None for those that it has no kernel for.

    Types that NumPy lacks come as float32.
    """
    try:
        return list(_run_together(compared, expected))
    except Exception as error:
        if not any(text in str(error) for text in _NO_KERNEL):
            raise
    if len(compared) == 1:
        return [None]
    half = len(compared) // 2
    return [*run(compared[:half], expected[:half]), *run(compared[half:], expected[half:])]


def _run_together(compared: Sequence[ComparedNode], expected: Sequence[Sequence[NodeValue]]) -> Iterator[list[Any]]:
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    outputs: list[str] = []
    for number, (item, values) in enumerate(zip(compared, expected, strict=True)):
        _add_inputs(item, f"n{number}_", nodes, initializers)
        nodes.append(item.node(f"n{number}_"))
        outputs.extend(_output(nodes, name, value) for name, value in zip(nodes[-1].output, values, strict=True))
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
    opset = compared[0].opset
    ir_version = max(number for start, number in _IR_VERSIONS.items() if start <= opset)
    graph = helper.make_graph(nodes, "compared", [], infos, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = iter(session.run(None, {}))
    for item in compared:
        yield [next(results) for _ in range(item.case.outputs)]


def _add_inputs(
    item: ComparedNode, prefix: str, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]
) -> None:
    for number, value in enumerate(item.values):
        name = f"{prefix}i{number}"
        if isinstance(value, list):
            parts = [f"{name}_{part}" for part in range(len(value))]
            initializers.extend(map(numpy_helper.from_array, value, parts))
            nodes.append(helper.make_node("SequenceConstruct", parts, [name]))
        elif item.case.op_type == "OptionalGetElement":
            initializers.append(numpy_helper.from_array(value, f"{name}_value"))
            nodes.append(helper.make_node("Optional", [f"{name}_value"], [name]))
        elif value is not None:
            initializers.append(numpy_helper.from_array(value, name))


def _output(nodes: list[onnx.NodeProto], name: str, value: NodeValue) -> str:
    """The name of an output that a session can give."""
    if nodes[-1].op_type == "Optional":
        nodes.append(helper.make_node("OptionalGetElement", [name], [f"{name}_value"]))
        return f"{name}_value"
    if isinstance(value, np.ndarray) and not _is_native(value.dtype):
        nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=onnx.TensorProto.FLOAT))
        return f"{name}_float"
    return name


def largest_distance(ours: Sequence[NodeValue], theirs: Sequence[Any]) -> float:
    """The largest difference, in units in the last place of the largest number; infinite if anything else differs."""
    one, other = list(_tensors(ours)), list(_tensors(theirs))
    if len(one) != len(other):
        return float("inf")
    return max((_distance(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)), default=0.0)


def _tensors(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    a = a if _is_native(a.dtype) else a.astype(np.float32)
    if a.dtype != b.dtype or a.shape != b.shape:
        return float("inf")
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return 0.0
    if a.dtype.kind != "f" or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    unit = np.spacing(np.abs(b[finite]).max())
    return float(np.abs(a[finite].astype(np.float64) - b[finite].astype(np.float64)).max() / float(unit))


def _is_native(dtype: np.dtype[Any]) -> bool:
    return dtype.isbuiltin == 1
