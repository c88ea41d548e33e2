"""Parts of weights and adapters on the command line."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.graphs import model, tensors, value


@pytest.fixture
def source(tmp_path):
    """Two outputs of a product that a Split takes apart, and a matrix of LoRA behind them."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"], "first"),
        helper.make_node("Split", ["p"], ["a", "b"], "split", axis=-1),
        helper.make_node("Add", ["a", "b"], ["s"], "sum"),
        helper.make_node("MatMul", ["s", "q.lora_A.weight"], ["y"], "second"),
    ]
    weights = {"W": np.arange(1, 25, dtype=np.float32).reshape(4, 6), "q.lora_A.weight": np.ones((3, 2), np.float32)}
    onnx.save(
        model(nodes, [value("x", shape=[2, 4])], [value("y", shape=[2, 2])], tensors(weights)), tmp_path / "m.onnx"
    )
    return tmp_path / "m.onnx"


def test_options(source, gconv):
    def mapped(*options):
        return gconv("inspect", source, "--json", *options).json["mapped"]

    [weight] = mapped()
    assert weight["parts"] == [{"name": "part0", "columns": 3}, {"name": "part1", "columns": 3}]
    assert weight["scale_range"] == [pytest.approx(25 / 24), pytest.approx(25 / 21)]
    assert "parts" not in mapped("--parts", "none")[0]
    assert [part["columns"] for part in mapped("--parts", "1,2,3")[0]["parts"]] == [1, 2, 3]
    assert [item["name"] for item in mapped("--include-adapters")] == ["W", "q.lora_A.weight"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("4,4", "--parts: the parts 4 + 4 have 8 outputs, but the weight 'W' of first (MatMul) has 6"),
        ("3,x", "--parts is a list of numbers of outputs such as 2048,512,512, auto or none, but not '3,x'"),
        ("6", '--parts: should be "auto", "none" or a list of two or more numbers of outputs, but it is [6]'),
    ],
)
def test_wrong_parts_are_one_line(source, gconv, parts, message):
    ended = gconv("map", source, "--parts", parts)
    assert (ended.code, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
