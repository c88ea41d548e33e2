"""What messages about unknown names suggest: the most similar name that exists, or else all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggestion"]


def suggestion(name: str, known: Iterable[str], *, lists_all: bool = True) -> str | None:
    """``did you mean g_max?``; or ``there are a, b`` if no known name is similar; None if there are no known names.

    Args:
        name: The unknown name.
        known: The names that exist.
        lists_all: Whether to list all of them if none is similar; if not, None is returned.
    """
    names = list(known)
    if nearest := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"did you mean {nearest[0]}?"
    return f"there are {', '.join(names)}" if names and lists_all else None
