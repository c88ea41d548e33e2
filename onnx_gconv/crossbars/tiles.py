"""How the matrices of a weight are cut into tiles that fit crossbar arrays of a given size."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.granularity import Granularity, Partition
from onnx_gconv.schemes.parts import ColumnParts

__all__ = ["ArrayGeometry", "PairLayout", "Tile", "TileGrid", "parse_array", "touched_pieces"]

PairLayout: TypeAlias = Literal["separate_arrays", "adjacent_columns", "interleaved_rows"]

_ARRAY_AXES = 2
_PAIR = 2

# No crossbar has more rows for a bias, and a mistyped number must not make a list of millions of tiles.
_MOST_BIAS_ROWS = 1 << 16


@dataclass(frozen=True)
class ArrayGeometry:
    """The crossbar arrays of a chip, and how conductances are placed on them.

    Attributes:
        rows: Rows (inputs) of an array.
        columns: Columns (outputs) of an array.
        partition: How a matrix is cut: ``max`` into full arrays and a rest, ``equal`` into as few tiles as suffice,
            whose sizes differ by at most one.
        pair_layout: Where the two devices of a pair stand: in ``separate_arrays``, in ``adjacent_columns`` of one
            array, or in ``interleaved_rows`` of it, the positive device first. A device without a partner has an array
            of its own.
        whole_kernels: Whether every kernel of a convolution has to stay within one tile.
        bias_rows: How many rows hold the bias of a layer, where that is possible; 0 for a digital bias.
        spare_rows: How many rows tiles leave free in each array, to replace unusable rows.
        spare_columns: How many columns tiles leave free in each array, to replace unusable columns.

    Raises:
        ConfigError: If a value is unknown, or an array cannot hold a pair.
    """

    rows: int
    columns: int
    partition: Partition = "max"
    pair_layout: PairLayout = "separate_arrays"
    whole_kernels: bool = False
    bias_rows: int = 0
    spare_rows: int = 0
    spare_columns: int = 0

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ConfigError(f"an array has at least one row and one column, but this one is {self.size_text}")
        if self.partition not in get_args(Partition):
            raise ConfigError(f"partition is one of {', '.join(get_args(Partition))}, but not '{self.partition}'")
        if self.pair_layout not in get_args(PairLayout):
            raise ConfigError(f"pair layout is one of {', '.join(get_args(PairLayout))}, but not '{self.pair_layout}'")
        if not 0 <= self.bias_rows <= _MOST_BIAS_ROWS:
            most = f" (at most {_MOST_BIAS_ROWS:,})" if self.bias_rows > 0 else ""
            raise ConfigError(f"bias rows are 0, for a digital bias, or more{most}, but they are {self.bias_rows}")
        if min(self.spare_rows, self.spare_columns) < 0:
            spare = f"{self.spare_rows} and {self.spare_columns}"
            raise ConfigError(f"spare rows and columns are 0 or more, but they are {spare}")
        if self.spare_rows >= self.rows or self.spare_columns >= self.columns:
            raise ConfigError(
                f"{self.spare_rows} spare rows and {self.spare_columns} spare columns leave nothing of an array of "
                f"{self.size_text}"
            )
        if min(self.capacity(is_paired=True)) < 1:
            raise ConfigError(f"an array of {self.size_text} cannot hold a pair in {self.pair_layout}; it needs two")

    @property
    def size_text(self) -> str:
        """E.g. ``256x256``."""
        return f"{self.rows}x{self.columns}"

    def capacity(self, *, is_paired: bool) -> tuple[int, int]:
        """How many inputs and outputs an array holds at most.

        Args:
            is_paired: Whether each weight is held by pairs of devices, which share an array as `pair_layout` says.
        """
        rows, columns = self.rows - self.spare_rows, self.columns - self.spare_columns
        if not is_paired or self.pair_layout == "separate_arrays":
            return rows, columns
        if self.pair_layout == "adjacent_columns":
            return rows, columns // _PAIR
        return rows // _PAIR, columns

    def cut(
        self,
        matrices: int,
        rows: int,
        columns: int,
        *,
        is_paired: bool,
        kernel: tuple[int, int],
        parts: ColumnParts | None = None,
    ) -> TileGrid:
        """Cut the matrices of a weight into tiles.

        Args:
            matrices: Number of matrices.
            rows: Inputs of a matrix, plus its bias rows.
            columns: Outputs of a matrix.
            is_paired: Whether each weight is held by pairs of devices.
            kernel: How many neighbouring rows, and columns, belong to one kernel of a convolution; (1, 1) for others.
            parts: The parts of each matrix, which never share a tile; None if the matrix is one part.

        Raises:
            ConfigError: If a kernel has to stay whole and does not fit an array.
        """
        units = kernel if self.whole_kernels else (1, 1)
        starts = []
        sizes = (rows,), ((columns,) if parts is None else parts.sizes)
        for of_pieces, limit, unit, what in zip(
            sizes, self.capacity(is_paired=is_paired), units, ("rows", "columns"), strict=True
        ):
            if unit > limit:
                raise ConfigError(
                    f"a kernel of {unit} {what} has to stay whole, but an array of {self.size_text} holds {limit}; "
                    "take larger arrays, or let kernels be cut"
                )
            # Bias rows stand below the last kernel and need not fill a whole one, so the number of units rounds up.
            firsts = itertools.accumulate(of_pieces[:-1], initial=0)
            starts.append(
                tuple(
                    first + start * unit
                    for first, size in zip(firsts, of_pieces, strict=True)
                    for start in Granularity(partition=self.partition).starts(-(-size // unit), limit // unit)
                )
            )
        return TileGrid(matrices, rows, columns, starts[0], starts[1])


@dataclass(frozen=True)
class Tile:
    """A part of a matrix that stands on one array for each device, or pair of devices.

    Attributes:
        number: Number of the tile within the weight, from 0 on.
        matrix: Number of the matrix.
        grid: Row and column of the tile among the tiles of its matrix.
        inputs: The first input (row of the matrix), and the one after the last.
        outputs: The first output (column of the matrix), and the one after the last.
    """

    number: int
    matrix: int
    grid: tuple[int, int]
    inputs: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that hold conductances."""
        return self.inputs[1] - self.inputs[0], self.outputs[1] - self.outputs[0]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of all matrices of a weight, numbered by matrix, then row, then column.

    Attributes:
        matrices: Number of matrices.
        rows: Rows of a matrix: its inputs, plus its bias rows.
        columns: Columns (outputs) of a matrix.
        row_starts: The inputs at which tiles begin.
        column_starts: The outputs at which tiles begin.
    """

    matrices: int
    rows: int
    columns: int
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles in a matrix."""
        return len(self.row_starts), len(self.column_starts)

    def __len__(self) -> int:
        return self.matrices * len(self.row_starts) * len(self.column_starts)

    def tile(self, matrix: int, grid_row: int, grid_column: int) -> Tile:
        """The tile of a matrix at a row and column of its tiles."""
        high, wide = self.shape
        row_ends, column_ends = (*self.row_starts[1:], self.rows), (*self.column_starts[1:], self.columns)
        return Tile(
            (matrix * high + grid_row) * wide + grid_column,
            matrix,
            (grid_row, grid_column),
            (self.row_starts[grid_row], row_ends[grid_row]),
            (self.column_starts[grid_column], column_ends[grid_column]),
        )

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles in the order of their numbers."""
        high, wide = self.shape
        return tuple(
            self.tile(matrix, row, column)
            for matrix in range(self.matrices)
            for row in range(high)
            for column in range(wide)
        )


def touched_pieces(starts: Sequence[int], first: int, stop: int) -> tuple[int, int]:
    """The first piece of an axis that a stretch touches, and the one after the last.

    Args:
        starts: The indices at which the pieces begin, ascending.
        first: The first index of the stretch.
        stop: The index after its last.
    """
    return bisect.bisect_right(starts, first) - 1, bisect.bisect_left(starts, stop)


def parse_array(text: str) -> tuple[int, int]:
    """The rows and columns in ``ROWSxCOLUMNS``, e.g. ``256x256``.

    Raises:
        ConfigError: If the text does not have this form.
    """
    sizes = [part.strip() for part in text.lower().split("x")]
    if len(sizes) != _ARRAY_AXES or not all(size.isdecimal() and int(size) for size in sizes):
        raise ConfigError(f"an array is given as ROWSxCOLUMNS, e.g. 256x256, but not as '{text}'")
    return int(sizes[0]), int(sizes[1])
