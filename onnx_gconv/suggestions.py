"""What messages about unknown names suggest: the most similar names that exist, or else what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggestion"]

# Ratios of difflib: of names that are suggested, and of examples that are given if there are too many names to list.
_SIMILAR = 0.6
_SLIGHTLY_SIMILAR = 0.3

# Further names are suggested from this part of the ratio of the most similar one.
_NEARLY_AS_SIMILAR = 0.9

_MOST_SUGGESTED = 3
_MOST_EXAMPLES = 5
_MOST_LISTED = 30
_MOST_COMPARED = 50


def suggestion(name: str, known: Iterable[str], *, of_model: bool = False, lists_all: bool = True) -> str | None:
    """``did you mean g_max?``, or ``there are a, b`` if no name is similar; None if there are no names.

    Up to three names are suggested if they are about equally similar. Of more than 30 names, the text has only how many
    there are, and a few that are slightly similar. Upper and lower case count as alike.

    Args:
        name: The unknown name.
        known: The names that exist.
        of_model: Whether the names are those of a model or a file, which may be any text: they are put into quotation
            marks, and at most five are listed.
        lists_all: Whether to list what there is if no name is similar; if not, None is returned.
    """
    names = list(dict.fromkeys(known))
    near = _similar(name, names, _SIMILAR)
    if near:
        chosen = [each for ratio, each in near if ratio >= _NEARLY_AS_SIMILAR * near[0][0]][:_MOST_SUGGESTED]
        *first, last = _written(chosen, quoted=of_model)
        return f"did you mean {', '.join(first)} or {last}?" if first else f"did you mean {last}?"
    if not names or not lists_all:
        return None
    if len(names) > (_MOST_EXAMPLES if of_model else _MOST_LISTED):
        examples = [each for _, each in _similar(name, names, _SLIGHTLY_SIMILAR)] or names
        listed = ", ".join(_written(examples[:_MOST_EXAMPLES], quoted=of_model))
        return f"there are {len(names):,}, such as {listed}"
    return f"there {'are' if len(names) > 1 else 'is'} {', '.join(_written(names, quoted=of_model))}"


def _similar(name: str, names: list[str], least: float) -> list[tuple[float, str]]:
    """Names that are at least so similar, with their ratios, the most similar first; equal ones in their own order."""
    by_lower: dict[str, list[str]] = {}
    for each in names:
        by_lower.setdefault(each.lower(), []).append(each)
    near = difflib.get_close_matches(name.lower(), by_lower, n=_MOST_COMPARED, cutoff=least)
    found = [(_ratio(lower, name.lower()), each) for lower in near for each in by_lower[lower]]
    places = {each: place for place, each in enumerate(names)}
    return sorted(found, key=lambda item: (-item[0], places[item[1]]))


def _ratio(known: str, name: str) -> float:
    # The ratio depends on the order of the two, and get_close_matches has this one.
    return difflib.SequenceMatcher(None, known, name).ratio()


def _written(names: list[str], *, quoted: bool) -> list[str]:
    return [f"'{name}'" for name in names] if quoted else names
