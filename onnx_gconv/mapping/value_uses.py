"""Lets the readers of a value read another one, and keep what they say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

__all__ = ["hand_over_use", "hand_over_uses"]


def hand_over_uses(old: ir.Value, new: ir.Value) -> None:
    """Let every node that reads `old`, and every graph that gives it, have `new` in its place.

    How a node of a multi-device model shards the value holds for the new one, too; onnx-ir alone would drop it.
    """
    sharded = {node: node.device_configurations for node, _ in old.uses() if node.sharding_of(old)}
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    for node, configurations in sharded.items():
        node.device_configurations = tuple(_bound(configurations, old, new))


def hand_over_use(node: ir.Node, index: int, new: ir.Value) -> None:
    """Let one input of a node have `new`, sharded over devices as what it had before."""
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
