"""The report of a check of a configuration, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.configuration import Configuration, Override
from onnx_gconv.configuration.settings import SETTING_NAMES
from onnx_gconv.data_frame import Column
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import counted, plain

if TYPE_CHECKING:
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["ConfigurationReport"]


@dataclass(frozen=True, repr=False)
class ConfigurationReport(ShownReport):
    """The report on a configuration without errors.

    Attributes:
        file: The file of the configuration.
        configuration: The configuration.
        model: The model to which it was applied, or None.
        matches: For each override, how many weights it matches; None without a model.
        mapped: How many weights would be mapped; None without a model.
        left_out: How many weights patterns and overrides leave out; None without a model.
    """

    file: Path
    configuration: Configuration
    model: Path | None = None
    matches: tuple[int, ...] | None = None
    mapped: int | None = None
    left_out: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "file": str(self.file),
            "model": None if self.model is None else str(self.model),
            "overrides": [
                {
                    "patterns": {kind or "match": list(patterns) for kind, patterns in override.patterns.items()},
                    "settings": list(_settings(override)),
                    "weights": None if self.matches is None else self.matches[index],
                }
                for index, override in enumerate(self.configuration.overrides)
            ],
            "mapped": self.mapped,
            "left_out": self.left_out,
        }

    def _in_short(self) -> str:
        applied = "" if self.model is None else f" with {self.model}: {self.mapped} mapped, {self.left_out} left out"
        return f"{self.file}{applied}, overrides: {len(self.configuration.overrides)}"

    def _frame_tables(self) -> FrameTables:
        overrides = self.configuration.overrides
        matches = [None] * len(overrides) if self.matches is None else self.matches
        columns = {
            "override": Column("whole number", range(len(overrides))),
            "patterns": Column("text", list(map(_patterns, overrides))),
            "settings": Column("text", [", ".join(_settings(override)) for override in overrides]),
            "weights": Column("whole number", matches),
        }
        return {"overrides": lambda: columns}

    def __str__(self) -> str:
        return self.__rich__().plain

    def __rich__(self) -> Text:
        lines = [f"Nothing is wrong with {self.file}"]
        for index, override in enumerate(self.configuration.overrides):
            matched = "" if self.matches is None else f"  {counted(self.matches[index])}:"
            lines.append(f"  overrides[{index}]{matched}  {_patterns(override)}  ->  {', '.join(_settings(override))}")
        if self.mapped is not None and self.left_out is not None:
            lines.append(f"{counted(self.mapped)} of {self.model} would be mapped, {self.left_out} are left out")
        return plain(*lines)


def _patterns(override: Override) -> str:
    """Return the patterns of an override as text."""
    return " and ".join(f"{kind or 'match'} {', '.join(patterns)}" for kind, patterns in override.patterns.items())


def _settings(override: Override) -> tuple[str, ...]:
    """Return the names of the settings that an override gives."""
    given = tuple(name for name in SETTING_NAMES if getattr(override, name) is not None)
    return given if override.skip is None else (*given, "skip" if override.skip else "no skip")
