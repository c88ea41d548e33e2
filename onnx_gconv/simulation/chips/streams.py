"""Random numbers of a simulated chip. They depend only on their purpose, not on the thread or the order of calls."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

__all__ = ["DRAWS", "ChipStreams"]

DRAWS = 1
"""The number of the rules by which a seed gives chips. It rises with each change after which a seed gives others."""


class _Hashed(ISeedSequence):
    """A digest as the initial state of a bit generator.

    The bits of SHA-256 are as well mixed as those of NumPy's `SeedSequence`, and it takes a tenth of the time.
    """

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:  # noqa: ANN401 - NumPy's signature
        """The first words of the digest."""
        words = np.frombuffer(self._digest, dtype)[:n_words]
        return words if sys.byteorder == "little" else words.byteswap()


@dataclass(frozen=True)
class ChipStreams:
    """Streams of random numbers for one chip.

    Each weight, device, step and block of elements has a stream of its own. The initial state of a stream is a hash of
    these. NumPy's seeds of several words are not used, because seeds that differ only in zeros at the end, such as [7]
    and [7, 0], give the same numbers.

    Attributes:
        seed: The seed of the simulation.
        chip: The number of the chip; each chip has devices of its own.
    """

    seed: int
    chip: int = 0

    def generator(self, weight: tuple[str, str], device: int, step: str, block: int) -> np.random.Generator:
        """The stream of random numbers for one step of one block of devices.

        Args:
            weight: The path of the graph of the weight, and the name of the weight.
            device: The index of the device within an element, such as 0 for G+.
            step: ``program``, ``drift``, or ``read`` followed by the time of the reading.
            block: The number of the block of elements.
        """
        hashed = _of_device(self.seed, self.chip, weight, device).copy()
        hashed.update(f"{step}\0{block}".encode())
        return np.random.Generator(np.random.SFC64(_Hashed(hashed.digest())))  # type: ignore[arg-type]  # NumPy takes it


@functools.lru_cache(maxsize=1024)
def _of_device(seed: int, chip: int, weight: tuple[str, str], device: int) -> hashlib._Hash:
    """The hash of what all steps and blocks of one device of a weight on a chip share."""
    key = json.dumps(["onnx_gconv.simulation", seed, chip, *weight, device])
    return hashlib.sha256(key.encode("ascii"))
