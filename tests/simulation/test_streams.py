"""Each part of a chip has random numbers of its own, and always the same."""

from __future__ import annotations

import itertools

import numpy as np

from onnx_gconv.simulation.chips.streams import ChipStreams


def first(streams, *key):
    return streams.generator(*key).standard_normal()


def test_no_two_streams_of_seeds_chips_weights_devices_steps_and_blocks_are_one():
    seeds = [ChipStreams(seed, chip) for seed in (0, 7, 70, 2**32, 2**64 - 1) for chip in (0, 1, 7)]
    weights = [("", "W"), ("W", ""), ("", "W0"), ("then_branch", "W"), ("", "\udc80\u00b5")]
    keys = itertools.product(seeds, weights, (0, 1), ("program", "drift", "read at 0.0 s", "read at 1.0 s"), (0, 1, 7))
    numbers = [first(*key) for key in keys]
    assert len(numbers) == 15 * 5 * 2 * 4 * 3
    assert len(set(numbers)) == len(numbers)


def test_a_stream_is_the_same_each_time_and_on_each_machine():
    """What a seed means is a promise: models that were written with it are written again."""
    streams = ChipStreams(7)
    found = streams.generator(("", "W"), 0, "program", 0).integers(0, 2**32, 4)
    assert np.array_equal(found, streams.generator(("", "W"), 0, "program", 0).integers(0, 2**32, 4))
    assert found.tolist() == PROMISED


PROMISED = [873679308, 4283198618, 1940501968, 2280729188]
