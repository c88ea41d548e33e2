"""Brings the page cache and the free memory into the same state before every job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["level_conditions"]

_BLOCK_BYTES = 1 << 18


def level_conditions(inputs: Iterable[Path], *, ballast: Path, ballast_bytes: int) -> None:
    """Let the next job find what every other job finds.

    1. A ballast is written: a file of the size of the job's output. Whoever runs the job removes it in the moment
       before the work starts, so that the work finds memory that was in use until then. Virtual machines hand memory
       that is free for some seconds back to their host, from where it is several times slower to get: without a
       ballast, a job would be as fast as what ran before it left memory behind.
    2. Everything that is dirty goes to the disk: nothing of the job before is still being written when the next runs.
    3. The inputs are read: all jobs read from the page cache.

    Args:
        inputs: Files that the job reads.
        ballast: Where the file of step 1 goes.
        ballast_bytes: Its size.
    """
    _write_zeros(ballast, ballast_bytes)
    os.sync()
    for file in inputs:
        _read(file)


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
