"""Experts of a layer are one line of a table, and each one a line where all are asked for, and in JSON."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_gconv.handoff import write_bundle
from onnx_gconv.operations.operations import inspect_model, map_model
from onnx_gconv.verification import verify
from tests.graphs import model, tensors, value

COUNT = 6


@pytest.fixture
def mixture(tmp_path):
    """A model of experts and one other weight, with an expert that is not finite if asked for."""

    def make(kind, broken=None):
        arrays = np.random.default_rng(0).normal(size=(COUNT, 4, 4)).astype(np.float32)
        if broken is not None:
            arrays[broken, 0, 0] = np.nan
        names = [f"layers.3.mlp.experts.{number}.up_proj.weight" for number in range(COUNT)]
        weights = dict(zip(names, arrays, strict=True))
        nodes = []
        if kind == "stack":
            weights = {"layers.3.mlp.up": arrays} | {f"i{number}": np.array(number) for number in range(COUNT)}
            names = [f"w{number}" for number in range(COUNT)]
            nodes = [helper.make_node("Gather", ["layers.3.mlp.up", f"i{n}"], [name]) for n, name in enumerate(names)]
        nodes += [helper.make_node("MatMul", ["x", name], [f"y{n}"], f"mm{n}") for n, name in enumerate(names)]
        nodes += [helper.make_node("Sum", [f"y{number}" for number in range(COUNT)], ["s"], "sum")]
        nodes += [helper.make_node("MatMul", ["s", "head"], ["y"], "head_node")]
        proto = model(
            nodes,
            [value("x", shape=["n", 4])],
            [value("y", shape=["n", 4])],
            tensors(weights | {"head": arrays[0] + 1}),
        )
        onnx.save(proto, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return make


@pytest.mark.parametrize(
    ("kind", "name", "remark"),
    [("names", "layers.3.mlp.experts.*.up_proj.weight", "6 experts"), ("stack", "layers.3.mlp.up[*]", "6 matrices")],
)
def test_experts_are_one_line_that_opens(mixture, tmp_path, kind, name, remark):
    path = mixture(kind)
    mapped = tmp_path / "g.onnx"
    reports = [
        map_model(path, mapped),
        inspect_model(mapped),
        verify(path, mapped),
        write_bundle(mapped, tmp_path / "out", (4, 4)),
    ]
    for report in reports:
        text, opened = str(report), str(replace(report, is_verbose=True))
        assert text.count(name) == text.count(remark) == 1
        assert "head" in text
        assert name not in opened
        first, last = ("experts.0.up", "experts.5.up") if kind == "names" else ("w0", "w5")
        for each in (first, last):  # whole words: folders of tests may end in gw0
            assert re.search(rf"\b{each}", opened)
            assert not re.search(rf"\b{each}", text)
    assert "MatMul 6 x 4x4" in str(reports[0])
    found = [reports[0].to_json()["mapped"], reports[2].to_json()["weights"], reports[3].to_json()["layers"]]
    assert [len(items) for items in found] == [COUNT + 1] * 3


def test_a_line_has_the_range_of_the_scales(mixture, tmp_path):
    report = map_model(mixture("names"), tmp_path / "g.onnx")
    scales = [weight.scale.value for weight in report.mapped if "experts" in weight.name]
    assert f"{min(scales):.4g} to {max(scales):.4g}" in str(report)


def test_an_expert_that_is_refused_stands_beside_the_others(mixture):
    text = str(inspect_model(mixture("names", broken=4)))
    assert "5 experts" in text
    assert re.search(r"layers\.3\.mlp\.experts\.4\.up_proj\.wei", text)


def test_few_parts_of_a_constant_are_lines_of_their_own(tmp_path):
    names = ["q", "k", "v"]
    nodes = [helper.make_node("Split", ["qkv", "sizes"], names, axis=1)]
    nodes += [helper.make_node("MatMul", ["x", name], [f"y_{name}"]) for name in names]
    weights = {"qkv": np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32), "sizes": np.array([4, 4, 4])}
    outputs = [value(f"y_{name}", shape=["n", 4]) for name in names]
    onnx.save(model(nodes, [value("x", shape=["n", 4])], outputs, tensors(weights)), tmp_path / "m.onnx")
    assert "[*]" not in str(map_model(tmp_path / "m.onnx", tmp_path / "g.onnx"))
