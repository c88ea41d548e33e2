"""The judge of a lossy mapping: the original's own graph with the rebuilt weights in place of its own.

Everything but the weights comes from the original's file, so that whatever else differs in the mapped model shows.
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
from onnx_gconv.mapping.located import BrokenMappingError, MappedWeight, ModelValues, locate
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
    """Why the rebuilt weights cannot be put into the original."""


@contextmanager
def original_with_rebuilt_weights(original: Path, mapped: Path, manifest: Manifest) -> Iterator[Path]:
    """The original with the weights that the mapped model rebuilds, in a temporary folder.

    The weights are rebuilt while they are written, so that memory does not grow with them.

    Args:
        original: The model before the mapping; it is not changed.
        mapped: The model after it, with its weights in external data.
        manifest: The manifest of `mapped`.

    Raises:
        NoRebuiltOriginalError: If that cannot be done; the message says why, in a line.
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
    """The names of the biases that a chip holds in rows, and that were measured with their weights."""
    names = (measured_bias(record) for record in manifest.weights)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _put_weights(model: ir.Model, mapped: ir.Model, manifest: Manifest) -> None:
    """Let the readers of each mapped weight read the rebuilt one."""
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
    """Let nodes read the rebuilt weight, but for those that a digital copy serves in the mapped model.

    Returns:
        The node that gave the weight, which may have no reader left; None if it was an initializer.
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
    if old.is_graph_output():  # which has to keep its name
        _exchange_output(graph, old, new, names)
    graph.initializers.add(new)
    return old.producer()


def _exchange_output(graph: ir.Graph, old: ir.Value, new: ir.Value, names: UniqueNames) -> None:
    """Let a graph give the rebuilt weight under the name of the old one, through a node that does nothing else."""
    name, old.name = old.name, names.new(f"{old.name}.original")
    output = ir.Value(name=name, type=new.type, shape=new.shape)
    graph.append(ir.Node("", "Identity", [new], outputs=[output]))
    for place, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[place] = output


def _take_measured_biases(model: ir.Model, mapped: ir.Model, manifest: Manifest) -> None:
    """Take the biases that a chip holds in rows from the mapped model, as `measured_bias` names them."""
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
