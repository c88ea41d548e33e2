"""The readers of the pages on bundles read bundles, and the pages name every key."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_gconv as gconv
from onnx_gconv.crossbars.defects import ArrayDefects, DefectMap, StuckCell, read_defects
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.handoff.manifest import (
    BiasRecord,
    BundleManifest,
    DefectsRecord,
    GeometryRecord,
    LayerRecord,
    PlacementRecord,
    StuckRecord,
    TileRecord,
)
from onnx_gconv.models import model_path
from tests.docs.pages import blocks, text_of, with_pages_below

PAGES = text_of(*with_pages_below("docs/bundle.md"))
READER = next(block.text for block in blocks("docs/bundle/readers.md") if block.language == "python")

SCHEMES = {
    "default": {},
    "tiles": {"granularity": {"kind": "tile", "tile": "20x12"}, "levels": 64, "storage": "codes"},
    "single device": {"converter": "single-device", "granularity": "channel"},
    "bit slices": {"converter": {"name": "bit-sliced-offset", "bits": 8, "slice_bits": 4}},
}


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_reader_rebuilds_every_weight_of_the_digits(tmp_path, scheme, arrays):
    gconv.map_model(model_path("digits_cnn.onnx"), tmp_path / "mapped.onnx", **SCHEMES[scheme])
    gconv.write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (32, 16), arrays=arrays)
    namespace = {}
    exec(compile(READER, "readers.md", "exec"), namespace)  # noqa: S102 - that is the test
    found = namespace["read_weights"](tmp_path / "out")
    plain = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "out/plain.onnx").graph.initializer
    }
    assert len(found) == 5
    for (_, name), weight in found.items():
        np.testing.assert_allclose(weight, plain[name], rtol=0, atol=2e-7 * np.abs(plain[name]).max())


def test_the_reader_is_short():
    assert len(READER.splitlines()) <= 60


RECORDS = [
    BundleManifest, GeometryRecord, LayerRecord, TileRecord, BiasRecord, PlacementRecord, StuckRecord, DefectsRecord,
    DefectMap, ArrayDefects, StuckCell,
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_the_pages_name_every_key(record):
    for key in getattr(record, "model_fields", None) or record.__dataclass_fields__:
        assert f"`{key}`" in PAGES or f'"{key}":' in PAGES, key


def test_the_example_of_a_defect_map_is_one(tmp_path):
    [example] = (block.text for block in blocks("docs/bundle/defects.md") if block.language == "json")
    (tmp_path / "defects.json").write_text(example, encoding="utf-8")
    found, _ = read_defects(tmp_path / "defects.json", ArrayGeometry(256, 256))
    assert (found.array_count, [item.array for item in found.arrays]) == (64, [3, 7])
