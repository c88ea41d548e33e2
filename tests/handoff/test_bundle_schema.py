"""The published JSON Schema describes the manifest."""

from __future__ import annotations

import json
from pathlib import Path

from onnx_gconv.handoff.manifest import BundleManifest, bundle_schema

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
