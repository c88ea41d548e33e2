"""What goes into the nodes of a model and comes out in one run: shapes, and what weights are multiplied with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import RestoreWeights
from onnx_gconv.weights.mvm_ops import MvmOp, WeightSlot, known_op, mvm_op
from onnx_gconv.weights.weight_path import reached_inputs

__all__ = ["GivenInputs", "LayerUse", "SampleRun", "run_sample", "uses_of"]

_SEED = 0


@dataclass(frozen=True, eq=False)
class GivenInputs:
    """What a model is run on to see what its layers get.

    Attributes:
        arrays: An .npz file or arrays by name; None for generated ones.
        dims: Sizes of symbolic dimensions of generated inputs, by name or ``INPUT:AXIS``.

    Raises:
        ConfigError: If both are given.
    """

    arrays: Path | Mapping[str, NDArray[Any]] | None
    dims: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.arrays is not None and self.dims:
            raise ConfigError("sizes are for generated inputs; give either them or the inputs themselves")


@dataclass(frozen=True, eq=False)
class LayerUse:
    """A node that multiplies the weight of a layer with what comes from the graph.

    Attributes:
        node: The node.
        op: What is known of its op.
        slot: Where the weight stands in it.
    """

    node: ir.Node
    op: MvmOp
    slot: WeightSlot

    @property
    def activation(self) -> ir.Value:
        """What the weight is multiplied with."""
        value = self.node.inputs[self.slot.activation]
        assert value is not None  # noqa: S101 - ONNX requires that input of all ops in the table
        return value

    @property
    def output(self) -> ir.Value:
        """The product."""
        return self.node.outputs[0]


@dataclass(frozen=True, eq=False)
class SampleRun:
    """One run of a model.

    Attributes:
        inputs: The shapes of its inputs, by name.
        is_given: Whether a user has given these inputs; if not, they are random numbers.
        shapes: The shapes of what goes into nodes with weights and of what comes out of them, by the names of values in
            the main graph.
        arrays: The values that weights of layers multiply, by name.
    """

    inputs: Mapping[str, tuple[int, ...]]
    is_given: bool
    shapes: Mapping[str, tuple[int, ...]]
    arrays: Mapping[str, NDArray[Any]]

    def activations(self, use: LayerUse) -> NDArray[Any] | None:
        """What the weight of a layer is multiplied with; None if the node is in a subgraph, not looked into."""
        return self.arrays.get(use.activation.name or "")

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """The shape of an operand or product of a node with a weight; None if it is in a subgraph."""
        return self.shapes.get(value.name or "")

    @property
    def inputs_text(self) -> str:
        """E.g. ``pixels 1x1x8x8``."""
        return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in self.inputs.items())


def uses_of(layer: Layer) -> tuple[LayerUse, ...]:
    """The nodes that multiply the weight of a layer, the one with the matrix view of the layer first."""
    found: dict[tuple[str, str, str, int], LayerUse] = {}
    for node, index in reached_inputs(layer.mapped.value):
        op = known_op(node.domain, node.op_type)
        slot = None if op is None else op.slot(index)
        if op is not None and slot is not None:
            found[node.name or "", node.op_type, node.domain, index] = LayerUse(node, op, slot)
    wanted = ((item.node, item.op_type, item.domain, item.slot) for item in layer.consumers)
    return tuple(found[key] for key in wanted if key in found)


def run_sample(mapped: Path, layers: Sequence[Layer], inputs: GivenInputs) -> SampleRun:
    """Run a mapped model once, with its weights restored, and keep what goes into its layers.

    The model is copied to a temporary folder, with outputs for all values that are looked at.

    Args:
        mapped: Its file.
        layers: Its layers.
        inputs: What it is run on.

    Raises:
        ConfigError: If inputs do not fit the model, or ONNX Runtime does not run it on them.
        ModelError: If it cannot be read.
    """
    activations = {use.activation.name or "" for layer in layers for use in uses_of(layer)}
    model = load_model(mapped)
    RestoreWeights()(model)
    graph = model.graph
    looked_at = {value.name or "": value for value in _values_at_weights(graph)}
    constants = {name: value.const_value for name, value in looked_at.items() if value.const_value is not None}
    known = {*constants, *(value.name for value in graph.inputs)}
    given_out = {value.name for value in graph.outputs}
    graph.outputs.extend(value for name, value in looked_at.items() if name not in known | given_out)
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path, external_data=True)
        feeds, outputs = _first_outputs(path, inputs)
    found: dict[str, Any] = {**outputs, **feeds}
    found |= {name: tensor.numpy() for name, tensor in constants.items() if name in activations}
    shapes = {name: tuple(found[name].shape) for name in looked_at if name in found}
    shapes |= {name: tuple(tensor.shape.numpy()) for name, tensor in constants.items()}
    return SampleRun(
        inputs={name: tuple(array.shape) for name, array in feeds.items()},
        is_given=inputs.arrays is not None,
        shapes=shapes,
        arrays={name: np.asarray(found[name]) for name in activations if name in found},
    )


def _values_at_weights(graph: ir.Graph) -> Iterator[ir.Value]:
    """The operands that may be activations, and the product, of each node that can have a weight."""
    for node in graph:
        op = mvm_op(node)
        if op is None:
            continue
        for index in dict.fromkeys(slot.activation for slot in op.slots):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None:
                yield value
        yield node.outputs[0]


def _first_outputs(path: Path, inputs: GivenInputs) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The first inputs that a model runs on, and what it gives."""
    # Most bundles are written without a run, and need not wait for ONNX Runtime to be imported.
    from onnx_gconv.runtime.attempts import AllRefusedError, first_run
    from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs
    from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal

    try:
        with ModelSession(path, "all") as session:
            specs = session.read_input_specs()
            if inputs.arrays is None:
                return first_run(session.run, specs, dims=inputs.dims, values={}, seed=_SEED)
            if isinstance(inputs.arrays, Path):
                feeds = load_inputs(inputs.arrays, specs)
            else:
                feeds = check_inputs(inputs.arrays, specs, source="inputs")
            return feeds, session.run(feeds)
    except AllRefusedError as error:
        raise ConfigError(
            f"ONNX Runtime does not run the model on generated inputs: {error.first.message}; give some with --inputs"
        ) from None
    except RuntimeRefusal as refusal:
        on = "" if inputs.arrays is None or refusal.stage == "load" else " on these inputs"
        raise ConfigError(f"ONNX Runtime does not {refusal.stage} the model{on}: {refusal.message}") from None
