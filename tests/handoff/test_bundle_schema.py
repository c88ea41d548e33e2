"""The published JSON Schema describes the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from onnx_gconv.handoff.manifest import BundleManifest, bundle_schema, manifest_json

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "bundle.schema.json"


def test_the_published_schema_is_current():
    current = bundle_schema()
    assert PUBLISHED.read_text(encoding="utf-8") == current, f"write what bundle_schema() gives to {PUBLISHED}"


def test_everything_that_is_required_is_written(handed_off):
    schema = json.loads(bundle_schema())
    document = json.loads((handed_off("Conv").path / "manifest.json").read_text())
    assert set(schema["required"]) <= set(document)
    assert set(schema["properties"]) == set(document)
    assert BundleManifest.model_validate(document).model_dump(mode="json") == document


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_manifest_that_is_written_layer_by_layer_is_the_same_text(handed_off, count):
    manifest = handed_off("grouped Conv").manifest
    tricky = manifest.layers[0].model_copy(update={"weight": '"layers": []\n  "layers": [],'})
    manifest = manifest.model_copy(
        update={"layers": (*manifest.layers, tricky, *manifest.layers)[:count], "tool": '"layers": []'}
    )
    whole = TypeAdapter(BundleManifest).dump_json(manifest, indent=1) + b"\n"
    assert b"".join(manifest_json(manifest)) == whole
