"""What a hand-off wrote or would write: arrays and their utilization, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.handoff.tiles import ArrayGeometry
from onnx_gconv.terminal_text import counted, file_list, plain, rendered

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from onnx_gconv.handoff.layers import Layer
    from onnx_gconv.handoff.pictures import PicturesReport

__all__ = ["HandoffReport", "LayerReport"]

_MOST_PICTURES = 8  # that are named; the JSON names all


@dataclass(frozen=True)
class LayerReport:
    """The arrays of one weight.

    Attributes:
        id: Its id in the bundle.
        weight: Its name.
        graph: Path of its graph.
        op_type: The op that reads it.
        matrices: Number of its matrices.
        rows: Inputs of one.
        columns: Outputs of one.
        grid: Rows and columns of tiles in a matrix.
        tiles: Number of tiles.
        devices: Devices of each cell.
        arrays: How many arrays all tiles need, over all devices.
        utilization: Share of the cells of these arrays that hold conductances.
    """

    id: str
    weight: str
    graph: str
    op_type: str
    matrices: int
    rows: int
    columns: int
    grid: tuple[int, int]
    tiles: int
    devices: int
    arrays: int
    utilization: float

    @classmethod
    def of(cls, layer: Layer) -> LayerReport:
        """The report of a layer."""
        return cls(
            id=layer.id,
            weight=layer.record.name,
            graph=layer.record.graph,
            op_type=layer.consumers[0].op_type,
            matrices=layer.layout.matrices,
            rows=layer.layout.rows,
            columns=layer.layout.columns,
            grid=layer.grid.shape,
            tiles=len(layer.grid),
            devices=len(layer.record.conductances),
            arrays=layer.arrays,
            utilization=layer.utilization,
        )


@dataclass(frozen=True)
class HandoffReport:
    """The arrays that a mapped model needs, and the bundle that was written.

    ``print(report)`` shows a table.

    Attributes:
        model: The mapped model.
        geometry: The arrays of the chip.
        layers: The mapped weights.
        utilization: Share of the cells of all arrays that hold conductances.
        skipped_mvm_weights: How many weights of MVM ops are not mapped, and stay digital.
        preset: The device; None if none was given.
        output: The bundle that was written, or None.
        files: All files of it.
        pictures: What was drawn, or None.
    """

    model: Path
    geometry: ArrayGeometry
    layers: tuple[LayerReport, ...]
    utilization: float
    skipped_mvm_weights: int
    preset: str | None = None
    output: Path | None = None
    files: tuple[Path, ...] = ()
    pictures: PicturesReport | None = None

    @classmethod
    def of(
        cls,
        model: Path,
        geometry: ArrayGeometry,
        layers: Sequence[Layer],
        *,
        skipped_mvm_weights: int,
        preset: str | None,
    ) -> HandoffReport:
        """The report of layers that are not written yet."""
        cells = sum(layer.arrays for layer in layers) * geometry.rows * geometry.columns
        used = sum(layer.cells for layer in layers)
        return cls(
            model,
            geometry,
            tuple(map(LayerReport.of, layers)),
            used / cells if cells else 0.0,
            skipped_mvm_weights,
            preset,
        )

    @property
    def tiles(self) -> int:
        """Number of all tiles."""
        return sum(layer.tiles for layer in self.layers)

    @property
    def arrays(self) -> int:
        """How many arrays all tiles need, over all devices."""
        return sum(layer.arrays for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "model": str(self.model),
            "output": None if self.output is None else str(self.output),
            "files": [str(file) for file in self.files],
            "pictures": None if self.pictures is None else self.pictures.to_json(),
            "geometry": asdict(self.geometry),
            "preset": self.preset,
            "layers": [{**asdict(layer), "grid": list(layer.grid)} for layer in self.layers],
            "tiles": self.tiles,
            "arrays": self.arrays,
            "utilization": self.utilization,
            "skipped_mvm_weights": self.skipped_mvm_weights,
        }

    def __str__(self) -> str:
        return rendered(self)

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(self._table(), *map(plain, self._summary()))

    def _table(self) -> Table:
        from rich.table import Table

        verb = "handed off" if self.output else "to be handed off"
        table = Table(title=f"{counted(len(self.layers))} {verb}", title_justify="left", title_style="bold")
        table.add_column("layer", no_wrap=True)
        table.add_column("weight", overflow="fold", ratio=1)
        table.add_column("op", overflow="fold")
        table.add_column("matrix", justify="right")
        for name in ("tiles", "devices", "arrays", "used"):
            table.add_column(name, justify="right", no_wrap=True)
        for layer in self.layers:
            several = f"{layer.matrices} x " if layer.matrices > 1 else ""
            table.add_row(
                layer.id,
                plain(layer.weight),
                layer.op_type,
                f"{several}{layer.rows}x{layer.columns}",
                f"{several}{layer.grid[0]}x{layer.grid[1]}",
                str(layer.devices),
                f"{layer.arrays:,}",
                f"{layer.utilization:.1%}",
            )
        return table

    def _summary(self) -> list[str]:
        geometry = self.geometry
        kernels = ", kernels whole" if geometry.whole_kernels else ""
        layout = geometry.pair_layout.replace("_", " ")
        array = "array" if self.arrays == 1 else "arrays"
        pairs = f"pairs in {layout}, partition {geometry.partition}{kernels}"
        used = f"{self.utilization:.1%} of their cells are used"
        lines = [f"{self.arrays:,} {array} of {geometry.size_text} ({pairs}) hold {self.tiles:,} tiles; {used}."]
        if self.skipped_mvm_weights:
            lines.append(f"Not mapped, and therefore digital: {counted(self.skipped_mvm_weights)} of MVM ops.")
        if self.output:
            drawn = () if self.pictures is None else self.pictures.files
            lines.append(f"Written: {self.output}: {file_list(file for file in self.files if file not in drawn)}")
        if self.pictures is not None:
            files = self.pictures.files
            named = (
                file_list(files) if len(files) <= _MOST_PICTURES else f"{len(files)} files in {self.pictures.folder}"
            )
            lines += [f"Pictures: {named}", *self.pictures.notes]
        return lines
