"""The defect map of a chip: arrays, rows and columns that cannot be used, and cells that are stuck.

``docs/bundle.md`` specifies it, ``docs/defects.schema.json`` is its JSON Schema.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.tiles import ArrayGeometry

__all__ = ["ArrayDefects", "DefectMap", "StuckCell", "defects_schema", "read_defects"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")


class StuckCell(_Record):
    """A cell of an array that keeps its conductance whatever it is programmed to."""

    row: int = Field(ge=0)
    column: int = Field(ge=0)
    conductance_us: float = Field(ge=0, description="In µS")


class ArrayDefects(_Record):
    """What is wrong with one array of the chip. Rows and columns are those of the array, from 0 on."""

    array: int = Field(ge=0, description="Number of the array, from 0 on")
    unusable: bool = Field(default=False, description="Whether nothing of it can be used")
    unusable_rows: tuple[int, ...] = ()
    unusable_columns: tuple[int, ...] = ()
    stuck_cells: tuple[StuckCell, ...] = ()


class DefectMap(_Record):
    """The whole document. Arrays that are not listed are sound."""

    format: Literal["onnx_gconv.defects"] = "onnx_gconv.defects"
    format_version: Literal[1] = 1
    array_count: int | None = Field(
        default=None, ge=1, description="How many arrays the chip has; null if that is open"
    )
    arrays: tuple[ArrayDefects, ...]


def read_defects(path: str | os.PathLike[str], geometry: ArrayGeometry) -> tuple[DefectMap, str]:
    """Read a defect map.

    Args:
        path: The JSON file.
        geometry: The arrays that it is about.

    Returns:
        The map, and the SHA-256 of the file.

    Raises:
        ConfigError: If it cannot be read, is no defect map, or names what the arrays do not have.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
        document = json.loads(content)
    except OSError as error:
        raise ConfigError(f"cannot read the defect map '{file}': {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the defect map '{file}' is no JSON: {error}") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > 1:
        raise ConfigError(f"the defect map '{file}' has format version {version}, this version reads 1")
    try:
        found = DefectMap.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(
            f"the defect map '{file}': {where}: {first['msg']}, but it is {str(first['input'])[:40]!r}"
        ) from None
    if not isinstance(document, dict) or "format" not in document:
        raise ConfigError(f'the defect map \'{file}\' does not say "format": "onnx_gconv.defects"; is it another file?')
    if (problem := _problem(found, geometry)) is not None:
        raise ConfigError(f"the defect map '{file}': {problem}")
    return found, hashlib.sha256(content).hexdigest()


def defects_schema() -> str:
    """The JSON Schema of a defect map, as text."""
    schema = DefectMap.model_json_schema()
    return json.dumps({"$schema": _DRAFT, **schema}, indent=2, ensure_ascii=False) + "\n"


def _problem(found: DefectMap, geometry: ArrayGeometry) -> str | None:
    """What does not fit the arrays, if anything does not."""
    seen: set[int] = set()
    for item in found.arrays:
        if item.array in seen:
            return f"array {item.array} is listed twice"
        seen.add(item.array)
        if found.array_count is not None and item.array >= found.array_count:
            return f"array {item.array} is listed, but the chip has {found.array_count}, counted from 0 on"
        rows = [*item.unusable_rows, *(cell.row for cell in item.stuck_cells)]
        columns = [*item.unusable_columns, *(cell.column for cell in item.stuck_cells)]
        for what, numbers, size in (("row", rows, geometry.rows), ("column", columns, geometry.columns)):
            for number in numbers:
                if not 0 <= number < size:
                    return (
                        f"array {item.array} has no {what} {number}; arrays are {geometry.size_text}, counted from 0 on"
                    )
        cells = [(cell.row, cell.column) for cell in item.stuck_cells]
        if len(set(cells)) != len(cells):
            twice = next(cell for cell in cells if cells.count(cell) > 1)
            return f"array {item.array} has the stuck cell at row {twice[0]}, column {twice[1]} twice"
    return None
