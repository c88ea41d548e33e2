"""Says in one line what pydantic found wrong."""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

__all__ = ["Problem", "first_problem", "shown"]


_WANTED = {
    "bool_type": "should be true or false",
    "model_type": "should be a table",
    "string_type": "should be a text",
    "tuple_type": "should be a list",
    "too_short": "should have at least one item",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Attributes:
        key: The way to the key that is wrong, or to the table that it is in.
        text: What is wrong with it, and what would be right.
    """

    key: tuple[str | int, ...]
    text: str


def first_problem(error: ValidationError, model: type[BaseModel], data: object) -> Problem:
    """The first of the errors, and how many more there are.

    Args:
        error: What pydantic raised.
        model: The model that was to be made.
        data: What it was to be made of.
    """
    errors = error.errors(include_url=False, include_context=True)
    # An unknown key is often why another one is missing.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    key = _existing(tuple(first["loc"]), data)
    others = len({_existing(tuple(each["loc"]), data) for each in errors} - {key})
    more = f" (and {others} more wrong)" if others else ""
    return Problem(key, f"{_text(first, key, model)}{more}")


def _existing(key: tuple[str | int, ...], data: object) -> tuple[str | int, ...]:
    """A location without the names that pydantic adds for members of unions."""
    found: list[str | int] = []
    for part in key:
        if (isinstance(data, dict) and part in data) or (
            isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
        ):
            data = data[part]
        else:
            continue
        found.append(part)
    return tuple(found)


def _text(error: Any, key: tuple[str | int, ...], model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's details
    kind, message = error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        return _unknown_key(str(key[-1]), _model_at(model, key[:-1]))
    if kind == "missing":
        return f"lacks the key {error['loc'][-1]}"
    if kind in {"value_error", "assertion_error"}:
        return message.partition(", ")[2]
    wanted = _WANTED.get(kind, f"{message[:1].lower()}{message[1:]}".replace("input should be", "should be", 1))
    return f"{wanted}, but it is {shown(error['input'])}"


def shown(value: object) -> str:
    """A value as a configuration file would have it."""
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    known = [] if model is None else list(model.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if nearest:
        return f"unknown key; the nearest one that there is: {nearest[0]}"
    return f"unknown key; there are {', '.join(known)}" if known else "unknown key; leave it out"


def _model_at(model: type[BaseModel], key: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of the table that a key leads to."""
    found: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, str):
            if found is None or part not in found.model_fields:
                return None
            found = _model_in(found.model_fields[part].annotation)
    return found


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The first model that a type is made of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) is None and not isinstance(annotation, types.UnionType | Union):
        return None
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
