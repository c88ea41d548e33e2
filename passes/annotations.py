"""Gives the nodes that rebuild a weight the device of the weight's readers, and the metadata of replaced nodes.

ONNX Runtime assigns nodes to devices by the metadata ``layer_ann`` (session option
``session.layer_assignment_settings``); multi-device models of ONNX do so by device configurations of nodes. A weight
has to be rebuilt on the device that reads it.
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

# The op types of new nodes that compute each element from the elements at the same index of their inputs.
_ELEMENTWISE = frozenset({"Sub", "Div", "Add", "Mul", "Round", "Floor", "Max", "Min", "Cast", "DequantizeLinear"})

# Starts of the metadata keys in which exporters note the origin of a node; losing them changes no computation.
_ORIGINS = ("pkg.", "namespace")


def annotate(found: FoundWeight, rebuilt: RebuiltWeight) -> None:
    """Assign the nodes that rebuild a weight to the device of its readers, and keep the metadata of replaced nodes.

    Args:
        found: The weight, before its readers are handed over.
        rebuilt: The nodes that rebuild it. Their values with the shape of the weight are sharded like the weight.
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
    """Yield a note for each annotation that is lost or ambiguous; to be called before weights are replaced."""
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
    """Return the ``layer_ann`` of the MVM ops that read a weight, in order; if they have none, of its other readers.

    If the readers have none either, that of the node that computes the weight.
    """
    products = [consumer.node for consumer in found.consumers if consumer.is_mvm]
    others = [consumer.node for consumer in found.consumers if not consumer.is_mvm]
    for nodes in (products, others, [found.value.producer()]):
        layers = (node.metadata_props.get(_LAYER) for node in nodes if node is not None)
        if named := list(dict.fromkeys(layer for layer in layers if layer is not None)):
            return named
    return []


def _configurations(found: FoundWeight) -> tuple[ir.NodeDeviceConfiguration, ...]:
    """Return the device configurations of the first reader that has any, with the sharding of the weight only."""
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
    """Yield the device configurations of a new node: the sharding of the weight, for its values of the same shape."""
    values = (*node.inputs, *node.outputs) if node.op_type in _ELEMENTWISE else ()
    alike = [value for value in values if value is not None and value.shape == new.shape]
    for item in configurations:
        specs = [spec for spec in item.sharding_specs if spec.value is old]
        bound = tuple(replace(spec, value=value) for spec in specs for value in alike)
        yield replace(item, sharding_specs=bound)


def _computing_alone(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that only this value needs, from the last to the first, without Constant nodes."""
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
