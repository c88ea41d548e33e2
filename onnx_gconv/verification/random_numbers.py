"""Finds out whether a model draws random numbers, so that its runs differ from each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal, TypeAlias

from onnx_gconv.files.models import load_model

__all__ = ["RandomNumbers", "random_numbers"]

# Dropout draws random numbers in training mode. The last four ops are ONNX Runtime's.
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
    | {"Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"}
)

RandomNumbers: TypeAlias = Literal["none", "seeded", "unseeded"]


def random_numbers(path: Path) -> RandomNumbers:
    """Return whether nodes of a model draw random numbers, in its main graph, in bodies or in functions.

    ONNX Runtime gives a node without a seed a seed that depends on the node's index in the graph, or on the time; so a
    mapped model draws other numbers than the original. With a seed, a node draws the same numbers in the first run of
    every session.

    Returns:
        ``"none"`` if no node draws random numbers, ``"seeded"`` if all nodes that do have a seed, else ``"unseeded"``.

    Raises:
        ModelError: If the model cannot be read.
    """
    model = load_model(path)
    nodes = itertools.chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))
    drawing = [node for node in nodes if node.op_type in _RANDOM_OPS]
    if not drawing:
        return "none"
    return "seeded" if all("seed" in node.attributes for node in drawing) else "unseeded"
