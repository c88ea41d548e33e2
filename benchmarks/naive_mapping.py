"""The rewrite in a few lines with onnx alone: everything in memory, a single pair of 0 to 25 µS.

It is a baseline for speed and memory. It takes only models whose initializers are all read by MatMul nodes, and gives
the same conductances as `onnx_gconv.map_model`, bit for bit. It writes no manifest and checks nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["map_naively"]

G_MAX_US = 25.0


def map_naively(source: Path, target: Path) -> None:
    """Replace every initializer with G+, G-, a scale, and the nodes that rebuild the weight."""
    model = onnx.load(source)
    weights, consumers, rebuilding = list(model.graph.initializer), list(model.graph.node), []
    del model.graph.initializer[:], model.graph.node[:]
    for tensor in weights:
        name = tensor.name
        weight = numpy_helper.to_array(tensor)
        scale = np.float32(1) / np.maximum(np.abs(weight).max(), np.float32(1e-7)) * np.float32(G_MAX_US)
        g_plus = np.clip(weight * scale, 0, G_MAX_US) + np.float32(0)  # the addition turns a negative zero into zero
        g_minus = np.clip(-weight * scale, 0, G_MAX_US) + np.float32(0)
        for array, ending in ((g_plus, "g_plus"), (g_minus, "g_minus"), (np.asarray(scale), "g_scale")):
            model.graph.initializer.append(numpy_helper.from_array(array, f"{name}.{ending}"))
        rebuilding.append(helper.make_node("Sub", [f"{name}.g_plus", f"{name}.g_minus"], [f"{name}.g_difference"]))
        rebuilding.append(helper.make_node("Div", [f"{name}.g_difference", f"{name}.g_scale"], [name]))
    model.graph.node.extend([*rebuilding, *consumers])
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
