"""The JSON Schema describes the file to editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnx_gconv.configuration.json_schema import json_schema
from onnx_gconv.devices.presets import presets

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schema():
    return json.loads(json_schema())


def test_the_published_schema_is_current():
    published = (ROOT / "docs" / "gconv.schema.json").read_text(encoding="utf-8")
    assert published == json_schema(installed=False), "run: onnx-gconv config schema -o docs/gconv.schema.json --force"


def tables(schema):
    return {"": schema, **schema["$defs"]}


def test_every_key_has_a_description(schema):
    for name, table in tables(schema).items():
        for key, described in table["properties"].items():
            assert described.get("description"), f"{name}.{key}"


def test_unknown_keys_are_errors_in_every_table(schema):
    assert all(table["additionalProperties"] is False for table in tables(schema).values())


def test_it_knows_short_forms(schema):
    choices = schema["$defs"]["WeightSettings"]["properties"]["converter"]["anyOf"]
    assert "n-pair" in choices[0]["enum"]
    assert choices[1] == {"$ref": "#/$defs/ConverterSettings"}


def test_it_knows_the_presets(schema):
    names = [preset.name for preset in presets()]
    assert schema["$defs"]["DeviceSettings"]["properties"]["preset"]["enum"] == names
    assert schema["$defs"]["Override"]["properties"]["device"]["anyOf"][0]["enum"] == names


def test_it_has_no_null_which_files_cannot_have(schema):
    assert "null" not in json.dumps(schema)
