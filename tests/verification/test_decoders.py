"""Language models with caches, as exporters write them, are compared without any option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_gconv import map_model, restore_model, simulate, verify
from onnx_gconv.errors import ConfigError
from onnx_gconv.verification.outputs import compare_outputs

MODELS = Path(__file__).parent.parent / "data" / "language_models"
SLIDING = MODELS / "genai_gemma2_sliding_fp32.onnx"
MIXTURE = MODELS / "torch_mixtral_gathernd_fp32.onnx"
NAMES = ["genai_gemma2_sliding_fp32", "genai_llama_headdim96_fp32", "mobius_llama_past_fp32"]


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """A model, and the same mapped."""
    original, mapped = MODELS / f"{request.param}.onnx", tmp_path_factory.mktemp("mapped") / "mapped.onnx"
    map_model(original, mapped)
    return original, mapped


def shapes(report):
    return {tensor.name: tensor.shape for tensor in report.inputs.tensors}


def test_all_outputs_are_compared_without_options(pair):
    report = verify(*pair)
    assert report.passed
    assert report.outputs.unproved is None
    outputs = [output.name for output in onnx.load(pair[0]).graph.output]
    assert [item.name for item in report.outputs.comparisons] == outputs * 2
    assert all(item.compared_elements for item in report.outputs.comparisons)
    found = shapes(report.outputs)
    assert found["input_ids"] == (1, 4)
    assert found["attention_mask"] == (1, 7)
    assert found["past_key_values.0.key"][2] in {3, 16}  # earlier tokens, or the window


def test_a_prompt_alone_is_enough(pair):
    report = verify(*pair, inputs={"input_ids": np.array([[1, 2, 3]])})
    assert report.passed
    found = shapes(report.outputs)
    assert found["input_ids"] == (1, 3)
    assert found["attention_mask"] == (1, 3)
    (note,) = (note for note in report.outputs.notes if "given inputs" in note)
    assert note.startswith("generated to go with the given inputs: 'attention_mask'")


def test_the_tokens_have_to_be_there(pair):
    with pytest.raises(ConfigError, match="given inputs: input 'input_ids' is missing"):
        verify(*pair, inputs={"attention_mask": np.ones((1, 3), np.int64)})


def test_a_cache_that_the_model_does_not_fill_is_no_difference():
    for _ in range(5):
        report = compare_outputs(SLIDING, SLIDING, inputs=None, dims={}, values={}, seed=0, mapped_weights=1)
        assert report.passed
        assert all(item.bit_identical for item in report.comparisons)
    assert (
        "144 of 256 elements of output 'present.0.key' are not compared: the original does not write them, and they "
        "hold what was in the memory before"
    ) in report.notes
    counts = {item.name: item.compared_elements for item in report.comparisons}
    assert counts["present.0.key"] == 256 - 144
    assert counts["present.1.key"] == 7 * 16


def test_an_error_in_what_the_model_does_fill_is_seen(tmp_path):
    model = onnx.load(SLIDING)
    (weight,) = (
        tensor for tensor in model.graph.initializer if tensor.name == "model.layers.0.attn.qkv_proj.MatMul.weight"
    )
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:, 32:48] *= 1.1  # the keys
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    report = compare_outputs(
        SLIDING, tmp_path / "other.onnx", inputs=None, dims={}, values={}, seed=0, mapped_weights=1
    )
    assert "present.0.key" in {item.name for item in report.comparisons if not item.passed}


@pytest.mark.parametrize("output", ["present.0.key", "logits"])
def test_simulation_does_not_count_it_either(output):
    report, again = (
        simulate(SLIDING, "gaussian", settings={"sigma_us": 0.1}, times="0s", repeats=1, output=output)
        for _ in range(2)
    )
    assert report.times[0].values == again.times[0].values
    assert any(
        note.startswith("144 of 256 elements of output 'present.0.key' are not compared") for note in report.notes
    )


def test_experts_that_an_export_of_pytorch_chooses_are_mapped(tmp_path):
    original, mapped, restored = MIXTURE, tmp_path / "mapped.onnx", tmp_path / "restored.onnx"
    report = map_model(original, mapped, {"name": "single-pair", "exact": True}, granularity="channel")
    assert report.mvm_share == 1
    graph = onnx.load(original).graph
    constants = {tensor.name for tensor in graph.initializer}
    chosen = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "GatherND"}
    operands = {name for node in graph.node if node.op_type in {"Gemm", "MatMul"} for name in node.input}
    assert {weight.name for weight in report.mapped} == {chosen.get(name, name) for name in operands} & constants
    experts = {weight.name: weight.consumers for weight in report.mapped if len(weight.shape) == 3}
    views = {name: consumers[0].matrix_view for name, consumers in experts.items()}
    assert {name: (view.matrices, view.rows, view.columns) for name, view in views.items()} == {
        "val_169": (4, 32, 128),
        "val_179": (4, 64, 32),
    }
    with np.load(MIXTURE.with_suffix(".npz")) as inputs:
        verified = verify(original, mapped, inputs=dict(inputs))
    assert verified.passed
    assert [item.optimization for item in verified.outputs.comparisons] == ["all", "none"]
    assert verify(original, mapped).passed
    settings, inputs = {"sigma_us": 0.1}, MIXTURE.with_suffix(".npz")
    simulated = simulate(mapped, "gaussian", settings=settings, times="0s", repeats=1, inputs=inputs)
    assert 10 < simulated.times[0].values[0] < 60  # dB
    restore_model(mapped, restored)
    before, after = (onnx.load(path).graph.initializer for path in (original, restored))
    assert {item.name: item.raw_data for item in before} == {item.name: item.raw_data for item in after}
