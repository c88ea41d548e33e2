"""How operations report their progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "progress_of_step"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the current step, the amount that is done, and the total amount of that step."""


def progress_of_step(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    """Return the function that a step calls with the amount done and the total; None if progress is not reported."""
    return None if progress is None else lambda done, total: progress(step, done, total)
