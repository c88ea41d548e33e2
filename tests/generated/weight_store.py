"""The weights of a generated model: their values, how they are stored, and the nodes on their way to a weight slot."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from tests.generated.computed import any_op
from tests.generated.graph_builder import GraphBuilder, value_info

FLOAT32, FLOAT64, FLOAT16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
BFLOAT16, INT8, UINT8 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.int8), np.dtype(np.uint8)

_STEMS = ("W", "W", "layer1.weight", "fc/W", "W.g_plus", "W.g_scale", "W.g_minus_1", "/MatMul_B:0", "ä")
_TAME_KINDS = ("normal", "normal", "normal", "sparse", "zero", "negative zero", "tiny", "positive", "powers")
_LARGEST_OF_TAME = 10
_WILD_KINDS = ("huge", "outlier", "subnormal")

# DequantizeLinear came with the first; ONNX Runtime has no kernels for the newest forms.
DEQUANTIZING_OPSETS = range(10, 26)
_OLDEST_OF_MIXED_CODES = 21

Emit = Callable[..., str]  # of the graph, the value, and further constants


@dataclass(frozen=True, eq=False)
class Source:
    """A constant that holds a weight, or a part of one.

    Attributes:
        graph: The name of its graph.
        name: Its name.
        array: Its elements.
        is_tame: Whether its elements are at most a few.
        is_overridable: Whether it is the default of a graph input.
    """

    graph: str
    name: str
    array: np.ndarray
    is_tame: bool
    is_overridable: bool = False


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight as it arrives in a weight slot.

    Attributes:
        value: The name of the value.
        array: Its elements there.
        sources: The constants it is made of.
        way: The op types between, in order.
        is_computed: Whether more happens on the way than rearranging.
        is_rounded: Whether that has other last places in each runtime.
        is_large: Whether that gives more than a few.
    """

    value: str
    array: np.ndarray
    sources: tuple[Source, ...]
    way: tuple[str, ...]
    is_computed: bool
    is_rounded: bool = False
    is_large: bool = False

    @property
    def is_tame(self) -> bool:
        """Whether its elements are at most a few."""
        return not self.is_large and all(source.is_tame for source in self.sources)


@dataclass(frozen=True)
class _Step:
    """A node in front of a weight slot.

    Attributes:
        op_type: The op.
        before: What goes in, so that the wanted array comes out.
        emit: Appends the node.
        is_computed: Whether it does more than rearrange.
        others: Further constants that hold parts of the weight.
        sibling: What another output of the node gives, and its place among the outputs; None if it has one output.
    """

    op_type: str
    before: np.ndarray
    emit: Emit
    is_computed: bool = False
    others: tuple[np.ndarray, ...] = ()
    sibling: tuple[np.ndarray, int] | None = None


@dataclass(eq=False)
class WeightStore:
    """Makes weights, and keeps those that later layers may share.

    Attributes:
        choices: Draws how weights are stored.
        numbers: Draws their elements.
        stored: Constants that later layers may share, with their graphs.
        siblings: Further outputs of nodes that split weights, with the graphs of these nodes.
        computing_ops: The ops that compute weights, each with its version.
    """

    choices: random.Random
    numbers: np.random.Generator
    stored: list[tuple[GraphBuilder, Source]] = field(default_factory=list)
    siblings: list[tuple[GraphBuilder, Weight]] = field(default_factory=list)
    computing_ops: set[tuple[str, int]] = field(default_factory=set)

    def suggested_shape(self, graph: GraphBuilder, rank: int) -> tuple[int, ...] | None:
        """Now and then the shape of a weight that is there already, so that it can be shared."""
        shapes = [
            source.array.shape
            for owner, source in self.stored
            if owner in graph.enclosing() and graph.sees(source.name, owner) and source.array.ndim == rank
        ]
        return self.choices.choice(shapes) if shapes and self.choices.random() < 0.3 else None

    def weight(
        self, graph: GraphBuilder, shape: Sequence[int], dtype: np.dtype = FLOAT32, *, tame: bool = False
    ) -> Weight:
        """A weight of floats for a weight slot in a graph."""
        shape = tuple(shape)
        if (shared := self._shared(graph, shape, dtype, tame=tame)) is not None:
            return shared
        draw = self.choices.random()
        if dtype == FLOAT32 and draw > 0.92 and (found := self._by_any_op(graph, shape)) is not None:
            return found
        # Once such a function is in place of its call, ONNX Runtime's optimizer mixes signed and unsigned codes.
        is_mixed = graph.enclosing()[0].is_function and graph.opset >= _OLDEST_OF_MIXED_CODES
        if dtype == FLOAT32 and graph.opset in DEQUANTIZING_OPSETS and draw < 0.15 and not is_mixed:
            return self.decoded(graph, shape)
        kind = self.choices.choice(_TAME_KINDS if tame or draw < 0.8 else _WILD_KINDS)
        array = self._elements(kind, shape, dtype)
        if draw > 0.65:
            # A third of the weights is computed.
            array, first = self._storable(graph, array)
        else:
            first = None
        steps = [] if first is None else [first]
        current = array if first is None else first.before
        for _ in range(self.choices.choice((0, 0, 0, 1, 1, 2, 3))):
            step = self._rearranging(current)
            if draw > 0.85 and current.dtype != BFLOAT16 and self.choices.random() < 0.5:
                step = self._computing(current) or step
            steps.append(step)
            current = step.before
        return self._placed(graph, array, steps, is_tame=kind in _TAME_KINDS)

    def codes(self, graph: GraphBuilder, shape: Sequence[int], dtype: np.dtype) -> Weight:
        """A weight of integers for a weight slot in a graph."""
        shape = tuple(shape)
        if (shared := self._shared(graph, shape, dtype, tame=True)) is not None:
            return shared
        array = self._codes(shape, dtype)
        steps: list[_Step] = []
        for _ in range(self.choices.choice((0, 0, 0, 0, 1, 2))):
            # ONNX Runtime transposes and reshapes all types.
            steps.append(self._rearranging(steps[-1].before if steps else array))
        return self._placed(graph, array, steps, is_tame=True)

    def decoded_by_channel(self, graph: GraphBuilder, shape: Sequence[int], axis: int) -> Weight:
        """A weight of integer codes in front of which DequantizeLinear stands, with a scale for each output."""
        codes = self._codes(tuple(shape), INT8)
        decode, array = self._decoding_of("axis", codes, axis, largest_zero=0)
        return self._placed(graph, array, [decode], is_tame=True)

    def decoded(self, graph: GraphBuilder, shape: Sequence[int], *, by_axis: bool = True) -> Weight:
        """A weight of integer codes that nodes make floats of: DequantizeLinear, or Cast and Mul.

        Args:
            graph: The graph of the weight slot.
            shape: The shape in the slot.
            by_axis: Whether there may be a scale for each index of some axis.
        """
        dtype = self.choices.choice((INT8, UINT8))
        codes = self._codes(tuple(shape), dtype)
        positions = np.arange(codes.size).reshape(codes.shape)
        steps: list[_Step] = []
        for _ in range(self.choices.choice((0, 0, 1))):
            state = self.choices.getstate()
            steps.append(self._rearranging(codes if not steps else steps[-1].before))
            self.choices.setstate(state)
            positions = self._rearranging(positions).before
        inner = steps[-1].before if steps else codes
        decode, decoded = self._decoding(inner, by_axis=by_axis and graph.opset >= 13)
        array = np.empty(codes.shape, np.float32)
        array.reshape(-1)[positions.reshape(-1)] = decoded.reshape(-1)
        steps.append(decode)
        for _ in range(self.choices.choice((0, 0, 1))):
            steps.append(self._rearranging(steps[-1].before))
        return self._placed(graph, array, steps, is_tame=True)

    def packed(self, graph: GraphBuilder, stored: np.ndarray) -> Weight:
        """Bytes into which codes are packed; no other layer may share them."""
        weight = self._placed(graph, stored, [], is_tame=True)
        self.stored.pop()
        return weight

    def decoded_by_block(self, graph: GraphBuilder, shape: tuple[int, int], block: int, dtype: np.dtype) -> Weight:
        """A matrix of integer codes in front of which DequantizeLinear stands, with blocks of rows.

        Args:
            graph: The graph of the weight slot.
            shape: Of the matrix.
            block: Rows of a block; the last one may have fewer.
            dtype: The type of the codes.
        """
        codes, info = self._codes(shape, dtype), np.iinfo(dtype)
        blocks = (math.ceil(shape[0] / block), shape[1])
        scale = (self.numbers.uniform(0.5, 1.0, blocks) / 128).astype(np.float32)
        zero = self.numbers.integers(info.min, info.max + 1, blocks).astype(dtype)
        of_each = np.arange(shape[0]) // block
        array = (codes.astype(np.int32) - zero.astype(np.int32)[of_each]) * scale[of_each]

        def emit(graph: GraphBuilder, value: str) -> str:
            parameters = [graph.constant(scale, "scale"), graph.constant(zero, "zero_point")]
            axis = self.choices.choice((0, -2))
            return graph.node("DequantizeLinear", [value, *parameters], axis=axis, block_size=block)

        step = _Step("DequantizeLinear(block)", codes, emit, is_computed=True)
        return self._placed(graph, array.astype(np.float32), [step], is_tame=True)

    def split_weight(self, graph: GraphBuilder, shape: tuple[int, int], dtype: np.dtype) -> tuple[Weight, str]:
        """A matrix and a row for a bias, which are split from one constant."""
        joint = self._elements("normal", (shape[0] + 1, shape[1]), dtype)
        name = graph.initializer(joint, self.choices.choice(_STEMS))
        source = Source(graph.name, name, joint, is_tame=True)
        array, row = graph.split(name, 0, (shape[0], 1))
        return Weight(array, joint[: shape[0]], (source,), ("Split",), is_computed=True), row

    def _by_any_op(self, graph: GraphBuilder, shape: tuple[int, ...]) -> Weight | None:
        """A weight that a node of any op computes, repeated or cut to the shape."""
        constant = any_op(self.choices, graph.opset)
        if constant is None or (value := constant.value) is None:
            return None
        owner = self.choices.choice(graph.enclosing())
        result, constants = constant.emit(owner)
        positions = np.resize(np.arange(value.size), shape)
        gathered = owner.node("Gather", [owner.reshape(result, [-1]), owner.constant(positions.astype(np.int64))])
        self.computing_ops.add(constant.op)
        return Weight(
            gathered,
            value.reshape(-1)[positions],
            tuple(Source(owner.name, name, array, is_tame=True) for name, array in constants),
            (f"any op({constant.op[0]})",),
            is_computed=True,
            is_rounded=constant.is_rounded,
            is_large=bool(np.abs(value).max() > _LARGEST_OF_TAME),
        )

    # Values

    def _elements(self, kind: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = self.numbers.uniform(-1, 1, shape)
        is_half = dtype == FLOAT16
        match kind:
            case "sparse":
                array = array * (self.numbers.random(shape) < 0.3)
            case "zero":
                array = np.zeros(shape)
            case "negative zero":
                array = np.where(self.numbers.random(shape) < 0.4, -0.0, array)
            case "tiny":
                array = array * (2.0**-14 if is_half else 1e-30)
            case "subnormal":
                array = array * (2.0**-20 if is_half else 1e-40)
            case "positive":
                array = np.abs(array)
            case "powers":
                array = np.sign(array) * 2.0 ** np.round(array * 4 - 4)
            case "huge":
                array = array * (1e3 if is_half else 1e30)
            case "outlier":
                array = array.copy()
                array.reshape(-1)[self.choices.randrange(array.size)] = -1000.0 if is_half else 1e5
        return np.asarray(array).astype(dtype)

    def _codes(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        info = np.iinfo(dtype)
        kind = self.choices.choice(("all", "all", "few", "zero", "ends"))
        low, high = {"all": (info.min, info.max), "few": (0, 3), "zero": (0, 0), "ends": (0, 1)}[kind]
        array = self.numbers.integers(low, high + 1, shape)
        if kind == "ends":
            array = np.where(array, info.min, info.max)
        return array.astype(dtype)

    # Nodes on the way, from the weight slot backwards

    def _rearranging(self, array: np.ndarray) -> _Step:
        kinds = ["Identity", "Reshape", "Unsqueeze" if 1 in array.shape else "Identity", "Squeeze"]
        if array.ndim > 1:
            kinds += ["Transpose", "Transpose"]
        if array.ndim == 2:
            kinds.append("Flatten")
        kind = self.choices.choice(kinds)
        return getattr(self, f"_{kind.lower()}")(array)

    def _identity(self, array: np.ndarray) -> _Step:
        return _Step("Identity", array, lambda graph, value: graph.node("Identity", [value]))

    def _transpose(self, array: np.ndarray) -> _Step:
        perm = list(range(array.ndim))
        self.choices.shuffle(perm)
        given: list[int] | None = perm
        if self.choices.random() < 0.3:
            perm, given = sorted(perm, reverse=True), None
        before = np.ascontiguousarray(array.transpose(np.argsort(perm)))
        return _Step("Transpose", before, lambda graph, value: graph.node("Transpose", [value], perm=given))

    def _reshape(self, array: np.ndarray) -> _Step:
        before = array.reshape(self._other_shape(array.size))
        target = list(array.shape)
        form = self.choices.random()
        if form < 0.3 and target:
            target[self.choices.randrange(len(target))] = -1
        elif form < 0.5 and target and before.ndim and before.shape[0] == target[0]:
            target[0] = 0
        return _Step("Reshape", before, lambda graph, value: graph.reshape(value, target))

    def _other_shape(self, size: int) -> tuple[int, ...]:
        """Sizes of one to four axes whose product is the given one."""
        sizes: list[int] = []
        for _ in range(self.choices.randrange(4)):
            divisors = [number for number in range(1, size + 1) if size % number == 0]
            sizes.append(self.choices.choice(divisors))
            size //= sizes[-1]
        return (*sizes, size)

    def _flatten(self, array: np.ndarray) -> _Step:
        first, second = self._other_shape(array.shape[0]), self._other_shape(array.shape[1])
        before = array.reshape(first + second)
        from_behind = self.choices.random() < 0.4

        def emit(graph: GraphBuilder, value: str) -> str:
            axis = -len(second) if from_behind and graph.opset >= 11 else len(first)
            return graph.node("Flatten", [value], axis=axis)

        return _Step("Flatten", before, emit)

    def _squeeze(self, array: np.ndarray) -> _Step:
        axis = self.choices.randrange(array.ndim + 1)
        given = axis - array.ndim - 1 if self.choices.random() < 0.3 else axis
        before = np.expand_dims(array, axis)
        if 1 not in array.shape and self.choices.random() < 0.3:
            return _Step("Squeeze", before, lambda graph, value: graph.node("Squeeze", [value]))
        return _Step(
            "Squeeze", before, lambda graph, value: graph.squeeze(value, [given if graph.opset >= 11 else axis])
        )

    def _unsqueeze(self, array: np.ndarray) -> _Step:
        axis = self.choices.choice([axis for axis, size in enumerate(array.shape) if size == 1])
        before = np.squeeze(array, axis)
        return _Step("Unsqueeze", before, lambda graph, value: graph.squeeze(value, [axis], "Unsqueeze"))

    def _storable(self, graph: GraphBuilder, array: np.ndarray) -> tuple[np.ndarray, _Step | None]:
        """The array as another type can hold it, and the Cast from that type; or a step that computes something."""
        types = [FLOAT16, FLOAT32, FLOAT64, *([BFLOAT16] if graph.opset >= 13 else [])]
        if self.choices.random() < 0.5:
            return array, self._computing(array)
        stored = self.choices.choice([dtype for dtype in types if dtype != array.dtype])
        if array.dtype == FLOAT16 and stored == BFLOAT16:
            stored = FLOAT32
        with np.errstate(over="ignore", under="ignore"):
            before = array.astype(stored)
        if not np.isfinite(before.astype(np.float64)).all():
            return array, None
        dtype = array.dtype
        step = _Step("Cast", before, lambda graph, value: graph.cast(value, dtype), is_computed=True)
        return before.astype(dtype), step

    def _computing(self, array: np.ndarray) -> _Step | None:
        if array.ndim == 0:
            return None
        kind = self.choices.choice(("slice", "concat", "split", "multiply"))
        return getattr(self, f"_{kind}")(array, self.choices.randrange(array.ndim))

    def _slice(self, array: np.ndarray, axis: int) -> _Step:
        pads = [(0, 0)] * array.ndim
        start, behind = self.choices.randrange(3), self.choices.randrange(3)
        pads[axis] = (start, behind)
        before = np.pad(array, pads, mode="edge")
        stop = start + array.shape[axis]
        return _Step("Slice", before, lambda graph, value: graph.slice(value, axis, start, stop), is_computed=True)

    def _concat(self, array: np.ndarray, axis: int) -> _Step | None:
        if array.shape[axis] < 2:
            return None
        place = self.choices.randrange(1, array.shape[axis])
        first, second = np.split(array, [place], axis)

        def emit(graph: GraphBuilder, value: str, other: str) -> str:
            return graph.node("Concat", [value, other], axis=axis)

        return _Step("Concat", first, emit, is_computed=True, others=(second,))

    def _split(self, array: np.ndarray, axis: int) -> _Step:
        other, part, size = self.choices.randrange(1, 3), self.choices.randrange(2), array.shape[axis]
        pads = [(0, 0)] * array.ndim
        pads[axis] = (other, 0) if part else (0, other)
        sizes = (other, size) if part else (size, other)
        before = np.pad(array, pads, mode="edge")
        sibling = np.split(before, [sizes[0]], axis)[1 - part]

        def emit(graph: GraphBuilder, value: str) -> str:
            return graph.split(value, axis, sizes)[part]

        return _Step("Split", before, emit, is_computed=True, sibling=(np.ascontiguousarray(sibling), 1 - part))

    def _multiply(self, array: np.ndarray, axis: int) -> _Step | None:
        shape = [1] * array.ndim
        if self.choices.random() < 0.5:
            shape[axis] = array.shape[axis]
        factor = (2.0 ** self.numbers.integers(-2, 3, shape)).astype(array.dtype)
        with np.errstate(over="ignore", under="ignore"):
            before = array / factor
            if not np.array_equal(before * factor, array):
                return None
        if self.choices.random() < 0.5 and factor.size == 1:
            factor = factor.reshape(())

        def emit(graph: GraphBuilder, value: str) -> str:
            operands = [value, graph.constant(factor, "factor")]
            return graph.node("Mul", operands)

        return _Step("Mul", before, emit, is_computed=True)

    def _decoding(self, codes: np.ndarray, *, by_axis: bool) -> tuple[_Step, np.ndarray]:
        """How codes become floats, and which."""
        kinds = ["tensor", "no zero point", "cast"]
        if codes.ndim and by_axis:
            kinds += ["axis", "axis"]
        kind = self.choices.choice(kinds)
        return self._decoding_of(kind, codes, self.choices.randrange(codes.ndim) if kind == "axis" else None)

    def _decoding_of(
        self, kind: str, codes: np.ndarray, axis: int | None, largest_zero: int = 9
    ) -> tuple[_Step, np.ndarray]:
        shape = () if axis is None else (codes.shape[axis],)
        info = np.iinfo(codes.dtype)
        scale = (self.numbers.uniform(0.5, 1.0, shape) / 128).astype(np.float32)
        zero = np.zeros(shape, codes.dtype)
        if kind in {"tensor", "axis"}:
            middle = (int(info.min) + int(info.max) + 1) // 2
            lowest, highest = max(info.min, middle - largest_zero), middle + largest_zero
            zero = np.asarray(self.numbers.integers(lowest, highest + 1, shape).astype(codes.dtype))
        along = [1] * codes.ndim
        if axis is not None:
            along[axis] = -1
            array = (codes.astype(np.int32) - zero.astype(np.int32).reshape(along)) * scale.reshape(along)
        else:
            array = (codes.astype(np.int32) - zero.astype(np.int32)) * scale

        def emit(graph: GraphBuilder, value: str) -> str:
            if kind == "cast":
                return graph.node("Mul", [graph.cast(value, FLOAT32), graph.constant(scale, "scale")])
            parameters = [graph.constant(scale, "scale")]
            if kind != "no zero point":
                parameters.append(graph.constant(zero, "zero_point"))
            return graph.node("DequantizeLinear", [value, *parameters], axis=axis)

        name = "Cast-Mul" if kind == "cast" else f"DequantizeLinear({kind})"
        return _Step(name, codes, emit, is_computed=True), array.astype(np.float32)

    # Storing

    def _shared(self, graph: GraphBuilder, shape: tuple[int, ...], dtype: np.dtype, *, tame: bool) -> Weight | None:
        """A weight that is there already, perhaps in another shape."""
        around = graph.enclosing()
        size = math.prod(shape)
        for owner, sibling in self.siblings:
            fits = sibling.array.shape == shape and sibling.array.dtype == dtype and (sibling.is_tame or not tame)
            if fits and owner in around and self.choices.random() < 0.5:
                return sibling
        fitting = [
            (owner, source)
            for owner, source in self.stored
            if owner in around
            and graph.sees(source.name, owner)
            and source.array.dtype == dtype
            and source.array.size == size
            and (source.is_tame or not tame)
        ]
        if not fitting or self.choices.random() < 0.4:
            return None
        owner, source = self.choices.choice(fitting)
        array, value = source.array, source.name
        graph.will_read(value)
        places = around[around.index(owner) :]
        way: list[str] = []
        if array.shape[::-1] == shape and array.ndim > 1 and self.choices.random() < 0.6:
            value, array = self.choices.choice(places).node("Transpose", [value]), array.transpose()
            way.append("Transpose")
        elif array.shape != shape:
            value, array = self.choices.choice(places).reshape(value, shape), array.reshape(shape)
            way.append("Reshape")
        return Weight(value, array, (source,), tuple(way), is_computed=False)

    def _placed(self, graph: GraphBuilder, array: np.ndarray, steps: Sequence[_Step], *, is_tame: bool) -> Weight:
        """Store what the steps start from in a graph around, and append the steps."""
        stored = steps[-1].before if steps else array
        around = graph.enclosing()
        place = self.choices.randrange(len(around))
        if any(step.op_type.startswith("DequantizeLinear") for step in steps):
            # ONNX Runtime, fusing it with MatMul, looks for all of it in the graph of the MatMul, and may crash else.
            place = len(around) - 1
        owner = around[place]
        is_node = self.choices.random() < 0.25 and owner.can_be_node(stored.dtype)
        stem = self.choices.choice(_STEMS)
        value = (owner.constant_node if is_node else owner.initializer)(stored, stem)
        is_overridable = not is_node and owner.parent is None and not owner.is_function and self.choices.random() < 0.03
        if is_overridable:
            owner.inputs.append(value_info(value, stored.dtype, stored.shape))
        source = Source(owner.name, value, stored, is_tame, is_overridable)
        self.stored.append((owner, source))
        sources = [source]
        for step in reversed(steps):
            place = self.choices.randrange(place, len(around))
            around[place].will_read(value)  # no constant beside it may hide it
            others = [Source(around[place].name, around[place].constant(o, "W.part"), o, is_tame) for o in step.others]
            value = step.emit(around[place], value, *(other.name for other in others))
            sources += others
            if step.sibling is not None:
                part, number = step.sibling
                name = around[place].nodes[-1].output[number]
                self.siblings.append((around[place], Weight(name, part, tuple(sources), ("Split",), is_computed=True)))
        graph.will_read(value)
        return Weight(
            value,
            array,
            tuple(sources),
            tuple(step.op_type for step in reversed(steps)),
            is_computed=any(step.is_computed for step in steps),
        )
