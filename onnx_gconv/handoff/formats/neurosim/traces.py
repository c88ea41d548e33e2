"""Writes the activations of layers to files: as bits for NeuroSim V1.4, as integers for V1.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.neurosim.windows import Windows
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["write_bits", "write_integers"]

_ZERO, _COMMA, _END = b"0,\n"


def write_bits(windows: Windows, bits: int, folder: Path, name: str, advance: Callable[[int], None]) -> FileRecord:
    """Write a line for each input, with the bits of each position, two's complement, the most significant one first.

    NeuroSim V1.4 reads this form (``write_matrix_activation_conv`` in its ``utee/hook.py``).

    Args:
        windows: The activations of a layer.
        bits: Bits of an integer.
        folder: The bundle.
        name: Path of the file in the bundle.
        advance: Called with the number of integers that were written since the last call.

    Returns:
        The manifest's record of the file.
    """
    shifts = np.arange(bits - 1, -1, -1)
    with HashedFile(folder, name) as file:
        for codes in windows.codes(bits):
            file.write(_digits((codes[:, None] >> shifts) & 1))
            advance(codes.size)
    return file.record


def _digits(bits: NDArray[np.int64]) -> bytes:
    """A line of digits, separated by commas."""
    text = np.full(2 * bits.size, _COMMA, np.uint8)
    text[::2] = bits.reshape(-1) + _ZERO
    text[-1] = _END
    return text.tobytes()


def write_integers(windows: Windows, bits: int, folder: Path, name: str, advance: Callable[[int], None]) -> FileRecord:
    """Write a line for each input, with the integer of each position; NeuroSim V1.5 splits integers into bits itself.

    Args:
        windows: The activations of a layer.
        bits: Bits of an integer.
        folder: The bundle.
        name: Path of the file in the bundle.
        advance: Called with the number of integers that were written since the last call.

    Returns:
        The manifest's record of the file.
    """
    with HashedFile(folder, name) as file:
        for codes in windows.codes(bits):
            file.write(",".join(map(str, codes.tolist())) + "\n")
            advance(codes.size)
    return file.record
