"""Reads a hand-off bundle, for a process of its own: ``python -m benchmarks.handoff_job FOLDER COUNT``.

It opens the bundle up to COUNT times, and reads COUNT tiles in two ways: from a file that is opened for each tile, as a
programming station does it, and from an open bundle. It prints the seconds of each.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from onnx_gconv.files.arrays import read_arrays
from onnx_gconv.handoff import BundleTile, open_bundle

__all__ = ["main", "read_times"]

# How often a bundle is opened at most: a large one takes a second or more, since all its arrays are looked up.
_MOST_OPENED = 5


def read_times(folder: Path, count: int) -> dict[str, list[float]]:
    """The seconds that it takes to open a bundle, and to read a tile.

    Args:
        folder: The bundle.
        count: How many tiles are read; they are chosen at random.

    Returns:
        The seconds of each measurement: ``open`` opens the bundle; ``tile`` opens the file of conductances, reads the
        targets of all devices of a tile and closes the file; ``tile_of_open_bundle`` reads and checks the same targets
        from an open bundle.
    """
    opened = []
    for _ in range(min(count, _MOST_OPENED)):
        start = time.perf_counter()
        with open_bundle(folder):
            opened.append(time.perf_counter() - start)
    with open_bundle(folder) as bundle:
        every = [tile for layer in bundle.layers for tile in layer.tiles]
        tiles = random.Random(0).choices(every, k=count)  # noqa: S311 - it draws no secrets
        path, kind = bundle.arrays_path, bundle.manifest.arrays.kind

        def read_alone(tile: BundleTile) -> None:
            file = read_arrays(path, kind)
            for array in tile.record.conductances:
                file.read(array.key)
            file.close()

        alone = [_seconds(read_alone, tile) for tile in tiles]
        of_open = [_seconds(BundleTile.conductances, tile) for tile in tiles]
    return {"open": opened, "tile": alone, "tile_of_open_bundle": of_open}


def _seconds(read: Callable[[BundleTile], object], tile: BundleTile) -> float:
    start = time.perf_counter()
    read(tile)
    return time.perf_counter() - start


def main() -> None:
    folder, count = sys.argv[1:]
    print(json.dumps(read_times(Path(folder), int(count))))


if __name__ == "__main__":
    main()
