"""A configuration that is written as TOML is read as the same one."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.configuration import Configuration, WeightSettings, read_configuration
from onnx_gconv.configuration.toml_text import toml_text
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError

EVERYTHING = {
    "defaults": {
        "device": {"g_min": 0.5, "g_max": 20.0},
        "converter": {"name": "n-pair", "factors": [1.0, 1e-7]},
        "granularity": {"kind": "tile", "tile": [512, 64], "partition": "max"},
        "clipping": {"percentile": 99.9},
        "levels": [0.5, 1.0, 20.0],
        "storage": "codes",
    },
    "model": {"include": ["a.*", 'b"\\\n\u202e'], "freeze_inputs": True, "shared": "split"},
    "overrides": [
        {"parameter": ["encoder.weight", "layers[0].w"], "levels": 16},
        {"match": "*", "skip": True},
        {"op": "Conv", "converter": "single-pair", "levels": "none", "storage": "float"},
    ],
}


@pytest.mark.parametrize("data", [{}, EVERYTHING])
def test_what_is_written_is_read_again(tmp_path, data):
    configuration = Configuration.of(data)
    file = tmp_path / "gconv.toml"
    file.write_text(toml_text(configuration), encoding="utf-8")
    assert read_configuration(file).model_dump() == configuration.model_dump()


@given(st.text(min_size=1))
def test_names_of_any_characters_come_back(name):
    configuration = Configuration.of({"model": {"include": [name]}})
    assert Configuration.of(tomllib.loads(toml_text(configuration))).model.include == (name,)


def test_what_nobody_has_given_is_not_in_it():
    assert toml_text(Configuration()) == ""
    assert toml_text(Configuration.of({"defaults": {"levels": 16}})) == "[defaults]\nlevels = 16\n"


OBJECT = "a converter that is an object, a SinglePairConductanceConverter"


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (
            Configuration(defaults=WeightSettings(converter=SinglePairConductanceConverter())),
            f"{OBJECT}, cannot be written; give its name and settings",
        ),
        (
            Configuration(defaults=WeightSettings(levels=ConductanceLevels.uniform(4, 0.0, 25.0))),
            "levels that are an object cannot be written; give their number, or a list in \u00b5S",
        ),
        (
            Configuration().with_settings(WeightSettings(storage="codes")),
            "settings on top of a configuration cannot be written; give them to its defaults or overrides",
        ),
    ],
    ids=["converter", "levels", "on_top"],
)
def test_objects_have_no_form_in_a_file(configuration, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        toml_text(configuration)
