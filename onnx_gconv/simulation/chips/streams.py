"""Random numbers of a simulated chip, which depend on what they are for and not on who computes them, or when."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

__all__ = ["ChipStreams"]


class _Hashed(ISeedSequence):
    """A digest as the state of a bit generator. It is as good as what NumPy makes of a seed, and ten times faster."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:  # noqa: ANN401 - NumPy's signature
        """The first words of the digest."""
        return np.frombuffer(self._digest, np.dtype(dtype).newbyteorder("<"))[:n_words].astype(dtype)


@dataclass(frozen=True)
class ChipStreams:
    """Streams of random numbers for one chip.

    Each weight, device, step and block of elements has a stream of its own, whose state is a hash of all that it is
    for. NumPy takes seeds of several words that differ in zeros at the end for one seed, such as [7] and [7, 0]; hashes
    have no such twins.

    Attributes:
        seed: Of the simulation.
        chip: Which of its chips; each has devices of its own.
    """

    seed: int
    chip: int = 0

    def generator(self, weight: tuple[str, str], device: int, step: str, block: int) -> np.random.Generator:
        """The stream of one step of some devices.

        Args:
            weight: The path of the graph of the weight, and its name.
            device: Which of its devices.
            step: ``program``, ``drift``, or ``read`` with all that tells one reading from another.
            block: Which block of its elements.
        """
        hashed = _of_device(self.seed, self.chip, weight, device).copy()
        hashed.update(f"{step}\0{block}".encode())
        return np.random.Generator(np.random.SFC64(_Hashed(hashed.digest())))  # type: ignore[arg-type]  # NumPy takes it


@functools.lru_cache(maxsize=1024)
def _of_device(seed: int, chip: int, weight: tuple[str, str], device: int) -> hashlib._Hash:
    """What the streams of one device of a weight on a chip have in common."""
    key = json.dumps(["onnx_gconv.simulation", seed, chip, *weight, device])
    return hashlib.sha256(key.encode("ascii"))
