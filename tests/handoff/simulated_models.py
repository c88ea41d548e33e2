"""A mapped model whose MVM nodes are simulated from a bundle: the tiles, and what model.onnx says of the nodes."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from tests.handoff.rounded import Rounded
from tests.handoff.simulated_ops import OPS
from tests.handoff.simulated_products import Operands
from tests.handoff.tile_products import TiledLayer


def simulated_outputs(folder: Path, layers: list[TiledLayer], feeds: dict) -> dict[str, Rounded]:
    """What the MVM nodes of a bundle with these layers compute, by the names of their outputs.

    Every node reads inputs and initializers of the model, besides its weights.
    """
    graph = onnx.load(folder / "model.onnx").graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer} | feeds
    outputs = {}
    for node in graph.node:
        own = {used["slot"]: layer for layer in layers for used in [_use(layer, node)] if used is not None}
        if own:
            attributes = {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute}
            others = {index: arrays.get(name) for index, name in enumerate(node.input) if index not in own}
            assert all(others[index] is not None or not node.input[index] for index in others), node.input
            biases = {slot: layer.bias for slot, layer in own.items()}
            found = OPS[node.domain, node.op_type](Operands(attributes, own, others, biases))
            outputs |= dict(zip(node.output, found, strict=False))
            if node.op_type == "MatMul" and biases[min(own)] is not None:  # the bias of the Add node behind it
                [add] = [other for other in graph.node if node.output[0] in other.input]
                outputs[add.output[0]] = found[0] + Rounded.exact(biases[min(own)])
    return outputs


def _use(layer: TiledLayer, node: onnx.NodeProto) -> dict | None:
    """What the manifest says of how a node uses a layer; the first has the matrix view."""
    used = layer.entry["nodes"][0]
    same = (used["node"], used["op_type"], used["domain"]) == (node.name, node.op_type, node.domain)
    return used if same else None


def _plain(value):
    return value.decode() if isinstance(value, bytes) else value
