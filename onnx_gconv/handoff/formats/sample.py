"""What arrives at the layers of a model when one sample runs through it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.bias import multiplying_node
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from onnx_gconv.runtime.session import ModelSession

__all__ = ["Bits", "GivenInputs", "LayerInput", "Sample", "parse_bits", "run_sample"]

GivenInputs: TypeAlias = str | os.PathLike[str] | Mapping[str, NDArray[Any]]
"""A file .npz with an array for each input of a model, or the arrays by name."""

_SEED = 0


_FEWEST_BITS, _MOST_BITS = 2, 14


@dataclass(frozen=True)
class Bits:
    """How many bits the integers have that formats make of weights and of what arrives at layers, with the sign.

    Attributes:
        weights: Of a weight, 2 to 14.
        inputs: Of what arrives, 2 to 14.

    Raises:
        ConfigError: If they are other numbers.
    """

    weights: int = 8
    inputs: int = 8

    def __post_init__(self) -> None:
        for what, bits in (("weights", self.weights), ("inputs", self.inputs)):
            if isinstance(bits, bool) or not isinstance(bits, int) or not _FEWEST_BITS <= bits <= _MOST_BITS:
                raise ConfigError(f"{what} have {_FEWEST_BITS} to {_MOST_BITS} bits, but not {bits!r}")


def parse_bits(text: str) -> Bits:
    """Read ``WEIGHTSxINPUTS``, such as ``8x8``.

    Raises:
        ConfigError: If it is none.
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*[xX]\s*(\d{1,3})\s*", text)
    if found is None:
        raise ConfigError(f"'{text}' does not say how many bits weights and inputs have; write e.g. 8x8")
    return Bits(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What arrives at a layer.

    Attributes:
        node: The node that multiplies with its weight.
        values: The other operand, as the node takes it, of all samples.
    """

    node: ir.Node
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample in the layers of a model.

    Attributes:
        source: Where it is from; None if it is made of random numbers.
        batch: How many samples ran together; the first one counts.
        inputs: For each layer what arrives there, or why nobody knows.
        bits: How many bits integers have that are made of weights, and of what arrives.
    """

    source: str | None
    batch: int
    inputs: tuple[LayerInput | str, ...]
    bits: Bits


def run_sample(model: Path, graph: ir.Graph, layers: Sequence[Layer], given: GivenInputs | None, bits: Bits) -> Sample:
    """Run a model once, and see what arrives at its layers.

    Args:
        model: The file of the mapped model.
        graph: Its main graph.
        layers: The layers.
        given: Inputs of the model; random ones of sizes that it takes if None.
        bits: How many bits integers have that are made of weights, and of what arrives.

    Raises:
        ConfigError: If the inputs do not fit the model, or it does not run on them.
        ModelError: If ONNX Runtime does not load the model.
    """
    from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal

    values = [_operand(layer, graph) for layer in layers]
    computed = [item[1].name for item in values if not isinstance(item, str) and not _is_given(item[1])]
    try:
        with ModelSession(model, "all", inner=[name for name in computed if name]) as session:
            feeds, found = _run(session, given)
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
    )


def _operand(layer: Layer, graph: ir.Graph) -> tuple[ir.Node, ir.Value] | str:
    """The node that multiplies with a weight, and what it is multiplied with."""
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
        return "what arrives there is no tensor"
    return LayerInput(node, array)


def _run(session: ModelSession, given: GivenInputs | None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    from onnx_gconv.runtime.attempts import AllRefusedError, first_run
    from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs

    specs = session.read_input_specs()
    if isinstance(given, Mapping):
        feeds = check_inputs(given, specs, source=_source(given))
        return feeds, session.run(feeds)
    if given is not None:
        feeds = load_inputs(Path(given), specs)
        return feeds, session.run(feeds)
    try:
        return first_run(session.run, specs, dims={}, values={}, seed=_SEED)
    except AllRefusedError as error:
        raise error.first from None


def _source(given: GivenInputs) -> str:
    return "inputs" if isinstance(given, Mapping) else Path(given).name
