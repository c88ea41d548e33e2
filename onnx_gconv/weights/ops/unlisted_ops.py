"""Ops that the table of MVM ops has no row for: which of them multiply matrices, and which surely do not.

The report of a mapping says which share of the products of a model is mapped. To be honest, it counts an op that nobody
has looked at as one that may multiply all matrices that it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from onnx_gconv.weights.ops.mvm_ops import known_op

__all__ = ["AttributeMatrix", "attribute_matrices", "is_compiled", "is_known", "product_inputs"]

# Products without a row in the table of MVM ops: the inputs that may hold a matrix. Their other inputs are scales,
# biases, masks and tables.
_PRODUCTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "Attention"): (0, 1, 2, 4, 5),
    ("", "LinearAttention"): (0, 1, 2, 3),
    **{
        ("com.microsoft", op_type): inputs
        for op_type, inputs in {
            "AttnLSTM": (1, 2, 8, 9, 13),
            "ConvTransposeWithDynamicPads": (1,),
            "DecoderMaskedMultiHeadAttention": (0, 1, 2, 5, 6),
            "FusedMatMulActivation": (0, 1),
            "GatedRelativePositionBias": (3,),
            "GroupQueryAttention": (0, 1, 2, 3, 4),
            "HyperConnectionLowRankMix": (2, 3, 4),
            "LinearAttention": (0, 1, 2, 3),
            "MoEGroupRouter": (2,),
            "MultiHeadAttention": (0, 1, 2, 6, 7),
            "PackedMultiHeadAttention": (0, 1, 2),
            "PagedAttention": (0, 1, 2, 3, 4),
            "QOrderedAttention": (5, 6, 7),
            "QOrderedLongformerAttention": (2, 8),
            "SparseAttention": (0, 1, 2, 3, 4),
            "SparseToDenseMatMul": (0, 1),
        }.items()
    },
}

# The ops of ONNX's own domain have been looked at up to this opset; those without a row multiply no matrix.
_KNOWN_OPSET = 28

# Ops of other domains that do not multiply a matrix with activations, or whose bodies are searched themselves.
_CLASSICAL = """
ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder
LinearClassifier LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
_ONNXRUNTIME = """
BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BitmaskBiasDropout BitmaskDropout BranchwiseRMSNorm
ComplexMul ComplexMulConj CropAndResize DequantizeBFP DequantizeLinear DequantizeWithOrder EmbedLayerNormalization
ExpandDims FastGelu GatedRMSNorm GatherBlockQuantized GatherND GatherPacked Gelu GemmaRotaryEmbedding GreedySearch
GridSample GroupNorm IsAllFinite MRotaryEmbedding MaxpoolWithMask MulInteger NGramRepeatBlock NhwcMaxPool Pad
QEmbedLayerNormalization QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu
QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QOrderedGelu QOrderedLayerNormalization
QuantizeBFP QuantizeLinear QuantizeWithOrder QuickGelu RMSNormRotary Range ReduceSumInteger RelativePositionBias
RemovePadding RestorePadding RotaryEmbedding Sampling ScaledSiLU SkipGroupNorm SkipLayerNormalization
SkipSimplifiedLayerNormalization SwiGLU TorchEmbedding Trilu UnfoldTensor Unique WhisperBeamSearch
"""
_BLOCKED = """
AveragePool GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample
"""

# Ops that ONNX Runtime defines in ONNX's own domain, though ONNX does not.
_IN_ONNX_DOMAIN = frozenset({"SimplifiedLayerNormalization"})

_NO_PRODUCTS = {
    "ai.onnx.ml": frozenset(_CLASSICAL.split()),
    "ai.onnx.preview.training": frozenset({"Adagrad", "Adam", "Momentum"}),
    "com.microsoft": frozenset(_ONNXRUNTIME.split()),
    "com.microsoft.nchwc": frozenset(_BLOCKED.split()),
}

# Classical models: the attribute that is multiplied with the input, and the attribute that tells its number of rows.
_ATTRIBUTES = {
    "LinearClassifier": ("coefficients", "intercepts"),
    "LinearRegressor": ("coefficients", "targets"),
    "SVMClassifier": ("support_vectors", "vectors_per_class"),
    "SVMRegressor": ("support_vectors", "n_supports"),
}

_COMPILED = {("com.microsoft", "EPContext"), ("com.microsoft", "Snpe")}
_MATRIX_RANK = 2


@dataclass(frozen=True)
class AttributeMatrix:
    """Numbers in an attribute of a node that may be multiplied with activations.

    Attributes:
        name: Name of the attribute; empty for a whole node that holds a compiled model.
        shape: The shape of the matrix; None if it is not known.
    """

    name: str
    shape: tuple[int, ...] | None


def product_inputs(node: ir.Node) -> tuple[int, ...]:
    """The inputs of a node that may hold a matrix of a product; empty if the table of MVM ops has a row for its op."""
    key = (node.domain, node.op_type)
    if known_op(*key) is not None:
        return ()
    if key in _COMPILED:
        return tuple(range(len(node.inputs)))
    if key in _PRODUCTS:
        return _PRODUCTS[key]
    if _is_no_product(*key):
        return ()
    return tuple(range(len(node.inputs)))


def is_compiled(node: ir.Node) -> bool:
    """Whether a node holds a compiled model, which may multiply all that it reads."""
    return (node.domain, node.op_type) in _COMPILED


def is_known(node: ir.Node) -> bool:
    """Whether the op of a node is in one of the tables, so that all inputs that may hold a weight are known."""
    key = (node.domain, node.op_type)
    return known_op(*key) is not None or key in _PRODUCTS or _is_no_product(*key)


def attribute_matrices(node: ir.Node) -> Iterator[AttributeMatrix]:
    """The matrices in the attributes of a node with a classical model, a compiled model, or an unknown op."""
    if (node.domain, node.op_type) in _COMPILED:
        yield AttributeMatrix("", None)
    elif node.domain == "ai.onnx.ml":
        yield from _of_classical_model(node)
    elif (node.domain, node.op_type) not in _PRODUCTS and known_op(node.domain, node.op_type) is None:
        yield from () if _is_no_product(node.domain, node.op_type) else _tensors(node)


def _of_classical_model(node: ir.Node) -> Iterator[AttributeMatrix]:
    """The coefficients or support vectors of a classical model, [rows, features].

    An SVM without support vectors is linear and has coefficients.
    """
    if node.op_type not in _ATTRIBUTES:
        return
    name, count = _ATTRIBUTES[node.op_type]
    numbers = node.attributes.get_floats(name)
    if not numbers and name != "coefficients":
        name, numbers = "coefficients", node.attributes.get_floats("coefficients")
    rows = _rows(node, count)
    if numbers:
        yield AttributeMatrix(name, (rows, len(numbers) // rows) if len(numbers) % rows == 0 else (len(numbers),))


def _rows(node: ir.Node, attribute: str) -> int:
    if attribute == "intercepts":
        return max(len(node.attributes.get_floats(attribute) or ()), 1)
    if attribute == "vectors_per_class":
        counts: Sequence[int] = node.attributes.get_ints(attribute) or ()
        return max(sum(counts), 1)
    return max(node.attributes.get_int(attribute, 1), 1)


def _tensors(node: ir.Node) -> Iterator[AttributeMatrix]:
    for attribute in node.attributes.values():
        if attribute.is_ref() or attribute.type not in {ir.AttributeType.TENSOR, ir.AttributeType.TENSORS}:
            continue
        is_one = attribute.type == ir.AttributeType.TENSOR
        for tensor in [attribute.as_tensor()] if is_one else attribute.as_tensors():
            if len(tensor.shape.numpy()) >= _MATRIX_RANK:
                yield AttributeMatrix(attribute.name, tuple(tensor.shape.numpy()))


@functools.cache
def _is_no_product(domain: str, op_type: str) -> bool:
    if domain == "" and op_type not in _IN_ONNX_DOMAIN:
        return onnx.defs.has(op_type, domain) and _first_opset(op_type) <= _KNOWN_OPSET
    return domain == "" or op_type in _NO_PRODUCTS.get(domain, frozenset())


def _first_opset(op_type: str) -> int:
    """The opset that introduced an op of ONNX's own domain, which `onnx.defs` has."""
    version = onnx.defs.get_schema(op_type).since_version
    while version > 1 and onnx.defs.has(op_type, version - 1, ""):
        version = onnx.defs.get_schema(op_type, version - 1).since_version
    return int(version)
