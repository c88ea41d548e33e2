"""Folds a mapping back into plain weights."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, read_manifest, remove_manifest
from onnx_gconv.passes.mapped_weight import (
    BrokenMappingError,
    MappedWeight,
    ModelValues,
    locate,
    structural_problems,
)
from onnx_gconv.passes.preconditions import ModelPreconditionError, require_mapped
from onnx_gconv.passes.rebuild_nodes import ROLE_KEY, WEIGHT_KEY
from onnx_gconv.weights.readers import node_label

__all__ = ["RestoreWeights"]


class RestoreWeights(ir.passes.InPlacePass):
    """Folds every mapped weight back into an initializer of its own name, and removes the nodes and the manifest::

        before:  Sub(W.g_plus, W.g_minus)        -> W.g_difference
                 Div(W.g_difference, W.g_scale)  -> W
                 MatMul(x, W)
        after:   x, W -> MatMul(x, W)

    The weights have the values that the mapped model computes, bit for bit; they are rebuilt while they are read or
    written. A weight that was a Constant node becomes an initializer of the same graph.
    """

    def requires(self, model: ir.Model) -> None:
        """Refuse models that are not mapped, or whose mapping another tool has damaged.

        Raises:
            ModelError: It names the weight and what is wrong.
        """
        _locate_all(require_mapped(model), model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Restore the model."""
        manifest = read_manifest(model)
        assert manifest is not None  # noqa: S101 - `requires` has seen it
        for mapped in _locate_all(manifest, model):
            _restore(mapped)
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


def _restore(mapped: MappedWeight) -> None:
    record, rebuilt = mapped.record, mapped.value
    graph = mapped.nodes[0].graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    tensor = mapped.rebuilt
    weight = ir.Value(
        name=record.name,
        type=ir.TensorType(record.ir_dtype),
        shape=ir.Shape(record.shape),
        doc_string=rebuilt.doc_string,
        const_value=tensor,
        metadata_props={k: v for k, v in rebuilt.metadata_props.items() if k not in {WEIGHT_KEY, ROLE_KEY}},
    )
    weight.meta.update(rebuilt.meta)
    rebuilt.replace_all_uses_with(weight, replace_graph_outputs=True)
    graph.remove(mapped.nodes, safe=True)
    leaves = (*mapped.conductances, mapped.scale, *mapped.constants)
    constants = [value for value in leaves if not value.uses() and not value.is_graph_output()]
    _put_in_place_of(constants, weight, graph)


def _put_in_place_of(removed: list[ir.Value], weight: ir.Value, graph: ir.Graph) -> None:
    """Let the weight stand where the first of its conductances stood, as before it was mapped."""
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
