"""Runs a model on a sample to get the activations that its layers receive, and the shapes of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.bias import multiplying_node
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.weights.ops.mvm_ops import MvmOp, WeightSlot, known_op, mvm_op
from onnx_gconv.weights.weight_path import reached_inputs

if TYPE_CHECKING:
    from onnx_gconv.runtime.session import ModelSession

__all__ = ["Bits", "GivenInputs", "LayerInput", "LayerUse", "Sample", "parse_bits", "run_sample"]

GivenInputs: TypeAlias = str | os.PathLike[str] | Mapping[str, NDArray[Any]]
"""An .npz file with an array for each input of a model, or the arrays by name."""

_SEED = 0


_FEWEST_BITS, _MOST_BITS = 2, 14


@dataclass(frozen=True)
class Bits:
    """The numbers of bits, including the sign, to which formats quantize weights and activations.

    Attributes:
        weights: Bits of a weight, 2 to 14.
        inputs: Bits of an activation that a layer receives, 2 to 14.

    Raises:
        ConfigError: If a number is out of this range.
    """

    weights: int = 8
    inputs: int = 8

    def __post_init__(self) -> None:
        for what, bits in (("weights", self.weights), ("inputs", self.inputs)):
            if isinstance(bits, bool) or not isinstance(bits, int) or not _FEWEST_BITS <= bits <= _MOST_BITS:
                raise ConfigError(f"{what} have {_FEWEST_BITS} to {_MOST_BITS} bits, but not {bits!r}")


def parse_bits(text: str) -> Bits:
    """Parse ``WEIGHTSxINPUTS``, such as ``8x8``.

    Raises:
        ConfigError: If the text has another form, or a number is out of range.
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*[xX]\s*(\d{1,3})\s*", text)
    if found is None:
        raise ConfigError(f"'{text}' does not say how many bits weights and inputs have; write e.g. 8x8")
    return Bits(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False)
class LayerInput:
    """The activations that a layer receives.

    Attributes:
        node: The node that multiplies them with the weight of the layer.
        values: The operand of the node, for all samples of the batch.
    """

    node: ir.Node
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerUse:
    """A node that multiplies the weight of a layer with activations.

    Attributes:
        node: The node.
        op: The row of its op in the table of MVM ops.
        slot: The weight slot of the node that reads the weight.
    """

    node: ir.Node
    op: MvmOp
    slot: WeightSlot

    @property
    def activation(self) -> ir.Value:
        """The activations that the weight is multiplied with."""
        value = self.node.inputs[self.slot.activation]
        assert value is not None  # noqa: S101 - ONNX requires that input of all ops in the table
        return value

    @property
    def output(self) -> ir.Value:
        """The product, which is the first output of the node."""
        return self.node.outputs[0]


@dataclass(frozen=True, eq=False)
class Sample:
    """What a run of a model on one sample has shown.

    Attributes:
        source: Name of the file of inputs, or ``inputs`` for arrays; None for random numbers.
        batch: Number of samples that ran together. Only the first one is used.
        inputs: For each layer the activations that it receives, or the reason why they are not known.
        bits: Bits to which weights and activations are quantized.
        uses: For each layer, by its id, the nodes that read its weight; the node with the matrix view comes first.
        feeds: The shapes of the inputs of the model, by name.
        shapes: The shapes of the inputs and outputs of the model, and of the activations and products of all MVM ops in
            the main graph, by the names of the values. Empty if shapes were not asked for.
    """

    source: str | None
    batch: int
    inputs: tuple[LayerInput | str, ...]
    bits: Bits
    uses: Mapping[str, tuple[LayerUse, ...]]
    feeds: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """The shape of a value; None if it is not one of those that `shapes` has."""
        return self.shapes.get(value.name or "")

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in self.feeds.items())
        return f"{shapes}, {'random numbers' if self.source is None else f'from {self.source}'}"


def run_sample(
    model: Path,
    graph: ir.Graph,
    layers: Sequence[Layer],
    given: GivenInputs | None,
    bits: Bits,
    *,
    dims: Mapping[str, int],
    has_shapes: bool = False,
) -> Sample:
    """Run a model once in ONNX Runtime, and collect the activations that its layers receive.

    Args:
        model: The file of the mapped model.
        graph: The main graph of the model.
        layers: The layers of the model.
        given: Inputs of the model; random numbers in a shape that the model takes if None.
        bits: Bits to which weights and activations are quantized.
        dims: Sizes of symbolic dimensions of random inputs.
        has_shapes: Whether to collect shapes, too.

    Raises:
        ConfigError: If the inputs do not fit the model, or the model does not run on them.
        ModelError: If ONNX Runtime does not load the model.
    """
    from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal

    values = [_operand(layer, graph) for layer in layers]
    looked_at = [item[1] for item in values if not isinstance(item, str)]
    shaped = list(_operands_and_products(graph, layers)) if has_shapes else []
    computed = [value.name for value in (*looked_at, *shaped) if not _is_given(value) and value.const_value is None]
    try:
        with ModelSession(model, "all", inner=[name for name in computed if name]) as session:
            feeds, found = _run(session, given, dims)
    except RuntimeRefusal as refusal:
        if refusal.stage == "load":
            raise ModelError(f"ONNX Runtime does not load it: {refusal.message}") from None
        what = "random inputs" if given is None else f"the given {_source(given)}"
        raise ConfigError(
            f"ONNX Runtime does not run it on {what}: {refusal.message}; give other inputs (--inputs)"
        ) from None
    known = {**feeds, **found}
    batch = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    return Sample(
        source=None if given is None else _source(given),
        batch=max(batch, 1),
        inputs=tuple(item if isinstance(item, str) else _found(*item, known) for item in values),
        bits=bits,
        uses={layer.id: _uses_of(layer) for layer in layers},
        feeds={name: tuple(array.shape) for name, array in feeds.items()},
        shapes=dict(_shapes([*shaped, *graph.inputs, *graph.outputs], known)) if has_shapes else {},
    )


def _uses_of(layer: Layer) -> tuple[LayerUse, ...]:
    found = []
    for consumer in layer.consumers:
        node, op = multiplying_node(layer.mapped.value, consumer), known_op(consumer.domain, consumer.op_type)
        slot = None if op is None else op.slot(consumer.slot)
        if node is not None and op is not None and slot is not None:
            found.append(LayerUse(node, op, slot))
    return tuple(found)


def _operands_and_products(graph: ir.Graph, layers: Sequence[Layer]) -> Iterator[ir.Value]:
    """The activations and products of all MVM ops in a graph; mapped weights are left out."""
    weights = {found for layer in layers for found in reached_inputs(layer.mapped.value)}
    for node in graph:
        op = mvm_op(node)
        if op is None:
            continue
        for index in dict.fromkeys(slot.activation for slot in op.slots):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and (node, index) not in weights:
                yield value
        yield node.outputs[0]


def _shapes(values: Iterable[ir.Value], known: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for value in values:
        found = known.get(value.name or "", value.const_value)
        if hasattr(found, "shape") and value.name:
            yield value.name, tuple(map(int, found.shape))


def _operand(layer: Layer, graph: ir.Graph) -> tuple[ir.Node, ir.Value] | str:
    """The node that multiplies the weight of a layer, and its activations; or the reason why they are not known."""
    consumer = layer.consumers[0]
    node, slot = multiplying_node(layer.mapped.value, consumer), layer.op.slot(consumer.slot)
    if node is None or slot is None:
        return f"its node {consumer.op_type} is not found"
    if node.graph is not graph:
        return "it stands in a subgraph or a function, whose values a run of the model does not show"
    value = node.inputs[slot.activation] if slot.activation < len(node.inputs) else None
    if value is None or not value.name:
        return f"its node {consumer.op_type} has no other operand"
    return node, value


def _is_given(value: ir.Value) -> bool:
    return value.is_graph_input() and value.const_value is None


def _found(node: ir.Node, value: ir.Value, known: Mapping[str, Any]) -> LayerInput | str:
    array = known.get(value.name or "")
    if not isinstance(array, np.ndarray):
        return "its input is no tensor"
    return LayerInput(node, array)


def _run(
    session: ModelSession, given: GivenInputs | None, dims: Mapping[str, int]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    from onnx_gconv.runtime.attempts import AllRefusedError, first_run
    from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs
    from onnx_gconv.runtime.prompts import may_be_generated

    specs = session.read_input_specs()
    may_lack = may_be_generated(specs)
    feeds = None
    if isinstance(given, Mapping):
        feeds = check_inputs(given, specs, source=_source(given), may_lack=may_lack)
    elif given is not None:
        feeds = load_inputs(Path(given), specs, may_lack)
    if feeds is not None and len(feeds) == len(specs):
        return feeds, session.run(feeds)
    try:
        return first_run(session.run, specs, dims=dims, values={}, seed=_SEED, given=feeds)
    except AllRefusedError as error:
        raise error.telling from None


def _source(given: GivenInputs) -> str:
    return "inputs" if isinstance(given, Mapping) else Path(given).name
