"""What is no file, though it has a path: reading a pipe or a device may never end."""

from __future__ import annotations

from pathlib import Path

__all__ = ["no_file_but"]


def no_file_but(path: Path) -> str | None:
    """What stands at a path in place of a file; None for a file, and for nothing, of which whoever reads it says more.

    Links are followed.
    """
    try:
        if path.is_dir():
            return "a folder"
        return "a device, a pipe or a socket" if path.exists() and not path.is_file() else None
    except OSError:
        return None
