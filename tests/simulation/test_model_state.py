"""The state of a device model tells models with other settings apart, wherever a model keeps them."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import onnx_gconv as gconv
from onnx_gconv.devices import device_model
from onnx_gconv.devices.gaussian import GaussianDevice
from onnx_gconv.models import model_path
from onnx_gconv.simulation.chips.model_state import state_of

MODEL = model_path("digits_mlp.onnx")


@dataclass
class Fit:
    slope: object


class Slotted:
    __slots__ = ("slope", "unset")

    def __init__(self, slope):
        self.slope = slope


def scaled(slope, conductance):
    return slope * conductance


class Holder:
    def __init__(self, held):
        self.held = held

    def method(self):
        return self.held


HOLDERS = {
    "a dataclass": Fit,
    "slots": Slotted,
    "a list": lambda slope: [1, slope],
    "a set": lambda slope: {1, slope},
    "a dict with keys of several types": lambda slope: {1.5: 1, (1, 2): slope, "a": None},
    "an array": lambda slope: np.array([1, slope]),
    "an array of objects": lambda slope: np.array([Fit(slope), None], object),
    "complex numbers": lambda slope: np.array([slope + 1j]),
    "a scalar of NumPy": np.float32,
    "a fraction": lambda slope: Fraction(str(slope)),
    "a partial function": lambda slope: functools.partial(scaled, slope),
    "a lambda with a variable from outside": lambda slope: lambda conductance: slope * conductance,
    "a default of a function": lambda slope: lambda conductance, by=slope: conductance * by,
    "a method": lambda slope: Holder(slope).method,
    "a path": lambda slope: Path(f"fit-{slope}.csv"),
    "objects within objects": lambda slope: Holder([{"fit": Fit(Holder(slope))}]),
}


@pytest.mark.parametrize("held", HOLDERS.values(), ids=HOLDERS.keys())
def test_the_state_is_equal_for_equal_settings_and_another_one_for_others(held):
    first, again, other = (json.dumps(state_of(Holder(held(slope))), sort_keys=True) for slope in (0.5, 0.5, 0.25))
    assert first == again
    assert first != other


def test_functions_differ_by_what_they_do():
    one, other = (state_of(function) for function in (lambda g: g + 1, lambda g: g + 2))
    assert one != other


def test_objects_that_hold_themselves_have_a_state():
    holder = Holder(None)
    holder.held = [holder]
    assert state_of(holder) == {"<Holder>": {"held": ["<itself>"]}}


def test_what_only_this_process_knows_is_its_type():
    assert state_of(Holder([threading.Lock(), np.random.default_rng(0), object()])) == {
        "<Holder>": {"held": ["<lock>", "<Generator>", "<object>"]}
    }


def test_the_state_is_the_same_in_another_process():
    program = (
        "import json; from onnx_gconv.simulation.chips.model_state import state_of; "
        "print(json.dumps(state_of({'b': {'x', 'y', 'z'}, 'a': (len, json, lambda g: [g, 1])})))"
    )
    found = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1
    assert "builtins.len" in found.pop()


class FittedDevice(GaussianDevice):
    name = "fitted"

    def __init__(self, fit):
        super().__init__()
        self.fit = fit

    def _read(self, devices, *_):
        return devices.drifted_us * np.float32(self.fit.slope)


def test_a_journal_of_a_model_with_other_settings_is_refused(tmp_path):
    def simulate(slope, **options):
        return gconv.simulate(MODEL, FittedDevice(Fit(slope)), times="1s", repeats=2, **options)

    journal = tmp_path / "journal"
    before = simulate(0.9, journal=journal).times
    assert simulate(0.9, journal=journal).times == before
    with pytest.raises(gconv.ConfigError, match=r"the journal '.*' is that of another simulation: its device_model is"):
        simulate(0.5, journal=journal)
    assert simulate(0.5).times != before


def test_candidates_whose_models_have_other_settings_have_their_own_figures():
    comparison = {"candidates": [{"name": f"{slope}", "device": FittedDevice(Fit(slope))} for slope in (0.9, 0.5)]}
    found = gconv.compare(MODEL, comparison, times="1s", repeats=1)
    assert len({each.simulation.times[0].values for each in found.candidates}) == 2
    assert not any("nothing is different" in note for note in found.notes)


def test_a_model_of_this_package_has_its_settings_as_state():
    assert state_of(device_model("log-normal", sigma=0.25)) == {
        "<LogNormalDevice>": {"g_max": 25.0, "g_min": 0.0, "sigma": 0.25}
    }
