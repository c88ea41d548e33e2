"""What exporters of language models write is mapped whole, verified without options, run on chips, and restored.

`make llm-checks` makes the exports, and names their folder in ONNX_GCONV_LANGUAGE_MODELS.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_gconv import SinglePairConductanceConverter, inspect_model, map_model, restore_model, simulate, verify
from onnx_gconv.runtime.session import OPTIMIZATIONS
from tests.llm.exporters import EXPORTS
from tests.llm.products import factors_of_file

FOLDER = Path(os.environ["ONNX_GCONV_LANGUAGE_MODELS"])

# What may stay digital, with the reason that has to be given.
LEFT = {"genai_gpt_oss_int4": {"prepacked"}}

# So often each of them has to pass: the memory that outputs are in differs from run to run.
ROUNDS = 20


@pytest.fixture(scope="module", params=EXPORTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def original(name):
    model, error = FOLDER / name / "model.onnx", FOLDER / f"{name}.error"
    assert model.exists(), error.read_text() if error.exists() else "nobody has made it"
    return model


@pytest.fixture(scope="module")
def mapped(original, tmp_path_factory):
    target = tmp_path_factory.mktemp("mapped") / "mapped.onnx"
    return map_model(original, target), target


def test_all_parameters_of_products_are_mapped_or_listed_with_a_reason(name, original, mapped):
    report, target = mapped
    before, after = factors_of_file(original), factors_of_file(target)
    left = {key: factor for key, factor in after.items() if key in before}
    assert left == after, "the mapping has brought in constants that products read"
    reasons = {item.name: item.reason for item in report.skipped if item.is_mvm}
    assert {reasons.get(key) for key in left} <= LEFT.get(name, set())
    count = sum(factor.parameters for key, factor in before.items() if key not in left)
    assert report.mapped_parameters == count > 0
    assert inspect_model(target).mapped_parameters == count


def test_all_outputs_are_compared_without_options_and_pass_each_time(original, mapped):
    report, target = mapped
    outputs = [output.name for output in onnx.load(original, load_external_data=False).graph.output]
    for _ in range(ROUNDS):
        found = verify(original, target)
        assert found.passed, found.problems
        assert found.outputs.unproved is None
        assert found.if_nodes == ()
        for optimization in OPTIMIZATIONS:
            compared = [item for item in found.outputs.comparisons if item.optimization == optimization]
            assert [item.name for item in compared if item.case is None] == outputs
            assert all(item.compared_elements or 0 in item.shape for item in compared)
        if all(weight.rounded for weight in report.mapped):  # all of them are integers
            assert all(item.bit_identical for item in (*found.weights, *found.outputs.comparisons))


def test_what_is_restored_has_the_bytes_of_the_original(original, mapped, tmp_path):
    report, target = mapped
    if not all(weight.rounded for weight in report.mapped):  # floats are exact if that is asked for
        target = tmp_path / "exact.onnx"
        map_model(original, target, SinglePairConductanceConverter(exact=True))
    restore_model(target, tmp_path / "plain.onnx")
    ours, theirs = (onnx.load(path) for path in (tmp_path / "plain.onnx", original))
    assert contents(ours) == contents(theirs)
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]


def contents(model):
    """Type, shape and bytes of all initializers, by name."""
    return {
        tensor.name: (tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
        for tensor in model.graph.initializer
    }


def test_chips_answer_a_prompt(name, mapped, tmp_path):
    _, target = mapped
    how = {"device": "gaussian", "settings": {"sigma_us": 0.0}, "times": "0s", "repeats": 1, "output": "logits"}
    model = onnx.load(target, load_external_data=False)
    tokens = next((item.name for item in model.graph.input if "input_ids" in item.name), None)
    assert tokens is not None
    length = 4
    ids = np.random.default_rng(0).integers(3, 256, (1, length))
    report = simulate(target, token_ids=ids[0].tolist(), metric="agreement@last", **how)
    assert report.times[0].values == (report.ideal,) == (1.0,)
    np.savez(tmp_path / "prompt.npz", **{tokens: ids})
    alone = simulate(target, inputs=tmp_path / "prompt.npz", metric="agreement@last", **how)
    assert alone.times[0].values == (1.0,)
