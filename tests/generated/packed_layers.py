"""Layers whose weights are packed codes: of MatMulNBits, MatMulBnb4, and of DequantizeLinear with blocks."""

from __future__ import annotations

import math

from tests.generated.graph_builder import Activation
from tests.generated.layers import MICROSOFT, Layer, LayerContext
from tests.generated.weight_store import FLOAT32, INT8, UINT8
from tests.packed_models import packed_bnb4, quantized

__all__ = ["PACKED_LAYERS"]

_INPUTS = (16, 20, 33, 48)


def matmul_nbits(c: LayerContext) -> Activation:
    bits, block, (k, n, m) = c.choices.choice((2, 4, 8)), c.choices.choice((16, 32)), _sizes(c)
    points = c.choices.choice(("none", "packed", "float") if bits < 8 else ("none", "packed"))
    found = quantized(n, k, bits=bits, block=block, points=points, seed=c.choices.randrange(1 << 30))
    inputs = [
        c.exact_activation((m, k)),
        c.store.packed(c.graph, found.stored),
        c.graph.constant(found.scales, "scale"),
    ]
    inputs.append("" if found.stored_points is None else c.graph.constant(found.stored_points, "zero_point"))
    inputs += ["", c.bias((n,))]
    level = c.choices.choice((None, 0, 1, 4))
    said = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": level}
    return c.mvm("MatMulNBits", inputs, (m, n), FLOAT32, slots=[1], domain=MICROSOFT, **said)


def matmul_bnb4(c: LayerContext) -> Activation:
    is_normal, block, (k, n, m) = c.maybe(), c.choices.choice((16, 32)), _sizes(c)
    stored, absmax = packed_bnb4(k, n, block=block, is_normal=is_normal, seed=c.choices.randrange(1 << 30))
    inputs = [c.activation((m, k)), c.store.packed(c.graph, stored), c.graph.constant(absmax, "absmax")]
    said = {"K": k, "N": n, "block_size": block, "quant_type": int(is_normal), "transB": 1 if c.maybe() else None}
    return c.mvm("MatMulBnb4", inputs, (m, n), FLOAT32, slots=[1], domain=MICROSOFT, **said)


def blocked_matmul(c: LayerContext) -> Activation:
    """A product with a weight that DequantizeLinear decodes in blocks of inputs."""
    k, n, m = _sizes(c)
    block, dtype = c.choices.choice((4, 7, 16)), c.choices.choice((INT8, UINT8))
    if math.ceil(k / math.ceil(k / block)) != block:  # which the shape of the scales contradicts
        block = k
    weight = c.store.decoded_by_block(c.graph, (k, n), block, dtype)
    return c.mvm("MatMul", [c.activation((m, k)), weight], (m, n), FLOAT32, slots=[1])


def _sizes(c: LayerContext) -> tuple[int, int, int]:
    """Inputs, outputs and rows."""
    return c.choices.choice(_INPUTS), c.size(), c.size(3)


# With the opsets that have them; ONNX Runtime's ops are those of any.
PACKED_LAYERS: dict[Layer, range] = {
    matmul_nbits: range(10, 100),
    matmul_bnb4: range(10, 100),
    blocked_matmul: range(21, 26),
}
