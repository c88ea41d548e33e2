"""The options of the pass for Olive are the settings of a mapping."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from onnx_gconv.configuration import ModelSettings, WeightSettings
from onnx_gconv.configuration.settings import DeviceSettings
from onnx_gconv.errors import ConfigError
from onnx_gconv.integrations.olive_options import (
    cache_key,
    check_names,
    configuration_of_options,
    options_as_written,
    pass_options,
)
from onnx_gconv.version import __version__

OWN = {"overrides", "config_file", "save_as_external_data", "cache_key"}
SETTINGS = {
    name: field
    for model in (WeightSettings, DeviceSettings, ModelSettings)
    for name, field in model.model_fields.items()
}


def refused(options, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        configuration_of_options(options)


# Names, types, sentences


def test_every_setting_is_an_option_and_only_the_listed_ones_are_not():
    assert pass_options().keys() == SETTINGS.keys() | OWN


def test_a_new_setting_is_an_option_without_more_ado(monkeypatch):
    monkeypatch.setitem(ModelSettings.model_fields, "brand_new", ModelSettings.model_fields["shared"])
    assert pass_options()["brand_new"] == pass_options()["shared"]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_sentence_is_that_of_the_setting_and_tells_the_default(name):
    field, sentence = SETTINGS[name], pass_options()[name].sentence
    assert sentence.startswith(" ".join(field.description.split()))
    if field.default is not None and field.default != ():
        shown = str(field.default).lower() if isinstance(field.default, bool) else f'"{field.default}"'
        assert sentence.endswith(f" Default: {shown}.")


def test_no_option_has_the_name_of_a_key_that_olive_has_beside_options():
    assert not pass_options().keys() & {"type", "config", "host", "evaluator"}
    assert not any(name.endswith("data_config") for name in pass_options())


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("g_max", 40, "40"),
        ("levels", [0.0, 1.5, 25.0], 1),
        ("granularity", {"kind": "tile", "tile": "128x64"}, "row"),
        ("converter", {"name": "n-pair", "factors": [1, 3]}, {"name": "n-pair"}),
        ("include", ["encoder.*"], "encoder.*"),
        ("quantized", "skip", "both"),
        ("freeze_inputs", True, "yes"),
        ("overrides", [{"op": "Conv", "levels": 16}], [{"levels": 16}]),
    ],
)
def test_the_type_of_an_option_takes_what_the_setting_takes(name, right, wrong):
    kind = TypeAdapter(pass_options()[name].kind)
    kind.validate_python(right)
    configuration_of_options({name: right})
    with pytest.raises(ValueError, match=r"\A1 validation error"):
        kind.validate_python(wrong)
    with pytest.raises(ConfigError):
        configuration_of_options({name: wrong})


def test_there_are_no_other_options():
    check_names(pass_options())
    with pytest.raises(ConfigError, match=r"^there is no option 'g_maks'; did you mean g_max\?$"):
        check_names(["levels", "g_maks"])
    with pytest.raises(ConfigError, match=r"^there is no option 'zzz'; there are device, converter, "):
        check_names(["zzz"])


# What they amount to


def test_options_alone_are_as_arguments_of_map_model():
    configuration = configuration_of_options({"g_max": 40.0, "g_min": 1.0, "levels": 16, "include": None})
    scheme = configuration.scheme()
    assert (scheme.converter.g_max, scheme.converter.g_min, scheme.levels.count) == (40.0, 1.0, 16)


def test_what_is_dumped_of_options_means_the_same_again():
    options = {"device": "pcm-joshi", "converter": "single-pair", "granularity": "channel", "clipping": "max"}
    dumped = {
        name: TypeAdapter(pass_options()[name].kind).validate_python(value).model_dump()
        for name, value in options.items()
    }
    assert configuration_of_options(dumped).scheme() == configuration_of_options(options).scheme()


def test_overrides_refine_what_the_other_options_say():
    configuration = configuration_of_options(
        {"g_max": 40.0, "levels": 16, "quantized": "skip", "overrides": [{"op": "Conv", "levels": 64}]}
    )
    assert configuration.scheme().levels.count == 16
    assert configuration.overrides[0].levels == 64
    assert configuration.model.quantized == "skip"
    assert configuration.scheme().converter.g_max == 40.0


def test_options_win_over_what_the_file_says_but_only_if_they_are_given(tmp_path):
    file = tmp_path / "gconv.toml"
    file.write_text('[defaults]\nlevels = 16\n[model]\nquantized = "skip"\n', encoding="utf-8")
    configuration = configuration_of_options({"config_file": str(file), "levels": 64, "quantized": None})
    assert (configuration.scheme().levels.count, configuration.model.quantized) == (64, "skip")
    assert configuration_of_options({"config_file": str(file), "quantized": "map"}).model.quantized == "map"


def test_messages_name_the_option_as_it_stands_in_the_workflow(tmp_path):
    refused({"g_max": "40"}, "g_max: should be a number, but it is '40'")
    refused({"device": "pcm-joshy"}, "device: there is no preset 'pcm-joshy'; did you mean pcm-joshi?")
    refused(
        {"device": "pcm-joshi", "g_max": 4.0},
        "g_max: device says which devices there are, too; give all of it in one of them",
    )
    with pytest.raises(ConfigError, match=r"^storage: codes need levels; "):
        configuration_of_options({"storage": "codes", "overrides": [{"op": "Conv", "levels": 4}]}).check()
    with pytest.raises(ConfigError, match=r"^overrides\[0\]: needs a pattern: "):
        configuration_of_options({"levels": 4, "overrides": [{"levels": 8}]})
    refused(
        {"config_file": str(tmp_path / "none.toml")},
        f"'{tmp_path / 'none.toml'}' cannot be read: No such file or directory; give the path of a TOML file",
    )


def test_overrides_beside_a_file_are_refused(tmp_path):
    file = tmp_path / "gconv.toml"
    file.write_text("", encoding="utf-8")
    refused(
        {"config_file": str(file), "overrides": [{"op": "Conv", "levels": 4}]},
        f"overrides: config_file is given, too; write the overrides into that file, '{file}'",
    )


# Olive's ways


def test_names_of_files_that_olive_has_made_paths_are_names_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mangled = {
        "device": {"preset": str(tmp_path / "pcm-joshi")},
        "include": [str(tmp_path / "encoder"), "/layers.0/MatMul"],
        "overrides": [{"weight": str(tmp_path / "a" / "b"), "levels": 4}],
        "config_file": str(tmp_path / "gconv.toml"),
        "levels": 16,
    }
    assert options_as_written(mangled) == {
        "device": {"preset": "pcm-joshi"},
        "include": ["encoder", "/layers.0/MatMul"],
        "overrides": [{"weight": "a/b", "levels": 4}],
        "config_file": str(tmp_path / "gconv.toml"),
        "levels": 16,
    }


def test_the_key_for_the_cache_tells_apart_versions_and_contents_of_the_file(tmp_path):
    file = tmp_path / "gconv.toml"
    keys = [cache_key(None)]
    for text in ("levels = 4", "levels = 8"):
        file.write_text(text, encoding="utf-8")
        keys.append(cache_key(file))
    assert len(set(keys)) == 3
    assert all(key.startswith(f"onnx_gconv {__version__}") for key in keys)


# The page and the examples

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_explains_what_is_no_setting():
    page = (ROOT / "docs" / "guide" / "olive.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in OWN)


@pytest.mark.parametrize("workflow", sorted(path.name for path in (ROOT / "examples" / "olive").glob("*.json")))
def test_the_options_of_an_example_are_options_with_right_values(workflow, monkeypatch):
    monkeypatch.chdir(ROOT / "examples" / "olive")
    passes = json.loads(Path(workflow).read_text(encoding="utf-8"))["passes"].values()
    [options] = [{**each} for each in passes if each.pop("type") == "OnnxGConv"]
    check_names(options)
    searched = {name: value["support"] for name, value in options.items() if isinstance(value, dict)}
    configuration_of_options({name: value for name, value in options.items() if name not in searched}).check()
    for name, values in searched.items():
        for value in values:
            configuration_of_options({name: value}).check()
