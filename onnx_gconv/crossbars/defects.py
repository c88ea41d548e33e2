"""The defect map of a chip: arrays, rows and columns that cannot be used, and cells that are stuck.

``docs/bundle.md`` specifies it, ``docs/defects.schema.json`` is its JSON Schema.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.json_schema import schema_text
from onnx_gconv.files.special_files import no_file_but
from onnx_gconv.validation_messages import Flaw, first_flaw, uncapitalized

__all__ = ["ArrayDefects", "DefectMap", "StuckCell", "defects_schema", "read_defects"]

_FORMAT, _VERSION = "onnx_gconv.defects", 1

# Bundles hold conductances as float32; a larger one would become infinite.
_LARGEST = float(np.finfo(np.float32).max)

_SHOWN_CHARACTERS = 40

_CONFIG = ConfigDict(allow_inf_nan=False, extra="forbid", strict=True)


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(**_CONFIG, frozen=True)


# A map may list millions of stuck cells; a dataclass with slots takes a fraction of the memory of a pydantic model.
@dataclass(config=_CONFIG, frozen=True, slots=True)
class StuckCell:
    """A cell of an array that keeps its conductance whatever it is programmed to."""

    row: int = Field(ge=0)
    column: int = Field(ge=0)
    conductance_us: float = Field(ge=0, le=_LARGEST, description="In µS")


class ArrayDefects(_Record):
    """What is wrong with one array of the chip. Rows and columns are those of the array, from 0 on."""

    array: int = Field(ge=0, description="Number of the array, from 0 on")
    unusable: bool = Field(default=False, description="Whether nothing of it can be used")
    unusable_rows: tuple[int, ...] = ()
    unusable_columns: tuple[int, ...] = ()
    stuck_cells: tuple[StuckCell, ...] = ()


class DefectMap(_Record):
    """The whole document. Arrays that are not listed are sound."""

    format: Literal["onnx_gconv.defects"]
    format_version: Literal[1]
    array_count: int | None = Field(
        default=None, ge=1, description="How many arrays the chip has; null if that is open"
    )
    array_size: tuple[int, int] | None = Field(
        default=None, description="Rows and columns of an array, if they are to be compared with those of the bundle"
    )
    arrays: tuple[ArrayDefects, ...]


def read_defects(path: str | os.PathLike[str], geometry: ArrayGeometry) -> tuple[DefectMap, str]:
    """Read a defect map.

    Args:
        path: The JSON file.
        geometry: The arrays of the chip; rows and columns of the map have to exist in them.

    Returns:
        The map, and the SHA-256 of the file.

    Raises:
        ConfigError: If the file cannot be read, is no defect map, or names a row or column that an array does not have.
    """
    file = Path(path)
    if (place := no_file_but(file)) is not None:
        raise ConfigError(f"cannot read the defect map '{file}': it is {place}; give a file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the defect map '{file}': {error.strerror}") from None
    try:
        document = json.loads(content, object_pairs_hook=_without_doubles)
    except ValueError as error:
        raise ConfigError(f"the defect map '{file}' is no JSON: {' '.join(str(error).split())}") from None
    except _DoubleKeyError as error:
        raise ConfigError(f"the defect map '{file}' has the key '{error}' twice in one object; join them") from None
    except RecursionError:
        raise ConfigError(f"the defect map '{file}' is no defect map: it is nested too deeply") from None
    _check_format(file, document)
    try:
        found = DefectMap.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"the defect map '{file}': {_in_words(document, first_flaw(error))}") from None
    if (problem := _problem(found, geometry)) is not None:
        raise ConfigError(f"the defect map '{file}': {problem}")
    return found, hashlib.sha256(content).hexdigest()


def defects_schema() -> str:
    """The JSON Schema of a defect map, as text."""
    return schema_text(DefectMap.model_json_schema())


class _DoubleKeyError(Exception):
    """An object of the JSON document has a key twice; the message is the key."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DoubleKeyError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return found


def _check_format(file: Path, document: object) -> None:
    """Refuse other kinds of files and other format versions first, so that later messages are about a defect map."""
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != _FORMAT:
        raise ConfigError(
            f"'{file}' is no defect map: its format is {_shown(found)}, not '{_FORMAT}'; give the right file"
        )
    version = document.get("format_version")
    if type(version) is not int or version != _VERSION:
        raise ConfigError(
            f"the defect map '{file}' has format version {_shown(version)}, this version reads {_VERSION}; write it in "
            "that version, or use a newer version of onnx_gconv"
        )


def _in_words(document: dict[str, Any], flaw: Flaw) -> str:
    """What pydantic found wrong, in words that also name the number of the array."""
    place, where = flaw.place, flaw.where
    entries = document.get("arrays")
    match place:
        case ("arrays", int(index), *_) if isinstance(entries, list) and isinstance(entries[index], dict):
            number = entries[index].get("array")
            where = f"array {_shown(number)} ({where})" if number is not None else where
    if flaw.kind == "missing":
        return f"{where} is missing; add it"
    if flaw.kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{where} is no key of a defect map; leave it out, or correct its name"
    return f"{where} is {_shown(flaw.value)}: {uncapitalized(flaw.message)}; correct it"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _problem(found: DefectMap, geometry: ArrayGeometry) -> str | None:
    """The first entry of the map that does not fit the arrays, in one line; None if all fit."""
    if found.array_size is not None and found.array_size != (geometry.rows, geometry.columns):
        rows, columns = found.array_size
        return f"it is of arrays of {rows}x{columns}, but the bundle is for {geometry.size_text}; give the right one"
    seen: set[int] = set()
    for item in found.arrays:
        if item.array in seen:
            return f"array {item.array} is listed twice; join the entries"
        seen.add(item.array)
        if found.array_count is not None and item.array >= found.array_count:
            return f"array {item.array} is listed, but the chip has {found.array_count}, counted from 0 on; correct it"
        if (problem := _problem_of_lines(item, geometry) or _problem_of_cells(item, geometry)) is not None:
            return problem
    return None


def _problem_of_lines(item: ArrayDefects, geometry: ArrayGeometry) -> str | None:
    for what, lines, size in (
        ("row", item.unusable_rows, geometry.rows),
        ("column", item.unusable_columns, geometry.columns),
    ):
        if (line := _first_outside(lines, size)) is not None:
            return _outside(item, f"unusable {what} {line}", geometry)
        if len(set(lines)) < len(lines):
            twice = next(line for line, count in Counter(lines).items() if count > 1)
            return f"array {item.array} lists the unusable {what} {twice} twice; list it once"
    return None


def _problem_of_cells(item: ArrayDefects, geometry: ArrayGeometry) -> str | None:
    cells = [(cell.row, cell.column) for cell in item.stuck_cells]
    for row, column in cells:
        if row >= geometry.rows or column >= geometry.columns:
            return _outside(item, f"stuck cell at row {row}, column {column}", geometry)
    if len(set(cells)) < len(cells):
        row, column = next(cell for cell, count in Counter(cells).items() if count > 1)
        return f"array {item.array} lists the stuck cell at row {row}, column {column} twice; list it once"
    return None


def _first_outside(lines: Sequence[int], size: int) -> int | None:
    return next((line for line in lines if not 0 <= line < size), None)


def _outside(item: ArrayDefects, what: str, geometry: ArrayGeometry) -> str:
    return (
        f"array {item.array} has the {what}, but arrays are {geometry.size_text}, counted from 0 on; correct it, or "
        "give the right size of the arrays"
    )
