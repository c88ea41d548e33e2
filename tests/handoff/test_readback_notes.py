"""What a read-back says of tiles that look rearranged follows from the evidence of all of them."""

from __future__ import annotations

from types import SimpleNamespace

from onnx_gconv.crossbars.arrangement import Evidence
from onnx_gconv.handoff.readback_notes import readback_notes


def notes(*rearranged):
    """What is said of a layer of tiles for whose arrangements that much speaks."""
    tiles = [
        SimpleNamespace(id=f"L000/T{number:04}", never_written=(), only_zeros=(), too_small=(), rearranged=found)
        for number, found in enumerate(rearranged)
    ]
    errors = SimpleNamespace(measured=1, largest_us=1.0)
    layer = SimpleNamespace(id="L000", weight="W", tiles=tiles, errors=errors)
    return list(readback_notes(SimpleNamespace(rounds=()), [layer]))


def test_the_evidence_of_small_tiles_is_joined():
    small = [{"transposed": Evidence(4, straight, 0.25)} for straight in (36.0, 4.0, 4.0, 20.0)]
    [note] = notes(*small)
    assert note == (
        "the tiles of layer L000 ('W') look transposed: measured conductances are 2 µS (rms) from their targets, but "
        "only 0.25 µS from the targets in that arrangement; write arrays as [inputs, outputs]"
    )
    assert not notes(small[0])


def test_the_figures_of_tiles_that_look_alike_are_those_of_all_of_them():
    [note] = notes({"transposed": Evidence(100, 700.0, 25.0)}, {"transposed": Evidence(100, 200.0, 7.0)})
    assert note.startswith(
        "tiles L000/T0000, L000/T0001 of 'W' look transposed: measured conductances are 2.12 µS (rms) from their "
        "targets, but only 0.4 µS from "
    )


def test_of_several_clear_arrangements_the_nearest_one_is_named():
    near, nearer = Evidence(100, 400.0, 80.0), Evidence(100, 400.0, 4.0)
    for found in ({"transposed": near, "turned": nearer}, {"turned": nearer, "transposed": near}):
        [note] = notes(found)
        assert "looks written from the last cell to the first: " in note
