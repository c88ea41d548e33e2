"""The options of `map` and `inspect` for models that are older, have inputs with defaults, or use local functions."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.models import model_path

WITH_INPUT = "g (float[2,3] x, float[3,4] W) => (float[2,4] y) { y = MatMul(x, W) }"
WITH_FUNCTION = """g (float[1,2] x) => (float[1,2] y) { y = local.dense(x) }
<domain: "local", opset_import: ["" : 17]>
dense (v) => (r) { K = Constant <value = float[2,2] {1, 2, 3, 4}> () r = MatMul(v, K) }"""


@pytest.fixture
def write(tmp_path, serialized):
    def to_file(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(serialized(model))
        return path

    return to_file


def names(document):
    return [item["name"] for item in document["mapped"]]


def test_freeze_inputs_maps_weights_that_are_graph_inputs(gconv, parse, normal, write):
    path = write(parse(WITH_INPUT, W=normal(3, 4)))
    assert "--freeze-inputs" in gconv("inspect", path).stdout
    refused = gconv("map", path)
    assert (refused.code, refused.stdout) == (2, "")
    assert "has no weight that can be mapped" in refused.stderr
    found = gconv("map", path, "--freeze-inputs", "--json")
    assert names(found.json) == names(gconv("inspect", path, "--freeze-inputs", "--json").json) == ["W"]
    assert found.json["notes"] == ["constants now, no graph inputs that a caller may replace: 'W'"]


def test_functions_are_inlined_unless_no_inline_is_given(gconv, parse, write):
    path = write(parse(WITH_FUNCTION, opsets='"" : 17, "local" : 1'))
    shown = gconv("inspect", path).stdout
    assert "Note: inlined the functions that use weights: local.dense." in shown
    assert names(gconv("map", path, "--json").json) == ["K"]
    left = gconv("inspect", path, "--no-inline", "--json").json
    assert [(item["name"], item["reason"]) for item in left["skipped"]] == [("K", "inside_function")]
    assert gconv("map", path, "--no-inline").code == 2


def test_upgrade_opset_maps_models_that_are_too_old(gconv, parse, normal, write):
    path = write(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", opsets='"" : 6', W=normal(3, 4)))
    for command in ("map", "inspect"):
        refused = gconv(command, path)
        assert (refused.code, refused.stdout) == (2, "")
        assert "model.onnx': the model has opset 6" in refused.stderr
        assert "--upgrade-opset" in refused.stderr
    found = gconv("map", path, "--upgrade-opset", "--json")
    assert found.json["notes"] == ["the opset is 7, raised from 6 with onnx.version_converter"]
    assert gconv("verify", path, path.with_name("model.gconv.onnx")).code == 0


def test_an_opset_that_cannot_be_raised_is_one_line_on_stderr(gconv, parse, normal, write):
    text = "g (float[2,3] x) => (float y) { h = MatMul(x, W) y = Unknown(h) }"
    failed = gconv("map", write(parse(text, opsets='"" : 6', W=normal(3, 4))), "--upgrade-opset")
    assert (failed.code, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert "onnx.version_converter cannot raise the model from opset 6 to 7" in failed.stderr


def test_the_options_change_nothing_where_there_is_nothing_to_do(gconv, tmp_path):
    outputs = tmp_path / "without.onnx", tmp_path / "with.onnx"
    for output, options in zip(outputs, ([], ["--freeze-inputs", "--upgrade-opset", "--no-inline"]), strict=True):
        assert gconv("map", model_path("digits_cnn.onnx"), "-o", output, *options).code == 0
    assert np.array_equal(*(np.frombuffer(output.read_bytes(), np.uint8) for output in outputs))
