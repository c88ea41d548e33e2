"""Mapped models of all kinds of ops, written as bundles: fixtures of the tests of crossbars and of the hand-off."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme


def graph(node, x, **weights):
    return f"g (float{list(x)} x) => (float y) {{ {node} }}", weights


def weight(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


OPS = {
    "MatMul": graph("y = MatMul(x, W)", (2, 13), W=weight(13, 10)),
    "MatMul of a batch": graph("y = MatMul(x, W)", (3, 2, 13), W=weight(3, 13, 10)),
    "MatMul of a transposed weight": graph(
        "t = Transpose <perm = [1, 0]> (W) y = MatMul(x, t)", (2, 13), W=weight(10, 13)
    ),
    "Gemm": graph("y = Gemm <alpha = 0.5> (x, W, c)", (2, 13), W=weight(13, 10), c=weight(10, seed=5)),
    "Gemm transB": graph("y = Gemm <transB = 1> (x, W)", (2, 13), W=weight(10, 13)),
    "one output": graph("y = MatMul(x, W)", (2, 13), W=weight(13, 1)),
    "Conv": graph("y = Conv(x, W, c)", (1, 3, 6, 6), W=weight(7, 3, 3, 2), c=weight(7, seed=5)),
    "Conv of a kernel in another order": graph(
        "t = Transpose <perm = [3, 2, 0, 1]> (W) y = Conv(x, t)", (1, 3, 6, 6), W=weight(3, 2, 3, 7)
    ),
    "grouped Conv": graph("y = Conv <group = 3> (x, W)", (1, 6, 6, 6), W=weight(9, 2, 3, 2)),
    "depthwise Conv": graph("y = Conv <group = 6> (x, W)", (1, 6, 6, 6), W=weight(6, 1, 3, 2)),
    "ConvTranspose": graph("y = ConvTranspose(x, W)", (1, 7, 4, 4), W=weight(7, 4, 3, 2)),
    "grouped ConvTranspose": graph("y = ConvTranspose <group = 3> (x, W)", (1, 6, 4, 4), W=weight(6, 5, 3, 2)),
    "LSTM": graph(
        """y, h = LSTM <hidden_size = 3, direction = "bidirectional"> (x, W, R)""",
        (4, 1, 5),
        W=weight(2, 12, 5),
        R=weight(2, 12, 3, seed=1),
    ),
}  # fmt: skip


def mapped_file(parse, folder, op, *, scheme=None, external_data=None, opsets='"" : 17'):
    text, weights = OPS[op]
    model = parse(text, opsets=opsets, **weights)
    save_model(model, folder / "plain-source.onnx")
    model = load_model(folder / "plain-source.onnx")
    chosen = scheme or MappingScheme(converters.SinglePairConductanceConverter(), Granularity())
    assert MapConductances(scheme=chosen)(model).modified
    save_model(model, folder / "model.gconv.onnx", external_data=external_data)
    return folder / "model.gconv.onnx"


@pytest.fixture(scope="session")
def ops():
    return OPS


@pytest.fixture
def mapped(parse, tmp_path):
    """Writes a mapped model of an op."""

    def make(op="Gemm", **options):
        return mapped_file(parse, tmp_path, op, **options)

    return make


@pytest.fixture
def handed_off(mapped, tmp_path):
    """Writes the bundle of an op, and opens it."""
    opened = []

    def make(op="Gemm", array=(5, 4), *, scheme=None, external_data=None, opsets='"" : 17', **options):
        source = mapped(op, scheme=scheme, external_data=external_data, opsets=opsets)
        write_bundle(source, tmp_path / "model.gconv", array, overwrite=True, **options)
        opened.append(open_bundle(tmp_path / "model.gconv"))
        return opened[-1]

    yield make
    for bundle in opened:
        bundle.close()
