"""The JSON Schema of the file of a comparison describes it to editors."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from onnx_gconv.devices.registry import DEVICE_MODELS
from onnx_gconv.simulation.comparison.json_schema import comparison_schema
from onnx_gconv.simulation.comparison.settings import Comparison
from onnx_gconv.simulation.comparison.tables import CandidateTable, ComparisonTable

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = DOCS / "comparison.schema.json"


@pytest.fixture(scope="module")
def schema():
    return json.loads(comparison_schema())


def tables(schema):
    return {"": schema, **schema["$defs"]}


def test_the_published_schema_is_current():
    command = f"onnx-gconv config schema --of comparison -o docs/{PUBLISHED.name} --force"
    assert PUBLISHED.read_text(encoding="utf-8") == comparison_schema(installed=False), f"run: {command}"


def test_every_key_has_a_description_and_others_are_errors(schema):
    for name, table in tables(schema).items():
        assert table["additionalProperties"] is False
        for key, described in table["properties"].items():
            assert described.get("description"), f"{name}.{key}"


def test_it_has_the_keys_that_files_can_have(schema):
    assert set(schema["properties"]) == set(ComparisonTable.model_fields)
    assert set(schema["$defs"]["CandidateTable"]["properties"]) == set(CandidateTable.model_fields)
    mapping = schema["$defs"]["MappingTable"]["properties"]
    assert set(schema["$defs"]["GridMapping"]["properties"]) == set(mapping)


def test_it_has_no_null_which_files_cannot_have(schema):
    assert "null" not in json.dumps(schema)


def test_it_knows_device_models_and_takes_files_of_measurements(schema):
    for device in (
        schema["properties"]["device"],
        schema["$defs"]["CandidateTable"]["properties"]["device"],
        schema["$defs"]["Grid"]["properties"]["device"]["items"],
    ):
        named, other = device["anyOf"]
        assert {*DEVICE_MODELS, "pcm-joshi"} <= set(named["enum"])
        assert other == {"type": "string"}


def test_lists_of_a_grid_have_one_value_at_least(schema):
    for name in ("Grid", "GridMapping"):
        for key, lists in schema["$defs"][name]["properties"].items():
            if key == "mapping":
                continue
            of = lists["additionalProperties"] if key == "device_options" else lists
            assert (of["type"], of["minItems"]) == ("array", 1), key


def test_the_example_of_the_page_names_it_and_is_a_comparison():
    page = (DOCS / "devices" / "comparison-file.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```toml .*\n(#:schema .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert example.startswith(f"#:schema ./{PUBLISHED.name}\n")
    assert len(Comparison.of(tomllib.loads(example)).candidates({}, {})) == 6
