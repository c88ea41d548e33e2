"""Replaces a value in the nodes that read it, and keeps how these nodes shard it over devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

__all__ = ["hand_over_use", "hand_over_uses"]


def hand_over_uses(old: ir.Value, new: ir.Value) -> None:
    """Replace `old` by `new` in all nodes that read it and in the outputs of all graphs.

    The sharding specifications that nodes of a multi-device model have for `old` move to `new`; onnx-ir alone would
    drop them.
    """
    sharded = {node: node.device_configurations for node, _ in old.uses() if node.sharding_of(old)}
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    for node, configurations in sharded.items():
        node.device_configurations = tuple(_bound(configurations, old, new))


def hand_over_use(node: ir.Node, index: int, new: ir.Value) -> None:
    """Replace one input of a node by `new`, with the sharding specifications that the old input had."""
    old = node.inputs[index]
    configurations = node.device_configurations
    node.replace_input_with(index, new)
    if old is not None and configurations:
        is_read_besides = any(value is old for value in node.inputs)
        node.device_configurations = tuple(_bound(configurations, old, new, keeps_old=is_read_besides))


def _bound(
    configurations: tuple[ir.NodeDeviceConfiguration, ...], old: ir.Value, new: ir.Value, *, keeps_old: bool = False
) -> Iterator[ir.NodeDeviceConfiguration]:
    for item in configurations:
        specs = [replace(spec, value=new) if spec.value is old else spec for spec in item.sharding_specs]
        if keeps_old:
            specs += [spec for spec in item.sharding_specs if spec.value is old]
        yield replace(item, sharding_specs=tuple(specs))
