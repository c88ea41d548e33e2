"""Conductances of simulated devices are the same however they are read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.devices.base_device import Devices
from onnx_gconv.devices.registry import device_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.chips import simulated_tensor
from onnx_gconv.simulation.chips.simulated_tensor import (
    Moment,
    SimulatedDevices,
    SimulatedTensor,
    in_memory,
    read_again,
)
from onnx_gconv.simulation.chips.streams import ChipStreams
from onnx_gconv.tensors import streamed

PCM = device_model("pcm")
DAY = 86400.0


def targets(count, dtype=np.float32):
    return np.random.default_rng(0).uniform(0, 25, count).astype(dtype)


def simulated(array, moment="read", *, model=PCM, seconds=DAY, seed=3):
    streams = partial(ChipStreams(seed).generator, ("", "W"), 0)
    return SimulatedTensor(ir.tensor(array, name="W.g_plus"), SimulatedDevices(model, seconds, streams), moment)


@pytest.mark.parametrize("chunk", [16, 64], ids=["a block", "four blocks"])
@given(data=st.data())
def test_any_part_is_that_of_the_whole(chunk, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_tensor, "BLOCK_ELEMENTS", 16)
        patch.setattr(simulated_tensor, "CHUNK_ELEMENTS", chunk)
        patch.setattr(streamed, "CHUNK_ELEMENTS", chunk)
        size = data.draw(st.integers(1, 200))
        moment = data.draw(st.sampled_from(get_args(Moment)))
        tensor = simulated(targets(size), moment)
        whole = tensor.numpy()
        start = data.draw(st.integers(0, size - 1) | st.integers(0, (size - 1) // 16).map(lambda block: 16 * block))
        stop = data.draw(st.integers(start + 1, size))
        parts = [part.copy() for part in tensor.chunks(start, stop)]
        assert [part.size for part in parts[:-1]] == [chunk] * (len(parts) - 1)
        assert np.array_equal(np.concatenate(parts), whole[start:stop])
        stretches = [(each.targets.copy(), each.programmed.copy()) for each in tensor.stretches(start, stop)]
        found, programmed = map(np.concatenate, zip(*stretches, strict=True))
        assert np.array_equal(found, targets(size)[start:stop])
        assert np.array_equal(programmed, simulated(targets(size), "programmed").numpy()[start:stop])


def test_blocks_have_random_numbers_of_their_own():
    size = 2 * simulated_tensor.BLOCK_ELEMENTS
    found = simulated(np.full(size, 12.0, np.float32)).numpy()
    assert not np.isin(found[: size // 2], found[size // 2 :]).all()
    assert len(np.unique(found)) > 0.9 * size


def test_at_the_end_of_programming_neither_drift_nor_reading_counts():
    array = targets(1000)
    [devices] = [PCM.program(array, ChipStreams(3).generator(("", "W"), 0, "program", 0))]
    assert np.array_equal(simulated(array, "programmed").numpy(), devices.programmed_us)


def test_devices_drift_with_one_coefficient_each():
    """With g = g_prog ((t + t_0) / t_0) ** -nu, two times give the same nu."""
    model = device_model("pcm", read_scale=0.0)
    array = targets(1000) + 1
    array = np.minimum(array, 25)
    start = simulated(array, "programmed", model=model).numpy().astype(np.float64)
    nu = [
        -np.log(simulated(array, model=model, seconds=seconds).numpy() / start) / np.log1p(seconds / 20)
        for seconds in (3600.0, DAY)
    ]
    assert np.ptp(nu[0]) > 0.05
    assert np.allclose(nu[0], nu[1], atol=1e-6)


def test_readings_are_spread_around_what_devices_have():
    array = np.maximum(targets(20_000), 5)  # of smaller ones some readings are cut at 0
    read, drifted, spread = (
        simulated(array, moment).numpy().astype(np.float64) for moment in ("read", "drifted", "spread")
    )
    numbers = (read - drifted) / spread
    assert abs(numbers.mean()) < 4.5 / np.sqrt(numbers.size)
    assert numbers.std() == pytest.approx(1, abs=4.5 / np.sqrt(2 * numbers.size))
    steady = simulated(array, "drifted", model=device_model("pcm", read_scale=0.0)).numpy()
    assert np.array_equal(drifted, steady)
    assert not simulated(array, "spread", model=device_model("pcm", read_scale=0.0)).numpy().any()


def test_a_device_without_a_spread_has_what_it_is_read_as():
    model = device_model("reram-cmo", stuck_low=0.5, g_min=0.0)
    array = np.full(1000, 0.2, np.float32)  # relaxation leads below 0, where there is no noise
    read, drifted, spread = (simulated(array, moment, model=model).numpy() for moment in ("read", "drifted", "spread"))
    steady = spread == 0
    assert np.array_equal(read[steady], drifted[steady])
    assert not np.isclose(read[~steady], drifted[~steady]).any()
    assert (read[steady] == 0).any()


def test_each_time_is_read_with_noise_of_its_own():
    model = device_model("pcm", programming_scale=0.0, drift_scale=0.0)
    early, late = (
        simulated(targets(5000), model=model, seconds=seconds).numpy() - targets(5000) for seconds in (0.0, DAY)
    )
    assert abs(np.corrcoef(early, late)[0, 1]) < 0.06


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32_and_rounded(dtype):
    half = ir.tensor(targets(500), dtype=ir.DataType.FLOAT).numpy().astype(ir.DataType[dtype.upper()].numpy())
    found = simulated(half).numpy()
    assert found.dtype == half.dtype
    exact = simulated(half.astype(np.float32)).numpy()
    assert np.array_equal(found, exact.astype(half.dtype))


class Odd:
    name = "odd"
    g_min, g_max = 0.0, 25.0

    def __init__(self, made):
        self.made = made

    def program(self, targets_us, _):
        return PCM.program(targets_us, np.random.default_rng(0))

    def drift(self, devices, *_):
        return devices

    def read(self, devices, *_):
        return self.made(devices.programmed_us)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda found: found[:-1], r"the shape \[9\]"),
        (lambda found: found * np.float32(np.nan), "no finite numbers from 0, but nan after 1d"),
        (lambda found: found - 100, r"no finite numbers from 0, but -\d[\d.]+ after 1d"),
        (lambda found: found.astype(np.float64) * 1e300, r"no finite numbers from 0, but \d[\d.]+e\+30\d after 1d"),
        (lambda found: found.tolist(), "a list"),
        (lambda found: found * 1j, "numbers of complex64"),
    ],
    ids=["shape", "NaN", "negative", "too large", "list", "complex"],
)
def test_a_device_model_of_ones_own_that_gives_no_conductances_is_named(made, what):
    with pytest.raises(ConfigError, match=f"^device odd: for 10 targets it gives {what}; a device model gives one"):
        simulated(targets(10), model=Odd(made)).numpy()


@pytest.mark.parametrize("size", [10, 1000])
def test_all_at_once_are_those_that_are_read_in_parts(size, monkeypatch):
    monkeypatch.setattr(simulated_tensor, "BLOCK_ELEMENTS", 64)
    array = targets(size).reshape(2, -1)
    devices = SimulatedDevices(PCM, DAY, partial(ChipStreams(3).generator, ("", "W"), 0))
    found = in_memory(array, devices, keeps_programmed=True)
    assert np.array_equal(found.programmed_us, simulated(array, "programmed").numpy())
    assert np.array_equal(found.read_us, simulated(array).numpy())
    assert in_memory(array, devices, keeps_programmed=False).programmed_us is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [10, 1000])
def test_devices_that_were_kept_are_read_at_another_time_as_if_they_were_programmed_again(size, dtype, monkeypatch):
    monkeypatch.setattr(simulated_tensor, "BLOCK_ELEMENTS", 64)
    array = targets(size).reshape(2, -1).astype(dtype)
    first, later = (
        SimulatedDevices(PCM, seconds, partial(ChipStreams(3).generator, ("", "W"), 0)) for seconds in (1.0, DAY)
    )
    kept = in_memory(array, first, keeps_programmed=False, keeps_blocks=True)
    for devices in (later, first):
        again = read_again(kept, devices)
        assert again.dtype == dtype
        assert np.array_equal(again, in_memory(array, devices, keeps_programmed=False).read_us)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble])
def test_readings_of_another_type_of_floats_are_rounded_to_that_of_the_targets(dtype):
    found = simulated(targets(1000), model=Odd(lambda programmed: programmed.astype(dtype))).numpy()
    assert found.dtype == np.float32
    assert np.array_equal(found, PCM.program(targets(1000), np.random.default_rng(0)).programmed_us.astype(dtype))


def test_numbers_that_overflow_are_named_with_no_warning_of_numpy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=r"^device pcm: .* from 0, but inf at the end of programming; "):
            simulated(targets(10), model=device_model("pcm", programming_scale=1e300)).numpy()
        with pytest.raises(ConfigError, match=r"^device pcm: .* from 0, but inf after 3\.17\S+e\+297y; "):
            SimulatedDevices(PCM, 1e305, partial(ChipStreams(3).generator, ("", "W"), 0)).read(
                PCM.program(targets(10), np.random.default_rng(0)), 0
            )


class ChangesTargets(Odd):
    def program(self, targets_us, _):
        targets_us += 1
        return Devices.after_programming(targets_us, targets_us)


class ChangesDevices(Odd):
    def read(self, devices, *_):
        devices.programmed_us[...] *= 0.5
        return devices.programmed_us


class ChangesDevicesWithin(Odd):
    def program(self, targets_us, rng):
        return WithDevices(targets_us, targets_us, targets_us, others=super().program(targets_us, rng))

    def read(self, devices, *_):
        devices.others.drifted_us[...] = 1
        return devices.others.drifted_us


@dataclass(frozen=True, eq=False, kw_only=True)
class WithDevices(Devices):
    others: Devices


@pytest.mark.parametrize("model", [ChangesTargets, ChangesDevices, ChangesDevicesWithin])
def test_a_device_model_that_changes_arrays_in_place_is_refused(model):
    """Otherwise its changes would be in all later chips and times, in an order that depends on threads."""
    array = targets(10)
    devices = SimulatedDevices(model(None), DAY, partial(ChipStreams(3).generator, ("", "W"), 0))
    with pytest.raises(ConfigError, match=r"^device odd fails: ValueError: .*read-only; a device model returns new"):
        in_memory(array, devices, keeps_programmed=False, keeps_blocks=True)
    assert np.array_equal(array, targets(10))
    array[0] = 3  # arrays of the caller stay as they are


def test_a_device_model_of_ones_own_that_drifts_to_no_devices_is_named(monkeypatch):
    monkeypatch.setattr(Odd, "drift", lambda *_: None)
    with pytest.raises(ConfigError, match=r"^device odd: `drift` gives a NoneType, but no Devices$"):
        simulated(targets(10), model=Odd(None)).numpy()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_device_model_of_ones_own_that_fails_is_named(error):
    def fail(_):
        raise error("no\nlaser")

    with pytest.raises(ConfigError, match=rf"^device odd fails: {error.__name__}: no laser$"):
        simulated(targets(10), model=Odd(fail)).numpy()


def test_a_device_model_of_ones_own_that_programs_no_devices_is_named(monkeypatch):
    monkeypatch.setattr(Odd, "program", lambda *_: np.zeros(10, np.float32))
    with pytest.raises(ConfigError, match=r"^device odd: `program` gives a ndarray, but no Devices$"):
        simulated(targets(10), model=Odd(None)).numpy()
