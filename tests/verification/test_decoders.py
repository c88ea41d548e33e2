"""Language models with caches, as exporters write them, are compared without any option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv import map_model, restore_model, simulate, verify
from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.prompts import TokenIds
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


def test_token_ids_are_a_prompt_whose_logits_are_compared_position_by_position(pair):
    with pytest.raises(ConfigError, match="token ids are inputs, too"):
        verify(*pair, token_ids=[1], inputs={"input_ids": np.array([[1]])})
    report = verify(*pair, token_ids=[7, 5, 3])
    assert report.passed
    found = shapes(report.outputs)
    assert (found["input_ids"], found["attention_mask"]) == ((1, 3), (1, 3))
    assert report.outputs.inputs.source == "token ids"
    logits = [item for item in report.outputs.comparisons if item.name == "logits"]
    for item in logits:
        assert [each.position for each in item.positions] == [0, 1, 2]
        assert max(each.max_abs_error for each in item.positions) == item.max_abs_error
        assert np.mean([each.argmax_agreement for each in item.positions]) == item.argmax_agreement == 1
    assert all(not item.positions for item in report.outputs.comparisons if item.name != "logits")
    told = "'logits' at optimization 'all': the largest score is the same one at 3 of 3 positions, and at the last one"
    assert told in " ".join(str(report).split())
    listed = next(item for item in report.to_json()["outputs"] if item["name"] == "logits")
    assert listed["positions"][2]["argmax_agreement"] == 1


def test_where_the_largest_scores_differ_is_said(parse, tmp_path):
    """Scores are the rows of a table; the other table has another largest one for the last token."""
    table = np.eye(4, dtype=np.float32)
    for name, rows in (("in", table), ("other", np.concatenate([table[:3], table[:1]]))):
        model = parse(
            "g (int64[1,S] input_ids) => (float[1,S,4] logits) { logits = Gather(table, input_ids) }", table=rows
        )
        ir.save(model, tmp_path / f"{name}.onnx")
    report = compare_outputs(
        tmp_path / "in.onnx",
        tmp_path / "other.onnx",
        inputs=TokenIds.of([1, 2, 3]),
        dims={},
        values={},
        seed=0,
        mapped_weights=0,
    )
    assert [item.argmax_agreement for item in report.comparisons[0].positions] == [1, 1, 0]
    assert next(iter(report.of_positions())) == (
        "'logits' at optimization 'all': the largest score is the same one at 2 of 3 positions, and not at the last one"
    )


@pytest.fixture
def without_cache(parse, normal, tmp_path):
    """A model of tokens, a mask and types of tokens, without a cache; and the same mapped."""
    model = parse(
        """g (int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids) => (float[B,S,6] logits) {
            rows = Gather(table, input_ids)
            kinds = Gather(types, token_type_ids)
            weight = Cast <to = 1> (attention_mask)
            axes = Constant <value_ints = [2]> ()
            column = Unsqueeze(weight, axes)
            there = Mul(rows, column)
            hidden = Add(there, kinds)
            logits = MatMul(hidden, W)
        }""",
        table=normal(20, 8),
        types=np.array([[0.0] * 8, [1000.0] * 8], np.float32),
        W=normal(8, 6, seed=1),
    )
    ir.save(model, tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    return tmp_path / "in.onnx", tmp_path / "out.onnx"


def test_a_prompt_is_completed_without_caches_too(without_cache):
    report = verify(*without_cache, token_ids=[1, 2, 3])
    assert report.passed
    assert shapes(report.outputs) == dict.fromkeys(["input_ids", "attention_mask", "token_type_ids"], (1, 3))
    (output, _) = report.outputs.comparisons
    assert output.relative_error < 1e-5
    report = verify(*without_cache, inputs={"input_ids": np.array([[1, 2], [3, 4]])})
    assert shapes(report.outputs)["token_type_ids"] == (2, 2)


def test_models_without_tokens_take_no_token_ids(parse, normal, tmp_path):
    ir.save(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4)), tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    with pytest.raises(ConfigError) as caught:
        verify(tmp_path / "in.onnx", tmp_path / "out.onnx", token_ids=[1])
    assert str(caught.value) == "token ids: the model takes no token ids, such as 'input_ids' does; it has x"


def test_both_branches_of_a_merged_decoder_run_with_and_without_earlier_tokens(parse, normal, tmp_path):
    """As Optimum merges two decoders: without a cache, one branch reads tokens alone, the other one the cache, too."""
    model = parse(
        """g (int64[B,S] input_ids, float[B,2,P,4] past_key, bool[1] use_cache_branch)
            => (float[B,S,8] logits, float[B,2,T,4] present_key) {
            rows = Gather(table, input_ids)
            logits, present_key = If (use_cache_branch) <
                then_branch = later () => (float[B,S,8] a, float[B,2,T,4] k) {
                    kept = ReduceMax <keepdims = 0> (past_key)
                    moved = Add(rows, kept)
                    a = MatMul(moved, W)
                    k = Concat <axis = 2> (past_key, past_key)
                },
                else_branch = first () => (float[B,S,8] b, float[B,2,T,4] l) {
                    b = MatMul(rows, W)
                    l = Identity(past_key)
                }
            >
        }""",
        table=normal(20, 8),
        W=normal(8, 8, seed=1),
    )
    ir.save(model, tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    report = verify(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert report.passed
    assert report.if_nodes == ()
    found = {(item.name, item.case): item.shape for item in report.outputs.comparisons}
    assert found == {
        ("logits", None): (1, 4, 8),
        ("present_key", None): (1, 2, 6, 4),
        ("logits", "use_cache_branch=False"): (1, 4, 8),
        ("present_key", "use_cache_branch=False"): (1, 2, 0, 4),
    }
    report = verify(tmp_path / "in.onnx", tmp_path / "out.onnx", token_ids=[1, 2])
    assert {item.case for item in report.outputs.comparisons} == {None, "use_cache_branch=True"}


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


def test_chips_run_on_a_prompt(tmp_path):
    model = MODELS / "mobius_llama_past_fp32.onnx"
    how = {"device": "gaussian", "settings": {"sigma_us": 1.0}, "times": "0s", "repeats": 2}
    report = simulate(model, token_ids=[7, 5, 3], metric="agreement@last", **how)
    assert report.inputs == "token ids"
    assert report.ideal == 1
    assert any(note.startswith("generated to go with the given inputs: 'attention_mask'") for note in report.notes)
    prompts = np.random.default_rng(0).integers(0, 256, (3, 4))
    np.savez(tmp_path / "prompts.npz", input_ids=prompts)
    alone = simulate(model, inputs=tmp_path / "prompts.npz", batch=2, **how)
    caches = {
        f"past_key_values.{layer}.{part}": np.zeros((3, 1, 0, 16), np.float32)
        for layer in range(2)
        for part in ("key", "value")
    }
    positions = np.broadcast_to(np.arange(4), (3, 4))
    names = {spec.name for spec in onnx.load(model).graph.input}
    whole = {"input_ids": prompts, "attention_mask": np.ones((3, 4), np.int64), "position_ids": positions, **caches}
    np.savez(tmp_path / "whole.npz", **{name: array for name, array in whole.items() if name in names})
    assert simulate(model, inputs=tmp_path / "whole.npz", batch=2, **how).times == alone.times
    assert alone.samples == 3


def test_a_metric_at_a_position_is_that_of_the_logits_there(without_cache, tmp_path):
    _, model = without_cache
    how = {"device": "gaussian", "settings": {"sigma_us": 1.0}, "times": "0s", "repeats": 1, "token_ids": [7, 5, 3]}
    whole, *parts = (
        simulate(model, metric=name, **how).times[0].values[0]
        for name in ("cosine", "cosine@0", "cosine@1", "cosine@last")
    )
    assert np.isclose(np.mean(parts), whole, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"the output 'logits' has the shape \[1, 3, 6\], with 3 positions"):
        simulate(model, metric="cosine@3", **how)
    with pytest.raises(ConfigError, match=r"token ids are inputs, too"):
        simulate(model, inputs=tmp_path / "any.npz", **how)
