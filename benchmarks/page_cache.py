"""Brings the page cache and the free memory into the same state before every job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["level_conditions"]

_BLOCK_BYTES = 1 << 18


def level_conditions(inputs: Iterable[Path], *, ballast: Path, ballast_bytes: int) -> None:
    """Give the next job the same conditions as every other job.

    1. Write the ballast, a file of the size of the job's output, which fills the page cache. Whoever runs the job
       removes the ballast just before the work starts, so that the memory for the output has just become free. Virtual
       machines return memory that is free for some seconds to their host, and getting it back takes several times as
       long. Without a ballast, the time of a job would depend on the job before.
    2. Write all changed pages to the disk, so that no output of the job before is still being written.
    3. Read the inputs, so that all jobs read from the page cache.

    Args:
        inputs: The files that the job reads.
        ballast: The file of step 1.
        ballast_bytes: The size of the ballast; 0 for an empty file, which frees no memory.
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
