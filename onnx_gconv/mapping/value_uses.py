"""Lets the readers of a value read another one, and keep what they say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

__all__ = ["hand_over_uses"]


def hand_over_uses(old: ir.Value, new: ir.Value) -> None:
    """Let every node that reads `old`, and every graph that gives it, have `new` in its place.

    How a node of a multi-device model shards the value holds for the new one, too; onnx-ir alone would drop it.
    """
    sharded = {node: node.device_configurations for node, _ in old.uses() if node.sharding_of(old)}
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    for node, configurations in sharded.items():
        node.device_configurations = tuple(_bound(configurations, old, new))


def _bound(
    configurations: tuple[ir.NodeDeviceConfiguration, ...], old: ir.Value, new: ir.Value
) -> Iterator[ir.NodeDeviceConfiguration]:
    for item in configurations:
        specs = (replace(spec, value=new) if spec.value is old else spec for spec in item.sharding_specs)
        yield replace(item, sharding_specs=tuple(specs))
