"""Gives the nodes that rebuild a weight the device placement and the metadata of the nodes around them.

A weight has to be rebuilt on the device where it is read. ONNX Runtime places nodes by the metadata ``layer_ann``
(session option ``session.layer_assignment_settings``); multi-device models of ONNX use device configurations.
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

# The ops of a mapping that compute each element from elements at the same index.
_ELEMENTWISE = frozenset({"Sub", "Div", "Add", "Mul", "Round", "Floor", "Max", "Min", "Cast", "DequantizeLinear"})

# Metadata with these prefixes only say where an exporter took a node from.
_ORIGINS = ("pkg.", "namespace")


def annotate(found: FoundWeight, rebuilt: RebuiltWeight) -> None:
    """Place the nodes that rebuild a weight on the devices of its readers, and copy metadata of the replaced node.

    Args:
        found: The weight, before its readers read the rebuilt one.
        rebuilt: The nodes. Their values of the weight's shape are sharded like the weight.
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
    """Yield a note for each placement or metadata of a weight that the new nodes cannot keep.

    Args:
        weights: The weights, in the model before it is changed.
    """
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
    """The ``layer_ann`` texts of the nodes that multiply with a weight; else of other readers; else of its producer."""
    products = [consumer.node for consumer in found.consumers if consumer.is_mvm]
    others = [consumer.node for consumer in found.consumers if not consumer.is_mvm]
    for nodes in (products, others, [found.value.producer()]):
        layers = (node.metadata_props.get(_LAYER) for node in nodes if node is not None)
        if named := list(dict.fromkeys(layer for layer in layers if layer is not None)):
            return named
    return []


def _configurations(found: FoundWeight) -> tuple[ir.NodeDeviceConfiguration, ...]:
    """The device configurations of the first reader that has any, with the sharding of the weight only."""
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
    """The device configurations for a new node: `configurations`, with the sharding of `old` moved to its values."""
    values = (*node.inputs, *node.outputs) if node.op_type in _ELEMENTWISE else ()
    alike = [value for value in values if value is not None and value.shape == new.shape]
    for item in configurations:
        specs = [spec for spec in item.sharding_specs if spec.value is old]
        bound = tuple(replace(spec, value=value) for spec in specs for value in alike)
        yield replace(item, sharding_specs=bound)


def _computing_alone(value: ir.Value) -> list[ir.Node]:
    """The nodes that compute only this value, the last one first, without Constant nodes."""
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
