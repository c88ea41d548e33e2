"""The report of the pictures of a bundle: the files, and which tiles are not drawn cell by cell."""

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
    """The pictures of a layer.

    Attributes:
        layer: Id of the layer.
        weight: Name of the weight.
        files: File names of the pictures; the picture of the whole layer comes first.
        tiles: Number of tiles of the layer.
        tiles_in_overview: Number of tiles in the picture of the whole layer.
        tiles_cell_by_cell: Number of tiles that are drawn cell by cell, in the picture of the layer or in their own.
        cells_per_pixel: How many rows and columns of cells one dot in the picture of the layer stands for.
        remark: Why tiles cannot be drawn cell by cell; None if they can.
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
        folder: The folder of the pictures.
        layers: The pictures of each layer.
        shows_errors: Whether they show measured minus target conductances, and not the targets.
    """

    folder: Path
    layers: tuple[LayerPictures, ...]
    shows_errors: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of all pictures."""
        return tuple(self.folder / name for layer in self.layers for name in layer.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """The layers whose tiles are not all drawn cell by cell, and what to do about it."""
        partly = [layer for layer in self.layers if layer.tiles_cell_by_cell < layer.tiles]
        notes = [f"Pictures of {layer.layer}: {layer.remark}." for layer in partly if layer.remark is not None]
        if paged := [layer for layer in partly if layer.remark is None]:
            drawn, tiles = (sum(getattr(layer, name) for layer in paged) for name in ("tiles_cell_by_cell", "tiles"))
            names = ", ".join(layer.layer for layer in paged[:4]) + " and others" * (len(paged) > 4)  # noqa: PLR2004
            rest = (
                "a dot of the others is the error furthest from 0 of several cells"
                if self.shows_errors
                else "--pictures all (pictures='all') draws each"
            )
            notes += [f"Pictures show {drawn:,} of {tiles:,} tiles of {names} cell by cell; {rest}."]
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
        """The pictures of each layer, as JSON values."""
        lists = ("files", "cells_per_pixel")
        return [{**asdict(layer), **{name: list(getattr(layer, name)) for name in lists}} for layer in self.layers]
