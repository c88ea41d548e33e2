"""Whether a model draws random numbers, so that its runs differ from each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal, TypeAlias

from onnx_gconv.files.models import load_model

__all__ = ["RandomNumbers", "random_numbers"]

# Dropout does where it trains. The last four are ONNX Runtime's.
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
    | {"Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"}
)

RandomNumbers: TypeAlias = Literal["none", "seeded", "unseeded"]


def random_numbers(path: Path) -> RandomNumbers:
    """What nodes of a model draw, in its main graph, in bodies and in functions.

    ONNX Runtime gives a node without a seed one that depends on its number in the graph, or on the time: a mapped model
    has other numbers. With a seed, a node draws the same in the first run of every session.

    Returns:
        ``"seeded"`` if all nodes that draw random numbers have a seed.

    Raises:
        ModelError: If the model cannot be read.
    """
    model = load_model(path)
    nodes = itertools.chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))
    drawing = [node for node in nodes if node.op_type in _RANDOM_OPS]
    if not drawing:
        return "none"
    return "seeded" if all("seed" in node.attributes for node in drawing) else "unseeded"
