"""Random numbers of a simulated chip, which depend on what they are for and not on who computes them, or when."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

__all__ = ["ChipStreams"]


@dataclass(frozen=True)
class ChipStreams:
    """Streams of random numbers for one chip.

    Each weight, device, step and block of elements has a stream of its own. NumPy takes seeds of several words that
    differ in zeros at the end for one seed ([7] and [7, 0]); so all that a stream is for is hashed into one seed.

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
        key = json.dumps(["onnx_gconv.simulation", self.seed, self.chip, *weight, device, step, block])
        words = np.frombuffer(hashlib.sha256(key.encode("ascii")).digest(), "<u4")
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words.tolist())))
