"""The report of a read-back: how far measured conductances are from their targets, by layer and tile."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.crossbars.arrangement import Arrangement, Evidence
from onnx_gconv.crossbars.error_figures import ProgrammingErrors, Tolerance, WeightErrors
from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import ByWidth, file_list, plain, titled_table, with_name
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from onnx_gconv.handoff.drawn_pictures import PicturesReport
    from onnx_gconv.handoff.manifest import LayerRecord

__all__ = ["LayerReadback", "ReadbackReport", "TileReadback"]

_MOST_TILES = 5
_BARS = " ▁▂▃▄▅▆▇█"
_BARS_IN_TABLE = 16

# The table has all columns if a line of the terminal has at least this many characters.
_WIDE = 120


@dataclass(frozen=True, eq=False)
class TileReadback:
    """The errors of a tile.

    Attributes:
        id: Id of the tile, such as ``L003/T0007``.
        matrix: Number of the matrix that the tile is a part of.
        grid: Row and column of the tile among the tiles of the matrix.
        devices: Errors of the conductances (measured minus target) by the name of the device.
        weights: Errors of the weights that follow from them.
        never_written: Keys of arrays that the file has, but that nothing was written to.
        only_zeros: Keys of arrays whose readings are all 0 although not all targets are.
        too_small: Keys of arrays whose largest reading is so much below their largest target that their unit may be
            siemens or millisiemens.
        rearranged: Evidence that the measured cells are in another arrangement, such as transposed, over all devices.
    """

    id: str
    matrix: int
    grid: tuple[int, int]
    devices: dict[str, ProgrammingErrors] = field(repr=False)
    weights: WeightErrors
    never_written: tuple[str, ...] = ()
    only_zeros: tuple[str, ...] = ()
    too_small: tuple[str, ...] = ()
    rearranged: Mapping[Arrangement, Evidence] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> ProgrammingErrors:
        """The errors of all devices together."""
        return _joined(list(self.devices.values()))


@dataclass(frozen=True, eq=False)
class LayerReadback:
    """The errors of a layer.

    Attributes:
        id: Id of the layer in the bundle, such as ``L003``.
        weight: Name of the weight.
        graph: Path of the weight's graph.
        max_abs: max|W|.
        devices: Errors of the conductances (measured minus target) by the name of the device.
        weights: Errors of the weights that follow from them, before weights are rounded to integer codes or cast.
        tiles: The errors of each tile.
        bias_error: Largest difference between the measured bias and the bias that its targets give, in units of the
            output; None if the bias is added digitally.
        known_as: What people call the weight: its parameter in the exported program, its module, or its name.
    """

    id: str
    weight: str
    graph: str
    max_abs: float
    devices: dict[str, ProgrammingErrors] = field(repr=False)
    weights: WeightErrors
    tiles: tuple[TileReadback, ...] = field(repr=False)
    bias_error: float | None = None
    known_as: str = ""

    @classmethod
    def of(
        cls, record: LayerRecord, max_abs: float, tiles: Sequence[TileReadback], *, bias_error: float | None
    ) -> LayerReadback:
        """Sum up the errors of the tiles of a layer."""
        return cls(
            id=record.id,
            weight=record.weight,
            graph=record.graph,
            max_abs=max_abs,
            devices={device.name: _joined([tile.devices[device.name] for tile in tiles]) for device in record.devices},
            weights=functools.reduce(operator.or_, (tile.weights for tile in tiles)),
            tiles=tuple(tiles),
            bias_error=bias_error,
            known_as=record.known_as,
        )

    @property
    def errors(self) -> ProgrammingErrors:
        """The errors of all devices together."""
        return _joined(list(self.devices.values()))

    def to_json(self) -> dict[str, Any]:
        """The errors of the layer and its tiles as JSON values."""
        return {
            "id": self.id,
            "weight": self.weight,
            "known_as": self.known_as or self.weight,
            "graph": self.graph,
            **self.errors.to_json(),
            "weights": self.weights.to_json(self.max_abs),
            "bias_max_abs_error": self.bias_error,
            "devices": [{"device": name, **errors.to_json()} for name, errors in self.devices.items()],
            "tiles": [
                {
                    "id": tile.id,
                    "matrix": tile.matrix,
                    "grid": list(tile.grid),
                    **tile.errors.to_json(),
                    "weights": tile.weights.to_json(self.max_abs),
                }
                for tile in self.tiles
            ],
        }


@dataclass(frozen=True, eq=False, repr=False)
class ReadbackReport(ShownReport):
    """How far measured conductances, and the weights they represent, are off; ``print(report)`` shows a table.

    Attributes:
        mapped: The mapped model.
        measured: The file of measured arrays.
        bundle: The bundle that was handed off.
        tolerance: How far a device may be from its target; None if no tolerance is known.
        layers: The errors of each layer.
        unused_keys: Keys of arrays in the file that no tile of the bundle has.
        notes: Notes on measurements that look like a mistake.
        updates: The files of later rounds, in their order.
        output: The model that was written; None after a dry run or if it was not accepted.
        files: All files of the output.
        pictures: The pictures that were drawn; None if there are none.
        mem_states: The file of the states of a cell that was written; None if there is none.
    """

    mapped: Path
    measured: Path
    bundle: Path
    tolerance: Tolerance | None
    layers: tuple[LayerReadback, ...]
    unused_keys: tuple[str, ...]
    notes: tuple[str, ...]
    updates: tuple[Path, ...] = ()
    output: Path | None = None
    files: tuple[Path, ...] = ()
    pictures: PicturesReport | None = None
    mem_states: Path | None = None

    @property
    def errors(self) -> ProgrammingErrors:
        """The errors of all layers together."""
        return _joined([layer.errors for layer in self.layers])

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        tolerance = self.tolerance
        return {
            "mapped": str(self.mapped),
            "measurements": str(self.measured),
            "updates": [str(update) for update in self.updates],
            "bundle": str(self.bundle),
            "output": None if self.output is None else str(self.output),
            "files": [str(file) for file in self.files],
            "pictures": None if self.pictures is None else self.pictures.to_json(),
            "mem_states": None if self.mem_states is None else str(self.mem_states),
            "tolerance_us": None if tolerance is None else tolerance.absolute_us,
            "tolerance_relative": None if tolerance is None else tolerance.relative,
            **self.errors.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "unused_keys": list(self.unused_keys),
            "notes": list(self.notes),
        }

    def _in_short(self) -> str:
        written = "" if self.output is None else f" as {self.output}"
        errors = self.errors
        rms = "" if errors.rms_us is None else f", rms error {errors.rms_us:.3g} µS"
        return f"{self.measured}{written}: {errors.measured:,} of {errors.cells:,} conductances measured{rms}"

    def _frame_tables(self) -> FrameTables:
        return {
            "layers": lambda: _columns([(layer, layer) for layer in self.layers]),
            "tiles": lambda: _columns([(layer, tile) for layer in self.layers for tile in layer.tiles]),
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        names = (with_name(f"{layer.id}: {layer.known_as}", f"{layer.id}: {layer.weight}") for layer in self.layers)
        narrow = Group(self._table(is_wide=False), *names)
        return Group(ByWidth(self._table(is_wide=True), narrow, _WIDE), *map(plain, self._summary()))

    def _table(self, *, is_wide: bool) -> Table:
        """A table with a line for each layer, with the weight's name and the histogram only if the terminal is wide."""
        table = titled_table("Measured minus target, in µS")
        table.add_column("layer", no_wrap=True)
        if is_wide:
            table.add_column("weight", ratio=1)
        for name in ("cells", "measured", "yield", "mean", "std", "largest"):
            table.add_column(name, justify="right")
        if self.tolerance is not None:
            table.add_column("within", justify="right")
        if is_wide:
            table.add_column("-  0  +", justify="center", no_wrap=True)
        table.add_column("rms |ΔW|", justify="right")
        for layer in self.layers:
            errors, has_any = layer.errors, layer.errors.measured > 0
            table.add_row(
                layer.id,
                *([with_name(layer.known_as, layer.weight)] if is_wide else []),
                f"{errors.cells:,}",
                _share(errors.measured / errors.cells),
                _share(errors.yielded),
                f"{errors.mean_us:+.2g}" if has_any else "-",
                _number(errors.std_us),
                _number(errors.largest_us if has_any else None),
                *([] if self.tolerance is None else [_share(errors.within_tolerance)]),
                *([_bars(errors) if has_any else "-"] if is_wide else []),
                _share(layer.weights.rms / layer.max_abs if layer.max_abs else None),
            )
        return table

    def _summary(self) -> list[str]:
        errors = self.errors
        lines = [f"{errors.measured:,} of {errors.cells:,} conductances were measured."]
        lines += [f"The readings of {update} take the place of those before." for update in self.updates]
        if kept := errors.cells - errors.measured:
            lines[0] += f" {kept:,} without a measurement keep their target."
        if errors.failed:
            lines[0] += f" Masks mark {errors.failed:,} as failed."
        if errors.measured:
            lines.append(
                f"Measured minus target: mean {errors.mean_us:+.4g} µS, standard deviation {errors.std_us:.4g} µS, "
                f"at most {errors.largest_us:.4g} µS. rms |ΔW| is relative to max|W|."
            )
        if self.tolerance is None:
            lines.append("No tolerance is known; give one with --tolerance to see how many devices keep it.")
        elif errors.within_tolerance is not None:
            lines.append(
                f"Within the tolerance of {self.tolerance}: {errors.within_tolerance:.2%} of what was measured."
            )
        if worst := self._worst_tiles():
            lines.append(f"Tiles with the largest errors (rms): {', '.join(worst)}.")
        if self.unused_keys:
            names = listed([f"'{key}'" for key in self.unused_keys])
            lines.append(f"Not used, since no tile has such arrays: {names}.")
        lines.extend(f"Note: {note}." for note in self.notes)
        if self.pictures is not None:
            lines.append(f"Pictures: {len(self.pictures.files):,} in {self.pictures.folder}")
            lines.extend(self.pictures.notes)
        return [*lines, *self._written()]

    def _written(self) -> list[str]:
        states = [] if self.mem_states is None else [f"States of a cell: {self.mem_states}"]
        return [*states, *([f"Written: {file_list(self.files)}"] if self.output else [])]

    def _worst_tiles(self) -> list[str]:
        tiles = [(tile.errors.rms_us, tile.id) for layer in self.layers for tile in layer.tiles]
        if len(tiles) == 1:
            return []
        found = sorted(((rms, name) for rms, name in tiles if rms), reverse=True)
        return [f"{name} {rms:.3g} µS" for rms, name in found[:_MOST_TILES]]


def _columns(rows: Sequence[tuple[LayerReadback, LayerReadback | TileReadback]]) -> Columns:
    """Layers or tiles as columns of a data frame; a table of tiles also has a column with their ids."""
    figures = [part.errors.to_json() for _, part in rows]
    weights = [part.weights.to_json(layer.max_abs) for layer, part in rows]
    tiles = [part.id if isinstance(part, TileReadback) else None for _, part in rows]
    counts = ("cells", "measured", "failed", "kept_targets")
    numbers = ("yield", "mean_error_us", "std_error_us", "rms_error_us", "max_abs_error_us", "within_tolerance")
    errors = ("max_abs_error", "rms_error", "max_relative_error", "rms_relative_error")
    return {
        "layer": Column("text", [layer.id for layer, _ in rows]),
        **({"tile": Column("text", tiles)} if any(tiles) else {}),
        "weight": Column("text", [layer.weight for layer, _ in rows]),
        **{name: Column("whole number", [each[name] for each in figures]) for name in counts},
        **{name: Column("number", [each[name] for each in figures]) for name in numbers},
        "changed_weights": Column("whole number", [each["changed"] for each in weights]),
        **{f"weight_{name}": Column("number", [each[name] for each in weights]) for name in errors},
    }


def _joined(figures: Sequence[ProgrammingErrors]) -> ProgrammingErrors:
    return functools.reduce(operator.or_, figures)


def _bars(errors: ProgrammingErrors) -> str:
    """The histogram of errors as a line of bar characters."""
    counts = errors.histogram.counts.reshape(_BARS_IN_TABLE, -1).sum(axis=1)
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-int(count) * steps // int(counts.max()))] for count in counts)


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
