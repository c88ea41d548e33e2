"""Factors that compensate drift for each tile or output column, in the scales that the mapping has for them."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from aihwkit.inference import PCMLikeNoiseModel
from aihwkit.inference.compensation.drift import PerColumnDriftCompensation

import onnx_gconv as gconv
from onnx_gconv.devices import normal_numbers
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest, write_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.verification import verify

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")

MODELS = {
    "MatMul": "g (float[2,64] x) => (float[2,48] y) { y = MatMul(x, W) }",
    "Gemm": "g (float[2,48] x) => (float[2,64] y) { y = Gemm<transB=1>(x, W) }",
    "Conv": "g (float[2,6,5,5] x) => (float[2,8,3,3] y) { y = Conv<group=2>(x, W) }",
    "ConvTranspose": "g (float[2,8,5,5] x) => (float[2,6,7,7] y) { y = ConvTranspose<group=2>(x, W) }",
}
SHAPES = {"MatMul": (64, 48), "Gemm": (64, 48), "Conv": (8, 3, 3, 3), "ConvTranspose": (8, 3, 3, 3)}
CHANNEL = {"granularity": "channel"}
TILE = {"granularity": {"kind": "tile", "tile": "32x16"}}
TILE_CHANNEL = {"granularity": {"kind": "tile-channel", "tile": "16x16"}}


@pytest.fixture
def mapped(parse, normal, tmp_path):
    """Writes a mapped model, and the plain one beside it."""

    def write(op="MatMul", mapping=CHANNEL):
        save_model(parse(MODELS[op], W=normal(*SHAPES[op])), tmp_path / "plain.onnx")
        gconv.map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx", **mapping)
        return tmp_path / "mapped.onnx"

    return write


def weight_of(path):
    model = load_model(path)
    [record] = read_manifest(model).weights
    found = locate(record, ModelValues(model))
    return record, found, found.rebuilt.numpy()


def program(path, compensation, **options):
    output = path.with_name(f"{compensation}.onnx")
    options = {"time": "1d", "drift_compensation": compensation} | options
    return gconv.program_model(path, output, "pcm", **options), output


def groups_of(record):
    """For each element of the weight the number of its scale."""
    return record.grid.groups(0, int(np.prod(record.shape))).reshape(record.shape)


@pytest.mark.parametrize(
    ("op", "mapping", "compensation"),
    [
        *((op, CHANNEL, "column") for op in MODELS),
        ("MatMul", TILE, "tile"),
        ("Gemm", TILE, "tile"),
        ("Conv", TILE_CHANNEL, "column"),
    ],
)
def test_each_scale_has_the_factor_of_its_elements(mapped, op, mapping, compensation):
    path = mapped(op, mapping)
    groups = groups_of(weight_of(path)[0])
    programmed, read, compensated = (
        weight_of(program(path, kind, **options)[1])[2].astype(np.float64)
        for kind, options in (
            ("none", {"time": 0.0, "settings": {"read_scale": 0.0}}),
            ("none", {}),
            (compensation, {}),
        )
    )
    before, after = (np.bincount(groups.ravel(), np.abs(each).ravel()) for each in (programmed, read))
    assert len(before) > 1
    expected = read * (before / after)[groups]
    np.testing.assert_allclose(compensated, expected, rtol=3e-6, atol=1e-7)


def test_columns_are_compensated_as_by_aihwkit(mapped, monkeypatch):
    monkeypatch.setattr(normal_numbers, "_filling", lambda _: lambda piece, *_: piece.fill(0.3))
    monkeypatch.setattr("aihwkit.inference.noise.pcm.randn_like", lambda like: torch.full_like(like, 0.3))
    path = mapped("Gemm")
    record, _, weight = weight_of(path)
    noise, compensation, factors = PCMLikeNoiseModel(g_max=25.0), PerColumnDriftCompensation(), []
    for channel in weight:  # aihwkit scales what it is given by one number
        one = torch.from_numpy(channel[None])
        programmed, drifted = noise.apply_programming_noise(one)[0], noise.apply_noise(one, 86400.0)
        # A tile's outputs for one-hot inputs, [inputs, outputs], are its weight.
        baseline, current = (float(compensation.readout(each.T)[0]) for each in (programmed, drifted))
        factors.append(baseline / current)
    report, output = program(path, "column")
    assert record.scale.shape == (64, 1)
    assert weight_of(output)[0].measured.factors == pytest.approx(factors, rel=1e-6)
    assert report.weights[0].drift_factor_range == pytest.approx((min(factors), max(factors)), rel=1e-6)
    assert report.weights[0].drift_factor == pytest.approx(np.mean(factors), rel=1e-6)


def test_the_scale_in_the_graph_is_that_of_the_targets_divided_by_the_factors(mapped):
    path = mapped("ConvTranspose")
    _, before, _ = weight_of(path)
    _, output = program(path, "column")
    record, after, _ = weight_of(output)
    factors = record.grid.stored(record.measured.factor_of_each(record.grid))
    old, new = (each.scale.const_value.numpy() for each in (before, after))
    np.testing.assert_array_equal(new, (old.astype(np.float64) / factors).astype(np.float32))
    assert record.measured.factor == 1
    assert len(set(record.measured.factors)) == 6


def test_the_chip_is_verified_and_restored(mapped, tmp_path):
    path = mapped("Conv")
    _, output = program(path, "column")
    assert verify(tmp_path / "plain.onnx", output).passed
    gconv.restore_model(output, tmp_path / "restored.onnx")
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 5)).astype(np.float32)
    found, expected = (
        ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for file in (tmp_path / "restored.onnx", output)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("compensation", ["global", "column"])
def test_what_is_clipped_is_judged_by_the_scale_of_the_targets(mapped, tmp_path, compensation):
    path = mapped("MatMul", CHANNEL | {"clipping": {"percentile": 90}})
    _, output = program(path, compensation, time="1y")
    chip, targets = (verify(tmp_path / "plain.onnx", file) for file in (output, path))
    assert chip.passed
    assert chip.weights[0].clipped == targets.weights[0].clipped > 100


@pytest.mark.parametrize(("mapping", "compensation"), [(CHANNEL, "column"), (TILE, "tile")])
def test_a_trial_is_the_chip_that_is_written(mapped, tmp_path, mapping, compensation):
    path = mapped("MatMul", mapping)
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    (tmp_path / "total.py").write_text("def total(outputs, labels):\n    return float(outputs['y'].sum(dtype='f8'))\n")
    options = {"times": "1d", "repeats": 2, "inputs": tmp_path / "data.npz", "drift_compensation": compensation}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        report = gconv.simulate(path, "pcm", metric="total:total", **options)
    for chip, value in enumerate(report.times[0].values):
        _, output = program(path, compensation, chip=chip)
        session = ort.InferenceSession(output, providers=["CPUExecutionProvider"])
        assert float(session.run(None, {"x": x})[0].sum(dtype=np.float64)) == pytest.approx(value, rel=1e-6)


OF_COLUMNS = "--granularity channel or --granularity tile-channel --tile ROWSxCOLUMNS"


@pytest.mark.parametrize(
    ("mapping", "compensation", "kind", "remedy"),
    [
        ({}, "column", "tensor", OF_COLUMNS),
        ({}, "tile", "tensor", "--granularity tile --tile ROWSxCOLUMNS"),
        (CHANNEL, "tile", "channel", "--granularity tile --tile ROWSxCOLUMNS"),
        (TILE, "column", "tile", OF_COLUMNS),
    ],
)
def test_a_mapping_without_such_scales_is_refused(mapped, mapping, compensation, kind, remedy):
    path = mapped("MatMul", mapping)
    with pytest.raises(ConfigError) as raised:
        program(path, compensation)
    assert str(raised.value).endswith(
        f"the weight 'W' has one scale for each {kind}, so that drift cannot be compensated for each {compensation}; "
        f"map with {remedy} ('simulate' takes it with a plain model), or compensate it globally"
    )
    assert not path.with_name(f"{compensation}.onnx").exists()


def test_a_manifest_with_another_number_of_factors_is_refused(mapped):
    _, output = program(mapped(), "column")
    model = load_model(output)
    manifest = read_manifest(model)
    [record] = manifest.weights
    measured = record.measured.model_copy(update={"factors": record.measured.factors[:-1]})
    write_manifest(model, manifest.model_copy(update={"weights": (record.model_copy(update={"measured": measured}),)}))
    save_model(model, output)
    with pytest.raises(ModelError, match="the manifest has 47 factors that compensate drift, but there are 48 scales"):
        gconv.restore_model(output, output.with_name("restored.onnx"))


def test_the_report_has_the_range_of_the_factors(mapped):
    report, _ = program(mapped(), "column")
    low, high = report.weights[0].drift_factor_range
    assert 1 < low < report.weights[0].drift_factor < high
    assert f"{low:.4f} to {high:.4f}" in str(report)
    assert json.loads(json.dumps(report.to_json()))["weights"][0]["drift_factor_range"] == [low, high]


def test_an_unknown_compensation_is_refused(mapped):
    with pytest.raises(ConfigError, match="one of none, global, tile, column, but not 'layer'"):
        program(mapped(), "layer")
