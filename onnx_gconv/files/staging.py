"""Tells whether the process that made a file still runs."""

from __future__ import annotations

__all__ = ["lock_file"]


def lock_file(descriptor: int) -> bool:
    """Lock a file for the life of this process; False if another process holds it."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on POSIX: leftovers are then left alone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
