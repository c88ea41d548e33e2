"""Turns validation errors of pydantic into messages of one line for users."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

__all__ = ["Flaw", "Problem", "first_flaw", "first_problem", "key_path", "shown", "uncapitalized"]

_KINDS_OF_CHECKS = frozenset({"value_error", "assertion_error"})

# Our texts for each type of pydantic error, because pydantic's own texts address programmers. Names in braces are keys
# of the error's context (`ctx`).
_IN_WORDS = {
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "dataclass_type": "should be a table",
    "dict_type": "should be a table",
    "extra_forbidden": "is an unknown key",
    "finite_number": "should be a finite number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "greater_than": "should be above {gt}",
    "greater_than_equal": "should be at least {ge}",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_parsing_size": "should be a smaller number",
    "json_invalid": "is no JSON: {error}",
    "less_than": "should be below {lt}",
    "less_than_equal": "should be at most {le}",
    "list_type": "should be a list",
    "literal_error": "should be {expected}",
    "missing": "is missing",
    "model_attributes_type": "should be a table",
    "model_type": "should be a table",
    "string_pattern_mismatch": "should have the form {pattern}",
    "string_type": "should be a text",
    "too_long": "needs fewer items: at most {max_length}",
    "too_short": "needs more items: at least {min_length}",
    "tuple_type": "should be a list",
    "unexpected_keyword_argument": "is an unknown key",
}


@dataclass(frozen=True)
class Flaw:
    """One error that pydantic found in a document.

    Attributes:
        kind: Pydantic's type of the error, such as ``missing``.
        place: The keys and indices that lead to the wrong value.
        message: What is wrong: our text for this type of error, or that of the validator that refused the value.
        value: The wrong value.
    """

    kind: str
    place: tuple[str | int, ...]
    message: str
    value: object

    @classmethod
    def of(cls, error: ErrorDetails) -> Flaw:
        """The flaw that an error of pydantic describes."""
        kind, message = error["type"], error["msg"]
        # Pydantic writes "Value error, " or "Assertion failed, " before the message of a validator.
        words = message.partition(", ")[2] if kind in _KINDS_OF_CHECKS else message
        if kind in _IN_WORDS:
            words = _IN_WORDS[kind].format(**error.get("ctx", {}))
        return cls(kind, error["loc"], words, error["input"])

    @property
    def is_refused_by_a_check(self) -> bool:
        """Whether one of our validators refused the value; its message is complete as it is."""
        return self.kind in _KINDS_OF_CHECKS

    @property
    def where(self) -> str:
        """The place as a dotted path in a JSON document: ``weights.0.scale``."""
        return ".".join(map(str, self.place)) or "the document"


def first_flaw(error: ValidationError) -> Flaw:
    """The first error that pydantic found."""
    return Flaw.of(error.errors(include_url=False)[0])


@dataclass(frozen=True)
class Problem:
    """What is wrong with settings that a caller gave.

    Attributes:
        key: The keys and indices that lead to the wrong key, or to the table that contains it.
        text: What is wrong, and what would be right.
    """

    key: tuple[str | int, ...]
    text: str

    def error(self, names: Mapping[str, str]) -> ConfigError:
        """The error for a caller who knows the settings by other names, such as those of options.

        Args:
            names: The caller's name of a setting, by its key (``converter.bits``) or by the first part of its key.
        """
        path = key_path(self.key)
        key = names.get(path) or names.get(str(self.key[0])) or path if self.key else ""
        return ConfigError(": ".join(part for part in (key, self.text) if part))


def key_path(key: Iterable[str | int]) -> str:
    """A key as users write it: ``overrides[1].converter.factors``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return "".join(parts).removeprefix(".")


def first_problem(error: ValidationError, model: type[BaseModel], data: object) -> Problem:
    """The first error, and the number of further wrong keys.

    Args:
        error: The error that pydantic raised.
        model: The class that pydantic validated against.
        data: The data that it validated.
    """
    flaws = [Flaw.of(each) for each in error.errors(include_url=False)]
    # An unknown key is reported first: a misspelled key is often the reason why another one is missing.
    first = next((flaw for flaw in flaws if flaw.kind == "extra_forbidden"), flaws[0])
    key = _existing(first.place, data)
    others = len({_existing(flaw.place, data) for flaw in flaws} - {key})
    more = f" (and {others} more wrong)" if others else ""
    return Problem(key, f"{_text(first, key, model)}{more}")


def _existing(key: tuple[str | int, ...], data: object) -> tuple[str | int, ...]:
    """The parts of a location that exist in the data; pydantic also adds the names of members of unions."""
    found: list[str | int] = []
    for part in key:
        inner = _item(data, part)
        if inner is not _NOTHING:
            data = inner
            found.append(part)
    return tuple(found)


_NOTHING = object()


def _item(data: object, part: str | int) -> object:
    if isinstance(data, dict):
        return data.get(part, _NOTHING)
    is_index = isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
    return data[part] if is_index else _NOTHING  # type: ignore[index] # an index of a list


def _text(flaw: Flaw, key: tuple[str | int, ...], model: type[BaseModel]) -> str:
    if flaw.kind == "extra_forbidden":
        return _unknown_key(str(key[-1]), _model_at(model, key[:-1]))
    if flaw.kind == "missing":
        return f"lacks the key {flaw.place[-1]}"
    if flaw.is_refused_by_a_check:
        return flaw.message
    if flaw.kind == "unknown_setting":
        return flaw.message
    return f"{uncapitalized(flaw.message)}, but it is {shown(flaw.value)}"


def uncapitalized(message: str) -> str:
    """A message with a lower-case first letter, for use within a sentence."""
    return message[:1].lower() + message[1:]


def shown(value: object) -> str:
    """A value in the notation of a configuration file."""
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)


# Settings that have another name or place in a file than on the command line: the key that has them, and how it is
# written.
_WRITTEN_AS = {
    "bits": ("converter", 'converter = { name = "bit-sliced-pair", bits = 8 }'),
    "clip_percentile": ("clipping", "clipping = { percentile = 99.9 }"),
    "clip_value": ("clipping", "clipping = { value = 0.5 }"),
    "exact": ("converter", 'converter = { name = "single-pair", exact = true }'),
    "factor": ("converter", 'converter = { name = "n-pair", factors = [1, 3] }'),
    "factors": ("converter", 'converter = { name = "n-pair", factors = [1, 3] }'),
    "g_max": ("device", "device = { g_max = 25.0 }"),
    "g_min": ("device", "device = { g_min = 0.25 }"),
    "include_op": ("include_ops", 'include_ops = ["Gather"]'),
    "inline": ("inline_functions", "inline_functions = true"),
    "level_codes": ("storage", 'storage = "codes"'),
    "partition": ("granularity", 'granularity = { kind = "tile", tile = "256x256", partition = "max" }'),
    "preset": ("device", 'device = "pcm-joshi"'),
    "slice_bits": ("converter", 'converter = { name = "bit-sliced-pair", slice_bits = 4 }'),
    "tile": ("granularity", 'granularity = { kind = "tile", tile = "256x256" }'),
}


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    known = {} if model is None else model.model_fields
    place, written = _WRITTEN_AS.get(key.replace("-", "_"), (None, ""))
    if place in known:
        return f"unknown key; it is written {written}"
    mapping = _model_in(known["mapping"].annotation) if "mapping" in known else None
    if mapping is not None and key in mapping.model_fields:
        return f"unknown key; it stands in the table mapping: mapping = {{ {key} = ... }}"
    return f"unknown key; {suggestion(key, known) or 'leave it out'}"


def _model_at(model: type[BaseModel], key: Sequence[str | int]) -> type[BaseModel] | None:
    """The model class of the table at a key; None if it is unknown."""
    found: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, str):
            if found is None or part not in found.model_fields:
                return None
            found = _model_in(found.model_fields[part].annotation)
    return found


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The first model class in a type annotation such as a union or a list; None if there is none."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
