"""Models whose mapping rounds or clips weights on purpose are verified for what they promise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import verify
from onnx_gconv.converters import BitSlicedPairConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.verification.lossy_outputs import judged
from onnx_gconv.verification.outputs import OutputsReport, RunFailure

LEVELS = ConductanceLevels.uniform(32, 0.0, 25.0)
SCHEMES = {
    "levels": MappingScheme(levels=LEVELS),
    "codes": MappingScheme(levels=LEVELS, storage="codes"),
    "codes of channels": MappingScheme(granularity=Granularity("channel"), levels=LEVELS, storage="codes"),
    "codes of tiles": MappingScheme(granularity=Granularity("tile", (7, 5)), levels=LEVELS, storage="codes"),
    "clipping": MappingScheme(clipping=Clipping(percentile=95.0)),
    "bit slices": MappingScheme(BitSlicedPairConductanceConverter(bits=5, slice_bits=2)),
}


@pytest.fixture
def models(tmp_path, parse, normal):
    """Writes an original and its mapped model."""

    def write(scheme):
        model = parse(
            "g (float[2,16] x) => (float y, int64 best) { h = MatMul(x, W)  r = Relu(h)  y = MatMul(r, V) "
            "best = ArgMax <axis = 1> (y) }",
            W=normal(16, 12),
            V=normal(12, 9, seed=1),
        )
        save_model(model, tmp_path / "model.onnx")
        model = load_model(tmp_path / "model.onnx")
        MapConductances(scheme=scheme)(model)
        save_model(model, tmp_path / "mapped.onnx", inputs=[tmp_path / "model.onnx"])
        return tmp_path / "model.onnx", tmp_path / "mapped.onnx"

    return write


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_passes_and_reports_how_far_outputs_are_from_the_original(models, scheme):
    report = verify(*models(SCHEMES[scheme]))
    report.raise_if_failed()
    outputs = {item.name: item for item in report.outputs.comparisons if item.optimization == "none"}
    assert outputs["y"].max_abs_error > 100 * outputs["y"].rebuilt_error
    assert outputs["y"].rebuilt_error <= outputs["y"].tolerance < outputs["y"].max_abs_error
    assert 5 < outputs["y"].sqnr_db < 60
    assert "judged against the original with the rebuilt weights" in report.outputs.notes[0]
    assert "beyond weights" in str(report)


def test_clipped_weights_are_counted(models, normal):
    report = verify(*models(SCHEMES["clipping"]))
    [w, v] = report.weights
    assert (w.clipped, v.clipped) == (9, 5)  # 5 % of 192 and of 108, the limit itself not
    assert w.max_abs_error > w.bound


def edit(path, name, change):
    model = load_model(path)
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    change(array)
    value.const_value = ir.tensor(array, name=name)
    save_model(model, path)


@pytest.mark.parametrize("scheme", ["codes", "codes of channels", "codes of tiles"])
def test_a_code_that_is_off_by_two_levels_is_found(models, scheme):
    original, mapped = models(SCHEMES[scheme])

    def change(codes):
        place = np.argmax(codes)
        codes.reshape(-1)[place] -= 2

    edit(mapped, "W.g_plus_code", change)
    report = verify(original, mapped)
    assert not report.passed
    assert "weight 'W' is rebuilt with an error of" in report.problems[0]


def test_a_conductance_that_is_no_level_is_found(models):
    original, mapped = models(SCHEMES["levels"])
    edit(mapped, "W.g_plus", lambda array: array.reshape(-1).__setitem__(np.argmax(array), 12.6))
    problem = verify(original, mapped).problems[0]
    assert "'W.g_plus' has 12.6" in problem
    assert "which is none of its 32 levels" in problem


def test_a_code_without_a_level_is_found(models):
    original, mapped = models(SCHEMES["codes"])
    edit(mapped, "W.g_plus_code", lambda array: array.reshape(-1).__setitem__(3, 40))
    assert (
        "'W.g_plus_code' has the code 40 at flat index 3, but there are 32 levels"
        in verify(original, mapped).problems[0]
    )


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("W.g_scale", lambda array: array.reshape(-1).__setitem__(0, 1e3), "the scale 'W.g_scale' is"),
        (
            "W.g_row_tile",
            lambda array: array.__setitem__(0, 1),
            "by other pieces than the manifest names",
        ),
        ("W.g_step", lambda array: array.__setitem__((), 0.9), "count steps of 0.89"),
    ],
)
def test_damaged_tiles_and_steps_are_found(models, name, change, problem):
    original, mapped = models(SCHEMES["codes of tiles"])
    edit(mapped, name, change)
    assert problem in verify(original, mapped).problems[0]


def test_a_scale_that_is_exchanged_with_another_is_found_by_the_error_of_its_channel(models):
    original, mapped = models(MappingScheme(SinglePairConductanceConverter(), Granularity("channel")))

    def change(scales):
        flat = scales.reshape(-1)
        order = np.argsort(flat)
        flat[order[3]], flat[order[4]] = flat[order[4]], flat[order[3]]

    edit(mapped, "W.g_scale", change)
    assert "weight 'W' is rebuilt with an error of" in verify(original, mapped).problems[0]


def test_outputs_without_a_distance_are_judged_by_the_rebuilt_weights_too(tmp_path, parse):
    """Rounded weights may give another number of results, as detectors do; that is no fault of the mapping."""
    weight = np.float32([[0.26, 0.74], [1.0, -1.0]])
    model = parse(
        "g (float[1,2] x) => (float found) <float half = {0.25}> "
        "{ y = MatMul(x, W)  large = Greater(y, half)  found = Compress(y, large) }",
        W=weight,
    )
    save_model(model, tmp_path / "model.onnx")
    mapped = load_model(tmp_path / "model.onnx")
    MapConductances(scheme=MappingScheme(levels=ConductanceLevels.uniform(3, 0.0, 25.0)))(mapped)
    save_model(mapped, tmp_path / "mapped.onnx", inputs=[tmp_path / "model.onnx"])
    report = verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx", inputs={"x": np.float32([[0.9, 0.0]])})
    report.raise_if_failed()
    [first, *_] = report.outputs.comparisons
    assert first.max_abs_error is None or first.rebuilt_error == 0
    assert report.outputs.comparisons


def test_a_failure_is_reported_once():
    failure = RunFailure("all", "load", "no such op")
    report = OutputsReport(failures=(failure,))
    assert judged(report, report, ["conductances were measured"]).failures == (failure,)
    assert judged(OutputsReport(), report, ["conductances were measured"]).failures == (failure,)


def test_a_code_of_a_half_precision_weight_that_is_off_by_two_levels_is_found(tmp_path, parse, normal):
    model = parse("g (float16[2,16] x) => (float16 y) { y = MatMul(x, W) }", W=normal(16, 12).astype(np.float16))
    save_model(model, tmp_path / "model.onnx")
    mapped = load_model(tmp_path / "model.onnx")
    MapConductances(scheme=SCHEMES["codes"])(mapped)
    save_model(mapped, tmp_path / "mapped.onnx", inputs=[tmp_path / "model.onnx"])
    verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx").raise_if_failed()
    edit(
        tmp_path / "mapped.onnx", "W.g_plus_code", lambda codes: np.subtract.at(codes.reshape(-1), np.argmax(codes), 2)
    )
    problems = verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx").problems
    assert "weight 'W' is rebuilt with an error of" in problems[0]
