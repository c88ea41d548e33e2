"""Texts in which all is printable: what comes from files that anyone may have written is shown, never obeyed.

A control character of a name could move the cursor of a terminal, colour or hide what stands beside it, or begin a line
that looks like one of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["listed", "one_line", "visible", "visible_json", "visible_lines"]

# Names in a model may have any length; what a message says of them is at its beginning and at its end.
_LONGEST_LINE = 2000


def visible(text: str) -> str:
    r"""A text on one line, in which escapes such as ``\x1b`` and ``\n`` stand for what is not printable."""
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """A text of several lines, in which all but the ends of lines is printable."""
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str, longest: int = _LONGEST_LINE) -> str:
    """A message on one printable line of bounded length: line breaks are blanks, the middle of a long one is cut."""
    line = " ".join(part.strip() for part in text.split("\n")).strip()
    half = longest // 2
    if len(line) <= longest and len(shown := visible(line)) <= longest:
        return shown
    return f"{visible(line[:half])[:half]} [...] {visible(line[-half:])[-half:]}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names of some in a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def visible_json(document: str) -> str:
    """A JSON document in which all characters are printable or ends of lines; it says the same."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(item if item.isprintable() or item == "\n" else _json_escape(item) for item in document)


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _json_escape(character: str) -> str:
    quoted = json.dumps(character)[1:-1]
    return quoted if quoted.isprintable() else f"\\u{ord(character):04x}"  # of DEL, which is ASCII
