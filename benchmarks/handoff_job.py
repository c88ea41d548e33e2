"""Reads a hand-off bundle, for a process of its own: ``python -m benchmarks.handoff_job FOLDER COUNT``.

It opens the bundle as often as asked, and as many tiles, each with an open file of its own as a programming station
does, and each from the open bundle. It prints the seconds of each.
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

# A bundle is opened this often at most: that takes a second or more for a large one, as all its arrays are looked up.
_MOST_OPENED = 5


def read_times(folder: Path, count: int) -> dict[str, list[float]]:
    """The seconds that it takes to open a bundle, and to read a tile.

    Args:
        folder: The bundle.
        count: How often; tiles are drawn at random.

    Returns:
        ``open``: the bundle; ``tile``: a tile's targets of all devices from the file, which is opened and closed for
        it; ``tile_of_open_bundle``: the same, checked, from a bundle that is open.
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
