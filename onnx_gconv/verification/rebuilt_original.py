"""Makes the reference for a lossy mapping: the original's graph with the rebuilt weights in place of its own.

Everything except the weights comes from the original's file, so that any other difference of the mapped model shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.crossbars.original_weights import OriginalWeights
from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import Manifest, WeightRecord
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.mapping.structure import structural_problems
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes import RaiseOpset
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.passes.replace_conductances import measured_bias
from onnx_gconv.passes.shared_weights import digital_uses
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.weights import FoundWeight, default_opset, scopes
from onnx_gconv.weights.constants import constant_tensor

__all__ = ["NoRebuiltOriginalError", "measured_biases", "original_with_rebuilt_weights"]


class NoRebuiltOriginalError(Exception):
    """The rebuilt weights cannot be put into the original; the message says why."""


@contextmanager
def original_with_rebuilt_weights(original: Path, mapped: Path, manifest: Manifest) -> Iterator[Path]:
    """Give the original with the weights that the mapped model rebuilds, in a temporary folder.

    The weights are rebuilt while they are written, so they are never in memory as a whole.

    Args:
        original: The model before the mapping; it is not changed.
        mapped: The model after the mapping, with its weights in external data.
        manifest: The manifest of `mapped`.

    Raises:
        NoRebuiltOriginalError: If the original cannot hold the rebuilt weights; the message says why, in a line.
        ModelError: If a model cannot be read.
    """
    mapped_model = load_model(mapped)
    model = as_it_was_mapped(load_model(original), mapped_model)
    before, after = default_opset(model), default_opset(mapped_model)
    if before is not None and after is not None and before < after:
        try:
            RaiseOpset(after)(model)
        except ModelError as error:
            raise NoRebuiltOriginalError(str(error)) from None
    _put_weights(model, mapped_model, manifest)
    _take_measured_biases(model, mapped_model, manifest)
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        path = Path(folder) / original.name
        save_model(model, path, external_data=True)
        del model, mapped_model
        yield path


def measured_biases(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of biases that are stored in rows of a chip's tiles and were measured with the weights."""
    names = (measured_bias(record) for record in manifest.weights)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _put_weights(model: ir.Model, mapped: ir.Model, manifest: Manifest) -> None:
    """Replace each mapped weight in the original by the rebuilt one."""
    weights = OriginalWeights(model)
    values, names = ModelValues(mapped), UniqueNames(model)
    unused: list[ir.Node] = []
    for record in manifest.weights:
        weight = weights.find(record)
        if weight is None:
            raise NoRebuiltOriginalError(f"the original has no weight {record.quoted} of its type and shape")
        if (producer := _replace(weight, record, _located(record, values), names)) is not None:
            unused.append(producer)
    remove_unused(unused)


def _located(record: WeightRecord, values: ModelValues) -> MappedWeight:
    try:
        mapped = locate(record, values)
        problem = next(structural_problems(mapped), None)
    except (BrokenMappingError, ModelError) as error:
        problem = str(error)
    if problem is not None:
        raise NoRebuiltOriginalError(f"the weight {record.quoted} cannot be rebuilt: {problem}")
    return mapped


def _replace(weight: FoundWeight, record: WeightRecord, mapped: MappedWeight, names: UniqueNames) -> ir.Node | None:
    """Let nodes read the rebuilt weight, except those that read a digital copy in the mapped model.

    Returns:
        The node that computed the weight, which may have no reader left; None if the weight was an initializer.
    """
    old, graph = weight.value, weight.scope.graph
    digital = set(digital_uses(weight).uses) if record.digital_copy is not None else set()
    if old.is_initializer() and not digital:
        old.const_value = mapped.stored
        return None
    new = ir.Value(
        name=names.new(f"{record.name}.rebuilt"),
        type=ir.TensorType(record.ir_dtype),
        shape=ir.Shape(record.stored_shape),
        const_value=mapped.stored,
    )
    for node, index in list(old.uses()):
        if (node, index) not in digital:
            node.replace_input_with(index, new)
    if old.is_graph_output():  # the name of an output must not change
        _exchange_output(graph, old, new, names)
    graph.initializers.add(new)
    return old.producer()


def _exchange_output(graph: ir.Graph, old: ir.Value, new: ir.Value, names: UniqueNames) -> None:
    """Make the rebuilt weight a graph output under the name of the old one, through an Identity node."""
    name, old.name = old.name, names.new(f"{old.name}.original")
    output = ir.Value(name=name, type=new.type, shape=new.shape)
    graph.append(ir.Node("", "Identity", [new], outputs=[output]))
    for place, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[place] = output


def _take_measured_biases(model: ir.Model, mapped: ir.Model, manifest: Manifest) -> None:
    """Replace biases in the original by the measured ones of the mapped model, which `measured_biases` names."""
    names = set(measured_biases(manifest))
    if not names:
        return
    found = {value.name: value for value in _constants(mapped) if value.name in names}
    for value in list(_constants(model)):
        if value.name not in names:
            continue
        tensor = constant_tensor(found[value.name]) if value.name in found else None
        if tensor is None:
            raise NoRebuiltOriginalError(f"the measured bias '{value.name}' is no constant of the mapped model")
        if value.is_initializer():
            value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
        elif (node := value.producer()) is not None:
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", tensor)


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    for scope in scopes(model):
        yield from scope.graph.initializers.values()
        for node in scope.graph:
            if node.op_type == "Constant" and node.domain == "":
                yield node.outputs[0]
