"""Small weights that share arrays are on each chip what they are alone, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest

import onnx_gconv as gconv
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.devices.registry import DEVICE_MODELS, device_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.simulation.chips.chips import chips_of
from onnx_gconv.simulation.chips.side_by_side import WeightsOnChips
from onnx_gconv.simulation.chips.trial import WeightOnChips
from tests.graphs import chain_model, tensors

DAY = 86400.0
TIMES = (0.0, 1.0, DAY)
SETTINGS = {
    "pcm-custom-drift": {"g_us": [0, 25], "nu_mean": [0.1, 0.05], "nu_spread": [0.01, 0.01]},
    "measured": {"target_us": [0, 10], "seconds": [0, DAY], "mean_us": [[0, 0], [10, 9]], "sigma_us": [[1, 1], [1, 2]]},
    "gaussian": {"sigma_us": 1.0, "read_sigma_relative": 0.1},
}
SHAPES = {"a": (3, 5), "b": (5, 7), "large": (7, 4700), "c": (4700, 1), "d": (1, 4)}


def weights_on_chips(device, shapes=SHAPES, **options):
    """The weights of a model, among which is one that is too large to share."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = ir.from_proto(chain_model(*tensors(weights)))
    MapConductances(**{"g_max": device.g_max, "g_min": device.g_min, **options})(model)
    return [WeightOnChips(weight) for weight in target_weights(model, "simulated", "simulate")]


def bits(arrays):
    return [array.view(np.uint32) for array in arrays]


def assert_equal(one, other):
    for mine, theirs in zip(bits(one), bits(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_weights_are_what_they_are_alone(name):
    device = device_model(name, **SETTINGS.get(name, {}))
    converter = gconv.SingleDeviceConductanceConverter(g_max=device.g_max, g_min=device.g_min)
    weights = weights_on_chips(device, **({"converter": converter} if name == "reram-cmo" else {}))
    together = WeightsOnChips(weights, device)
    chips = chips_of(device, {}, 3, "global")
    for repeat, seconds in ((0, 0.0), (0, DAY), (1, DAY), (0, 1.0)):
        chip = chips.chip(repeat, seconds)
        assert_equal(together.on(chip), [weight.on(chip) for weight in weights])


WAYS = pytest.mark.parametrize(
    ("compensation", "options"),
    [
        ("none", {"converter": gconv.NPairConductanceConverter([1, 3])}),
        ("global", {"granularity": "channel"}),
        ("column", {"granularity": "channel"}),
        ("tile", {"granularity": Granularity("tile", (4, 4))}),
    ],
)


@WAYS
def test_scales_of_any_granularity_are_compensated_alike(compensation, options):
    device = device_model("pcm")
    weights = weights_on_chips(device, **options)
    chip = chips_of(device, {}, 0, compensation).chip(2, DAY)
    assert_equal(WeightsOnChips(weights, device).on(chip), [weight.on(chip) for weight in weights])


@WAYS
def test_several_chips_are_what_each_is_alone(compensation, options):
    device = device_model("pcm")
    weights = weights_on_chips(device, {name: SHAPES[name] for name in "abcd"}, **options)
    together = WeightsOnChips(weights, device)
    chips = chips_of(device, {}, 0, compensation)
    devices = sum(target.size for weight in weights for target in weight.targets)
    assert together.most_chips == 65536 // devices > 2
    # The same chips at another time, fewer chips, and others.
    for repeats, seconds in (((4, 0, 2), 0.0), ((4, 0, 2), DAY), ((4, 0), 1.0), ((0, 4), 1.0)):
        some = [chips.chip(repeat, seconds) for repeat in repeats]
        for found, chip in zip(together.on_each(some), some, strict=True):
            assert_equal(found, [weight.on(chip) for weight in weights])


def test_chips_are_computed_one_by_one_if_a_weight_is_too_large_to_share():
    device = device_model("pcm")
    weights = weights_on_chips(device)
    together = WeightsOnChips(weights, device)
    assert together.most_chips == 1
    chips = [chips_of(device, {}, 0, "global").chip(repeat, DAY) for repeat in range(2)]
    for found, chip in zip(together.on_each(chips), chips, strict=True):
        assert_equal(found, [weight.on(chip) for weight in weights])


def test_as_many_weights_share_arrays_as_there_is_room_for():
    device = device_model("pcm")
    groups = WeightsOnChips(weights_on_chips(device), device)._groups
    assert [group.numbers for group in groups] == [(0, 1, 3, 4)]


class Own(PcmDevice):
    """A model of somebody else, which may draw anything."""

    def _devices(self, targets_us, rng):
        rng.random()
        return super()._devices(targets_us, rng)


def test_other_models_program_weights_one_by_one():
    device = Own()
    weights = weights_on_chips(device)
    together = WeightsOnChips(weights, device)
    chip = chips_of(device, {}, 0, "none").chip(0, 1.0)
    assert not together._groups
    assert_equal(together.on(chip), [weight.on(chip) for weight in weights])


def test_threads_have_chips_of_their_own():
    device = device_model("pcm")
    together = WeightsOnChips(weights_on_chips(device), device)
    chips = [chips_of(device, {}, 0, "global").chip(repeat, seconds) for repeat in range(4) for seconds in TIMES]
    alone = [together.on(chip) for chip in chips]
    with ThreadPoolExecutor(4) as executor:
        for mine, theirs in zip(executor.map(together.on, chips), alone, strict=True):
            assert_equal(mine, theirs)


def test_targets_beyond_the_range_are_refused_in_shared_arrays_too():
    device = device_model("pcm")
    weights = weights_on_chips(device, g_max=30.0)
    with pytest.raises(ConfigError, match=r"a target is 2\d\.\d+ \u00b5S, but the model is valid from 0 to 25 \u00b5S"):
        WeightsOnChips(weights, device).on(chips_of(device, {}, 0, "none").chip(0, 0.0))
