"""A mapped model whose weights are inputs, so that one session of ONNX Runtime runs one chip after the other."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_gconv.mapping import remove_manifest
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes.unused_nodes import remove_unused

__all__ = ["weights_as_inputs"]

_FED_FROM_ARRAYS = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    }
)


def weights_as_inputs(model: ir.Model, weights: Sequence[MappedWeight]) -> tuple[str, ...]:
    """Make the weights of a mapped model inputs of its main graph, in place::

        before:  Sub(W.g_plus, W.g_minus) -> W.g_difference    Div(W.g_difference, W.g_scale) -> W    MatMul(x, W)
        after:   MatMul(x, W.simulated)                        with W.simulated an input

    ONNX Runtime's Python interface takes no arrays of some types, such as 4-bit integers and float8. Inputs for weights
    of these types are float32, which holds their values exactly, and a Cast gives the type of the weight.

    The bodies of If, Loop and Scan can use inputs of the main graph directly. If a weight is also an output of a graph,
    an Identity node produces that output.

    Args:
        model: The mapped model, which is changed in place and loses its manifest.
        weights: All its mapped weights.

    Returns:
        The names of the inputs, one for each weight.
    """
    names, found = UniqueNames(model), []
    for weight in weights:
        record, old = weight.record, weight.value
        name, shape = names.new(f"{record.name}.simulated"), ir.Shape(record.stored_shape)
        if record.ir_dtype in _FED_FROM_ARRAYS:
            value = given = ir.Value(name=name, type=ir.TensorType(record.ir_dtype), shape=shape)
        else:
            given = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
            value = ir.Value(name=names.new(f"{name}.cast"), type=ir.TensorType(record.ir_dtype), shape=shape)
            to = ir.AttrInt64("to", record.ir_dtype.value)
            model.graph.insert_before(model.graph[0], ir.Node("", "Cast", [given], [to], outputs=[value]))
        for node, index in tuple(old.uses()):
            node.replace_input_with(index, value)
        _replace_outputs(old, value)
        remove_unused(weight.nodes[:1])
        model.graph.inputs.append(given)
        found.append(name)
    remove_manifest(model)
    return tuple(found)


def _replace_outputs(old: ir.Value, new: ir.Value) -> None:
    """Produce the outputs of a graph that are `old` from `new` instead, under the old name."""
    producer = old.producer()
    if not old.is_graph_output() or producer is None or not isinstance(graph := producer.graph, ir.Graph):
        return
    output = ir.Value(name=old.name, type=old.type, shape=old.shape)
    graph.append(ir.Node("", "Identity", [new], outputs=[output]))
    for number, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[number] = output
    old.name = f"{old.name}.ideal"
