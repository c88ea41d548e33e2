"""Device models on the command line: a table of all, with those of packages, and what is wrong with some."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint

import pytest

from onnx_gconv.devices import device_model, registry
from onnx_gconv.devices.base_device import BaseDeviceModel
from onnx_gconv.devices.presets import presets


class Leaky(BaseDeviceModel):
    """A device that loses a part of its conductance. More is not known of it."""

    name = "leaky"

    def __init__(self, leak, g_max=25.0, g_min=0.0, *, shape=(1, 2)):
        super().__init__(g_max, g_min)
        self.leak, self.shape = leak, shape


GROUP = registry.ENTRY_POINT_GROUP


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """The entry points of installed packages: none but those that a test adds."""
    points = []
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    monkeypatch.setattr(registry, "_registered", {})
    return points


def test_all_are_listed_with_their_settings(gconv):
    found = gconv("devices")
    assert (found.code, found.stderr) == (0, "")
    document = gconv("devices", "--json").json
    assert [item["name"] for item in document["devices"]] == list(registry.DEVICE_MODELS)
    assert document["problems"] == []
    said = " ".join(found.stdout.split())
    for item in document["devices"]:
        assert f"\n {item['name']} " in found.stdout
        assert 0 < len(item["summary"]) < 120
        made = inspect.signature(registry.DEVICE_MODELS[item["name"]]).parameters.values()
        own = {each.name for each in made if each.kind is not inspect.Parameter.VAR_KEYWORD}
        assert own <= {each["name"] for each in item["settings"]}
    assert "acceptance_percent = 0.2" in said
    assert "All devices also take stuck_low and stuck_high" in said


def test_what_is_listed_as_a_setting_is_one(gconv):
    """Also of classes whose constructor hands any further settings to the class that they derive from."""
    [pcm] = [item for item in gconv("devices", "--json").json["devices"] if item["name"] == "pcm"]
    assert {"g_max", "read_scale", "t_0"} <= {each["name"] for each in pcm["settings"]}
    device_model("pcm", **{each["name"]: each["default"] for each in pcm["settings"]})


def test_presets_with_errors_are_named(gconv):
    named = {item.name: item.model for item in presets() if item.model is not None}
    assert gconv("devices", "--json").json["presets"] == named
    assert "pcm-joshi (pcm), pcm-hermes-1, pcm-hermes-2, rram-neurram (reram-wan2022)" in " ".join(
        gconv("devices").stdout.split()
    )


def test_one_of_a_package_is_listed_with_what_it_needs(gconv, packages):
    packages += [EntryPoint("leaky", f"{__name__}:Leaky", GROUP)]
    [*_, found] = gconv("devices", "--json").json["devices"]
    assert found == {
        "name": "leaky",
        "summary": "A device that loses a part of its conductance.",
        "settings": [
            {"name": "leak", "needed": True, "default": None},
            {"name": "g_max", "needed": False, "default": 25.0},
            {"name": "g_min", "needed": False, "default": 0.0},
            {"name": "shape", "needed": False, "default": "(1, 2)"},
        ],
        "package": __name__.partition(".")[0],
    }
    assert "leak (needed), g_max = 25.0" in gconv("devices").stdout


def test_those_that_cannot_be_used_are_told_and_concern_no_other(gconv, packages):
    packages += [EntryPoint("gone", "no_such_module:Gone", GROUP), EntryPoint("pcm", f"{__name__}:Leaky", GROUP)]
    packages += [EntryPoint("odd", "math:pi", GROUP), EntryPoint("leaky", f"{__name__}:Leaky", GROUP)]
    found = gconv("devices", "--json")
    assert (found.code, found.stderr) == (0, "")
    assert found.json["devices"][-1]["name"] == "leaky"
    gone, clash, odd = found.json["problems"]
    assert "'gone' of the package no_such_module cannot be loaded: ModuleNotFoundError" in gone
    assert "'pcm' of the package tests cannot be used: onnx_gconv has a device model of that name" in clash
    assert "'odd' of the package math is no device model" in odd
    assert "ModuleNotFoundError" in gconv("devices").stdout


def test_one_that_the_program_registered_is_listed_once(gconv, packages):
    registry.register_device_model(Leaky)
    packages += [EntryPoint("leaky", f"{__name__}:Leaky", GROUP)]
    names = [item["name"] for item in gconv("devices", "--json").json["devices"]]
    assert names == [*registry.DEVICE_MODELS, "leaky"]


def test_quiet_prints_nothing(gconv):
    assert gconv("devices", "--quiet") == (0, "", "")
