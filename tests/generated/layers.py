"""One layer for each MVM op: a node, its weights, and an activation that fits."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.generated.graph_builder import Activation, GraphBuilder
from tests.generated.weight_store import (
    DEQUANTIZING_OPSETS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    UINT8,
    Weight,
    WeightStore,
)

INT32 = np.dtype(np.int32)
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, eq=False)
class ExpectedSlot:
    """A weight slot of the model, and what is known of the weight in it.

    Attributes:
        graph: The name of the graph that the node stands in.
        op_type: The node's op.
        slot: Index of the node's input.
        weight: The weight.
        is_in_function: Whether the node stands in a function that is called there, or in a body in it.
        is_renamed: Whether names may be others when functions are put in place of their calls.
        may_stay: Whether that function imports another opset than the model, so that it may not be put in place.
    """

    graph: str
    op_type: str
    slot: int
    weight: Weight
    is_in_function: bool = False
    is_renamed: bool = False
    may_stay: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether the op multiplies integers."""
        return self.weight.array.dtype.kind in "iu"

    def __str__(self) -> str:
        sources = " + ".join(f"{s.name} {s.array.dtype}{list(s.array.shape)} of {s.graph}" for s in self.weight.sources)
        way = "".join(f" -> {op}" for op in self.weight.way)
        return f"{sources}{way} -> {self.op_type}[{self.slot}] {list(self.weight.array.shape)} in {self.graph}"


@dataclass(eq=False)
class LayerContext:
    """Where a layer is built.

    Attributes:
        graph: The graph.
        choices: Draws the layer.
        store: Makes weights.
        feeds: The inputs of the model so far.
        trunk: The result of the layers before, in a graph around this one.
        slots: The weight slots so far.
    """

    graph: GraphBuilder
    choices: random.Random
    store: WeightStore
    feeds: dict[str, np.ndarray]
    trunk: Activation | None
    slots: list[ExpectedSlot] = field(default_factory=list)

    @property
    def opset(self) -> int:
        """The opset of the model."""
        return self.graph.opset

    def size(self, most: int = 6) -> int:
        """The size of an axis."""
        return self.choices.randint(1, most)

    def sizes(self, count: int, most: int = 6) -> list[int]:
        """Sizes of axes."""
        return [self.size(most) for _ in range(count)]

    def maybe(self, probability: float = 0.5) -> bool:
        """A coin."""
        return self.choices.random() < probability

    def float_type(self, *, double: bool = True, half: bool = True) -> np.dtype:
        """The type in which a layer computes."""
        types = [FLOAT32] * 6 + [FLOAT64] * double + [FLOAT16] * half
        return self.choices.choice(types)

    def random_array(self, shape: Sequence[int], dtype: np.dtype = FLOAT32) -> np.ndarray:
        """Elements of activations and biases."""
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            return self.store.numbers.integers(max(info.min, -999), min(info.max, 999) + 1, tuple(shape)).astype(dtype)
        return self.store.numbers.uniform(-1, 1, tuple(shape)).astype(dtype)

    def activation(self, shape: Sequence[int], dtype: np.dtype = FLOAT32) -> str:
        """A value of the given shape and type that depends on inputs.

        Only float32 and float64 layers go on from the layers before: rounding errors, which the rebuilt weights of
        those may have, would flip roundings in narrower types.
        """
        shape = tuple(shape)
        main = self.graph.enclosing()[0]
        value = self._input(main, shape, dtype if dtype.kind in "iu" else FLOAT32)
        if dtype.kind in "iu":
            return value
        places = self.graph.enclosing()
        if dtype != FLOAT16 and self.trunk is not None and self.trunk.size and self.maybe(0.8):
            value = self._mixed(self.choices.choice(places), value, shape)
        if self.graph.iteration is not None and shape:
            value = self.graph.node("Add", [value, self.graph.iteration])
        return value if dtype == FLOAT32 else self.graph.cast(value, dtype)

    def exact_activation(self, shape: Sequence[int]) -> str:
        """A float32 value that does not depend on the layers before, for layers that round to integers."""
        return self._input(self.graph.enclosing()[0], tuple(shape), FLOAT32)

    def _input(self, main: GraphBuilder, shape: tuple[int, ...], dtype: np.dtype) -> str:
        array = self.random_array(shape, dtype)
        named = [f"{'NHT'[axis % 3]}{len(self.feeds)}" if self.maybe(0.1) else size for axis, size in enumerate(shape)]
        name = main.input(dtype, named)
        self.feeds[name] = array
        return name

    def _mixed(self, graph: GraphBuilder, value: str, shape: tuple[int, ...]) -> str:
        """An input plus elements of the trunk, which is taken to the shape by Reshape and Gather."""
        trunk = self.trunk
        assert trunk is not None
        size = int(np.prod(shape, dtype=np.int64))
        flat = trunk.name if len(trunk.shape) == 1 else graph.reshape(trunk.name, [-1])
        indices = self.choices.sample(range(trunk.size), trunk.size)
        positions = np.resize(indices, size).reshape(shape)
        gathered = graph.node("Gather", [flat, graph.constant(positions.astype(np.int64), "indices")])
        return graph.node("Add", [value, gathered])

    def mvm(
        self,
        op_type: str,
        inputs: Sequence[str | Weight],
        shape: Sequence[int],
        dtype: np.dtype,
        *,
        slots: Sequence[int],
        domain: str = "",
        outputs: Sequence[str] | int = 1,
        result: int = 0,
        **attributes: object,
    ) -> Activation:
        """Append the node of a layer and note its weight slots.

        Args:
            op_type: The op.
            inputs: Values and weights.
            shape: The shape of the result.
            dtype: The type of the result.
            slots: Which of the weights stand in weight slots.
            domain: The op's domain.
            outputs: The node's outputs.
            result: Which of them is the result.
            **attributes: The node's attributes.
        """
        names = [item.value if isinstance(item, Weight) else item for item in inputs]
        while names and not names[-1]:
            names.pop()
        if isinstance(outputs, int):
            outputs = [self.graph.new_name("y") for _ in range(outputs)]
        self.graph.node(op_type, names, domain=domain, outputs=outputs, **attributes)
        weights = [inputs[slot] for slot in slots]
        for slot, weight in zip(slots, weights, strict=True):
            assert isinstance(weight, Weight)
            self.slots.append(ExpectedSlot(self.graph.name, op_type, slot, weight))
        is_tame = all(weight.is_tame for weight in weights if isinstance(weight, Weight))
        return Activation(outputs[result], np.dtype(dtype), tuple(int(size) for size in shape), is_tame)

    def bias(self, shape: Sequence[int], dtype: np.dtype = FLOAT32) -> str:
        """A bias, or nothing."""
        return self.graph.constant(self.random_array(shape, dtype), "B") if self.maybe() else ""


Layer = Callable[[LayerContext], Activation]


def _matmul_shapes(c: LayerContext, weight_side: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of both operands of MatMul: the activation's and the weight's."""
    m, k, n = c.sizes(3)
    form = c.choices.choice(("matrix", "matrix", "matrix", "batch", "batches", "broadcast", "vector", "both vectors"))
    if form == "matrix" and (shape := c.store.suggested_shape(c.graph, 2)) is not None:
        k, n = shape if weight_side == "right" else shape[::-1]
    batch = tuple(c.sizes(c.choices.randint(1, 2), 3))
    x, w = {
        "matrix": ((*(batch if c.maybe(0.4) else ()), m, k), (k, n)),
        "batch": ((m, k), (*batch, k, n)),
        "batches": ((*batch, m, k), (*batch, k, n)),
        "broadcast": ((*batch, m, k), (*(1 for _ in batch), k, n)),
        "vector": ((m, k), (k,)),
        "both vectors": ((k,), (k,)) if c.maybe() else ((k,), (k, n)),
    }[form]
    if weight_side == "left":
        x = (*x[:-2], *x[-2:][::-1])
        w = (*w[:-2], *w[-2:][::-1])
    return x, w


def _product_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return np.matmul(np.zeros(first), np.zeros(second)).shape


def matmul_right(c: LayerContext) -> Activation:
    dtype = c.float_type()
    x, w = _matmul_shapes(c, "right")
    inputs = [c.activation(x, dtype), c.store.weight(c.graph, w, dtype)]
    return c.mvm("MatMul", inputs, _product_shape(x, w), dtype, slots=[1])


def matmul_left(c: LayerContext) -> Activation:
    dtype = c.float_type()
    x, w = _matmul_shapes(c, "left")
    inputs = [c.store.weight(c.graph, w, dtype), c.activation(x, dtype)]
    return c.mvm("MatMul", inputs, _product_shape(w, x), dtype, slots=[0])


def matmul_integer(c: LayerContext) -> Activation:
    side = c.choices.choice(("right", "right", "left"))
    x, w = _matmul_shapes(c, side)
    x_type, w_type = c.choices.choice(((UINT8, INT8), (UINT8, UINT8), (INT8, INT8), (INT8, UINT8)))
    operands = [c.activation(x, x_type), c.store.codes(c.graph, w, w_type)]
    zeros = [_zero_point(c, x_type), _zero_point(c, w_type)]
    shapes = [x, w]
    if side == "left":
        operands, zeros, shapes = operands[::-1], zeros[::-1], shapes[::-1]
    shape = _product_shape(*shapes)
    return c.mvm("MatMulInteger", [*operands, *zeros], shape, INT32, slots=[int(side == "right")])


def _zero_point(c: LayerContext, dtype: np.dtype) -> str:
    return c.graph.constant(c.random_array((), dtype), "zero_point") if c.maybe() else ""


def qlinear_matmul(c: LayerContext) -> Activation:
    side = c.choices.choice(("right", "right", "left"))
    x, w = _matmul_shapes(c, side)
    x_type, w_type = c.choices.choice(((UINT8, INT8), (UINT8, UINT8), (INT8, INT8)))
    if side == "left" and x_type != w_type:
        x_type = w_type
    operands = [
        [c.activation(x, x_type), *_quantization(c, x_type)],
        [c.store.codes(c.graph, w, w_type), *_quantization(c, w_type)],
    ]
    shapes = [x, w]
    if side == "left":
        operands, shapes = operands[::-1], shapes[::-1]
    y_type = x_type
    shape = _product_shape(*shapes)
    inputs = [*operands[0], *operands[1], *_quantization(c, y_type, 40.0)]
    return c.mvm("QLinearMatMul", inputs, shape, y_type, slots=[0 if side == "left" else 3])


def _quantization(c: LayerContext, dtype: np.dtype, factor: float = 1.0) -> list[str]:
    """A scale and a zero point."""
    scale = np.float32(c.choices.uniform(0.5, 1.0) / 128 * factor)
    zero = (c.random_array((), dtype) // 8).astype(dtype)  # NumPy 1 makes int64 of it
    return [c.graph.constant(scale, "scale"), c.graph.constant(zero, "zero_point")]


def qdq(c: LayerContext) -> Activation:
    """An activation that is quantized and dequantized, in front of a dequantized weight."""
    k, n, m = c.sizes(3)
    op_type = c.choices.choice(("MatMul", "Gemm", "Conv"))
    x_shape = {"MatMul": (m, k), "Gemm": (m, k), "Conv": (1, k, 4, 3)}[op_type]
    w_shape = {"MatMul": (k, n), "Gemm": (k, n), "Conv": (n, k, 2, 1)}[op_type]
    shape = {"MatMul": (m, n), "Gemm": (m, n), "Conv": (1, n, 3, 3)}[op_type]
    parameters = _quantization(c, UINT8)
    codes = c.graph.node("QuantizeLinear", [c.exact_activation(x_shape), *parameters])
    x = c.graph.node("DequantizeLinear", [codes, *parameters])
    # A scale for each input is more than ONNX Runtime takes once it has fused the nodes.
    if c.opset >= 13 and c.maybe():
        weight = c.store.decoded_by_channel(c.graph, w_shape, axis=0 if op_type == "Conv" else 1)
    else:
        weight = c.store.decoded(c.graph, w_shape, by_axis=False)
    inputs = [x, weight]
    if op_type == "Gemm":
        inputs.append(c.graph.constant(c.random_array((n,)), "B"))
    return c.mvm(op_type, inputs, shape, FLOAT32, slots=[1])


def _gemm(c: LayerContext, op_type: str, domain: str, dtype: np.dtype, **attributes: object) -> Activation:
    m, k, n = c.sizes(3)
    trans_a, trans_b, is_right = c.maybe(), c.maybe(), c.maybe(0.7)
    if (shared := c.store.suggested_shape(c.graph, 2)) is not None:
        if is_right:
            k, n = shared[::-1] if trans_b else shared
        else:
            m, k = shared[::-1] if trans_a else shared
    a, b = (k, m) if trans_a else (m, k), (n, k) if trans_b else (k, n)
    if is_right:
        operands = [c.activation(a, dtype), c.store.weight(c.graph, b, dtype)]
    else:
        operands = [c.store.weight(c.graph, a, dtype), c.activation(b, dtype)]
    bias = c.bias(c.choices.choice(((n,), (1, n), (m, n), (m, 1), (1,), ())), dtype)
    if not bias and (c.opset < 11 or domain):
        bias = c.graph.constant(c.random_array((n,), dtype), "C")
    return c.mvm(
        op_type,
        [*operands, bias],
        (m, n),
        dtype,
        slots=[int(is_right)],
        domain=domain,
        transA=int(trans_a) if trans_a or c.maybe() else None,
        transB=int(trans_b) if trans_b or c.maybe() else None,
        alpha=c.choices.choice((None, 1.0, 0.5, -1.25)),
        beta=c.choices.choice((None, 1.0, 0.0, 0.75)),
        **attributes,
    )


def gemm(c: LayerContext) -> Activation:
    return _gemm(c, "Gemm", "", c.float_type())


def fused_gemm(c: LayerContext) -> Activation:
    return _gemm(c, "FusedGemm", MICROSOFT, FLOAT32, activation=c.choices.choice(("Relu", "Tanh", "Sigmoid")))


@dataclass(frozen=True)
class _ConvShape:
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    attributes: Mapping[str, object]


def _conv_shape(c: LayerContext, axes: int) -> _ConvShape:
    groups = c.choices.choice((1, 1, 1, 2, 3))
    depthwise = groups > 1 and c.maybe(0.3)
    inputs = groups * (1 if depthwise else c.size(3))
    outputs = groups * c.size(3)
    kernel, strides, dilations = c.sizes(axes, 3), c.sizes(axes, 2), c.sizes(axes, 2)
    pads = [c.choices.randrange(2) for _ in range(2 * axes)]
    if c.maybe():
        strides, dilations, pads = [1] * axes, [1] * axes, [0] * 2 * axes
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    spatial = [size + c.choices.randrange(3) for size in reach]
    positions = [
        (size + pads[axis] + pads[axis + axes] - reach[axis]) // strides[axis] + 1 for axis, size in enumerate(spatial)
    ]
    batch = c.size(2)
    attributes = {
        "group": groups if groups > 1 or c.maybe() else None,
        "strides": strides if set(strides) != {1} or c.maybe() else None,
        "dilations": dilations if set(dilations) != {1} or c.maybe() else None,
        "pads": pads if any(pads) or c.maybe() else None,
        "kernel_shape": kernel if c.maybe() else None,
    }
    return _ConvShape(
        (batch, inputs, *spatial), (outputs, inputs // groups, *kernel), (batch, outputs, *positions), attributes
    )


def conv(c: LayerContext) -> Activation:
    shape = _conv_shape(c, c.choices.choice((1, 2, 2, 3)))
    dtype = c.float_type(double=False)
    inputs = [c.activation(shape.x, dtype), c.store.weight(c.graph, shape.w, dtype), c.bias(shape.w[:1], dtype)]
    return c.mvm("Conv", inputs, shape.y, dtype, slots=[1], **shape.attributes)


def fused_conv(c: LayerContext) -> Activation:
    shape = _conv_shape(c, 2)
    inputs = [c.activation(shape.x), c.store.weight(c.graph, shape.w), c.bias(shape.w[:1])]
    activation = c.choices.choice(("Relu", "Tanh", "Sigmoid"))
    return c.mvm(
        "FusedConv", inputs, shape.y, FLOAT32, slots=[1], domain=MICROSOFT, activation=activation, **shape.attributes
    )


def conv_integer(c: LayerContext) -> Activation:
    shape = _conv_shape(c, 2)
    inputs = [
        c.activation(shape.x, UINT8),
        c.store.codes(c.graph, shape.w, UINT8),
        _zero_point(c, UINT8),
        _zero_point(c, UINT8),
    ]
    return c.mvm("ConvInteger", inputs, shape.y, INT32, slots=[1], **shape.attributes)


def qlinear_conv(c: LayerContext) -> Activation:
    shape = _conv_shape(c, 2)
    x_type, w_type = c.choices.choice(((UINT8, INT8), (UINT8, UINT8), (INT8, INT8)))
    weight = [c.store.codes(c.graph, shape.w, w_type), *_quantization(c, w_type)]
    if w_type == INT8 and c.maybe():
        scales = (c.store.numbers.uniform(0.5, 1.0, shape.w[0]) / 128).astype(np.float32)
        zeros = np.zeros(shape.w[0], np.int8)
        weight[1:] = [c.graph.constant(scales, "scale"), c.graph.constant(zeros, "zero_point")]
    inputs = [c.activation(shape.x, x_type), *_quantization(c, x_type), *weight, *_quantization(c, x_type, 40.0)]
    if c.maybe():
        inputs.append(c.graph.constant(c.random_array(shape.w[:1], INT32), "B"))
    return c.mvm("QLinearConv", inputs, shape.y, x_type, slots=[3], **shape.attributes)


def conv_transpose(c: LayerContext) -> Activation:
    axes = c.choices.choice((1, 2, 2, 3))
    groups = c.choices.choice((1, 1, 2, 3))
    inputs, outputs = groups * c.size(3), c.size(3)
    kernel, strides, dilations = c.sizes(axes, 3), c.sizes(axes, 3), c.sizes(axes, 2)
    spatial, batch = c.sizes(axes, 3), c.size(2)
    extra = [c.choices.randrange(stride) for stride in strides]
    y = [
        stride * (size - 1) + more + (k - 1) * dilation + 1
        for size, stride, more, k, dilation in zip(spatial, strides, extra, kernel, dilations, strict=True)
    ]
    x_shape, w_shape = (batch, inputs, *spatial), (inputs, outputs, *kernel)
    weight = c.store.weight(c.graph, w_shape)
    return c.mvm(
        "ConvTranspose",
        [c.activation(x_shape), weight, c.bias((outputs * groups,))],
        (batch, outputs * groups, *y),
        FLOAT32,
        slots=[1],
        group=groups if groups > 1 or c.maybe() else None,
        strides=strides,
        dilations=dilations,
        output_padding=extra if any(extra) else None,
    )


def _recurrent(op_type: str, gates: int) -> Layer:
    def layer(c: LayerContext) -> Activation:
        steps, batch, inputs, hidden = c.size(3), c.size(3), c.size(), c.size(4)
        direction = c.choices.choice(("forward", "reverse", "bidirectional"))
        directions = 2 if direction == "bidirectional" else 1
        w_shape, r_shape = (directions, gates * hidden, inputs), (directions, gates * hidden, hidden)
        weights = [c.store.weight(c.graph, shape, tame=True) for shape in (w_shape, r_shape)]
        bias = c.bias((directions, 2 * gates * hidden))
        optional = []
        if c.maybe(0.3):
            lengths = c.graph.constant(np.full(batch, steps, np.int32), "lengths")
            optional = [lengths, c.activation((directions, batch, hidden))]
            if op_type == "LSTM" and c.maybe():
                optional.append(c.activation((directions, batch, hidden)))
                if c.maybe():
                    optional.append(c.graph.constant(c.random_array((directions, 3 * hidden)), "P"))
        wants_last = c.maybe(0.3)
        names = [c.graph.new_name("y"), c.graph.new_name("y")] if wants_last else [c.graph.new_name("y")]
        if wants_last and c.maybe():
            names[0] = ""
        shape = (directions, batch, hidden) if wants_last else (steps, directions, batch, hidden)
        more = {"linear_before_reset": c.choices.randrange(2)} if op_type == "GRU" else {}
        return c.mvm(
            op_type,
            [c.activation((steps, batch, inputs)), *weights, bias, *optional],
            shape,
            FLOAT32,
            slots=[1, 2],
            outputs=names,
            result=len(names) - 1,
            hidden_size=hidden,
            direction=direction if direction != "forward" or c.maybe() else None,
            **more,
        )

    return layer


def dynamic_quantize_lstm(c: LayerContext) -> Activation:
    steps, batch, inputs, hidden = c.size(3), c.size(3), c.size(), c.size(4)
    directions = c.size(2)
    w_type = c.choices.choice((INT8, UINT8))
    # The op wants its weights transposed: [directions, inputs, 4 * hidden].
    weights = [c.store.codes(c.graph, (directions, size, 4 * hidden), w_type) for size in (inputs, hidden)]
    parameters = []
    for _ in weights:
        scales = np.full(directions, c.choices.uniform(0.5, 1) / 128, np.float32)
        zeros = np.full(directions, 0 if w_type == INT8 else 128, w_type)
        parameters += [c.graph.constant(scales, "scale"), c.graph.constant(zeros, "zero_point")]
    return c.mvm(
        "DynamicQuantizeLSTM",
        [
            c.exact_activation((steps, batch, inputs)),
            *weights,
            c.bias((directions, 8 * hidden)),
            "",
            "",
            "",
            "",
            *parameters,
        ],
        (steps, directions, batch, hidden),
        FLOAT32,
        slots=[1, 2],
        domain=MICROSOFT,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else c.choices.choice(("forward", "reverse")),
    )


_EQUATIONS = (
    "ij,jk->ik",
    "ij,kj->ik",
    "bij,bjk->bik",
    "bthd,hdk->btk",
    "ij,jk",
    "i j, h j k -> h i k",
    "ij,jkl->ilk",
    "bij,jk->bki",
    "j,jk->k",
)


def einsum(c: LayerContext) -> Activation:
    equation = c.choices.choice(_EQUATIONS)
    dtype = c.float_type(half=False)
    terms, _, result = equation.replace(" ", "").partition("->")
    labels = terms.split(",")
    sizes = {label: c.size(4) for label in sorted(set(terms) - {","})}
    result = result or "".join(label for label in sorted(sizes) if terms.count(label) == 1)
    x, w = ([sizes[label] for label in term] for term in labels)
    inputs: list[str | Weight] = [c.activation(x, dtype), c.store.weight(c.graph, w, dtype)]
    slot = 1
    if c.maybe(0.3):
        swapped = ",".join(labels[::-1])
        equation, inputs, slot = f"{swapped}->{result}", inputs[::-1], 0
    return c.mvm("Einsum", inputs, [sizes[label] for label in result], dtype, slots=[slot], equation=equation)


def fused_matmul(c: LayerContext) -> Activation:
    b, m, k, n = c.sizes(4)
    side = c.choices.choice("AB")
    has_batch = c.maybe()
    trans, trans_batch = c.maybe(), has_batch and c.maybe()
    inner = (k, n) if side == "B" else (m, k)
    w = (*((b,) if has_batch else ()), *(inner[::-1] if trans else inner))
    if trans_batch:
        w = (w[1], w[0], w[2])
    other = (m, k) if side == "B" else (k, n)
    x = (*((b,) if has_batch else ()), *other)
    operands: list[str | Weight] = [c.activation(x), c.store.weight(c.graph, w)]
    return c.mvm(
        "FusedMatMul",
        operands if side == "B" else operands[::-1],
        (*((b,) if has_batch else ()), m, n),
        FLOAT32,
        slots=[1 if side == "B" else 0],
        domain=MICROSOFT,
        alpha=c.choices.choice((None, 1.0, -0.5)),
        **{f"trans{side}": int(trans), f"transBatch{side}": int(trans_batch) if trans_batch else None},
    )


def attention(c: LayerContext) -> Activation:
    heads, size, steps, batch, inputs = c.size(2), c.size(3), c.size(3), c.size(2), c.size(6)
    hidden = heads * size
    weight = c.store.weight(c.graph, (inputs, 3 * hidden), tame=True)
    bias = c.graph.constant(c.random_array((3 * hidden,)), "B")
    return c.mvm(
        "Attention",
        [c.activation((batch, steps, inputs)), weight, bias],
        (batch, steps, hidden),
        FLOAT32,
        slots=[1],
        domain=MICROSOFT,
        num_heads=heads,
    )


_ALL = range(7, 100)
_WITH_EINSUM = range(12, 100)
_WITH_INTEGERS = range(10, 100)

# The layers, each with the opsets that have it
LAYERS: Mapping[Layer, range] = {
    matmul_right: _ALL,
    matmul_left: _ALL,
    gemm: _ALL,
    conv: _ALL,
    conv_transpose: _ALL,
    _recurrent("LSTM", 4): _ALL,
    _recurrent("GRU", 3): _ALL,
    _recurrent("RNN", 1): _ALL,
    einsum: _WITH_EINSUM,
    fused_matmul: _ALL,
    fused_gemm: _ALL,
    fused_conv: _ALL,
    attention: _ALL,
    matmul_integer: _WITH_INTEGERS,
    conv_integer: _WITH_INTEGERS,
    qlinear_matmul: _WITH_INTEGERS,
    qlinear_conv: _WITH_INTEGERS,
    qdq: DEQUANTIZING_OPSETS,
    dynamic_quantize_lstm: _WITH_INTEGERS,
}
