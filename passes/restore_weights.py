"""Folds a mapping back into plain weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, WeightRecord, read_manifest, remove_manifest
from onnx_gconv.mapping.located import (
    BrokenMappingError,
    MappedWeight,
    ModelValues,
    locate,
    structural_problems,
)
from onnx_gconv.mapping.nodes import ROLE_KEY, WEIGHT_KEY
from onnx_gconv.mapping.preconditions import ModelPreconditionError, require_mapped
from onnx_gconv.tensors.bits import has_same_elements
from onnx_gconv.weights import Scope, scopes
from onnx_gconv.weights.rearrangement import node_label

__all__ = ["RestoreWeights"]


class RestoreWeights(ir.passes.InPlacePass):
    """Folds every mapped weight back into an initializer of its own name, and removes the nodes and the manifest::

        before:  Sub(W.g_plus, W.g_minus)        -> W.g_difference
                 Div(W.g_difference, W.g_scale)  -> W
                 MatMul(x, W)
        after:   x, W -> MatMul(x, W)

    The weights have the values that the mapped model computes, bit for bit; they are rebuilt while they are read or
    written. A weight that was a Constant node becomes an initializer of the same graph. A digital copy of a weight is
    joined with it again if both are equal, bit for bit; else it stays, so that the model computes the same.
    """

    def requires(self, model: ir.Model) -> None:
        """Refuse models that are not mapped, or whose mapping another tool has damaged.

        Raises:
            ModelError: It names the weight and what is wrong.
        """
        _locate_all(require_mapped(model), model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Restore the model.

        Raises:
            ModelError: If external data cannot be read.
        """
        manifest = read_manifest(model)
        assert manifest is not None  # noqa: S101 - `requires` has seen it
        located = _locate_all(manifest, model)
        owners = {scope.path: scope for scope in scopes(model)}
        copies = [_digital_copy(mapped) for mapped in located]
        # All that reads data, and may fail, comes before the first change.
        joined = [copy is not None and _is_equal(copy, mapped) for copy, mapped in zip(copies, located, strict=True)]
        for mapped, copy, is_joined in zip(located, copies, joined, strict=True):
            weight = _restore(mapped, owners)
            if copy is not None:
                _restore_digital_copy(copy, weight if is_joined else None)
        remove_manifest(model)
        return ir.passes.PassResult(model, modified=True)


def _locate_all(manifest: Manifest, model: ir.Model) -> list[MappedWeight]:
    values = ModelValues(model)
    located = []
    for record in manifest.weights:
        try:
            mapped = locate(record, values)
            problem = next((text for text in (*structural_problems(mapped), *_other_uses(mapped))), None)
        except (BrokenMappingError, ModelError) as error:
            problem = str(error)
        if problem is not None:
            raise ModelPreconditionError(
                f"the weight '{record.name}' cannot be restored: {problem}; restore the model as it was mapped"
            )
        located.append(mapped)
    return located


def _other_uses(mapped: MappedWeight) -> Iterator[str]:
    """What else reads the values between the conductances and the weight, which are going to vanish."""
    nodes = set(mapped.nodes)
    for node in mapped.nodes:
        output = node.outputs[0]
        if output is mapped.value:
            continue
        if output.is_graph_output():
            yield f"'{output.name}' has become a graph output"
        if others := [reader for reader, _ in output.uses() if reader not in nodes]:
            yield f"'{output.name}' is read by {node_label(others[0])} too"


def _digital_copy(mapped: MappedWeight) -> ir.Value | None:
    """The digital copy of a weight, or None if it has none, or another tool removed it."""
    graph = mapped.nodes[0].graph
    name = mapped.record.digital_copy
    copy = graph.initializers.get(name) if isinstance(graph, ir.Graph) and name is not None else None
    return copy if copy is not None and copy.const_value is not None else None


def _is_equal(copy: ir.Value, mapped: MappedWeight) -> bool:
    assert copy.const_value is not None  # noqa: S101 - `_digital_copy` has seen it
    is_input_or_output = copy.is_graph_input() or copy.is_graph_output()
    shape = tuple(copy.const_value.shape.numpy())
    return (
        not is_input_or_output and shape == mapped.record.shape and has_same_elements(copy.const_value, mapped.rebuilt)
    )


def _restore_digital_copy(copy: ir.Value, weight: ir.Value | None) -> None:
    """Let the weight stand for its copy, or let the copy be an initializer like any other."""
    if weight is None:
        for key in (WEIGHT_KEY, ROLE_KEY):
            copy.metadata_props.pop(key, None)
        return
    graph = copy.graph
    assert graph is not None  # noqa: S101 - it is an initializer
    copy.replace_all_uses_with(weight)
    del graph.initializers[copy.name or ""]


def _restore(mapped: MappedWeight, owners: Mapping[str, Scope]) -> ir.Value:
    record, rebuilt = mapped.record, mapped.value
    graph = mapped.nodes[0].graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    weight = ir.Value(
        name=record.name,
        type=ir.TensorType(record.ir_dtype),
        shape=ir.Shape(record.shape),
        doc_string=rebuilt.doc_string,
        const_value=mapped.rebuilt,
        metadata_props={k: v for k, v in rebuilt.metadata_props.items() if k not in {WEIGHT_KEY, ROLE_KEY}},
    )
    weight.meta.update(rebuilt.meta)
    rebuilt.replace_all_uses_with(weight, replace_graph_outputs=True)
    graph.remove(mapped.nodes, safe=True)
    leaves = (*mapped.conductances, mapped.scale, *mapped.constants)
    constants = [value for value in leaves if not value.uses() and not value.is_graph_output()]
    _put_in_place_of(constants, weight, graph, _former_graph(record, weight, owners) or graph)
    return weight


def _former_graph(record: WeightRecord, weight: ir.Value, owners: Mapping[str, Scope]) -> ir.Graph | None:
    """The graph out of which mapping moved a weight, if it is still there and all readers of the weight stand in it."""
    scope = None if record.moved_from is None else owners.get(record.moved_from)
    if scope is None or weight.is_graph_output():
        return None
    scope_of = {item.graph: item for item in owners.values()}
    for node, _ in weight.uses():
        current = scope_of.get(node.graph) if isinstance(node.graph, ir.Graph) else None
        while current is not None and current is not scope:
            current = current.parent
        if current is None:
            return None
    return scope.graph


def _put_in_place_of(removed: list[ir.Value], weight: ir.Value, graph: ir.Graph, target: ir.Graph) -> None:
    """Let the weight stand where the first of its conductances stood, or in another graph from which it had moved."""
    if target is not graph:
        for value in removed:
            del graph.initializers[value.name or ""]
        target.initializers.add(weight)
        return
    gone = {value.name for value in removed}
    order: list[ir.Value] = []
    for name, value in graph.initializers.items():
        if name not in gone:
            order.append(value)
        elif weight not in order:
            order.append(weight)
    if weight not in order:
        order.append(weight)
    graph.initializers.clear()
    for value in order:
        graph.initializers.add(value)
