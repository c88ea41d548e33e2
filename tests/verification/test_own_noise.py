"""What a model makes of random numbers and of roundings is no excuse for an error, and is said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv import map_model, verify
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.verification import original_runs as module
from tests import graphs

N = helper.make_node


def write(path, nodes, *, outputs=("y",), opset=21, extra=(), **arrays):
    ends = [graphs.value("x", shape=[8, 32])], [graphs.value(name) for name in outputs]
    graph = helper.make_graph(nodes, "g", *ends, [*graphs.tensors(arrays), *extra])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def add(path, name, number):
    """Change a constant of a mapped model."""
    model = onnx.load(path)
    [tensor] = [item for item in model.graph.initializer if item.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(number), name))
    onnx.save(model, path)


@pytest.fixture
def noisy(tmp_path, normal):
    """Writes a model that adds noise to a product, with a seed or without."""

    def make(**seed):
        noise = N("RandomNormal", [], ["noise"], shape=[8, 16], **seed)
        nodes = [N("MatMul", ["x", "W"], ["h"]), N("Add", ["h", "b"], ["s"]), noise, N("Add", ["s", "noise"], ["y"])]
        return write(
            tmp_path / "in.onnx", [*nodes, N("Relu", ["s"], ["z"])], outputs="yz", W=normal(32, 16), b=normal(16)
        )

    return make


def test_a_model_with_seeds_is_compared_in_spite_of_its_noise(noisy):
    original = noisy(seed=1.0)
    mapped = map_model(original).output
    report = verify(original, mapped)
    report.raise_if_failed()
    assert str(report).rstrip().endswith("the mapping hold.")
    assert report.to_json()["outputs_not_compared"] is None
    add(mapped, "b", 0.01)
    assert {item.name for item in verify(original, mapped).outputs.comparisons if not item.passed} == {"y", "z"}


def test_a_model_without_seeds_is_not_verified_by_its_own_noise(noisy, normal):
    original = noisy()
    mapped = map_model(original).output
    report = verify(original, mapped)
    assert report.passed
    remedy = "give nodes that draw random numbers a seed, or feed the numbers in"
    why = f"'y' differs from run to run of the original; {remedy}"
    assert f"OUTPUTS NOT COMPARED: {why}" in " ".join(str(report).split())
    assert "NOT VERIFIED AS A WHOLE" in str(report)
    assert "PASSED" not in str(report)
    assert report.to_json()["outputs_not_compared"] == why
    asked = verify(original, mapped, inputs={"x": normal(8, 32)})
    assert asked.problems == (f"outputs were to be compared, but were not: {why}",)
    add(mapped, "b", 0.01)
    assert {item.name for item in verify(original, mapped).outputs.comparisons if not item.passed} == {"z"}


def test_lossy_mappings_of_random_models_are_judged_in_what_is_not_random(noisy):
    original = noisy()
    mapped = map_model(original, levels=64).output
    report = verify(original, mapped)
    assert report.passed
    assert report.outputs.unproved is not None
    assert {item.name: item.rebuilt_error is not None for item in report.outputs.comparisons} == {"y": False, "z": True}
    add(mapped, "b", 0.01)
    assert not verify(original, mapped).passed


@pytest.mark.parametrize("bits", [4, 8])
def test_eight_bit_activations_of_the_runtime_are_no_tolerance(tmp_path, normal, bits):
    codes = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (32, 16)).astype(np.int8)
    stored = helper.make_tensor(
        "q", TensorProto.INT4 if bits == 4 else TensorProto.INT8, [32, 16], codes.flatten().tolist()
    )
    nodes = [N("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=16), N("MatMul", ["x", "w"], ["h"])]
    scales = np.abs(normal(2, 16)) + np.float32(0.1)
    original = write(
        tmp_path / "in.onnx", [*nodes, N("Add", ["h", "b"], ["y"])], extra=[stored], s=scales, b=normal(16)
    )
    mapped = map_model(original).output
    report = verify(original, mapped)
    report.raise_if_failed()
    [first, second] = report.outputs.comparisons
    assert first.spread == second.spread < 1e-4 * np.abs(codes).max()
    add(
        mapped,
        "b",
        4e-3 * first.max_abs_error if first.max_abs_error else 4e-3 * 16 * np.abs(codes).max() * scales.mean(),
    )
    assert not verify(original, mapped).passed


AMPLIFIED = (
    "the model amplifies rounding, as rounded activations and phases do; mapped with --exact (exact=True), weights are "
)


@pytest.fixture
def phases(tmp_path, normal):
    nodes = [N("MatMul", ["x", "W"], ["h"]), N("Mul", ["h", "k"], ["p"]), N("Sin", ["p"], ["y"])]
    return write(tmp_path / "in.onnx", nodes, W=normal(32, 16), k=np.float32(3e5))


def test_a_model_that_amplifies_rounding_is_told_so(phases, monkeypatch):
    mapped = map_model(phases).output
    assert not verify(phases, mapped).passed
    monkeypatch.setattr(module, "spread_between", lambda *_: module.Spread(distance=0.5))  # of other kernels
    report = verify(phases, mapped)
    assert report.passed
    [note] = report.outputs.notes
    assert note.startswith("output 'y' is off by ")
    assert AMPLIFIED in note
    assert f"Note: {note[:40]}" in str(report)


def test_exact_weights_leave_nothing_to_amplify(phases):
    report = verify(phases, map_model(phases, None, SinglePairConductanceConverter(exact=True)).output)
    report.raise_if_failed()
    assert report.outputs.notes == ()


def test_errors_of_lossy_weights_are_told_in_db_and_not_in_ulp(tmp_path, normal):
    nodes = [N("MatMul", ["x", "W"], ["h"]), N("MatMul", ["h", "V"], ["y"])]
    original = write(tmp_path / "in.onnx", nodes, W=normal(32, 16), V=normal(16, 8))
    overrides = {"overrides": [{"weight": "V", "levels": 16}]}
    plain = str(verify(original, map_model(original, tmp_path / "a.onnx").output))
    mixed = verify(original, map_model(original, tmp_path / "b.onnx", config=configuration(overrides)).output)
    lossy = str(verify(original, map_model(original, tmp_path / "c.onnx", levels=16).output))
    head = {
        name: text.partition("Outputs in")[0]
        for name, text in (("plain", plain), ("mixed", str(mixed)), ("lossy", lossy))
    }
    assert ("ulp" in head["plain"], "SQNR" in head["plain"]) == (True, False)
    assert ("ulp" in head["mixed"], "SQNR" in head["mixed"]) == (True, True)
    assert ("ulp" in head["lossy"], "SQNR" in head["lossy"]) == (False, True)
    assert [(item.name, item.is_lossy) for item in mixed.weights] == [("W", False), ("V", True)]
    [row] = [line.split("│") for line in head["mixed"].splitlines() if line.startswith("│ V ")]
    assert row[5].strip() == "-"
    assert float(row[6]) > 10


def configuration(document):
    from onnx_gconv import Configuration

    return Configuration.of(document)
