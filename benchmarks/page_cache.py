"""Brings the page cache and the free memory into the same state before every job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["level_conditions"]

_BLOCK_BYTES = 1 << 18


def level_conditions(inputs: Iterable[Path], *, ballast: Path, ballast_bytes: int) -> None:
    """Let the next job find what every other job finds.

    1. Everything that is dirty goes to the disk: nothing of the job before is still being written when the next runs.
    2. The inputs are read: all jobs read from the page cache.
    3. If a ballast is asked for, a file of that size is written before and removed in the end. The job so has memory
       for its output that was in use a moment ago. Otherwise it takes memory as it is found, which on virtual machines
       that hand free memory back to their host is much slower to get, for the copy as for everything else.

    Args:
        inputs: Files that the job reads.
        ballast: Where the file of step 3 goes.
        ballast_bytes: Its size; 0 for none.
    """
    try:
        if ballast_bytes:
            _write_zeros(ballast, ballast_bytes)
        os.sync()
        for file in inputs:
            _read(file)
    finally:
        ballast.unlink(missing_ok=True)


def _write_zeros(path: Path, size: int) -> None:
    block = bytes(_BLOCK_BYTES)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, _BLOCK_BYTES):
            file.write(block[: min(_BLOCK_BYTES, size - start)])


def _read(path: Path) -> None:
    buffer = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
