"""Replaces ops with packed weights by MatMul with decoded weights, and packs weights again when a model is restored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.configuration.settings import QuantizedWeights
from onnx_gconv.crossbars.original_weights import original_place
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import DecodedRecord, read_manifest
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.mapping.value_uses import hand_over_uses
from onnx_gconv.passes.inline_weight_functions import InlineWeightFunctions
from onnx_gconv.passes.model_pass import ModelPass
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.tensors.bnb4 import Bnb4Coding, Bnb4Tensor, EncodedBnb4, encoded_bnb4
from onnx_gconv.tensors.dequantized import DequantizedTensor
from onnx_gconv.tensors.streamed import StreamedTensor
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator
from onnx_gconv.weights.ops.decoded_ops import DecodedOp, decoded_op
from onnx_gconv.weights.scopes import Scope, scopes

__all__ = [
    "DecodePackedWeights",
    "DecodingResult",
    "Repacked",
    "as_it_was_mapped",
    "decoded_op_types",
    "decoded_record",
    "is_decodable",
    "pack_again",
    "repacked",
]

# Attributes of the op that do not change the decoded weight.
_OF_ACTIVATIONS = frozenset({"accuracy_level", "training_mode"})

_DOMAIN = "com.microsoft"
_ROUNDINGS = 4 * 2.0**-23  # the rounding errors of the scale and of the rebuilt weight in float32, relative to max|W|


@dataclass
class DecodingResult(ir.passes.PassResult):
    """What `DecodePackedWeights` did.

    Attributes:
        decoded: The decoded weights, each as (path of its graph, name).
    """

    decoded: tuple[tuple[str, str], ...] = ()


class DecodePackedWeights(ModelPass[DecodingResult]):
    """Decodes packed weights to floating point, so that they can be mapped::

        before:  x, bytes, scales               -> MatMulBnb4(x, bytes, scales)
        after:   W [N, K], Transpose(W)         -> MatMul(x, .)

    The decoded weight takes the name of the bytes, unless other nodes read the bytes, too. Weights that cannot be
    decoded stay packed.

    Args:
        op_types: The ops whose weights are decoded; their rows are in `DECODED_OPS`.
        only: The weights to decode, as (path of the graph, name); None for all.
    """

    def __init__(
        self, op_types: Collection[str] = ("MatMulBnb4",), *, only: Collection[tuple[str, str]] | None = None
    ) -> None:
        super().__init__()
        self._op_types = frozenset(op_types)
        self._only = only

    def call(self, model: ir.Model) -> DecodingResult:
        """Decode the weights.

        Raises:
            ModelError: If external data cannot be read.
        """
        names = UniqueNames(model)
        found = list(_Decodings(model, self._op_types, names))
        chosen = [item for item in found if self._only is None or item.place in self._only]
        for item in chosen:
            item.put(names)
        return DecodingResult(model, modified=bool(chosen), decoded=tuple(item.place for item in chosen))


def decoded_op_types(quantized: QuantizedWeights) -> tuple[str, ...]:
    """The ops whose packed weights are decoded before a model is mapped.

    The codes of MatMulBnb4 are indices into a table of numbers, not integers less a zero point. They cannot be mapped
    as integers, so they are decoded unless quantized weights are skipped.

    Args:
        quantized: What is done with weights of integer codes.
    """
    return {"map": ("MatMulBnb4",), "skip": (), "dequantized": ("MatMulBnb4", "MatMulNBits")}[quantized]


def is_decodable(model: ir.Model, op_types: Collection[str]) -> bool:
    """Whether a model has nodes of the given ops. Their weights may be decodable; only decoding them tells."""
    return any(decoded_op(node) is not None and node.op_type in op_types for node in model.graph.all_nodes())


@dataclass(frozen=True, eq=False)
class _Decoding:
    """A weight that is decoded.

    Attributes:
        bytes_value: The value that holds the bytes.
        scope: The graph that owns the value.
        name: The name of the decoded weight.
        tensor: The decoded weight, [outputs, inputs].
        readers: The nodes that read the weight, with the rows of their ops.
    """

    bytes_value: ir.Value
    scope: Scope
    name: str
    tensor: StreamedTensor
    readers: tuple[tuple[ir.Node, DecodedOp], ...]

    @property
    def place(self) -> tuple[str, str]:
        """The path of the graph, and the name of the weight."""
        return self.scope.path, self.name

    def put(self, names: UniqueNames) -> None:
        """Replace the readers by MatMul nodes that read the decoded weight."""
        old = self.bytes_value
        weight = ir.Value(
            name=self.name,
            type=ir.TensorType(self.tensor.dtype),
            shape=ir.Shape(self.tensor.shape.numpy()),
            doc_string=old.doc_string,
            const_value=self.tensor,
            metadata_props=dict(old.metadata_props),
        )
        weight.meta.update(old.meta)
        for node, row in self.readers:
            _put_product(node, row, weight, names)
        remove_unused([node for node, _ in self.readers])
        self.scope.graph.initializers.add(weight)


class _Decodings:
    """The weights that can be decoded, in the order of the nodes that read them first."""

    def __init__(self, model: ir.Model, op_types: Collection[str], names: UniqueNames) -> None:
        self._op_types, self._names = op_types, names
        self._evaluator = ConstantEvaluator(model)
        self._scopes = scopes(model)
        self._scope_of = {scope.graph: scope for scope in self._scopes}

    def __iter__(self) -> Iterator[_Decoding]:
        readers: dict[tuple[object, ...], list[tuple[ir.Node, DecodedOp]]] = {}
        tensors: dict[tuple[object, ...], StreamedTensor] = {}
        for scope in self._scopes:
            for node in scope.graph:
                row = decoded_op(node) if node.op_type in self._op_types else None
                if row is None:
                    continue
                key = _what_is_decoded(node, row)
                if key not in tensors:
                    if isinstance(tensor := row.decoded(node, self._evaluator.evaluate), str):
                        continue
                    tensors[key] = tensor
                readers.setdefault(key, []).append((node, row))
        for key, found in readers.items():
            node, row = found[0]
            value = node.inputs[row.weight]
            assert value is not None and value.name is not None  # noqa: PT018, S101 - it is a constant
            is_alone = {user for user, _ in value.uses()} <= {user for user, _ in found} and not value.is_graph_output()
            name = value.name if is_alone else self._names.new(f"{value.name}.decoded")
            yield _Decoding(value, self._scope_of[_graph_of(value)], name, tensors[key], tuple(found))


def _graph_of(value: ir.Value) -> ir.Graph:
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - it is an initializer or a constant of a graph
    return graph


def _what_is_decoded(node: ir.Node, row: DecodedOp) -> tuple[object, ...]:
    """A key that is equal for two nodes that decode the same weight."""
    said = ((item.name, item.value) for item in node.attributes.values() if item.name not in _OF_ACTIVATIONS)
    inputs = (value for index, value in enumerate(node.inputs) if index and index != row.bias)
    return (node.op_type, *inputs, *sorted(said, key=lambda item: item[0]))


def _put_product(node: ir.Node, row: DecodedOp, weight: ir.Value, names: UniqueNames) -> None:
    """Replace a node by a product with the transposed weight, and an Add of the bias if it has one."""
    assert isinstance(node.graph, ir.Graph) and weight.shape is not None  # noqa: PT018, S101 - nodes of graphs
    rows, columns = weight.shape.numpy()
    name = names.new(f"{weight.name}.transposed")
    transposed = ir.Value(name=name, type=weight.type, shape=ir.Shape([columns, rows]))
    old = node.outputs[0]
    bias = node.inputs[row.bias] if row.bias is not None and row.bias < len(node.inputs) else None
    result = ir.Value(name=old.name, type=old.type, shape=old.shape, doc_string=old.doc_string)
    result.metadata_props.update(old.metadata_props)
    product = result
    if bias is not None:
        product = ir.Value(name=names.new(f"{old.name}.product"), type=old.type, shape=old.shape)
    order = [ir.AttrInt64s("perm", [1, 0])]
    new = [
        _node("Transpose", [weight], transposed, names.new(f"{weight.name}/Transpose"), order),
        _node("MatMul", [node.inputs[0], transposed], product, node.name),
    ]
    if bias is not None:
        new.append(_node("Add", [product, bias], result, names.new(f"{node.name or weight.name}/Add")))
    for item in new:
        item.metadata_props.update(node.metadata_props)
        item.doc_string = node.doc_string
    node.graph.insert_before(node, new)
    hand_over_uses(old, result)
    old.name = names.new(f"{old.name}.packed")
    node.name = None


def _node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    output: ir.Value,
    name: str | None,
    attributes: Sequence[ir.Attr] = (),
) -> ir.Node:
    return ir.Node("", op_type, inputs, attributes, outputs=[output], name=name)


@dataclass(frozen=True, eq=False)
class Repacked:
    """A restored weight that is packed again for the op that it came from.

    Attributes:
        encoded: The bytes and scales.
        said: The manifest's record of the op.
    """

    encoded: EncodedBnb4
    said: DecodedRecord


def repacked(tensor: ir.TensorProtocol, said: DecodedRecord, max_abs: float) -> Repacked | None:
    """Encode a restored weight as the bytes and scales that it was decoded from.

    Args:
        tensor: The restored weight.
        said: The manifest's record of the op that it was decoded from.
        max_abs: max|W|, in units of weight.

    Returns:
        The packed weight. None if the op is not MatMulBnb4, or if no bytes decode to the weight up to the rounding
        errors of a mapping.
    """
    if said.table is None:
        return None
    coding = Bnb4Coding(said.table, said.block)
    tolerance = _ROUNDINGS * max_abs
    encoded = encoded_bnb4(tensor, coding, tensor.name or "", last_code=said.last_code, tolerance=tolerance)
    return None if encoded is None else Repacked(encoded, said)


def pack_again(weight: ir.Value, found: Repacked, names: UniqueNames) -> bool:
    """Replace the MatMul nodes that read a transposed weight by the op that reads it packed.

    Args:
        weight: The weight, an initializer [outputs, inputs]; it holds the bytes afterwards.
        found: The packed weight.
        names: Provides new names.

    Returns:
        False, with nothing changed, if a reader of the weight is not such a MatMul.
    """
    products = list(_products(weight))
    if not products or len(products) != len(list(weight.uses())):
        return False
    graph, coding = weight.graph, found.encoded.coding
    assert graph is not None and weight.shape is not None  # noqa: PT018, S101 - it is an initializer
    rows, columns = weight.shape.numpy()
    stored, absmax = found.encoded.stored, ir.tensor(found.encoded.absmax)
    absmax.name = names.new(found.said.scales)
    scales = ir.Value(name=absmax.name, type=ir.TensorType(absmax.dtype), const_value=absmax)
    scales.shape = ir.Shape(absmax.shape.numpy())
    for transpose, product in products:
        old = product.outputs[0]
        said = {"K": columns, "N": rows, "block_size": coding.block, "quant_type": int(coding.table == "NF4")}
        result = ir.Value(name=old.name, type=old.type, shape=old.shape, doc_string=old.doc_string)
        result.metadata_props.update(old.metadata_props)
        node = ir.Node(
            _DOMAIN,
            "MatMulBnb4",
            [product.inputs[0], weight, scales],
            [ir.AttrInt64(name, number) for name, number in said.items()],
            outputs=[result],
            name=product.name,
            metadata_props=dict(product.metadata_props),
            doc_string=product.doc_string,
        )
        assert isinstance(product.graph, ir.Graph)  # noqa: S101 - mapped models have graphs
        product.graph.insert_before(product, node)
        hand_over_uses(old, result)
        product.graph.remove(product, safe=True)
        remove_unused([transpose])
    stored.doc_string, stored.metadata_props = _texts_of(weight)
    weight.const_value, weight.dtype, weight.shape = stored, stored.dtype, ir.Shape(stored.shape.numpy())
    graph.initializers.add(scales)
    return True


def _texts_of(weight: ir.Value) -> tuple[str | None, dict[str, str]]:
    tensor = weight.const_value
    return (None, {}) if tensor is None else (tensor.doc_string, dict(tensor.metadata_props))


def _products(weight: ir.Value) -> Iterator[tuple[ir.Node, ir.Node]]:
    """The Transpose nodes of a weight, each with the only MatMul that multiplies with its result."""
    for transpose, _ in weight.uses():
        if (
            transpose.op_type != "Transpose"
            or transpose.domain
            or tuple(transpose.attributes.get_ints("perm", ())) != (1, 0)
        ):
            continue
        users = list(transpose.outputs[0].uses())
        if len(users) == 1 and users[0].node.op_type == "MatMul" and users[0].idx == 1:
            yield transpose, users[0].node


def decoded_record(tensor: ir.TensorProtocol) -> DecodedRecord | None:
    """The manifest's record of the op that a weight was decoded from; None if it was not decoded."""
    if isinstance(tensor, Bnb4Tensor):
        scales = tensor.absmax.name or f"{tensor.name}_absmax"
        coding = tensor.coding
        return DecodedRecord(
            op_type="MatMulBnb4", scales=scales, table=coding.table, block=coding.block, last_code=tensor.last_code
        )
    if isinstance(tensor, DequantizedTensor):
        scales = tensor.scales.name or f"{tensor.name}_scales"
        return DecodedRecord(op_type="MatMulNBits", scales=scales, block=tensor.block)
    return None


def as_it_was_mapped(original: ir.Model, mapped: ir.Model) -> ir.Model:
    """The original model with functions inlined and packed weights decoded in the same way as in the mapped model.

    Weights then have the names that the manifest uses.
    """
    return _decoded(_inlined(original, mapped), mapped)


def _inlined(original: ir.Model, mapped: ir.Model) -> ir.Model:
    if original.functions.keys() == mapped.functions.keys():
        return original
    inlined = original.clone()
    try:
        InlineWeightFunctions()(inlined)
    except ModelError:  # the models do not belong together; comparing their weights shows it
        return original
    return inlined


def _decoded(original: ir.Model, mapped: ir.Model) -> ir.Model:
    """A copy of the original in which the weights that the mapped model has decoded are decoded, too.

    The original itself if there are no such weights.
    """
    manifest = read_manifest(mapped)
    records = () if manifest is None else manifest.weights
    found = {
        original_place(record): record.decoded_from.op_type for record in records if record.decoded_from is not None
    }
    if not found:
        return original
    copy = original.clone()  # it shares the tensors
    DecodePackedWeights(set(found.values()), only=found)(copy)
    return copy
