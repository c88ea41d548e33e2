"""Makes texts printable: text from untrusted files must not control the terminal.

A control character in a name could move the cursor, colour or hide other text, or start a line that looks like one of
ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["listed", "one_line", "visible", "visible_json", "visible_lines"]

# Names in a model may have any length. Longer messages are cut in the middle: what they say about a name is at the
# beginning and at the end.
_LONGEST_LINE = 2000


def visible(text: str) -> str:
    r"""A text on one line, with escapes such as ``\x1b`` and ``\n`` in place of non-printable characters."""
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """A text of several lines, with escapes in place of non-printable characters other than line breaks."""
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str, longest: int = _LONGEST_LINE) -> str:
    """A message on one printable line: blanks replace line breaks; beyond `longest` characters, its middle is cut."""
    line = " ".join(part.strip() for part in text.split("\n")).strip()
    half = longest // 2
    if len(line) <= longest and len(shown := visible(line)) <= longest:
        return shown
    return f"{visible(line[:half])[:half]} [...] {visible(line[-half:])[-half:]}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """At most `most` names as a list in text, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def visible_json(document: str) -> str:
    """An equal JSON document in which all characters other than line breaks are printable."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(item if item.isprintable() or item == "\n" else _json_escape(item) for item in document)


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _json_escape(character: str) -> str:
    quoted = json.dumps(character)[1:-1]
    # json.dumps leaves DEL as it is, because it is ASCII.
    return quoted if quoted.isprintable() else f"\\u{ord(character):04x}"
