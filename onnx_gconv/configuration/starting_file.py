"""Writes a first configuration for a model, with every setting as a comment."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.configuration.settings import PATTERN_KINDS, ModelSettings, WeightSettings
from onnx_gconv.configuration.toml_text import toml_string, toml_value
from onnx_gconv.weights import FoundWeight, WeightSurvey

__all__ = ["SCHEMA_FILE", "starting_file"]

SCHEMA_FILE = "gconv.schema.json"

_WIDTH = 118

_HEAD = """\
#:schema ./{schema}
# How onnx-gconv maps {model}: onnx-gconv map MODEL --config THIS_FILE
#
# Every setting stands here with its default, as a comment: take the # away and change it. For completion and help in
# editors that know the first line (Taplo, Even Better TOML): onnx-gconv config schema -o {schema}
"""

_OVERRIDES = """\

# Overrides are applied in their order, and each setting that they give replaces what was said before. One is for the
# weights that match all the kinds of patterns in it: {kinds}, or match for any of these.
# Settings are those of [defaults], and skip.
#
# [[overrides]]
# {example}
# granularity = "channel"
#
# [[overrides]]
# match = "*.head.*"
# skip = true
"""


def starting_file(model: str, survey: WeightSurvey) -> str:
    """Return the text of a configuration that changes no default, with the weights of a model as comments.

    Args:
        model: The name of the model in the file.
        survey: The weights of the model.
    """
    example = f"weight = {_pattern(survey.weights[0].name)}" if survey.weights else 'op = "Conv"'
    parts = [
        _HEAD.format(schema=SCHEMA_FILE, model=toml_string(model)),
        *_table("defaults", WeightSettings),
        *_table("model", ModelSettings),
        _OVERRIDES.format(kinds=", ".join(PATTERN_KINDS), example=example),
    ]
    return "\n".join((*"".join(parts).splitlines(), "", *_listed(survey.weights), ""))


def _table(name: str, settings: type[BaseModel]) -> Iterator[str]:
    """Yield a table of settings as comments: the description, the default and other examples of each setting."""
    yield f"\n[{name}]  # {_sentence(Configuration.model_fields[name])}\n"
    for setting, field in settings.model_fields.items():
        yield "\n"
        for line in textwrap.wrap(_sentence(field), _WIDTH, break_long_words=False, break_on_hyphens=False):
            yield f"# {line}\n"
        default, *others = _examples(field)
        yield f"# {setting} = {toml_value(default)}{_or(others)}\n"


def _or(others: Sequence[object]) -> str:
    return f"  # or {', '.join(map(toml_value, others))}" if others else ""


def _examples(field: FieldInfo) -> Sequence[Any]:
    """Return examples of a setting in files, the default first."""
    if field.examples:
        return field.examples
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if isinstance(field.default, bool):
        choices = (True, False)
    return (field.default, *(choice for choice in choices if choice != field.default))


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _listed(weights: Iterable[FoundWeight]) -> Iterator[str]:
    lines = [_described(weight) for weight in weights]
    if not lines:
        yield "# The model has no weight that can be mapped."
        return
    yield f"# The weights that can be mapped ({len(lines)}), in the patterns that match each of them:"
    yield from lines


def _described(weight: FoundWeight) -> str:
    names = weight.names
    shape = "x".join(map(str, weight.shape))
    parts = [f"# weight = {_pattern(weight.name)}", shape]
    parts += [f"op = {_patterns(names.op)}"]
    if names.node:
        parts.append(f"node = {_patterns(names.node)}")
    if parameters := [name for name in names.parameter if name != weight.name]:
        parts.append(f"parameter = {_patterns(parameters)}")
    return "   ".join(parts)


def _patterns(names: Iterable[str]) -> str:
    patterns = [_pattern(name) for name in names]
    return patterns[0] if len(patterns) == 1 else f"[{', '.join(patterns)}]"


def _pattern(name: str) -> str:
    """Return a glob, as TOML, that matches only this name."""
    return toml_string("".join(f"[{character}]" if character in "*?[" else character for character in name))
