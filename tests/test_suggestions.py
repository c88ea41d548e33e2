"""What is suggested in place of an unknown name."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnx_gconv
from onnx_gconv.converters.registry import converter_registry
from onnx_gconv.devices import device_model
from onnx_gconv.devices.presets import preset
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.registry import format_named
from onnx_gconv.simulation.metrics import metric_of
from onnx_gconv.suggestions import suggestion


def test_the_most_similar_name_is_suggested_else_all_of_them():
    assert suggestion("gmax", ["g_min", "g_max"]) == "did you mean g_max?"
    assert suggestion("levels", ["g_min", "g_max"]) == "there are g_min, g_max"
    assert suggestion("levels", ["g_min"]) == "there is g_min"
    assert suggestion("levels", ["g_min", "g_max"], lists_all=False) is None
    assert suggestion("levels", []) is None


def test_names_that_are_about_as_similar_are_suggested_too():
    layers = [f"encoder.{number}.weight" for number in range(9)]
    assert suggestion("encoder.3.weigth", layers) == (
        "did you mean encoder.3.weight, encoder.0.weight or encoder.1.weight?"
    )
    assert suggestion("pcm-josi", ["pcm", "pcm-joshi", "pcm-hermes"]) == "did you mean pcm-joshi?"


def test_upper_and_lower_case_are_alike():
    assert suggestion("PCM", ["reram", "pcm"]) == "did you mean pcm?"
    assert suggestion("conv", ["Gemm", "Conv"]) == "did you mean Conv?"
    assert suggestion("w", ["W", "w "]) == "did you mean W?"


def test_of_many_names_there_are_examples():
    names = [f"{letter}{number}" for letter in "abc" for number in range(20)]
    assert suggestion("zzz", names) == "there are 60, such as a0, a1, a2, a3, a4"
    assert suggestion("zzz", names[:30]) == f"there are {', '.join(names[:30])}"
    assert suggestion("block.1.attn", [*names, "model.block.1.self_attention.query.weight"]) == (
        "there are 61, such as model.block.1.self_attention.query.weight"
    )


def test_names_of_a_model_are_quoted_and_fewer():
    assert suggestion("wieght", ["weight", "bias, too"], of_model=True) == "did you mean 'weight'?"
    assert suggestion("x", ["weight", "bias, too"], of_model=True) == "there are 'weight', 'bias, too'"
    assert suggestion("x", "abcdef", of_model=True) == "there are 6, such as 'a', 'b', 'c', 'd', 'e'"


@pytest.mark.parametrize(
    ("look_up", "wrong", "right", "there"),
    [
        (device_model, "pmc", "pcm", "gaussian"),
        (preset, "pcm-joshy", "pcm-joshi", "isaac"),
        (converter_registry().kind, "n-pear", "n-pair", "single-pair"),
        (format_named, "neursim", "neurosim", "fusion"),
        (lambda name: metric_of(name, "y", has_labels=True), "sqrn", "sqnr", "accuracy"),
    ],
)
def test_all_registries_suggest_alike(look_up, wrong, right, there):
    with pytest.raises(ConfigError, match=rf"there is no [a-z ]+ '{wrong}'; did you mean {right}\?"):
        look_up(wrong)
    with pytest.raises(ConfigError, match=rf"there is no [a-z ]+ '\?\?\?'; there are .*\b{there}\b"):
        look_up("???")


def test_nothing_else_searches_for_similar_names():
    package = Path(onnx_gconv.__file__).parent
    files = {*package.rglob("*.py"), *(package / "passes").rglob("*.py")}
    assert [file.name for file in files if "difflib" in file.read_text(encoding="utf-8")] == ["suggestions.py"]
