"""Published devices: conductance range, levels, array and tolerance, each with its sources."""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

__all__ = ["DevicePreset", "Source", "preset", "presets", "presets_in"]

_FILE = "presets.toml"
_ARRAY_AXES = 2


@dataclass(frozen=True)
class Source:
    """The source of a preset's figures: a paper, a program, or a paper and a program that has its figures.

    Attributes:
        authors: Authors of the paper. This and the next three are None without a paper.
        title: Title of the paper.
        venue: Journal, conference or archive of the paper.
        year: Year of publication.
        tool: The program that has the figures; None for none.
        file: The file of the program that has them; None if that is not known.

    Raises:
        ConfigError: If the paper is incomplete, or there is neither a paper nor a program.
    """

    authors: str | None = None
    title: str | None = None
    venue: str | None = None
    year: int | None = None
    tool: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        paper = (self.authors, self.title, self.venue, self.year)
        if any(paper) and not all(paper):
            raise ConfigError("a paper needs authors, title, venue and year")
        if not (self.title or self.tool):
            raise ConfigError("a source needs a paper or a tool")
        if self.file and not self.tool:
            raise ConfigError(f"the file {self.file} needs the tool that it belongs to")

    @property
    def short(self) -> str:
        """E.g. ``V. Joshi et al. 2020``, ``CrossSim``, or both."""
        if self.authors is None:
            return self.tool or ""
        first, *others = self.authors.split(", ")
        paper = f"{first} et al. {self.year}" if others else f"{first} {self.year}"
        return f"{paper} ({self.tool})" if self.tool else paper

    def __str__(self) -> str:
        paper = f"{self.authors}, {self.title}, {self.venue}, {self.year}" if self.title else ""
        tool = f"{self.tool}, {self.file}" if self.file else self.tool or ""
        return "; ".join(part for part in (paper, tool) if part)


@dataclass(frozen=True)
class DevicePreset:
    """The published figures of a device; None for what is not known or not limited.

    Attributes:
        name: The name by which users choose the preset.
        description: What the device is, in one line.
        g_min: Lower end of the devices' range, in µS.
        g_max: Upper end of the devices' range, in µS.
        sources: The sources of the figures, at least one.
        levels: How many uniform levels a device has; None for any conductance in the range.
        array: Rows (inputs) and columns (outputs) of a crossbar array.
        tolerance_us: How far from its target a device may be when programming ends, in µS.
        tolerance_relative: The same as a fraction of the target.
        converter: Name of the converter that the source uses; None for a single pair.
        model: Name of the device model with programming errors, drift and read noise; None if there is none.
        notes: What is not known, and what the figures mean.

    Raises:
        ConfigError: If a value is missing or wrong.
    """

    name: str
    description: str
    g_min: float
    g_max: float
    sources: tuple[Source, ...]
    levels: int | None = None
    array: tuple[int, int] | None = None
    tolerance_us: float | None = None
    tolerance_relative: float | None = None
    converter: str | None = None
    model: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.name and self.description):
            raise ConfigError("a preset needs a name and a description")
        if not (math.isfinite(self.g_max) and 0 <= self.g_min < self.g_max):
            raise ConfigError(f"g_min is at least 0 and below g_max, but they are {self.g_min} and {self.g_max} µS")
        _ = self.conductance_levels  # raises if the number of levels is invalid
        if self.array is not None and (len(self.array) != _ARRAY_AXES or min(self.array) < 1):
            raise ConfigError(f"an array has at least one row and one column, but this one is {self.array}")
        for name in ("tolerance_us", "tolerance_relative"):
            tolerance = getattr(self, name)
            if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
                raise ConfigError(f"{name} is positive and finite, but it is {tolerance}")
        if not self.sources:
            raise ConfigError("a preset needs a source")

    @property
    def conductance_levels(self) -> ConductanceLevels | None:
        """The levels of a device, in µS; None for any conductance in the range."""
        return None if self.levels is None else ConductanceLevels.uniform(self.levels, self.g_min, self.g_max)

    def to_json(self) -> dict[str, Any]:
        """The preset as JSON values; conductances in µS."""
        document = dataclasses.asdict(self)
        for name in ("array", "notes", "sources"):
            document[name] = None if document[name] is None else list(document[name])
        return document


@functools.cache
def presets() -> tuple[DevicePreset, ...]:
    """All presets, in the order of their file."""
    return presets_in(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))


def preset(name: str) -> DevicePreset:
    """The preset of that name.

    Raises:
        ConfigError: If there is none; the message suggests names.
    """
    known = {item.name: item for item in presets()}
    if name in known:
        return known[name]
    if with_model := [item.name for item in presets() if item.model == name]:
        raise ConfigError(
            f"there is no preset '{name}': that is a device model, which says what errors devices have; presets with "
            f"it: {', '.join(with_model)}"
        )
    raise ConfigError(f"there is no preset '{name}'; {suggestion(name, known)}")


def presets_in(text: str) -> tuple[DevicePreset, ...]:
    """Read the presets of a TOML document.

    Raises:
        ConfigError: If the text is no TOML, or a preset is incomplete or wrong; the message names preset and value.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        raise ConfigError(f"presets are no TOML: {error}") from None
    tables = document.pop("preset", [])
    if document or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("presets are an array of tables [[preset]], and nothing else")
    found = tuple(_preset_of(table, f"preset {number}") for number, table in enumerate(tables, start=1))
    names = [item.name for item in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"there is more than one preset '{twice[0]}'")
    return found


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "description": (str,),
    "g_min": (float, int),
    "g_max": (float, int),
    "levels": (int,),
    "array": (list,),
    "tolerance_us": (float, int),
    "tolerance_relative": (float, int),
    "converter": (str,),
    "model": (str,),
    "notes": (list,),
    "source": (list,),
}
_SOURCE_TYPES: dict[str, tuple[type, ...]] = {
    "authors": (str,),
    "title": (str,),
    "venue": (str,),
    "year": (int,),
    "tool": (str,),
    "file": (str,),
}
_ITEM_TYPES: dict[str, type] = {"array": int, "notes": str, "source": dict}
_NEEDED = ("name", "description", "g_min", "g_max", "source")


def _preset_of(table: Mapping[str, Any], place: str) -> DevicePreset:
    if isinstance(table.get("name"), str):
        place = f"preset '{table['name']}'"
    try:
        _check_types(table, _TYPES)
        _check_complete(table)
        values = {key: table[key] for key in _TYPES if key in table and key != "source"}
        for source in table["source"]:
            _check_types(source, _SOURCE_TYPES)
        for name in ("array", "notes"):
            if name in values:
                values[name] = tuple(values[name])
        for name in ("g_min", "g_max"):
            values[name] = float(values[name])
        return DevicePreset(**values, sources=tuple(Source(**source) for source in table["source"]))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    except OverflowError:
        raise ConfigError(f"{place}: one of its whole numbers is too large for a float") from None


def _check_complete(table: Mapping[str, Any]) -> None:
    if missing := [name for name in _NEEDED if name not in table]:
        raise ConfigError(f"{missing[0]} is missing")


def _check_types(table: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    for key, value in table.items():
        if key not in types:
            raise ConfigError(f"there is no '{key}'; {suggestion(key, types)}")
        items = value if isinstance(value, list) else []
        expected = _ITEM_TYPES.get(key)
        if not _is_a(value, types[key]) or (expected and not all(_is_a(item, (expected,)) for item in items)):
            raise ConfigError(f"{key} is {value!r}, which is of the wrong type")


def _is_a(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
