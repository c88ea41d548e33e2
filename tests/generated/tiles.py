"""The tiles of a bundle compute what the layers of the model compute, with the biases that stand in rows of them.

What is around the layers is left to ONNX Runtime: it gives what each node reads, and what the node or the sum behind
it gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnx_gconv.errors import BundleError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import write_bundle
from tests.generated.subjects import Subject, demand, run
from tests.handoff.rounded import Rounded
from tests.handoff.simulated_ops import OPS
from tests.handoff.simulated_products import MICROSOFT, Operands
from tests.handoff.tile_products import TiledLayer

__all__ = ["check_tiles"]

# Ops whose bias may stand in rows, and others that multiply with one matrix.
_SIMULATED = {
    *(("", op_type) for op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")),
    *((MICROSOFT, op_type) for op_type in ("FusedMatMul", "FusedGemm", "FusedConv")),
}

_BIAS_SLOT = 2

# Numbers below the smallest normal one lose bits.
_UNDERFLOW = 2.0**-126

# What may not be handed off: a weight whose reshape cuts across its axes.
_REFUSAL = "no node reads it as matrices of whole axes"


class _Driven(TiledLayer):
    """A layer whose rows of the bias are driven with 1."""

    def __init__(self, entry: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        bias = entry["bias"]
        self.rows = 0 if bias is None else bias["rows"]
        self.error = bias["max_abs_error"] if self.rows else 0.0
        entry["matrix_view"]["rows"] += self.rows
        super().__init__(entry, arrays.__getitem__)
        self.view = {**self.view, "rows": self.view["rows"] - self.rows}

    def product(self, x: Rounded, matrix: int = 0) -> Rounded:
        """``x @ W + b``."""
        ones = Rounded.exact(np.ones((x.shape[0], self.rows)))
        found = super().product(Rounded.concatenate([x, ones], 1) if self.rows else x, matrix)
        return Rounded(found.value, found.error + self.error + _UNDERFLOW)


def check_tiles(subject: Subject, mapped: ir.Model) -> None:
    """Hand a mapped model off, with biases in rows where that is possible, and simulate its layers."""
    seed, folder = subject.model.seed, subject.folder / "tiles"
    folder.mkdir()
    source, bundle = folder / "mapped.onnx", folder / "bundle"
    save_model(mapped, source)
    array, partition = (8 + seed % 9, 5), ("max", "equal")[seed % 2]
    rows = (1, 2, 4)[seed % 3]
    try:
        write_bundle(source, bundle, array, partition=partition, bias_rows=rows, arrays="npz")
    except BundleError as error:
        demand(_REFUSAL in str(error), f"no bundle can be written: {error}")
        return
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    with np.load(bundle / manifest["arrays"]["path"], allow_pickle=False) as file:
        arrays = dict(file)
    graph = _MainGraph(onnx.load(bundle / "model.onnx"))
    products = []
    for entry in manifest["layers"]:
        nodes = [(node, used["slot"]) for used in entry["nodes"] for node in graph.readers(entry, used)]
        if nodes and entry["array_dtype"] == entry["dtype"] == "float32" and not entry["rounded"]:
            layer = _Driven(entry, arrays)
            products += [_Product(node, slot, layer) for node, slot in nodes]
    if products:
        _check_products(subject, graph, products)


@dataclass(frozen=True, eq=False)
class _Product:
    """A node of the main graph that multiplies with a layer, by its matrix view."""

    node: onnx.NodeProto
    slot: int
    layer: _Driven


class _MainGraph:
    """The main graph of a mapped model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._nodes = list(model.graph.node)
        for node in self._nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def readers(self, entry: dict[str, Any], used: dict[str, Any]) -> list[onnx.NodeProto]:
        """The nodes that read a weight as the first of its nodes does, of those that an entry of it names."""
        if used["graph"] or entry["path"] or (used["domain"], used["op_type"]) not in _SIMULATED:
            return []
        first = entry["nodes"][0]
        if any(used[key] != first[key] for key in ("domain", "op_type", "slot")):
            return []
        if entry["nodes"].count(used) > 1:  # nodes without names, which may read the weight in several ways
            return []
        named = (used["node"], used["domain"], used["op_type"])
        same = [node for node in self._nodes if (node.name, node.domain, node.op_type) == named]
        return [node for node in same if node.input[used["slot"]] == entry["weight"]]

    def sum_with_bias(self, product: str) -> str:
        """What the only Add node behind a product gives."""
        readers = [node for node in self._nodes for name in node.input if name == product]
        is_one = len(readers) == 1 and readers[0].op_type == "Add"
        demand(is_one, f"rows hold a bias, but '{product}' is read by {[node.op_type for node in readers]}")
        return str(readers[0].output[0])


def _check_products(subject: Subject, graph: _MainGraph, products: list[_Product]) -> None:
    results = {}
    for product in products:
        is_behind = product.node.op_type.endswith("MatMul") and product.layer.rows
        results[product] = graph.sum_with_bias(product.node.output[0]) if is_behind else product.node.output[0]
    others = [name for product in products for name in product.node.input if name]
    values = _values(graph, subject.model.feeds, {*results.values(), *others})
    for product, name in results.items():
        simulated = _simulated(product, values)
        expected = values[name].astype(np.float64)
        if simulated is None or not np.isfinite(expected).all():
            continue
        distance = np.abs(simulated.value - expected)
        message = f"tiles of {product.layer.entry['id']} give '{name}' of {product.node.op_type} with an error of"
        demand(
            bool((distance <= simulated.error).all()), f"{message} {distance.max()}, allowed {simulated.error.max()}"
        )


def _values(graph: _MainGraph, feeds: Mapping[str, np.ndarray], names: set[str]) -> dict[str, np.ndarray]:
    """Values of the graph."""
    found = dict(graph.constants) | dict(feeds)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    outputs = sorted(names - found.keys())
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    return found | (run(model.SerializeToString(), feeds, ["none"])["none"] if outputs else {})


def _simulated(product: _Product, values: Mapping[str, np.ndarray]) -> Rounded | None:
    """What the tiles give; None where float32 overflows."""
    node, layer = product.node, product.layer
    attributes = {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute}
    others = {index: values.get(name) for index, name in enumerate(node.input) if index != product.slot}
    bias = None if layer.rows or node.op_type.endswith("MatMul") else others.get(_BIAS_SLOT)  # each node has its own
    with np.errstate(all="ignore"):
        operands = Operands(attributes, {product.slot: layer}, others, {product.slot: bias})
        [found] = OPS[node.domain, node.op_type](operands)
    return found if np.isfinite(found.size).all() else None


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
