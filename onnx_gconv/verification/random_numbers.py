"""Finds out whether a model draws random numbers, so that its runs differ from each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from onnx_gconv.files.models import load_model
from onnx_gconv.weights.random_nodes import random_nodes

__all__ = ["RandomNumbers", "random_numbers"]

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
    drawing = random_nodes(load_model(path))
    if not drawing:
        return "none"
    return "seeded" if all("seed" in node.attributes for node in drawing) else "unseeded"
