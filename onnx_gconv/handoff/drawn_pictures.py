"""What pictures show and leave out, for reports and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import below_each_other, plain

if TYPE_CHECKING:
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["LayerPictures", "PicturesReport"]


@dataclass(frozen=True)
class LayerPictures:
    """What was drawn of a layer.

    Attributes:
        layer: Its id.
        weight: The name of its weight.
        files: Names of the pictures.
        tiles: How many tiles it has.
        tiles_in_overview: How many of them are in the picture of the layer.
        tiles_cell_by_cell: How many are drawn cell by cell, in that picture or in one of their own.
        cells_per_pixel: Rows and columns of cells that one dot of the picture of the layer stands for.
        remark: Why tiles are not drawn cell by cell, if they cannot be.
    """

    layer: str
    weight: str
    files: tuple[str, ...]
    tiles: int
    tiles_in_overview: int
    tiles_cell_by_cell: int
    cells_per_pixel: tuple[int, int]
    remark: str | None = None


@dataclass(frozen=True, repr=False)
class PicturesReport(ShownReport):
    """The pictures of a bundle.

    Attributes:
        folder: Where they are.
        layers: What was drawn of each layer.
    """

    folder: Path
    layers: tuple[LayerPictures, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All pictures."""
        return tuple(self.folder / name for layer in self.layers for name in layer.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not drawn cell by cell, and what to do about it."""
        partly = [layer for layer in self.layers if layer.tiles_cell_by_cell < layer.tiles]
        notes = [f"Pictures of {layer.layer}: {layer.remark}." for layer in partly if layer.remark is not None]
        if paged := [layer for layer in partly if layer.remark is None]:
            drawn, tiles = (sum(getattr(layer, name) for layer in paged) for name in ("tiles_cell_by_cell", "tiles"))
            names = ", ".join(layer.layer for layer in paged[:4]) + " and others" * (len(paged) > 4)  # noqa: PLR2004
            notes += [f"Pictures show {drawn:,} of {tiles:,} tiles of {names} cell by cell; --pictures all draws each."]
        return tuple(notes)

    def _in_short(self) -> str:
        return f"{self.folder}: {len(self.files):,} pictures of {len(self.layers)} layers"

    def _frame_tables(self) -> FrameTables:
        return {"layers": self._columns}

    def _columns(self) -> Columns:
        counts = ("tiles", "tiles_in_overview", "tiles_cell_by_cell")
        return {
            "layer": Column("text", [layer.layer for layer in self.layers]),
            "weight": Column("text", [layer.weight for layer in self.layers]),
            "files": Column("text", [", ".join(layer.files) for layer in self.layers]),
            **{name: Column("whole number", [getattr(layer, name) for layer in self.layers]) for name in counts},
            "remark": Column("text", [layer.remark for layer in self.layers]),
        }

    def __rich__(self) -> Text:
        return below_each_other(map(plain, (f"Pictures: {len(self.files):,} in {self.folder}", *self.notes)))

    def to_json(self) -> list[dict[str, Any]]:
        """What was drawn of each layer, as JSON values."""
        lists = ("files", "cells_per_pixel")
        return [{**asdict(layer), **{name: list(getattr(layer, name)) for name in lists}} for layer in self.layers]
