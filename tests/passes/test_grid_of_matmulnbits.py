"""MatMulNBits in all its forms: ONNX Runtime decodes what conductances stand for, and computes the same when mapped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import MapConductances
from tests.packed_models import Points, matmul_model, quantized


@dataclass(frozen=True)
class Form:
    """A form of the op.

    Attributes:
        bits: Of a code.
        block: Inputs of a block.
        points: How zero points are given.
        inputs: Inputs of the matrix, which need not fill blocks.
        dtype: The type of activations and scales.
        accuracy_level: What the op may compute with: 0 and 1 for float32, 2 for float16, 4 for int8.
    """

    bits: int
    block: int
    points: Points
    inputs: int
    dtype: type
    accuracy_level: int

    def __str__(self) -> str:
        dtype = np.dtype(self.dtype).name
        return f"{self.bits}bits-{self.block}-{self.points}-{self.inputs}-{dtype}-{self.accuracy_level}"


GRID = [
    Form(*values)
    for values in itertools.product(
        (2, 4, 8),
        (16, 32, 64, 128, 256),
        ("none", "packed", "float"),
        (33, 64, 97, 256),
        (np.float32, np.float16),
        (0, 1, 2, 3, 4),
    )
    if values[:3:2] != (8, "float")  # which ONNX Runtime has no kernel for
]

SAMPLE = GRID[::53]  # a number that has no factor in common with those of the axes of the grid


def session(model: onnx.ModelProto, *, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimized:  # prepacked weights, which mapped ones cannot be, are computed with in another way
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def decoded(weight: Any, dtype: type) -> np.ndarray:
    """The weight that the op multiplies with, [inputs, outputs], as docs of the op have it."""
    scales = weight.scale_of_each.astype(np.float32)
    return (weight.numbers.astype(np.float32) * scales).astype(dtype).T


def check(form: Form) -> None:
    """Map a matrix of a form, and compare what ONNX Runtime computes with both."""
    weight = quantized(
        7,
        form.inputs,
        bits=form.bits,
        block=form.block,
        points=form.points,
        dtype=form.dtype,
        seed=form.bits + form.block + form.inputs,
    )
    model = matmul_model(weight, accuracy_level=form.accuracy_level)
    mapped = ir.from_proto(model)
    MapConductances()(mapped)
    [record] = read_manifest(mapped).weights
    assert locate(record, ModelValues(mapped)).stored.numpy().tobytes() == weight.stored.tobytes()

    of_mapped = ir.to_proto(mapped)
    identity = np.eye(form.inputs, dtype=form.dtype)
    x = np.random.default_rng(1).normal(size=(3, form.inputs)).astype(form.dtype)
    for optimized in (True, False):
        ours, theirs = (session(item, optimized=optimized) for item in (of_mapped, model))
        for feeds in ({"x": identity}, {"x": x}):
            expected = theirs.run(None, feeds)[0]
            np.testing.assert_array_equal(ours.run(None, feeds)[0], expected, strict=True)
        if form.accuracy_level in {0, 1} and form.points != "float":  # whose products are rounded one by one
            np.testing.assert_array_equal(theirs.run(None, {"x": identity})[0], decoded(weight, form.dtype))


@pytest.mark.parametrize("form", SAMPLE, ids=str)
def test_a_mapped_matrix_computes_what_the_packed_one_does(form):
    check(form)


@pytest.mark.release
def test_all_forms():
    for form in GRID:
        check(form)
