"""How operations say how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "progress_of_step"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the step that an operation is at, what of it is done, and how much there is."""


def progress_of_step(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    """What a single step calls with what is done and how much there is; None if nobody wants to know."""
    return None if progress is None else lambda done, total: progress(step, done, total)
