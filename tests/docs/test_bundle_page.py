"""The programs on the page about bundles read bundles as the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

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

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
READER, EXAMPLE, LAB = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)

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
    exec(compile(READER, "bundle.md", "exec"), namespace)  # noqa: S102 - that is the test
    found = namespace["read_weights"](tmp_path / "out")
    plain = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "out/plain.onnx").graph.initializer
    }
    assert len(found) == 5
    for (_, name), weight in found.items():
        np.testing.assert_allclose(weight, plain[name], rtol=0, atol=2e-7 * np.abs(plain[name]).max())


def test_the_reader_is_short():
    assert len(READER.splitlines()) < 60


def test_the_example_with_the_package_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_path("digits_cnn.onnx"), "model.onnx")
    gconv.map_model("model.onnx")
    gconv.write_bundle("model.gconv.onnx", array=(64, 64))
    namespace = {}
    exec(compile(EXAMPLE, "bundle.md", "exec"), namespace)  # noqa: S102 - that is the test
    assert namespace["array"].devices == ("g_plus", "g_minus")
    assert namespace["weight"].shape == (16, 1, 3, 3)


def test_the_example_of_a_lab_writes_what_can_be_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_path("digits_cnn.onnx"), "model.onnx")
    gconv.map_model("model.onnx")
    gconv.write_bundle("model.gconv.onnx", array=(64, 64))
    namespace = {"program": lambda targets: (targets + 0.25, targets > 0)}
    exec(compile(LAB, "bundle.md", "exec"), namespace)  # noqa: S102 - that is the test
    report = gconv.read_back("model.gconv.onnx", "measured.h5")
    assert report.errors.mean_us == pytest.approx(0.25, rel=1e-6)
    assert 0 < report.errors.failed == report.errors.cells - report.errors.measured


RECORDS = [
    BundleManifest, GeometryRecord, LayerRecord, TileRecord, BiasRecord, PlacementRecord, StuckRecord, DefectsRecord,
    DefectMap, ArrayDefects, StuckCell,
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_the_page_names_every_key(record):
    for key in getattr(record, "model_fields", None) or record.__dataclass_fields__:
        assert f"`{key}`" in PAGE or f'"{key}":' in PAGE, key


def test_the_example_of_a_defect_map_is_one(tmp_path):
    [example] = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "defects.json").write_text(example, encoding="utf-8")
    found, _ = read_defects(tmp_path / "defects.json", ArrayGeometry(256, 256))
    assert (found.array_count, [item.array for item in found.arrays]) == (64, [3, 7])


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
