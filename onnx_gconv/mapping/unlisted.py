"""Finds nodes that rebuild weights without a manifest: another tool may have dropped it, or one of its entries."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from onnx_gconv.mapping.nodes import ROLE_KEY

__all__ = ["rebuilding_node", "rebuilding_nodes"]

_SCALE = re.compile(r"(?P<weight>.+)\.g_scale(_\d+)?")

# The ops that may stand between conductances or a scale and the division.
_OPERATIONS = frozenset(
    {"Add", "Sub", "Mul", "Cast", "DequantizeLinear", "Gather", "Transpose", "Reshape", "Max", "Min"}
)


def rebuilding_node(model: ir.Model) -> ir.Node | None:
    """The first node whose metadata, or else the names of its inputs, say that it rebuilds a weight; None if none."""
    marked = (node for graph in model.graphs() for node in graph if ROLE_KEY in node.metadata_props)
    return next(marked, None) or next((node for node, _ in rebuilding_nodes(model)), None)


def rebuilding_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """The divisions of conductances ``NAME.g...`` by a scale ``NAME.g_scale``, and the name of the scale."""
    for graph in model.graphs():
        for node in graph:
            if node.op_type != "Div" or node.domain != "" or len(node.inputs) < 2:  # noqa: PLR2004 - its operands
                continue
            for scale in _leaves(node.inputs[1]):
                match = _SCALE.fullmatch(scale)
                if match is not None and any(
                    name.startswith(f"{match['weight']}.g") for name in _leaves(node.inputs[0])
                ):
                    yield node, scale


def _leaves(value: ir.Value | None) -> Iterator[str]:
    """The names of the values that a value is computed from by the ops of a mapping."""
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if node is not None and node.op_type in _OPERATIONS:
            waiting.extend(item for item in node.inputs if item not in seen)
            seen.update(node.inputs)
        elif current is not None and current.name:
            yield current.name
