"""The options of the command line that say which kinds of weights are mapped."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

EMBEDDED = "g (int64[5] tokens) => (float[5,4] y) { x = Gather(table, tokens) [head] y = MatMul(x, W) }"
DEQUANTIZED = """g (float[2,3] x) => (float[2,5] y) {
    v = DequantizeLinear(V, scale)
    a = MatMul(x, v)
    y = MatMul(a, W)
}"""


@pytest.fixture
def embedded(parse, normal, tmp_path):
    ir.save(parse(EMBEDDED, table=normal(11, 6), W=normal(6, 4)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def dequantized(parse, normal, tmp_path):
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    ir.save(parse(DEQUANTIZED, V=codes, scale=np.float32(0.5), W=normal(4, 5)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def mapped(found):
    assert found.code == 0, found.stderr
    return sorted(item["name"] for item in found.json["mapped"])


@pytest.mark.parametrize("command", ["map", "inspect"])
def test_tables_of_embeddings_are_mapped_if_their_op_is_included(gconv, embedded, command):
    assert mapped(gconv(command, embedded, "--include-op", "Gather", "--json")) == ["W", "table"]


@pytest.mark.parametrize("command", ["map", "inspect"])
def test_tables_of_embeddings_are_not_mapped_else(gconv, embedded, command):
    assert mapped(gconv(command, embedded, "--json")) == ["W"]


@pytest.mark.parametrize("command", ["map", "inspect"])
def test_quantized_weights_are_mapped(gconv, dequantized, command):
    assert mapped(gconv(command, dequantized, "--json")) == ["V", "W"]


@pytest.mark.parametrize("command", ["map", "inspect"])
def test_quantized_weights_are_listed_if_they_are_to_be_left_alone(gconv, dequantized, command):
    found = gconv(command, dequantized, "--quantized", "skip", "--json")
    assert mapped(found) == ["W"]
    assert [(item["name"], item["reason"]) for item in found.json["skipped"]] == [("V", "quantized")]


def test_a_way_to_treat_quantized_weights_that_there_is_not_is_bad_usage(gconv, dequantized):
    found = gconv("map", dequantized, "--quantized", "sometimes")
    assert found.code == 2
    assert "--quantized" in found.stderr
    assert "skip" in found.stderr
