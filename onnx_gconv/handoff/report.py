"""The report of a hand-off: how many crossbar arrays each layer needs, and how many of their cells are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.crossbars.chip import passed_over
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.mapping.expert_groups import ExpertGroup, grouped_experts
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import counted, file_list, plain, titled_table, with_name, with_remark
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from onnx_gconv.crossbars.chip import Chip, LayerPlacement
    from onnx_gconv.crossbars.layers import Layer
    from onnx_gconv.handoff.drawn_pictures import PicturesReport

__all__ = ["DefectsReport", "HandoffReport", "LayerReport"]


@dataclass(frozen=True)
class LayerReport:
    """The crossbar arrays of one mapped weight.

    Attributes:
        id: Id of the layer in the bundle, such as ``L003``.
        weight: Name of the weight.
        graph: Path of the graph that owns the weight.
        op_type: The MVM op that reads the weight.
        matrices: Number of matrices in the weight's matrix view.
        rows: Inputs of one matrix.
        columns: Outputs of one matrix.
        grid: Number of tiles down and across one matrix.
        tiles: Number of tiles of all matrices.
        devices: Number of devices per weight.
        arrays: Number of arrays that all tiles and devices need.
        utilization: Share of the cells of these arrays that hold conductances, from 0 to 1.
        bias: Name of the bias; None if the layer has none.
        bias_rows: Number of rows below the inputs of each matrix that hold the bias; 0 if it is added digitally.
        bias_max_abs_error: Largest difference between the bias and what its rows add, in units of the output; None if
            the bias is added digitally.
        bias_reason: Why the bias is added digitally although rows were asked for; None otherwise.
        stuck_cells: Number of devices that stand on stuck cells.
        stuck_weights: Number of weights that the stuck cells change.
        stuck_max_abs_error: Largest error of a weight due to stuck cells, in units of weight.
        stuck_rms_error: Root mean square of these errors over all weights of the layer.
        stuck_max_relative_error: The largest of these errors as a fraction of max|W|; None for an all-zero weight.
        stuck_bias_error: Largest error of what the rows of the bias add, in units of the output.
        tiles_of_several_blocks: Number of tiles with a column that sums blocks of inputs whose block scales differ.
        known_as: What people call the weight: its parameter in the exported program, its module, or its name.
        sources: The names of the constants that nodes of the unmapped model compute the weight from.
        parts: Name and number of columns of each part, if each matrix is several matrices side by side, such as query,
            key and value; parts share no tile. Empty if a matrix has one part.
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
    bias: str | None
    bias_rows: int
    bias_max_abs_error: float | None
    bias_reason: str | None
    stuck_cells: int
    stuck_weights: int
    stuck_max_abs_error: float
    stuck_rms_error: float
    stuck_max_relative_error: float | None
    stuck_bias_error: float
    tiles_of_several_blocks: int = 0
    known_as: str = ""
    sources: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, layer: Layer, placement: LayerPlacement) -> LayerReport:
        """Describe a layer and its placement."""
        found, effect, max_abs = layer.bias_rows, placement.effect, layer.record.max_abs
        rows, error, reason = (0, None, found) if found is None or isinstance(found, str) else (
            found.rows, found.max_abs_error, None
        )  # fmt: skip
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
            bias=None if layer.bias is None else layer.bias.name,
            bias_rows=rows,
            bias_max_abs_error=error,
            bias_reason=reason,
            stuck_cells=placement.stuck_cells,
            stuck_weights=0 if effect is None else effect.changed,
            stuck_max_abs_error=0.0 if effect is None else effect.largest,
            stuck_rms_error=0.0 if effect is None else effect.rms,
            stuck_max_relative_error=None if not max_abs else (0.0 if effect is None else effect.largest / max_abs),
            stuck_bias_error=placement.bias_error,
            tiles_of_several_blocks=layer.tiles_of_several_blocks,
            known_as=layer.record.known_as,
            sources=layer.record.sources,
            parts=tuple((f"{layer.record.known_as}/{part.name}", part.columns) for part in layer.record.parts),
        )


@dataclass(frozen=True)
class DefectsReport:
    """How tiles were placed on a chip with defects.

    Attributes:
        source: Path of the defect map.
        damaged_arrays: Number of used arrays that have avoided rows or columns.
        avoided_lines: Number of rows and columns of used arrays that are avoided because they cannot be used.
        passed_over: Numbers of the arrays that no tile stands on, although arrays with higher numbers are used.
        stuck_cells: Number of devices that stand on stuck cells.
    """

    source: str
    damaged_arrays: int
    avoided_lines: int
    passed_over: tuple[int, ...]
    stuck_cells: int

    @classmethod
    def of(cls, placements: Sequence[LayerPlacement], chip: Chip) -> DefectsReport | None:
        """Describe a placement; None without a defect map."""
        if chip.defects is None:
            return None
        avoided = [
            len(array.avoided_rows) + len(array.avoided_columns)
            for placement in placements
            for tile in placement.tiles
            for array in tile
        ]
        return cls(
            chip.source,
            sum(count > 0 for count in avoided),
            sum(avoided),
            passed_over(placements),
            sum(placement.stuck_cells for placement in placements),
        )

    def lines(self, layers: Sequence[LayerReport]) -> list[str]:
        """The lines of the summary: what was avoided, and what stuck cells do to each layer."""
        counts = (
            f"rows and columns avoided: {self.avoided_lines:,}, in arrays: {self.damaged_arrays:,}, arrays "
            f"left out: {len(self.passed_over):,}"
        )
        found = [f"Placed with the defect map '{self.source}'; {counts}."]
        if not self.stuck_cells:
            return [*found, "No device stands on a stuck cell."]
        weights = sum(layer.stuck_weights for layer in layers)
        stand = "stands on a stuck cell" if self.stuck_cells == 1 else "stand on stuck cells"
        found.append(f"{counted(self.stuck_cells, 'device')} {stand}, which changes {counted(weights)}:")
        found.extend(
            f"{layer.id}: {counted(layer.stuck_cells, 'device')}, {counted(layer.stuck_weights)}, rms |ΔW| "
            f"{layer.stuck_rms_error:.3g}, at most {layer.stuck_max_abs_error:.3g}"
            f"{_relative(layer.stuck_max_relative_error)}{_of_bias(layer.stuck_bias_error)}."
            for layer in layers
            if layer.stuck_cells
        )
        return found


@dataclass(frozen=True, repr=False)
class HandoffReport(ShownReport):
    """The crossbar arrays that a mapped model needs, and the bundle that was written.

    ``print(report)`` shows a table.

    Attributes:
        model: The mapped model.
        geometry: Size of the chip's arrays, and how tiles are placed on them.
        layers: The mapped weights.
        utilization: Share of the cells of all arrays that hold conductances, from 0 to 1.
        skipped_mvm_weights: Number of weights of MVM ops that are not mapped and stay digital.
        preset: Name of the device preset; None if none was given.
        output: The bundle that was written; None after a dry run.
        files: All files of the bundle.
        notes: What the further formats leave out or round, and what their readers have to know.
        defects: How the defect map changed the placement; None without a defect map.
        pictures: The pictures that were drawn; None if none were asked for.
        is_verbose: Whether the table has a line for each expert of a mixture of experts; otherwise the experts of a
            layer that are alike share a line.
    """

    model: Path
    geometry: ArrayGeometry
    layers: tuple[LayerReport, ...]
    utilization: float
    skipped_mvm_weights: int
    preset: str | None = None
    output: Path | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    defects: DefectsReport | None = None
    pictures: PicturesReport | None = None
    is_verbose: bool = False

    @classmethod
    def of(
        cls,
        model: Path,
        geometry: ArrayGeometry,
        layers: Sequence[Layer],
        *,
        placements: Sequence[LayerPlacement],
        chip: Chip,
        skipped_mvm_weights: int,
        preset: str | None,
    ) -> HandoffReport:
        """Describe layers that are not written yet."""
        cells = sum(layer.arrays for layer in layers) * geometry.rows * geometry.columns
        used = sum(layer.cells for layer in layers)
        return cls(
            model,
            geometry,
            tuple(map(LayerReport.of, layers, placements)),
            used / cells if cells else 0.0,
            skipped_mvm_weights,
            preset,
            defects=DefectsReport.of(placements, chip),
        )

    @property
    def tiles(self) -> int:
        """Number of tiles of all layers."""
        return sum(layer.tiles for layer in self.layers)

    @property
    def arrays(self) -> int:
        """Number of arrays that all tiles and devices need."""
        return sum(layer.arrays for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
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
            "defects": None if self.defects is None else asdict(self.defects),
            "notes": list(self.notes),
        }

    def _in_short(self) -> str:
        written = "" if self.output is None else f" as {self.output}"
        arrays = f"{self.arrays:,} arrays of {self.geometry.size_text}"
        return f"{self.model}{written}: {len(self.layers)} layers, {self.tiles:,} tiles, {arrays}"

    def _frame_tables(self) -> FrameTables:
        return {"layers": self._columns}

    def _columns(self) -> Columns:
        layers = self.layers
        whole_numbers = ("matrices", "rows", "columns", "tiles", "devices", "arrays")
        biases = ("bias_rows", "stuck_cells", "stuck_weights")
        errors = ("stuck_max_abs_error", "stuck_rms_error", "stuck_max_relative_error", "stuck_bias_error")
        texts = {"layer": "id", "weight": "weight", "graph": "graph", "op_type": "op_type"}
        return {
            **{name: Column("text", [getattr(layer, each) for layer in layers]) for name, each in texts.items()},
            **{name: Column("whole number", [getattr(layer, name) for layer in layers]) for name in whole_numbers},
            "utilization": Column("number", [layer.utilization for layer in layers]),
            "bias": Column("text", [layer.bias for layer in layers]),
            **{name: Column("whole number", [getattr(layer, name) for layer in layers]) for name in biases},
            **{name: Column("number", [getattr(layer, name) for layer in layers]) for name in errors},
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(self._table(), *map(plain, self._summary()))

    def _table(self) -> Table:
        verb = "handed off" if self.output else "to be handed off"
        table = titled_table(f"{counted(len(self.layers))} {verb}")
        table.add_column("layer")
        table.add_column("weight", ratio=1)
        table.add_column("op")
        table.add_column("matrix", justify="right")
        for name in ("tiles", "devices", "arrays", "used"):
            table.add_column(name, justify="right")
        for group in self._groups():
            layer, matrices = group.first, sum(item.matrices for item in group.members)
            several = f"{matrices:,} x " if matrices > 1 else ""
            is_one = group.count == 1
            table.add_row(
                _ids([item.id for item in group.members]),
                with_name(layer.known_as, layer.weight) if is_one else with_remark(group.name, group.remark),
                layer.op_type,
                f"{several}{layer.rows}{f'+{layer.bias_rows}' if layer.bias_rows else ''}x{layer.columns}",
                f"{several}{layer.grid[0]}x{layer.grid[1]}",
                str(layer.devices),
                f"{sum(item.arrays for item in group.members):,}",
                f"{layer.utilization:.1%}",
            )
        return table

    def _groups(self) -> list[ExpertGroup[LayerReport]]:
        """The layers, grouped into the lines of the table: experts that are alike share a line."""

        def alike(layer: LayerReport) -> Hashable:
            matrices = layer.matrices, layer.rows, layer.columns, layer.grid, layer.bias_rows
            return layer.graph, layer.op_type, matrices, layer.devices, layer.arrays, layer.utilization

        def names(layer: LayerReport) -> tuple[str, tuple[str, ...]]:
            return layer.known_as or layer.weight, layer.sources

        return grouped_experts(self.layers, names, alike, is_verbose=self.is_verbose)

    def _summary(self) -> list[str]:
        geometry = self.geometry
        kernels = ", kernels whole" if geometry.whole_kernels else ""
        layout = geometry.pair_layout.replace("_", " ")
        array = "array" if self.arrays == 1 else "arrays"
        pairs = f"pairs in {layout}, partition {geometry.partition}{kernels}"
        used = f"{self.utilization:.1%} of their cells are used"
        lines = [f"{self.arrays:,} {array} of {geometry.size_text} ({pairs}) hold {self.tiles:,} tiles; {used}."]
        if self.geometry.bias_rows:
            in_rows = [layer for layer in self.layers if layer.bias_rows]
            error = max((layer.bias_max_abs_error or 0.0 for layer in in_rows), default=0.0)
            lines.append(
                f"The bias of {len(in_rows)} of {len(self.layers)} layers is in {geometry.bias_rows} rows; what "
                f"they add is off by at most {error:.3g} in units of the output."
            )
            lines.extend(
                f"{layer.id}: the bias '{layer.bias}' stays digital: {layer.bias_reason}."
                for layer in self.layers
                if layer.bias_reason is not None
            )
        if self.defects is not None:
            lines.extend(self.defects.lines(self.layers))
        if self.skipped_mvm_weights:
            lines.append(f"Not mapped, and therefore digital: {counted(self.skipped_mvm_weights)} of MVM ops.")
        lines.extend(
            f"{layer.id}: {len(layer.parts)} matrices side by side, none of which shares a tile with another: "
            f"{', '.join(f'{name} ({columns:,} outputs)' for name, columns in layer.parts)}."
            for layer in self.layers
            if layer.parts
        )
        lines += self._warnings_of_blocks()
        lines += self.notes
        if self.output:
            files = [file for file in self.files if file.parent == self.output]
            lines.append(f"Written: {self.output}: {', '.join([file_list(files), *self._folders()])}")
        if self.pictures is not None:
            lines += self.pictures.notes
        return lines

    def _warnings_of_blocks(self) -> list[str]:
        """Warn of columns that sum inputs with different block scales: one digital scale cannot correct such a sum."""
        layers = [layer for layer in self.layers if layer.tiles_of_several_blocks]
        if not layers:
            return []
        tiles = sum(layer.tiles_of_several_blocks for layer in layers)
        warning = (
            f"Warning: columns of {counted(tiles, 'tile')} sum blocks of inputs with different scales "
            f"(dequantization in manifest.json): {listed([layer.id for layer in layers])}. Drive one block at a time, "
            "or cut tiles of as many rows as a block has."
        )
        return [warning]

    def _folders(self) -> list[str]:
        """The folders in the bundle with their numbers of files; a folder may have thousands, too many to list."""
        assert self.output is not None  # noqa: S101 - only called after a bundle was written
        places = (file.relative_to(self.output).parts for file in self.files)
        counts = Counter(parts[0] for parts in places if len(parts) > 1)
        return [f"{self.output / name} ({count:,} file{'' if count == 1 else 's'})" for name, count in counts.items()]


def _of_bias(error: float) -> str:
    return f"; the bias is off by at most {error:.3g}" if error else ""


def _relative(part: float | None) -> str:
    return "" if part is None else f" ({part:.1%} of max|W|)"


def _ids(ids: Sequence[str]) -> str:
    """The ids of layers that share a line of the table; their numbers need not be consecutive."""
    return ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1:,} more"
