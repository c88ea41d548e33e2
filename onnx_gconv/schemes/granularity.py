"""Granularity: which elements of a weight share one scale: all, those of an output channel, or those of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnx_gconv.errors import ConfigError

__all__ = ["Granularity", "GranularityKind", "Partition", "parse_tile"]

GranularityKind: TypeAlias = Literal["tensor", "channel", "tile", "tile_channel"]
Partition: TypeAlias = Literal["equal", "max"]

_TILE_AXES = 2


@dataclass(frozen=True)
class Granularity:
    """Which elements of a weight share one scale.

    Attributes:
        kind: ``tensor``: all elements of the weight. ``channel``: the elements of one output channel. ``tile``: the
            elements of one tile of the matrix view. ``tile_channel``: the elements of one output channel in one tile.
        tile: Largest number of inputs (rows) and outputs (columns) of a tile; None for kinds without tiles.
        partition: How a matrix is cut into tiles: ``equal`` into as few pieces as suffice, whose sizes differ by at
            most one, larger ones first, as aihwkit does; ``max`` into full tiles and a rest, as compilers do.

    Raises:
        ConfigError: If a value is unknown, or `tile` and `kind` contradict each other.
    """

    kind: GranularityKind = "tensor"
    tile: tuple[int, int] | None = None
    partition: Partition = "equal"

    def __post_init__(self) -> None:
        if self.kind not in get_args(GranularityKind):
            raise ConfigError(f"granularity is one of {', '.join(get_args(GranularityKind))}, but not '{self.kind}'")
        if self.partition not in get_args(Partition):
            raise ConfigError(f"partition is one of {', '.join(get_args(Partition))}, but not '{self.partition}'")
        if self.has_tiles and self.tile is None:
            raise ConfigError(
                f"granularity {self.kind} needs the size of a tile, as rows (inputs) by columns (outputs)"
            )
        if self.tile is not None:
            if not self.has_tiles:
                raise ConfigError(f"granularity {self.kind} has no tiles; choose tile or tile_channel, or give no tile")
            if len(self.tile) != _TILE_AXES or min(self.tile) < 1:
                raise ConfigError(f"a tile has at least one row and one column, but this one is {self.tile}")

    @property
    def has_tiles(self) -> bool:
        """Whether scales differ from tile to tile."""
        return self.kind in {"tile", "tile_channel"}

    def starts(self, size: int, limit: int) -> tuple[int, ...]:
        """The indices at which pieces begin, for an axis of `size` that is cut into pieces of at most `limit`."""
        count = -(-size // limit)
        if self.partition == "max":
            return tuple(range(0, size, limit))
        shorter, longer = divmod(size, count)
        return tuple(piece * shorter + min(piece, longer) for piece in range(count))


def parse_tile(text: str) -> tuple[int, int]:
    """The rows and columns in ``ROWSxCOLUMNS``, e.g. ``256x256``.

    Raises:
        ConfigError: If the text does not have this form.
    """
    rows, times, columns = text.lower().partition("x")
    if not (times and rows.strip().isdecimal() and columns.strip().isdecimal()):
        raise ConfigError(f"a tile is given as ROWSxCOLUMNS, e.g. 256x256, but not as '{text}'")
    return int(rows), int(columns)
