"""A weight that several nodes read, each with a bias of its own, or with one that others add, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.generated.graph_builder import Activation
from tests.generated.layers import LayerContext
from tests.generated.weight_store import Weight

__all__ = ["biased_readers"]

_OTHER_READERS = (0, 0, 1, 2)


def biased_readers(c: LayerContext) -> Activation:
    """Products with one weight on either side, each with what may stand around a bias; their sum is the result."""
    dtype = c.float_type(half=False)
    k, n = c.sizes(2)
    biases = _Biases(c, dtype)
    if c.maybe(0.3):
        weight, sibling = c.store.split_weight(c.graph, (k, n), dtype)
        biases.known[1, n] = [sibling]
    else:
        weight = c.store.weight(c.graph, (k, n), dtype, tame=True)
    reader = _reader
    if c.maybe(0.4):
        biases = _Biases(c, dtype, is_one=True)
        reader = _right_reader if c.maybe(0.6) else _left_reader
    total = reader(c, weight, biases)
    for _ in range(c.choices.choice(_OTHER_READERS)):
        other = reader(c, weight, biases)
        sum_of_both = c.graph.node("Add", [total.name, c.graph.resized(other, total.shape, dtype)])
        total = replace(total, name=sum_of_both)
    return total


class _Biases:
    """Biases by their shapes, so that nodes can share them; or one for all nodes."""

    def __init__(self, c: LayerContext, dtype: np.dtype, *, is_one: bool = False) -> None:
        self._c, self._dtype, self.is_one = c, dtype, is_one
        self.known: dict[tuple[int, ...], list[str]] = {}

    def one(self, shape: Sequence[int]) -> str:
        """A bias that broadcasts to a shape, and its own shape: along rows, along columns, or for all alike."""
        *_, rows, columns = shape
        shapes = [(columns,), (columns,), (1, columns), (rows, 1), (rows, 1), (rows, columns), (1,), (1, 1), ()]
        return self.of_shape(self._c.choices.choice(shapes))

    def of_shape(self, shape: tuple[int, ...]) -> str:
        """A bias of that shape, a new one or one that is there."""
        known = self.known.setdefault(shape, [])
        if not known or (not self.is_one and self._c.maybe(0.6)):
            known.append(self._c.graph.constant(self._c.random_array(shape, self._dtype), "B"))
        return self._c.choices.choice(known)


def _right_reader(c: LayerContext, weight: Weight, biases: _Biases) -> Activation:
    """``x @ W + b``, with the one bias of all, by MatMul and Add or by Gemm."""
    m, (k, n), dtype = c.size(), weight.array.shape, weight.array.dtype
    inputs, bias = [c.activation((m, k), dtype), weight], biases.of_shape((n,))
    if c.maybe(0.3):
        return c.mvm("Gemm", [*inputs, bias], (m, n), dtype, slots=[1])
    y = c.mvm("MatMul", inputs, (m, n), dtype, slots=[1])
    return replace(y, name=c.graph.node("Add", [y.name, bias] if c.maybe() else [bias, y.name]))


def _left_reader(c: LayerContext, weight: Weight, biases: _Biases) -> Activation:
    """``W @ x + b``, with the one bias of all."""
    m, (k, n), dtype = c.size(), weight.array.shape, weight.array.dtype
    y = c.mvm("MatMul", [weight, c.activation((n, m), dtype)], (k, m), dtype, slots=[0])
    return replace(y, name=c.graph.node("Add", [y.name, biases.of_shape((k, 1))]))


def _reader(c: LayerContext, weight: Weight, biases: _Biases) -> Activation:
    m, (k, n) = c.size(), weight.array.shape
    is_right, dtype = c.maybe(0.6), weight.array.dtype
    x = c.activation((m, k) if is_right else (n, m), dtype)
    shape = (m, n) if is_right else (k, m)
    operands: list[str | Weight] = [x, weight] if is_right else [weight, x]
    if c.maybe(0.3):
        bias, beta = biases.one(shape), c.choices.choice((None, 1.0, -0.5, 0.0))
        y = c.mvm("Gemm", [*operands, bias], shape, dtype, slots=[int(is_right)], beta=beta)
    else:
        y = c.mvm("MatMul", operands, shape, dtype, slots=[int(is_right)])
    for _ in range(c.choices.choice((0, 1, 1, 1, 1, 2))):
        y = _added(c, y, biases)
    return y


def _added(c: LayerContext, y: Activation, biases: _Biases) -> Activation:
    """What is added to a product, with what may stand around: an op between, another reader, or no sum at all."""
    bias = biases.one(y.shape)
    value = c.graph.node("Identity", [y.name]) if c.maybe(0.1) else y.name
    op_type = c.choices.choice(("Add",) * 8 + ("Sub", "Mul"))
    if op_type == "Add" and c.maybe(0.1):
        bias = value
    operands = [value, bias] if c.maybe() else [bias, value]
    name = c.graph.node(op_type, operands)
    if c.graph.parent is None and not c.graph.is_function and c.maybe(0.1):
        c.graph.output(y.name, y.dtype, y.shape)
    elif c.maybe(0.15):
        name = c.graph.node("Add", [name, c.graph.node(c.choices.choice(("Relu", "Neg")), [y.name])])
    elif c.maybe(0.1) and bias != value:
        name = c.graph.node("Add", [name, bias])
    return replace(y, name=name)
