"""The report of a programmed chip, for programs and for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.mapping import SimulatedRecord
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.simulation.times import time_text
from onnx_gconv.terminal_text import counted, file_list, plain, titled_table, with_name

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

__all__ = ["ProgramReport", "ReadNoiseMode", "SimulatedWeight"]

ReadNoiseMode: TypeAlias = Literal["fixed", "live"]
"""``fixed``: the chip is read once; ``live``: each run of its model draws new readings."""


@dataclass(frozen=True)
class SimulatedWeight:
    """A weight on a simulated chip.

    Attributes:
        name: The name of the weight.
        graph: Path of the graph that owns the weight; empty for the main graph.
        cells: How many devices the weight has.
        max_abs: max|W| of the weight that was mapped.
        max_abs_error: The largest absolute difference from the weight that the targets give, in units of weight.
        rms_error: The root mean square of that difference, in units of weight.
        sqnr_db: Ratio of the power of the weight to the power of the errors, in dB; None if either power is 0.
        drift_factor: The factor that compensates drift; the mean, if there are several.
        drift_factor_range: The smallest and the largest of these factors.
        known_as: What people call the weight: its parameter in the exported program, its module, or its name.
    """

    name: str
    graph: str
    cells: int
    max_abs: float
    max_abs_error: float
    rms_error: float
    sqnr_db: float | None
    drift_factor: float
    drift_factor_range: tuple[float, float]
    known_as: str = ""


@dataclass(frozen=True, repr=False)
class ProgramReport(ShownReport):
    """The result of `program_model`.

    Attributes:
        mapped: The mapped model.
        output: The model of the chip.
        files: The files that were written.
        simulated: The chip, as the manifest of the output describes it.
        weights: The weights on the chip.
        notes: Other remarks, a line each.
        read_noise: ``live`` if each run of the model draws new readings; ``fixed`` if not, also where live noise was
            asked for but readings of these devices have no noise.
    """

    mapped: Path
    output: Path
    files: tuple[Path, ...]
    simulated: SimulatedRecord
    weights: tuple[SimulatedWeight, ...]
    notes: tuple[str, ...] = ()
    read_noise: ReadNoiseMode = "fixed"

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "mapped": str(self.mapped),
            "output": str(self.output),
            "files": [str(file) for file in self.files],
            **self.simulated.model_dump(mode="json"),
            "read_noise": self.read_noise,
            "weights": [asdict(weight) for weight in self.weights],
            "notes": list(self.notes),
        }

    def _in_short(self) -> str:
        chip = self.simulated
        read = f"{chip.device}, read {time_text(chip.seconds)} after programming"
        return f"{self.mapped} as {self.output}: {counted(len(self.weights))} on chip {chip.chip} of {read}"

    def _frame_tables(self) -> FrameTables:
        return {"weights": self._columns}

    def _columns(self) -> Columns:
        weights = self.weights
        return {
            "weight": Column("text", [item.name for item in weights]),
            "graph": Column("text", [item.graph for item in weights]),
            "devices": Column("whole number", [item.cells for item in weights]),
            "max_abs": Column("number", [item.max_abs for item in weights]),
            "max_abs_error": Column("number", [item.max_abs_error for item in weights]),
            "rms_error": Column("number", [item.rms_error for item in weights]),
            "sqnr_db": Column("number", [item.sqnr_db for item in weights]),
            "drift_factor": Column("number", [item.drift_factor for item in weights]),
            "smallest_drift_factor": Column("number", [item.drift_factor_range[0] for item in weights]),
            "largest_drift_factor": Column("number", [item.drift_factor_range[1] for item in weights]),
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        chip = self.simulated
        settings = "".join(f", {name} = {value}" for name, value in chip.settings.items())
        table = titled_table(f"Chip {chip.chip} of seed {chip.seed}, weights beside their targets")
        table.add_column("weight")
        for column in ("devices", "max |error|", "/ max |W|", "rms error", "SQNR [dB]", "drift factor"):
            table.add_column(column, justify="right", no_wrap=True)
        for item in self.weights:
            table.add_row(
                with_name(item.known_as, item.name, f"in {item.graph}" if item.graph else ""),
                f"{item.cells:,}",
                f"{item.max_abs_error:.3g}",
                f"{item.max_abs_error / item.max_abs:.3g}" if item.max_abs else "-",
                f"{item.rms_error:.3g}",
                "-" if item.sqnr_db is None else f"{item.sqnr_db:.1f}",
                _factor_text(item),
            )
        parts: list[RenderableType] = [
            plain(f"Device {chip.device}{settings}, read {time_text(chip.seconds)} after programming"),
            plain(f"Drift compensation: {chip.drift_compensation}"),
            *([plain("Noise of readings: drawn in each run")] if self.read_noise == "live" else []),
            table,
            *(plain(f"Note: {note}") for note in self.notes),
            plain(f"Written: {file_list(self.files)}"),
        ]
        return Group(*parts)


def _factor_text(item: SimulatedWeight) -> str:
    low, high = item.drift_factor_range
    return f"{item.drift_factor:.4f}" if low == high else f"{low:.4f} to {high:.4f}"
