"""What the nodes that rebuild a weight take over from those around them: their device, and metadata.

ONNX Runtime places nodes by the metadata ``layer_ann`` (session option ``session.layer_assignment_settings``),
and multi-device models of ONNX by device configurations: a weight has to be rebuilt where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnx_gconv.mapping.nodes import RebuiltWeight
from onnx_gconv.passes.planning.mapping_plan import PlannedWeight
from onnx_gconv.visible_text import listed
from onnx_gconv.weights import FoundWeight
from onnx_gconv.weights.rearrangement import node_label

__all__ = ["annotate", "annotation_notes"]

_LAYER = "layer_ann"

# Those of the new nodes that compute each element from elements in the same place.
_ELEMENTWISE = frozenset({"Sub", "Div", "Add", "Mul", "Round", "Floor", "Max", "Min", "Cast", "DequantizeLinear"})

# What exporters note of where a node comes from, which nobody computes with.
_ORIGINS = ("pkg.", "namespace")


def annotate(found: FoundWeight, rebuilt: RebuiltWeight) -> None:
    """Let the nodes that rebuild a weight stand on the devices of its readers, and keep metadata of what they replace.

    Args:
        found: The weight, which nothing has replaced yet.
        rebuilt: The nodes; values of them that have the shape of the weight are sharded as it is.
    """
    producer = found.value.producer()
    if producer is not None:
        rebuilt.nodes[-1].metadata_props.update(producer.metadata_props)
    layers = _layers(found)
    sharded = _configurations(found)
    for node in rebuilt.nodes:
        if layers:
            node.metadata_props[_LAYER] = layers[0]
        if sharded:
            node.device_configurations = tuple(_for_node(node, sharded, found.value, rebuilt.value))


def annotation_notes(weights: Sequence[PlannedWeight]) -> Iterator[str]:
    """What of it cannot be taken over, a line for each weight; the weights stand in the model as it was."""
    for weight in weights:
        found = weight.found
        if len(layers := _layers(found)) > 1:
            others = ", ".join(f"'{layer}'" for layer in layers[1:])
            yield f"{found.quoted} is rebuilt in the layer '{layers[0]}' ({_LAYER}), and read in {others}, too"
        if found.packed is not None and any(item.sharding_specs for item in _configurations(found)):
            yield (
                f"the nodes that rebuild {found.quoted} are not sharded over devices, as their values have other "
                "shapes; those that read it are, as before"
            )
        yield from _notes_of_removed(found)


def _notes_of_removed(found: FoundWeight) -> Iterator[str]:
    removed = _computing_alone(found.value)
    last = found.value.producer()
    keys = {key: None for node in removed if node is not last for key in node.metadata_props}
    if told := [f"'{key}'" for key in keys if key != _LAYER and not key.startswith(_ORIGINS)]:
        yield f"nodes that computed {found.quoted} are gone, and so is their metadata {listed(told)}"
    if sharded := [node_label(node) for node in removed if node.device_configurations]:
        yield f"nodes that computed {found.quoted} are gone, and so is how they were sharded: {listed(sharded)}"


def _layers(found: FoundWeight) -> list[str]:
    """The layers that a weight is multiplied in, the first one first; else those that read, or compute, it."""
    products = [consumer.node for consumer in found.consumers if consumer.is_mvm]
    others = [consumer.node for consumer in found.consumers if not consumer.is_mvm]
    for nodes in (products, others, [found.value.producer()]):
        layers = (node.metadata_props.get(_LAYER) for node in nodes if node is not None)
        if named := list(dict.fromkeys(layer for layer in layers if layer is not None)):
            return named
    return []


def _configurations(found: FoundWeight) -> tuple[ir.NodeDeviceConfiguration, ...]:
    """How the first reader that says it stands on devices, with what it says of the weight and of nothing else."""
    for node, _ in found.value.uses():
        if node.device_configurations:
            return tuple(
                replace(item, sharding_specs=tuple(spec for spec in item.sharding_specs if spec.value is found.value))
                for item in node.device_configurations
            )
    return ()


def _for_node(
    node: ir.Node, configurations: Sequence[ir.NodeDeviceConfiguration], old: ir.Value, new: ir.Value
) -> Iterator[ir.NodeDeviceConfiguration]:
    """The configurations of one of the new nodes."""
    values = (*node.inputs, *node.outputs) if node.op_type in _ELEMENTWISE else ()
    alike = [value for value in values if value is not None and value.shape == new.shape]
    for item in configurations:
        specs = [spec for spec in item.sharding_specs if spec.value is old]
        bound = tuple(replace(spec, value=value) for spec in specs for value in alike)
        yield replace(item, sharding_specs=bound)


def _computing_alone(value: ir.Value) -> list[ir.Node]:
    """The nodes that compute a value and nothing else, the last one first, without Constant nodes."""
    found: dict[ir.Node, None] = {}
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop(0)
        if node is None or node in found or node.op_type == "Constant":
            continue
        users = {user for output in node.outputs if output is not value for user, _ in output.uses()}
        if users <= found.keys() and not any(
            output.is_graph_output() for output in node.outputs if output is not value
        ):
            found[node] = None
            waiting.extend(item.producer() for item in node.inputs if item is not None)
    return list(found)
