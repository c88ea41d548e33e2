"""A graph of one op, with inputs that it can be run with, and the numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

OPSETS = '"" : 21, "com.microsoft" : 1'

_TYPES = {"f": "float", "e": "float16", "B": "uint8", "b": "int8", "h": "int16", "i": "int32", "l": "int64"}


@dataclass(frozen=True, eq=False)
class OpGraph:
    """A graph of one op.

    Attributes:
        text: In ONNX's textual form.
        feeds: Inputs, by name.
        constants: Weights and other initializers, by name.
    """

    text: str
    feeds: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray]


def graph(nodes: str, x: np.ndarray, result: str = "float", **constants: np.ndarray) -> OpGraph:
    """A graph of input x and output y."""
    declared = f"{_TYPES[x.dtype.char]}{list(x.shape)} x"
    return OpGraph(f"g ({declared}) => ({result} y) {{ {nodes} }}", {"x": x}, constants)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed numbers of which some outputs, and some stretches of inputs, are much smaller."""
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if array.ndim > 1:
        array[..., : shape[-1] // 3] *= 0.01
        array[: max(shape[0] // 3, 1)] *= 0.1
    return array


def uniform(*shape: int, seed: int = 9) -> np.ndarray:
    """Activations."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def codes(*shape: int, dtype: type = np.int8, seed: int = 0) -> np.ndarray:
    """Integers of the whole range of a type."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def levels(*shape: int) -> np.ndarray:
    """Float activations that are quantized exactly: integers from -100 to 155, 255 apart, have the scale 1."""
    array = np.random.default_rng(5).integers(-100, 156, shape).astype(np.float32)
    array.reshape(-1)[:2] = -100, 155
    return array
