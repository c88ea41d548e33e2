"""Notes of a read-back on measurements that look like a mistake but may be right, such as a transposed tile."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence

from onnx_gconv.crossbars.arrangement import Arrangement, Evidence
from onnx_gconv.handoff.measured.measurements import Measurements
from onnx_gconv.handoff.readback_report import LayerReadback, TileReadback
from onnx_gconv.visible_text import listed

__all__ = ["readback_notes"]

# For each arrangement: how a tile looks, and what to do about it.
_ARRANGEMENTS: dict[Arrangement, tuple[str, str]] = {
    "transposed": ("transposed", "write arrays as [inputs, outputs]"),
    "rows_reversed": ("written from the last input to the first", "write the first input first"),
    "columns_reversed": ("written from the last output to the first", "write the first output first"),
    "turned": ("written from the last cell to the first", "write the first input and the first output first"),
    "exchanged": ("exchanged with the other device of the pair", "write each device under its own key"),
}


def readback_notes(measurements: Measurements, layers: Sequence[LayerReadback]) -> Iterator[str]:
    """Yield the notes, one line each.

    Args:
        measurements: The measurements, after all tiles were compared with their targets.
        layers: The figures of each layer.
    """
    for file in measurements.rounds:
        if file.holds_targets:
            yield _of_targets(file)
    tiles = [tile for layer in layers for tile in layer.tiles]
    if keys := [key for tile in tiles for key in tile.never_written]:
        what, their = ("array was", "its") if len(keys) == 1 else ("arrays were", "their")
        yield f"{len(keys):,} {what} created, but never written, so that {their} cells keep the targets: {listed(keys)}"
    if keys := [key for tile in tiles for key in tile.only_zeros]:
        what = "array holds" if len(keys) == 1 else "arrays hold"
        yield (
            f"{len(keys):,} {what} nothing but zeros, which count as measured: {listed(keys)}; leave out arrays that "
            "were not measured"
        )
    if keys := [key for tile in tiles for key in tile.too_small]:
        what, their = ("array reads", "its largest target") if len(keys) == 1 else ("arrays read", "their targets")
        yield (
            f"{len(keys):,} {what} next to nothing, less than three thousandths of {their}: {listed(keys)}; convert "
            "what is not in µS"
        )
    for layer in layers:
        yield from _of_arrangements(layer)


def _of_targets(measurements: Measurements) -> str:
    keys, path = measurements.equal_to_targets, measurements.path
    if len(keys) == measurements.arrays_compared:
        return f"'{path}' holds the targets themselves, which are taken for measurements"
    which = "array of it is the targets themselves" if len(keys) == 1 else "arrays of it are the targets themselves"
    how = "rounded" if measurements.targets_are_rounded else "bit for bit"
    return f"'{path}': {len(keys):,} {which}, {how}: {listed(keys)}; leave out arrays that were not measured"


def _of_arrangements(layer: LayerReadback) -> Iterator[str]:
    """Name the tiles that look rearranged; or the layer, if only its tiles together give clear evidence."""
    alike: dict[Arrangement, list[TileReadback]] = {}
    for tile in layer.tiles:
        if (name := _clearest(tile.rearranged)) is not None:
            alike.setdefault(name, []).append(tile)
    for name, tiles in alike.items():
        evidence = functools.reduce(operator.or_, (tile.rearranged[name] for tile in tiles))
        what, looks = ("tile", "looks") if len(tiles) == 1 else ("tiles", "look")
        names = listed([tile.id for tile in tiles])
        yield f"{what} {names} of '{layer.weight}' {looks} {_in_words(name, evidence)}"
    if not alike:
        together: dict[Arrangement, Evidence] = {}
        for tile in layer.tiles:
            for name, evidence in tile.rearranged.items():
                together[name] = together.get(name, Evidence()) | evidence
        if (name := _clearest(together)) is not None:
            yield f"the tiles of layer {layer.id} ('{layer.weight}') look {_in_words(name, together[name])}"


def _clearest(found: Mapping[Arrangement, Evidence]) -> Arrangement | None:
    clear = [name for name, evidence in found.items() if evidence.is_clear]
    return min(clear, key=lambda name: found[name].ratio, default=None)


def _in_words(name: Arrangement, evidence: Evidence) -> str:
    how, remedy = _ARRANGEMENTS[name]
    straight, rearranged = evidence.rms_us
    return (
        f"{how}: measured conductances are {straight:.3g} µS (rms) from their targets, but only {rearranged:.3g} µS "
        f"from the targets in that arrangement; {remedy}"
    )
