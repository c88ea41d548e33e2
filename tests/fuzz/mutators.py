"""Damages inputs: pure functions of what is damaged and of a generator of random numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Random", "chosen", "mutated_bytes", "mutated_json", "mutated_text"]

Random = np.random.Generator

INTEGERS = (
    0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63),
    2**64,
)  # fmt: skip
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-7, 1e-45, 1e-300, 1.0000001, 25.0, 3.4e38, 1e308, -1e308, np.inf, -np.inf, np.nan,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "W", "a\nb", "\0", "\x1b[31m", "ä", "\ud800", "🙂" * 3, "n" * 300, "../x", "/etc/passwd", "%s%n",
    "NaN", "true", "[0]", "*", "=1+1",
)  # fmt: skip
_BYTES = (0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22, 0x5B, 0x7B, 0x50)

# Deeper than the parsers that are read with; shallower is taken by most of them.
_DEPTHS = (60, 300, 2000, 100_000)

_MOST_STEPS = 4

# How often the way into a document ends at a table or list, and not at what is in it.
_STOPPING = 0.12


def chosen(random: Random, items: Sequence[Any]) -> Any:
    """One of the items."""
    return items[int(random.integers(len(items)))]


def steps(random: Random) -> range:
    """How many mutations an input gets: one as a rule, now and then several."""
    return range(min(int(random.geometric(0.6)), _MOST_STEPS))


# Bytes


def mutated_bytes(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Bytes with some of them flipped, replaced, removed, repeated, moved or cut off.

    Args:
        content: The bytes.
        random: Decides which.
        others: Inputs of the same kind, of which parts may come in.
    """
    data = bytearray(content)
    for _ in steps(random):
        if not data:
            return bytes(chosen(random, _BYTES) for _ in range(int(random.integers(20))))
        first = int(random.integers(len(data)))
        stop = min(first + int(random.choice((1, 2, 4, 8, 16, 100))), len(data))
        match int(random.integers(11)):
            case 0 | 1:
                data[first] ^= 1 << int(random.integers(8))
            case 2:
                data[first] = chosen(random, _BYTES)
            case 3:
                data[first] = (data[first] + chosen(random, (1, -1))) % 256
            case 4:
                del data[first:stop]
            case 5:
                data[first:first] = data[first:stop]
            case 6:
                data[first:stop] = random.bytes(stop - first)
            case 7:
                number = chosen(random, INTEGERS) % 2**64
                data[first : first + 8] = number.to_bytes(8, chosen(random, ("little", "big")))
            case 8:
                del data[first:]
            case 9:
                other = chosen(random, others) if others else content
                begin = int(random.integers(len(other) or 1))
                data[first:stop] = other[begin : begin + stop - first]
            case _:
                part, to = data[first:stop], int(random.integers(len(data)))
                del data[first:stop]
                data[to:to] = part
    return bytes(data)


# Text in lines, such as TOML


def mutated_text(text: str, random: Random, words: Sequence[str]) -> bytes:
    """Text with lines removed, repeated and exchanged, and words replaced by others.

    Args:
        text: The text.
        random: Decides which.
        words: Values that may stand where another stood.
    """
    if random.random() < 0.15:
        return mutated_bytes(text.encode(), random)
    lines = text.splitlines()
    for _ in steps(random):
        if not lines:
            break
        number = int(random.integers(len(lines)))
        match int(random.integers(7)):
            case 0:
                del lines[number]
            case 1:
                lines.insert(int(random.integers(len(lines))), lines[number])
            case 2:
                other = int(random.integers(len(lines)))
                lines[number], lines[other] = lines[other], lines[number]
            case 3 | 4 if "=" in lines[number]:
                key = lines[number].partition("=")[0]
                lines[number] = f"{key}= {chosen(random, words)}"
            case 5 if "=" in lines[number]:
                lines[number] = f"{chosen(random, words)} = {lines[number].partition('=')[2]}"
            case _:
                parts = lines[number].split(" ")
                parts[int(random.integers(len(parts)))] = chosen(random, words)
                lines[number] = " ".join(parts)
    return "\n".join(lines).encode(errors="surrogatepass")


# JSON


def mutated_json(text: str, random: Random) -> str:
    """A document with values replaced, removed, repeated, exchanged, nested and of other types.

    Args:
        text: The document.
        random: Decides which.
    """
    root = {"document": json.loads(text)}
    for _ in steps(random):
        _mutate_json(root, random)
    changed = json.dumps(root["document"], ensure_ascii=bool(random.integers(2)))
    match int(random.integers(60)):
        case 0:
            return mutated_bytes(changed.encode(errors="surrogatepass"), random).decode("utf-8", "replace")
        case 1:
            return _nested(changed, random)
        case 2:
            return _with_long_number(changed, random)
        case 3:
            return changed.replace("{", '{"name": "twice", ', 1) if random.integers(2) else f"{changed}{changed}"
    return changed


def _nested(text: str, random: Random) -> str:
    """A value of the document, or all of it, within brackets upon brackets."""
    depth = chosen(random, _DEPTHS)
    opening, closing = chosen(random, (("[", "]"), ('{"a":', "}")))
    place = text.find("[", int(random.integers(len(text)))) if random.integers(2) else 0
    place = max(place, 0)
    return f"{text[:place]}{opening * depth}{closing * depth if random.integers(2) else ''}{text[place:]}"


def _with_long_number(text: str, random: Random) -> str:
    digits = [place for place, sign in enumerate(text) if sign.isdigit()]
    if not digits:
        return "9" * 5000
    place = chosen(random, digits)
    return f"{text[:place]}{'9' * chosen(random, (20, 400, 5000))}{text[place:]}"


def _mutate_json(root: dict[str, Any], random: Random) -> None:
    parent, key = _somewhere(root, random)
    value = parent[key]
    match int(random.integers(10)):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.insert(key, value)
        case 1:
            parent[f"{key}_"] = value
        case 2:
            other, there = _somewhere(root, random)
            # Copies, as one may lie within the other.
            parent[key], other[there] = copy.deepcopy(other[there]), copy.deepcopy(value)
        case 3:
            other, there = _somewhere(root, random)
            parent[key] = copy.deepcopy(other[there])
        case 4 if isinstance(value, dict) and value:
            old = chosen(random, list(value))
            new = chosen(random, (*TEXTS[:4], old.upper(), "name"))
            parent[key] = {new if name == old else name: item for name, item in value.items()}
        case 5:
            parent[key] = _other_type(value, random)
        case _:
            parent[key] = _nearby(value, random, root)
    root.setdefault("document", None)


def _somewhere(root: dict[str, Any], random: Random) -> tuple[Any, Any]:
    """A place in a document: what it is in, and its key there."""
    parent: Any = root
    key: Any = "document"
    while True:
        inner = parent[key]
        if not isinstance(inner, (dict, list)) or not inner or random.random() < _STOPPING:
            return parent, key
        parent, key = inner, chosen(random, list(inner) if isinstance(inner, dict) else range(len(inner)))


def _other_type(value: Any, random: Random) -> Any:
    others = (None, True, [], {}, [value], {"value": value}, str(value), 0, -1, 1.5, "")
    return chosen(random, others)


def _nearby(value: Any, random: Random, root: dict[str, Any]) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chosen(random, (value + 1, value - 1, -value, value * 2, chosen(random, INTEGERS)))
    if isinstance(value, float):
        return chosen(random, (value * 2, -value, np.nextafter(value, 1e9).item(), chosen(random, FLOATS)))
    if isinstance(value, str):
        other, there = _somewhere(root, random)
        text = other[there] if isinstance(other[there], str) else value
        return chosen(random, (text, chosen(random, TEXTS), f"{value}_", value[:-1]))
    if isinstance(value, list) and value:
        order = random.permutation(len(value)).tolist()
        return chosen(random, ([value[k] for k in order], value[:-1], [*value, value[-1]], [*value[1:], value[0]]))
    return chosen(random, (None, [], {}, 0))
