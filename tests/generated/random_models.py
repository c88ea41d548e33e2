"""Random valid models of several layers; a seed gives always the same one.

    python -m tests.generated.random_models SEED

prints the model of a seed.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from tests.generated.biased import biased_readers
from tests.generated.functions import LOCAL, in_a_function
from tests.generated.graph_builder import Activation, GraphBuilder
from tests.generated.layers import LAYERS, MICROSOFT, ExpectedSlot, Layer, LayerContext, qdq
from tests.generated.packed_layers import PACKED_LAYERS
from tests.generated.weight_store import BFLOAT16, FLOAT16, FLOAT32, WeightStore

__all__ = ["RandomModel", "random_model"]

OLDEST_OPSET = 7
NEWEST_OPSET = min(28, onnx.defs.onnx_opset_version())  # what ONNX Runtime reads
_IR_VERSION = 10
_MOST_LAYERS = 4
_DEEPEST = 2
_OLDEST_OF_FUNCTIONS = 11

# When axes became inputs: ONNX Runtime puts functions in place of their calls without a look at their opset.
_LAST_CHANGE = 13

# onnx expands it to a Constant node without a value.
_NOT_INFERRED = {"MeanVarianceNormalization"}


@dataclass(frozen=True, eq=False)
class RandomModel:
    """A generated model, and what is known of it.

    Attributes:
        seed: Its seed.
        proto: The model, with all tensors inline.
        feeds: Inputs for it.
        slots: Its weight slots.
        is_external: Whether it should be tried with its initializers in external data.
        hides_names: Whether a body has a value with the name of one around it.
        computing_ops: The ops that compute weights from constants, each with its version.
    """

    seed: int
    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    slots: tuple[ExpectedSlot, ...]
    is_external: bool
    hides_names: bool
    computing_ops: frozenset[tuple[str, int]]

    @property
    def is_valid(self) -> bool:
        """Whether onnx takes it: unlike ONNX Runtime, it wants functions to have the opset of the model."""
        return not any(slot.may_stay for slot in self.slots)

    @property
    def full_check(self) -> bool:
        """Whether onnx can infer all shapes: it takes a value in a body for the one around it that has its name."""
        is_known = not any(op_type in _NOT_INFERRED for op_type, _ in self.computing_ops)
        return is_known and not self.hides_names and all(entry.domain != MICROSOFT for entry in self.proto.opset_import)

    def describe(self) -> str:
        """A few lines for the message of a failed test."""
        opset = next(entry.version for entry in self.proto.opset_import if not entry.domain)
        stored = "external" if self.is_external else "inline"
        slots = "\n".join(f"  {slot}" for slot in self.slots)
        return f"seed {self.seed}: opset {opset}, {stored} data, weight slots\n{slots}"


def random_model(seed: int) -> RandomModel:
    """The model of a seed."""
    choices = random.Random(seed)  # noqa: S311 - no secrets
    numbers = np.random.default_rng(seed)
    opset = choices.randint(OLDEST_OPSET, NEWEST_OPSET)
    main = GraphBuilder("main", opset, choices)
    context = LayerContext(main, choices, WeightStore(choices, numbers), feeds={}, trunk=None)
    functions: list[onnx.FunctionProto] = []
    for _ in range(choices.randint(1, _MOST_LAYERS)):
        _add_layer(context, functions)
    if context.trunk is not None and choices.random() < 0.5:
        main.output(main.node("Tanh", [context.trunk.name]), FLOAT32, context.trunk.shape)
    for _ in range(choices.randrange(3)):
        main.initializer(context.random_array(context.sizes(choices.randrange(4))), "unused")
    imports = [helper.make_opsetid("", opset)]
    if any(slot.op_type in _MICROSOFT_OPS for slot in context.slots):
        imports.append(helper.make_opsetid(MICROSOFT, 1))
    if functions:
        imports.append(helper.make_opsetid(LOCAL, 1))
        # All names stay unique when functions are put in place of their calls, some by becoming others.
        context.slots[:] = [replace(slot, is_renamed=True) for slot in context.slots]
    choices.shuffle(imports)
    proto = helper.make_model(
        main.graph_proto(), functions=functions, opset_imports=imports, ir_version=_IR_VERSION, producer_name="seed"
    )
    return RandomModel(
        seed,
        proto,
        context.feeds,
        tuple(context.slots),
        is_external=choices.random() < 0.1,
        hides_names=main.hides_names,
        computing_ops=frozenset(context.store.computing_ops),
    )


# A layer of several nodes is as frequent as three others.
_LAYERS = [*LAYERS.items(), *PACKED_LAYERS.items(), *[(biased_readers, range(OLDEST_OPSET, NEWEST_OPSET + 1))] * 3]
_MICROSOFT_OPS = {
    "FusedMatMul",
    "FusedGemm",
    "FusedConv",
    "Attention",
    "DynamicQuantizeLSTM",
    "MatMulNBits",
    "MatMulBnb4",
}


def _add_layer(c: LayerContext, functions: list[onnx.FunctionProto]) -> None:
    """Append a layer to the main graph, let its result be an output, and hand it on."""
    layer = c.choices.choice([layer for layer, opsets in _LAYERS if c.opset in opsets])
    first_slot = len(c.slots)
    if c.opset >= _OLDEST_OF_FUNCTIONS and layer is not qdq and c.maybe(0.1):
        y = in_a_function(c, lambda inner: _anywhere(inner, layer), functions, _opset_of_function(c))
    else:
        y = _anywhere(c, layer)
    c.graph.output(y.name, y.dtype, y.shape if c.maybe(0.8) else [None] * len(y.shape))
    if c.maybe(0.15):
        _add_other_reader(c, c.choices.choice(c.slots[first_slot:]))
    if y.is_tame:
        factor = {"u": 1 / 256, "i": 1e-5, "f": 0.25}[y.dtype.kind]
        value = y.name if y.dtype == FLOAT32 else c.graph.cast(y.name, FLOAT32)
        scaled = c.graph.node("Mul", [value, c.graph.constant(np.float32(factor), "factor")])
        c.trunk = Activation(scaled, FLOAT32, y.shape)


def _opset_of_function(c: LayerContext) -> int:
    """That of the model, or now and then another one."""
    if c.maybe(0.9) or c.opset < _LAST_CHANGE:
        return c.opset
    return c.choices.randint(max(_LAST_CHANGE, c.opset - 2), c.opset)


def _anywhere(c: LayerContext, layer: Layer) -> Activation:
    """A layer in the graph of the context, or in a body in it."""
    return _in_a_body(c, layer, 0) if c.maybe(0.3) else _built(c, layer)


def _built(c: LayerContext, layer: Layer) -> Activation:
    """A layer in the graph of the context; now and then its result is mixed with an element of its weight."""
    y = layer(c)
    weight = c.slots[-1].weight
    if not (c.maybe(0.1) and y.is_tame and y.dtype == FLOAT32 == weight.array.dtype and weight.array.ndim):
        return y
    element = c.graph.node("Gather", [c.graph.reshape(weight.value, [-1]), c.graph.integers([0], "indices")])
    shape = y.shape or (1,)
    return replace(y, name=c.graph.node("Add", [y.name, element]), shape=shape)


def _add_other_reader(c: LayerContext, slot: ExpectedSlot) -> None:
    """Let another op than an MVM op read a weight, or let it be an output of the model itself."""
    sources = [
        source
        for source in slot.weight.sources
        if source.graph == c.graph.name and source.array.ndim and source.array.dtype != BFLOAT16
    ]
    if not sources:
        return
    source = c.choices.choice(sources)
    names = {output.name for output in c.graph.outputs}
    if c.maybe(0.3) and source.name not in names and not source.is_overridable:
        c.graph.output(source.name, source.array.dtype, source.array.shape)
        return
    if c.maybe() and source.array.dtype.kind == "f":
        c.graph.output(c.graph.node("Add", [source.name, source.name]), source.array.dtype, source.array.shape)
        return
    value = c.graph.node("Gather", [source.name, c.graph.integers([0], "indices")])
    c.graph.output(value, source.array.dtype, (1, *source.array.shape[1:]))


def _in_a_body(c: LayerContext, layer: Layer, depth: int) -> Activation:
    """A layer in the body of an If, Loop or Scan, which may stand in another body."""
    kind = c.choices.choice(("If", "If", "Loop", *(("Scan",) if c.opset >= 9 else ())))
    return {"If": _in_if, "Loop": _in_loop, "Scan": _in_scan}[kind](c, layer, depth)


def _inner(c: LayerContext, body: GraphBuilder, layer: Layer, depth: int) -> Activation:
    inner = replace(c, graph=body)
    is_nested = depth + 1 < _DEEPEST and c.maybe(0.3)
    y = _in_a_body(inner, layer, depth + 1) if is_nested else _built(inner, layer)
    if c.maybe(0.1):
        # An output of a body that is what another graph computes, or an op in between
        y = replace(y, name=body.node("Identity", [y.name]))
    return y


def _in_if(c: LayerContext, layer: Layer, depth: int) -> Activation:
    if c.maybe(0.8):
        condition = c.graph.enclosing()[0].input(np.dtype(np.bool_), (), "condition")
        c.feeds[condition] = np.asarray(c.maybe(0.7))
    else:
        condition = c.graph.initializer(np.asarray(c.maybe(0.7)), "condition")
    bodies = [c.graph.body("then"), c.graph.body("else")]
    y = _inner(c, bodies[0], layer, depth)
    bodies[0].output(y.name, y.dtype, y.shape)
    other = replace(c, graph=bodies[1])
    if y.dtype == FLOAT32 and c.maybe():
        # Another layer, or the same op again, whose result is brought to the same shape
        choice = layer if c.maybe() else c.choices.choice([key for key, opsets in _LAYERS if c.opset in opsets])
        z = _built(other, choice)
        value = bodies[1].resized(z, y.shape, FLOAT32)
        y = replace(y, is_tame=y.is_tame and z.is_tame and z.dtype.kind == "f" and z.dtype != FLOAT16)
    else:
        value = other.activation(y.shape, y.dtype)
        if value not in {name for node in bodies[1].nodes for name in node.output}:
            value = bodies[1].node("Identity", [value])
    bodies[1].output(value, y.dtype, y.shape)
    if c.maybe():
        bodies.reverse()
    # The order in which attributes stand in the file decides nothing.
    branches = {("then_branch" if body.name.startswith("then") else "else_branch"): body for body in bodies}
    name = c.graph.node("If", [condition], **{key: body.graph_proto() for key, body in branches.items()})
    return replace(y, name=name)


def _in_loop(c: LayerContext, layer: Layer, depth: int) -> Activation:
    body = c.graph.body("loop")
    body.input(np.dtype(np.int64), (), "iteration")
    condition = body.input(np.dtype(np.bool_), (), "condition")
    body.iteration = body.input(FLOAT32, (1,), "state")
    body.output(body.node("Identity", [condition]), np.dtype(np.bool_), ())
    step = body.constant(np.asarray([0.5], np.float32), "step")
    body.output(body.node("Add", [body.iteration, step]), FLOAT32, (1,))
    y = _inner(c, body, layer, depth)
    body.output(y.name, y.dtype, y.shape)
    trips = c.size(3)
    count = c.graph.constant(np.asarray(trips, np.int64), "trips")
    goes_on = c.graph.initializer(np.asarray(True), "goes_on") if c.maybe() else ""
    start = c.graph.constant(np.asarray([-0.5], np.float32), "state")
    names = [c.graph.new_name("state"), c.graph.new_name("y")]
    c.graph.node("Loop", [count, goes_on, start], outputs=names, body=body.graph_proto())
    return replace(y, name=names[1], shape=(trips, *y.shape))


def _in_scan(c: LayerContext, layer: Layer, depth: int) -> Activation:
    body = c.graph.body("scan")
    body.iteration = body.input(FLOAT32, (1,), "element")
    y = _inner(c, body, layer, depth)
    body.output(y.name, y.dtype, y.shape)
    trips = c.size(3)
    sequence = c.activation((trips, 1))
    name = c.graph.new_name("y")
    c.graph.node("Scan", [sequence], outputs=[name], body=body.graph_proto(), num_scan_inputs=1)
    return replace(y, name=name, shape=(trips, *y.shape))


def main() -> None:
    """Print the model of a seed."""
    model = random_model(int(sys.argv[1]))
    print(onnx.printer.to_text(model.proto))
    print(model.describe())


if __name__ == "__main__":
    main()
