"""Recognizes paths that are no regular files: reading a pipe or a device may never end."""

from __future__ import annotations

from pathlib import Path

__all__ = ["no_file_but"]


def no_file_but(path: Path) -> str | None:
    """Return what a path is instead of a file, such as "a folder". Links are followed.

    None for a file and for a missing one, which the code that reads it reports.
    """
    try:
        if path.is_dir():
            return "a folder"
        return "a device, a pipe or a socket" if path.exists() and not path.is_file() else None
    except OSError:
        return None
