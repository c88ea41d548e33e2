"""Pairs of phase-change memory have the errors of the published fit, and both devices of a pair fit together."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from onnx_gconv.devices.base_device import is_pair_model
from onnx_gconv.devices.gaussian import StuckDevices, StuckPairs
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.devices.pcm_pairs import AfmPcmPairs
from onnx_gconv.devices.registry import device_model
from onnx_gconv.errors import ConfigError

# As J. Büchel et al. have them, the highest power first.
UP_TO_52_5_US = [2.939751381126213e-05, -0.00371581208142707, 0.22419685954327148, 2.5797410660159494]
ABOVE = [1.2329755395573392e-05, -0.003054993405157235, 0.2453487119885723, 2.110295720240385]


def sigma(g):
    size = np.abs(np.asarray(g, np.float64))
    return np.where(size > 52.5, np.polyval(ABOVE, size), np.polyval(UP_TO_52_5_US, size))


def pair_of(signed):
    return np.maximum(signed, 0), np.maximum(-signed, 0)


def programmed(signed, seed, device=None):
    plus, minus = (device or AfmPcmPairs()).program_pair(*pair_of(signed), np.random.default_rng(seed))
    return plus.programmed_us, minus.programmed_us


def test_the_same_random_numbers_give_the_conductances_of_the_formula():
    signed = np.linspace(-180, 180, 7201)
    z = np.random.default_rng(3).standard_normal(signed.shape)
    expected = np.where(np.abs(signed) < 0.6, 0, signed + sigma(signed) * z)
    plus, minus = programmed(signed, 3)
    np.testing.assert_allclose(plus - minus, expected, rtol=1e-12, atol=1e-12)
    assert ((plus == 0) | (minus == 0)).all()
    assert min(plus.min(), minus.min()) == 0
    assert not np.signbit([plus, minus]).any()
    twice = programmed(signed, 3, device_model("pcm-afm2025", programming_scale=2.0))
    expected = np.where(np.abs(signed) < 0.6, 0, signed + 2 * sigma(signed) * z)
    np.testing.assert_allclose(twice[0] - twice[1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", [-180, -60, -0.7, 0.6, 3, 20, 52.5, 52.6, 120, 180])
def test_errors_are_distributed_as_published(target):
    plus, minus = programmed(np.full(100_000, target, np.float32), 1)
    g = float(np.float32(target))
    assert scipy.stats.kstest(plus - minus, scipy.stats.norm(g, float(sigma(g))).cdf).pvalue > 1e-4


def test_an_error_may_change_the_sign_of_a_small_weight_but_not_of_one_that_is_none():
    plus, minus = programmed(np.full(20_000, 1, np.float32), 1)
    assert (minus > 0).mean() == pytest.approx(scipy.stats.norm.cdf(-1 / sigma(1)), abs=0.01)
    assert (plus[minus > 0] == 0).all()
    for nothing in (0.0, 0.59, -0.59):
        assert not np.any(programmed(np.full(100, nothing, np.float32), 1))


def test_there_is_no_drift_and_no_noise_of_readings():
    device, rng = AfmPcmPairs(), np.random.default_rng(0)
    for devices in device.program_pair(np.float32([100, 0]), np.float32([0, 3]), rng):
        later = device.drift(devices, 3e7, rng)
        assert np.array_equal(device.read(later, 3e7, rng), devices.programmed_us)


def test_a_device_alone_is_one_whose_partner_is_told_0():
    device, targets = AfmPcmPairs(), np.linspace(0, 180, 500, dtype=np.float32)
    alone = device.program(targets, np.random.default_rng(4))
    paired, _ = device.program_pair(targets, np.zeros_like(targets), np.random.default_rng(4))
    assert np.array_equal(alone.programmed_us, paired.programmed_us)


@pytest.mark.parametrize(
    ("plus", "minus", "message"),
    [
        (
            [1, 9],
            [0, 5],
            "the targets of a pair are 9 and 5 \u00b5S, but in a pair of this model one target is 0; map ",
        ),
        ([1], [0, 0], r"have one shape and type, but they are float32 \[1\] and float32 \[2\]"),
        ([200], [0], "a target is 200 \u00b5S, but the model is valid from 0 to 180"),
        ([0], [200], "a target is 200 \u00b5S, but the model is valid from 0 to 180"),
    ],
)
def test_targets_that_are_no_pairs_are_refused(plus, minus, message):
    with pytest.raises(ConfigError, match=f"^device pcm-afm2025: .*{message}"):
        AfmPcmPairs().program_pair(np.float32(plus), np.float32(minus), np.random.default_rng(0))


def test_a_negative_scale_is_refused():
    with pytest.raises(ConfigError, match=r"device pcm-afm2025: programming_scale is 0 or more, but it is -1\.0$"):
        device_model("pcm-afm2025", programming_scale=-1)


def test_each_device_of_a_pair_may_be_stuck():
    device = device_model("pcm-afm2025", stuck_low=0.2, stuck_high=0.1)
    assert isinstance(device, StuckPairs)
    assert device.granularities == AfmPcmPairs.granularities
    signed = np.full(20_000, 100, np.float32)
    plus, minus = device.program_pair(*pair_of(signed), np.random.default_rng(1))
    healthy = programmed(signed, 1)
    for devices, others in zip((plus, minus), healthy, strict=True):
        at_end = (devices.programmed_us == 180) | ((devices.programmed_us == 0) & (others != 0))
        assert (devices.programmed_us == 180).mean() == pytest.approx(0.1, abs=0.01)
        assert np.array_equal(devices.programmed_us[~at_end], others[~at_end])
    assert ((plus.programmed_us == 180) & (minus.programmed_us == 180)).mean() == pytest.approx(0.01, abs=0.003)
    later = device.drift(plus, 10.0, np.random.default_rng(2))
    assert np.array_equal(device.read(later, 10.0, np.random.default_rng(3)), plus.programmed_us)


def test_models_of_pairs_are_told_from_others():
    assert is_pair_model(AfmPcmPairs())
    assert not is_pair_model(PcmDevice())
    assert not is_pair_model(StuckDevices(PcmDevice()))
    with pytest.raises(ConfigError, match=r"^AfmPcmPairs is a model of pairs; take StuckPairs for it$"):
        StuckDevices(AfmPcmPairs())
