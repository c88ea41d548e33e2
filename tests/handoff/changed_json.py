"""JSON documents with something changed, as by a hand, a bug or an attacker."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

_FOREIGN = [
    *(None, True, "", "x", "../x", [], {}, [0], [[0]], [0, 0], [3, 1], [-1, 2]),
    *(0, -1, 1, 3, 2**40, 2**70, 1.5, -0.5, float("nan"), float("inf")),
]


@dataclass(frozen=True)
class Changed:
    """A changed document.

    Attributes:
        document: The document.
        what: What was changed; all that failing tests show.
    """

    document: Any = field(repr=False)
    what: str


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Changed:
    """A copy of a document in which one or two values are replaced or missing."""
    result, done = copy.deepcopy(document), []
    for _ in range(draw(st.integers(1, 2))):
        holder, key = draw(st.sampled_from(list(_places(result))))
        if draw(st.integers(0, 9)) == 0:
            done.append(f"{key!r} is gone")
            del holder[key]
        else:
            old = holder[key]
            holder[key] = copy.deepcopy(draw(st.sampled_from([*_FOREIGN, *_near(old)])))
            done.append(f"{key!r}: {old!r:.100} -> {holder[key]!r:.100}")
    return Changed(result, "; ".join(done))


def _places(item: Any) -> Iterator[tuple[Any, Any]]:
    """All objects and lists, each with all of its keys or indices."""
    if isinstance(item, (dict, list)):
        for key in list(item) if isinstance(item, dict) else range(len(item)):
            yield item, key
            yield from _places(item[key])


def _near(old: Any) -> list[Any]:
    """Values of the same type."""
    if isinstance(old, bool):
        return [not old] * 4
    if isinstance(old, int):
        return [old + 1, old - 1, -old, 1000 * old] * 3
    if isinstance(old, float):
        return [2 * old, -old, 0.0] * 3
    if isinstance(old, str):
        return [f"{old}x", old[:-1]] * 5
    if isinstance(old, list) and old:
        return [old[:-1], [*old, old[-1]], old[::-1]] * 4
    return []
