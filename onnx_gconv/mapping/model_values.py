"""The initializers, node outputs and nodes of all graphs of a model, by name."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["ModelValues", "tensor_of"]


class ModelValues:
    """The initializers, node outputs and nodes of all graphs of a model, by name."""

    def __init__(self, model: ir.Model) -> None:
        self.initializers: dict[str, ir.Value] = {}
        self.outputs: dict[str, list[ir.Value]] = {}
        self._nodes: dict[tuple[str, str], list[ir.Node]] = {}
        for graph in model.graphs():
            self.initializers.update({name: v for name, v in graph.initializers.items() if v.const_value is not None})
            for node in graph:
                if node.name:
                    self._nodes.setdefault((node.name, node.op_type), []).append(node)
                for output in node.outputs:
                    if output.name:
                        self.outputs.setdefault(output.name, []).append(output)

    def nodes(self, name: str, op_type: str) -> Sequence[ir.Node]:
        """The nodes of all graphs that have this name and this op type."""
        return self._nodes.get((name, op_type), ())


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The data of one of the initializers of `ModelValues`."""
    assert value.const_value is not None  # noqa: S101 - `ModelValues` takes initializers with data only
    return value.const_value
