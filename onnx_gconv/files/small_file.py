"""Writes a small file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_small_file"]


def write_small_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file that is held in memory.

    Args:
        path: The file.
        content: What is in it.
        replace: Whether an older one is replaced.

    Raises:
        FileExistsError: If there is one that is not to be replaced, or a link that leads nowhere.
        OSError: If it cannot be written; what there was is as it was.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        if replace:
            partial.replace(path)
        else:
            path.hardlink_to(partial)  # unlike a rename, it never replaces
    finally:
        partial.unlink(missing_ok=True)
