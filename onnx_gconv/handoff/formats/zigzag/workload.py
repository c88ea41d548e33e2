"""The model as ZigZag 3.9 needs it: plain weights, the shapes of one run, and bits as attributes of nodes.

ZigZag counts Conv, Gemm and MatMul of the main graph. It takes the second input of such a node for weights only if at
most one input of the node is computed by another node. If nodes compute the bias as well as the activations, ZigZag
takes the weights for activations, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model
from onnx_gconv.handoff.formats.sample import Sample
from onnx_gconv.handoff.formats.zigzag.accelerator import ImcArray
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes import RestoreWeights
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.weights import scopes
from onnx_gconv.weights.constants import ConstantValues, constant_tensor, leaves
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator, EvaluatedTensor, EvaluationError

__all__ = ["COUNTED_OPS", "WEIGHT", "Workload", "problem_of", "workload_of"]

COUNTED_OPS = frozenset({"Conv", "Gemm", "MatMul"})

_COUNTED = frozenset(("", op, "") for op in COUNTED_OPS)

UNCOUNTED_DOMAIN = "onnx_gconv.uncounted"

_CONVOLUTION_RANK = 4
_MATRIX_RANKS = (2, 3, 4)

WEIGHT = 1
"""The input that ZigZag takes for weights."""


@dataclass(frozen=True, eq=False)
class Workload:
    """The model for ZigZag.

    Attributes:
        model: The model. ONNX Runtime refuses it because of the additional attributes.
        weights: Number of weights of all counted nodes.
    """

    model: ir.Model
    weights: int


def problem_of(node: ir.Node, sample: Sample) -> str | None:
    """Why ZigZag would not count the weight of a node, or count it wrongly; None if it counts it right.

    Nodes that compute from constants may stand between the weight and the node.
    """
    op = node.op_type
    if node.op_identifier() not in _COUNTED:
        return f"ZigZag counts only {', '.join(sorted(COUNTED_OPS))} as layers, not {op}"
    given, made = (None if value is None else sample.shape(value) for value in (node.inputs[0], node.outputs[0]))
    if given is None or made is None:
        return "it is in a subgraph, into which ZigZag does not look"
    if (problem := _problem_of_shapes(op, given, made)) is not None:
        return problem
    if any(_is_computed(value) for value in node.inputs[WEIGHT + 1 :] if value is not None):
        return "nodes compute its bias, so that ZigZag takes its weights for activations"
    return None


def _problem_of_shapes(op: str, given: Sequence[int], made: Sequence[int]) -> str | None:
    """The same for the shapes of the activations and of the product of a node."""
    if 0 in (*given, *made):
        return "its activations are empty in the run, which needs at least one sample"
    if op == "Conv" and len(given) != _CONVOLUTION_RANK:
        return f"ZigZag takes convolutions over two axes, but this one is over {len(given) - 2}"
    if op != "Conv" and not (len(given) in _MATRIX_RANKS and len(made) == len(given)):
        return f"ZigZag takes activations of 2 to 4 axes, but these have {len(given)}"
    return None


def _is_computed(value: ir.Value) -> bool:
    """Whether nodes compute a value from something else than constants."""
    if value.producer() is None:
        return False
    found = leaves(value, ())
    return not found.is_foldable or any(constant_tensor(leaf) is None for leaf in found.values)


def workload_of(mapped: Path, sample: Sample, array: ImcArray, uncounted: Collection[str]) -> Workload:
    """Make the model for ZigZag.

    Args:
        mapped: The file of the mapped model.
        sample: A run of the mapped model, which gives the shapes.
        array: The array, which gives the bits.
        uncounted: The names of the first outputs of nodes that ZigZag must not count as layers. These nodes get another
            op type.

    Raises:
        ModelError: If the model cannot be read, or a constant input of a node cannot be computed.
    """
    model = load_model(mapped)
    RestoreWeights()(model)
    nodes = [node for node in model.graph if node.op_identifier() in _COUNTED]
    counted = [node for node in nodes if node.outputs[0].name not in uncounted and problem_of(node, sample) is None]
    _fold_inputs(model, counted)
    operands = [value for node in counted for value in (node.inputs[0], node.outputs[0])]
    for value in (*model.graph.inputs, *model.graph.outputs, *operands):
        if value is not None and (shape := sample.shape(value)) is not None:
            value.shape = ir.Shape(shape)
    for node in counted:
        _give_types(node)
    ShapeInferencePass()(model)
    for node in counted:
        _describe(node, array)
    for node in set(nodes) - set(counted):
        node.domain, node.op_type = UNCOUNTED_DOMAIN, f"Uncounted{node.op_type}"
        model.opset_imports[UNCOUNTED_DOMAIN] = 1
    weights = (node.inputs[WEIGHT] for node in counted)
    constants = (value.const_value for value in weights if value is not None)
    return Workload(model, sum(tensor.size for tensor in constants if tensor is not None))


def _give_types(node: ir.Node) -> None:
    """Give activations and products the type of the weight, which they share, if the model does not say their type.

    A value of known shape has to have a type, too: otherwise it is left out of the file, with a message.
    """
    weight = node.inputs[WEIGHT]
    assert weight is not None  # noqa: S101 - ONNX requires this input
    for value in (node.inputs[0], node.outputs[0]):
        if value is not None and value.type is None and weight.dtype is not None:
            value.type = ir.TensorType(weight.dtype)


def _describe(node: ir.Node, array: ImcArray) -> None:
    """Set the attributes that give bits and, for a convolution, those that were left to their defaults."""
    if node.op_type == "Conv":
        _say_everything(node)
    bits = {"weight_size": array.cells, "act_size": array.input_bits, "output_size": array.output_bits}
    for name, size in bits.items():
        node.attributes[name] = ir.AttrInt64(name, size)


def _fold_inputs(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Replace computed constants that nodes read by initializers, except at the first input of each node."""
    constants, evaluator, names = ConstantValues(model, scopes(model)), ConstantEvaluator(model), UniqueNames(model)
    folded: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if index < WEIGHT or value is None or value.producer() is None or not constants.is_constant(value):
                continue
            if value not in folded:
                folded[value] = _initializer(model.graph, value, evaluator, names)
            node.replace_input_with(index, folded[value])
    remove_unused(producer for value in folded if (producer := value.producer()) is not None)


def _initializer(graph: ir.Graph, value: ir.Value, evaluator: ConstantEvaluator, names: UniqueNames) -> ir.Value:
    name = names.new(f"{value.name}.folded")
    try:
        tensor = EvaluatedTensor(evaluator, value)
    except EvaluationError as error:
        raise ModelError(f"the constant '{value.name}' cannot be written as zigzag: {error}") from None
    shape = ir.Shape(tensor.shape.numpy())
    new = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.initializers.add(new)
    return new


def _say_everything(node: ir.Node) -> None:
    """Give a convolution explicit attributes, because ZigZag knows neither ONNX's defaults nor automatic padding."""
    given, made, kernels = (_sizes(value) for value in (node.inputs[0], node.outputs[0], node.inputs[WEIGHT]))
    kernel = kernels[2:]
    ones = [1] * len(kernel)
    strides, dilations = (node.attributes.get_ints(name, ones) for name in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", [0] * (2 * len(kernel))))
    automatic = node.attributes.pop("auto_pad", None)
    if automatic is not None and automatic.as_string() != "NOTSET":
        spread = zip(given[2:], made[2:], kernel, strides, dilations, strict=True)
        totals = [
            max((outputs - 1) * stride + dilation * (size - 1) + 1 - inputs, 0)
            for inputs, outputs, size, stride, dilation in spread
        ]
        halves, rests = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = [*rests, *halves] if automatic.as_string() == "SAME_LOWER" else [*halves, *rests]
    values = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    for name, sizes in values.items():
        node.attributes[name] = ir.AttrInt64s(name, list(sizes))


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None  # noqa: S101 - ONNX requires these inputs
    assert value.shape is not None  # noqa: S101 - known from the run, or from the constant
    return value.shape.numpy()
