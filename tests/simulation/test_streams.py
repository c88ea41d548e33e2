"""Each part of a chip has random numbers of its own, and always the same."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from onnx_gconv.devices import device_model
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedDevices, in_memory
from onnx_gconv.simulation.chips.streams import DRAWS, ChipStreams
from tests.simulation.test_side_by_side import DAY, SETTINGS


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


READINGS_US = {
    "pcm": [0.005, 3.2364, 10.0386, 11.4734, 16.5609],
    "pcm-custom-drift": [0.0056, 2.4016, 8.1087, 10.004, 16.797],
    "state-independent": [0.0036, 1.0652, 8.4441, 4.7993, 11.9073],
    "pcm-hermes-1": [0.0032, 1.3549, 5.026, 5.7325, 8.1315],
    "pcm-hermes-2": [0.0035, 2.9863, 9.4235, 11.935, 17.1122],
    "reram-wan2022": [0.2422, 17.4522, 19.0324, 34.8333, 36.4327],
    "reram-cmo": [9.0, 29.4805, 47.847, 68.7562, 85.4919],
    "gaussian": [0.0477, 5.916, 15.7314, 19.3782, 20.3055],
    "log-normal": [0.0, 6.2079, 13.3987, 18.5643, 24.6593],
    "measured": [0.0474, 2.1656, 5.5415, 6.5758, 8.7255],
}


@pytest.mark.parametrize("name", READINGS_US)
def test_a_seed_gives_the_same_chips_as_long_as_draws_has_the_same_number(name):
    """A journal goes on only if `DRAWS` is that of the run before. Where this test fails, raise `DRAWS`."""
    assert DRAWS == 1
    device = device_model(name, **SETTINGS.get(name, {}))
    targets = np.linspace(device.g_min, device.g_max, 5, dtype=np.float32)
    streams = partial(ChipStreams(7, 2).generator, ("g", "W"), 1)
    found = in_memory(targets, SimulatedDevices(device, DAY, streams), keeps_programmed=False)
    np.testing.assert_allclose(found.read_us, READINGS_US[name], rtol=0, atol=1e-4)
