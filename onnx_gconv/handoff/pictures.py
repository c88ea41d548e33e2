"""Pictures of the tiles of a bundle: target conductances, and how far measured ones are from them.

Every layer has an overview, in which its tiles stand as they stand in the layer: rows of tiles are its inputs, columns
its outputs. If a layer is too large for one pixel for each cell, the overview shows blocks of cells, and pages show
tiles cell by cell. All tiles of a layer share one scale of colours, in all its pictures of one kind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.progress import Progress
from onnx_gconv.files.staged_folder import staged_folder
from onnx_gconv.handoff.bundle import Bundle
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.picture_canvas import require_matplotlib
from onnx_gconv.handoff.picture_plan import LayerPictures, LayerPlan, Picture
from onnx_gconv.handoff.picture_subjects import Errors, MeasuredErrors, Subject, Targets

__all__ = [
    "MOST_PAGES",
    "Errors",
    "LayerPictures",
    "Picture",
    "PicturesReport",
    "draw_pictures",
    "error_pictures",
    "layer_pictures",
    "require_matplotlib",
    "write_error_pictures",
    "write_pictures",
]

MOST_PAGES = 4


_MOST_NAMES = 4
_ALL_PAGES = "write_pictures(bundle, folder, layers=[...], pages=None)"


@dataclass(frozen=True)
class PicturesReport:
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
        """What is not drawn cell by cell, or not at all, and what to do about it."""
        notes = []
        partly = [layer for layer in self.layers if layer.tiles_cell_by_cell < layer.tiles]
        if paged := [layer for layer in partly if layer.remark is None]:
            drawn, tiles = (sum(getattr(layer, name) for layer in paged) for name in ("tiles_cell_by_cell", "tiles"))
            notes.append(
                f"Pictures show {drawn:,} of {tiles:,} tiles of {_listed(layer.layer for layer in paged)} cell by "
                f"cell, the others only in overviews; for all of them: {_ALL_PAGES}."
            )
        notes += [f"Pictures of {layer.layer}: {layer.remark}." for layer in partly if layer.remark is not None]
        notes += [
            f"The overview of {layer.layer} shows {layer.tiles_in_overview:,} of {layer.tiles:,} tiles: the first "
            "matrices."
            for layer in self.layers
            if layer.tiles_in_overview < layer.tiles
        ]
        return tuple(notes)

    def to_json(self) -> list[dict[str, Any]]:
        """What was drawn of each layer, as JSON values."""
        return [
            {**asdict(layer), "files": list(layer.files), "cells_per_pixel": list(layer.cells_per_pixel)}
            for layer in self.layers
        ]


def layer_pictures(layer: BundleLayer, *, pages: int | None = MOST_PAGES) -> Iterator[Picture]:
    """The pictures of the targets of a layer: an overview, and pages if the overview does not show every cell.

    Args:
        layer: The layer of an open bundle.
        pages: How many pages at most; None for all tiles.

    Raises:
        ConfigError: If Matplotlib is not installed.
        BundleError: If a tile cannot be read.
    """
    require_matplotlib()
    yield from LayerPlan(layer, pages).pictures(Targets(layer))


def error_pictures(layer: BundleLayer, errors: Errors, *, pages: int | None = MOST_PAGES) -> Iterator[Picture]:
    """The pictures of measured minus target of a layer; see `write_error_pictures`."""
    require_matplotlib()
    yield from LayerPlan(layer, pages).pictures(MeasuredErrors(layer, errors))


def write_pictures(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    pages: int | None = MOST_PAGES,
    progress: Progress | None = None,
) -> PicturesReport:
    """Draw the targets of a bundle into a new folder, which appears whole or not at all.

    Args:
        bundle: The open bundle.
        folder: The folder to write; there must be none.
        layers: Ids of layers or names of weights; all if None.
        pages: How many pages of a layer at most show tiles cell by cell, if the overview does not; None for all tiles.
        progress: Called with the step ("pictures"), the tiles that are done and how many there are.

    Raises:
        ConfigError: If Matplotlib is not installed, or the folder exists or cannot be written.
        BundleError: If a tile cannot be read, or there is no such layer.
    """
    plans = _plans(bundle, layers, pages)
    return _write(plans, Path(folder), progress, Targets)


def write_error_pictures(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    errors: Errors,
    *,
    layers: Sequence[str] | None = None,
    pages: int | None = MOST_PAGES,
    progress: Progress | None = None,
) -> PicturesReport:
    """Draw how far measured conductances are from their targets into a new folder.

    Colours are symmetrical around 0, and the same for all tiles of a layer. They end at the largest error or, if that
    is far above the others, at the 99th percentile of all errors; the picture says how many cells are beyond, and
    where the largest error is. If the cells of an overview share pixels, these show the error that is furthest from 0.

    Args:
        bundle: The open bundle.
        folder: The folder to write; there must be none.
        errors: Gives for a tile, by the name of the device, measured minus target in µS, [inputs, outputs], NaN where
            nothing was measured. A device that is left out was not measured. Tiles on pages are asked for twice.
        layers: As for `write_pictures`.
        pages: As for `write_pictures`.
        progress: As for `write_pictures`.

    Raises:
        ConfigError: As for `write_pictures`.
        BundleError: If there is no such layer, or errors are infinite, of another shape, or of an unknown device.
    """
    plans = _plans(bundle, layers, pages)
    return _write(plans, Path(folder), progress, lambda layer: MeasuredErrors(layer, errors))


def draw_pictures(bundle: Bundle, folder: Path, progress: Progress | None = None) -> PicturesReport:
    """Draw the targets of a bundle that is being written into an existing folder of its own.

    Raises:
        OSError: If a file cannot be written.
    """
    return _draw_all([LayerPlan(layer, MOST_PAGES) for layer in bundle.layers], folder, progress, Targets)


def _listed(names: Iterator[str]) -> str:
    found = list(names)
    return ", ".join(found) if len(found) <= _MOST_NAMES else f"{', '.join(found[:_MOST_NAMES])} and others"


def _plans(bundle: Bundle, layers: Sequence[str] | None, pages: int | None) -> list[LayerPlan]:
    require_matplotlib()
    chosen = bundle.layers if layers is None else [bundle.layer(name) for name in dict.fromkeys(layers)]
    return [LayerPlan(layer, pages) for layer in chosen]


def _write(
    plans: Sequence[LayerPlan], folder: Path, progress: Progress | None, subject: Callable[[BundleLayer], Subject]
) -> PicturesReport:
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"'{folder}' exists; choose another name")
    if not folder.parent.is_dir():
        raise ConfigError(f"cannot write '{folder}': the folder '{folder.parent}' does not exist; create it first")
    try:
        with staged_folder(folder) as staged:
            report = _draw_all(plans, staged.folder, progress, subject)
            staged.commit()
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"cannot write '{folder}': {reason}; free some space or choose another disk") from error
    return PicturesReport(folder, report.layers)


def _draw_all(
    plans: Sequence[LayerPlan], folder: Path, progress: Progress | None, subject: Callable[[BundleLayer], Subject]
) -> PicturesReport:
    total, done = sum(plan.reads for plan in plans), itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress("pictures", next(done), total)

    layers = []
    for plan in plans:
        names = []
        for picture in plan.pictures(subject(plan.layer), step):
            names.append(f"{picture.name}.png")
            with (folder / names[-1]).open("xb") as file:
                file.write(picture.png())
        layers.append(plan.report(names))
    return PicturesReport(folder, tuple(layers))
