"""The report of a table of targets: how many devices of each layer it lists."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.crossbars.error_figures import Tolerance
from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import file_list, plain, titled_table, with_name

if TYPE_CHECKING:
    from rich.console import Group

    from onnx_gconv.handoff.manifest import LayerRecord

__all__ = ["ListedLayer", "TargetsReport"]

_COUNTS = ("cells", "listed", "off_target", "without_reading", "stuck")


@dataclass(frozen=True)
class ListedLayer:
    """Counts of the devices of a layer, or of a part of it; ``|`` adds the counts of two parts.

    Attributes:
        id: Id of the layer in the bundle, such as ``L003``.
        weight: Name of the weight.
        known_as: What people call the weight.
        cells: Number of conductances, over all devices.
        listed: Number of conductances that have a line in the table.
        off_target: Number of conductances that are further from their target than the tolerance.
        without_reading: Number of conductances without a reading.
        stuck: Number of listed conductances that are known to be stuck, so that no pulse changes them.
    """

    id: str
    weight: str
    known_as: str
    cells: int
    listed: int
    off_target: int
    without_reading: int
    stuck: int

    @classmethod
    def none(cls, record: LayerRecord) -> ListedLayer:
        """A layer with all counts 0."""
        return cls(record.id, record.weight, record.known_as, 0, 0, 0, 0, 0)

    def __or__(self, other: ListedLayer) -> ListedLayer:
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in _COUNTS})


@dataclass(frozen=True, eq=False, repr=False)
class TargetsReport(ShownReport):
    """The report of a table of targets; ``print(report)`` shows its counts.

    Attributes:
        bundle: The folder of the bundle.
        output: The file of the table.
        measured: The file of the measurements; None if there are none.
        updates: The files of later rounds, in their order.
        tolerance: How far a device may be from its target; None if no tolerance is known.
        is_partial: Whether the table lists only devices that are not known to be within the tolerance.
        arrays: Number of arrays of the chip that have a line in the table.
        layers: The counts of each layer.
    """

    bundle: Path
    output: Path
    measured: Path | None
    updates: tuple[Path, ...]
    tolerance: Tolerance | None
    is_partial: bool
    arrays: int
    layers: tuple[ListedLayer, ...]

    @property
    def total(self) -> ListedLayer:
        """The counts of all layers together."""
        return functools.reduce(operator.or_, self.layers, ListedLayer("", "", "", 0, 0, 0, 0, 0))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        tolerance = self.tolerance
        return {
            "bundle": str(self.bundle),
            "output": str(self.output),
            "measurements": None if self.measured is None else str(self.measured),
            "updates": [str(update) for update in self.updates],
            "only_off_target": self.is_partial,
            "tolerance_us": None if tolerance is None else tolerance.absolute_us,
            "tolerance_relative": None if tolerance is None else tolerance.relative,
            "arrays": self.arrays,
            **{name: getattr(self.total, name) for name in _COUNTS},
            "layers": [
                {
                    "id": layer.id,
                    "weight": layer.weight,
                    "known_as": layer.known_as,
                    **{name: getattr(layer, name) for name in _COUNTS},
                }
                for layer in self.layers
            ],
        }

    def _in_short(self) -> str:
        return f"{self.output}: {self.total.listed:,} of {self.total.cells:,} conductances, {self.arrays:,} arrays"

    def _frame_tables(self) -> FrameTables:
        return {"layers": self._columns}

    def _columns(self) -> Columns:
        return {
            "layer": Column("text", [layer.id for layer in self.layers]),
            "weight": Column("text", [layer.weight for layer in self.layers]),
            **{name: Column("whole number", [getattr(layer, name) for layer in self.layers]) for name in _COUNTS},
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        table = titled_table("Targets")
        table.add_column("layer", no_wrap=True)
        table.add_column("weight", ratio=1)
        for name in ("cells", "listed", "off target", "no reading"):
            table.add_column(name, justify="right")
        for layer in self.layers:
            counts = (layer.cells, layer.listed, layer.off_target, layer.without_reading)
            table.add_row(layer.id, with_name(layer.known_as, layer.weight), *(f"{count:,}" for count in counts))
        return Group(table, *map(plain, self._summary()))

    def _summary(self) -> list[str]:
        total = self.total
        arrays = "1 array" if self.arrays == 1 else f"{self.arrays:,} arrays"
        lines = [f"{total.listed:,} of {total.cells:,} conductances are listed, of {arrays} of the chip."]
        if self.is_partial and not total.listed:
            lines = [f"All {total.cells:,} conductances are within the tolerance; nothing is left to program."]
        if self.tolerance is not None:
            lines.append(f"Tolerance: {self.tolerance}.")
        if total.stuck:
            lines.append(f"{total.stuck:,} of those that are listed are known to be stuck.")
        return [*lines, f"Written: {file_list([self.output])}"]
