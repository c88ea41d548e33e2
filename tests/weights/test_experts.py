"""Stacks from which nodes choose matrices while the model runs: each matrix is a weight of its own, as ORT uses it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.passes import MapConductances, RestoreWeights
from onnx_gconv.weights import find_weights
from tests.conftest import random_array

OPSETS = '"" : 18'
STACK = random_array(3, 4, 5)
INPUTS = "float[2,4] x, float[6,4] z, int64 i, int64[1] j, int64[2] s, int64[2,3] p, int64[2,1] c, int64[2,2] d"
FEEDS = {
    "x": random_array(2, 4, seed=1),
    "z": random_array(6, 4, seed=2),
    "i": np.array(2),
    "j": np.array([1]),
    "s": np.array([2, 0]),
    "p": np.array([[0, 2, 1], [1, 1, 2]]),
    "c": np.array([[2], [1]]),
    "d": np.array([[1, 0], [0, 2]]),
}


@dataclass(frozen=True)
class Case:
    """Nodes that multiply with matrices of the stack Q.

    Attributes:
        nodes: They compute y.
        product: What y is, from the matrices [matrices, rows, columns].
        stack: Q; the matrices are those of `STACK` if nothing else is said.
        constants: Other initializers.
        known: What the model says of the shapes of values.
    """

    nodes: str
    product: object
    stack: np.ndarray = field(default_factory=lambda: STACK)
    constants: dict = field(default_factory=dict)
    known: str = ""

    def model(self, parse):
        small = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
        text = f"g ({INPUTS}) => (float y) <{self.known}> {{ {self.nodes} }}"
        return parse(text, opsets=OPSETS, **small, **self.constants, Q=self.stack)


def each(m, indices, x=FEEDS["x"]):
    """One row of x and one matrix each."""
    return np.stack([row @ m[index] for row, index in zip(x, indices, strict=True)])


x, s, p = FEEDS["x"], FEEDS["s"], FEEDS["p"]
SCAN = "b (float[2,4] a, float[4,5] w) => (float[2,4] o, float[2,5] v) { o = Identity(a) v = MatMul(a, w) }"
LOOP = """b (int64 k, bool t, float[2,4] a) => (bool e, float[2,4] o, float[2,5] v) {
    e = Identity(t) o = Identity(a) w = Gather(Q, k) v = MatMul(a, w) }"""
ROWS = "u = Unsqueeze(x, one)"

CASES = {
    "one index": Case("w = Gather(Q, i) y = MatMul(x, w)", lambda m: x @ m[2]),
    "an index for each row": Case(f"w = Gather(Q, s) {ROWS} y = MatMul(u, w)", lambda m: each(m, s)[:, None]),
    "several for each row": Case(
        'w = Gather(Q, p) y = Einsum <equation = "bi,bkio->bko"> (x, w)',
        lambda m: np.stack([each(m, column) for column in p.T], axis=1),
    ),
    "summed over experts": Case(
        "w = Gather(Q, p) u = Unsqueeze(x, one) v = Concat <axis = 1> (u, u, u) "
        'y = Einsum <equation = "bki,bkio->bo"> (v, w)',
        lambda m: sum(each(m, column) for column in p.T),
    ),
    "GatherND": Case(
        "w = GatherND(Q, c) u = Unsqueeze(x, two) v = MatMul(w, u) y = Squeeze(v, two)",
        lambda m: each(m, [2, 1]),
        STACK.transpose(0, 2, 1),
    ),
    "GatherND of two axes": Case(
        f"w = GatherND(Q, d) {ROWS} y = MatMul(u, w)", lambda m: each(m, [3, 2])[:, None], random_array(2, 3, 4, 5)
    ),
    "GatherND in a batch": Case(
        f"w = GatherND <batch_dims = 1> (Q, c) {ROWS} y = MatMul(u, w)",
        lambda m: each(m, [4, 3])[:, None],
        random_array(2, 3, 4, 5),
    ),
    "the middle axis": Case(
        "w = Gather <axis = 1> (Q, i) y = MatMul(x, w)", lambda m: x @ m[2], STACK.transpose(1, 0, 2)
    ),
    "the last axis": Case(
        "w = Gather <axis = -1> (Q, i) y = MatMul(x, w)", lambda m: x @ m[2], STACK.transpose(1, 2, 0)
    ),
    "turned afterwards": Case(
        f"g = Gather(Q, s) w = Transpose <perm = [0, 2, 1]> (g) {ROWS} y = MatMul(u, w)",
        lambda m: each(m, s)[:, None],
        STACK.transpose(0, 2, 1),
    ),
    "turned before": Case(
        "g = Transpose <perm = [1, 2, 0]> (Q) w = Gather(g, i) y = MatMul(x, w)",
        lambda m: x @ m[2],
        STACK.transpose(2, 0, 1),
    ),
    "squeezed to a Gemm": Case(
        "g = Gather(Q, j) w = Squeeze(g, zero) y = Gemm <transB = 1> (x, w)",
        lambda m: x @ m[1],
        STACK.transpose(0, 2, 1),
    ),
    "reshaped": Case(
        f"g = Gather(Q, s) w = Reshape(g, shape) {ROWS} y = MatMul(u, w)",
        lambda m: each(m, s)[:, None],
        STACK.reshape(3, 20),
        {"shape": np.array([-1, 4, 5])},
    ),
    "a shape that the model computes": Case(
        f"g = Gather(Q, s) n = Shape(x) m = Slice(n, zero, one) h = Concat <axis = 0> (m, shape) "
        f"w = Reshape(g, h) {ROWS} y = MatMul(u, w)",
        lambda m: each(m, s)[:, None],
        STACK.reshape(3, 20),
        {"shape": np.array([4, 5])},
        "float[rows,4,5] w",
    ),
    "parts of what is chosen": Case(
        "w = Gather(Q, i) a, b = Split <axis = 1> (w, sizes) u = MatMul(x, b) v = MatMul(x, a) "
        "y = Concat <axis = 1> (u, v)",
        lambda m: np.concatenate([x @ m[2][:, 2:], x @ m[2][:, :2]], axis=1),
        constants={"sizes": np.array([2, 3])},
    ),
    "a scan": Case(
        f"t, y = Scan <num_scan_inputs = 1, body = {SCAN}> (x, Q)", lambda m: np.stack([x @ each for each in m])
    ),
    "a scan along another axis": Case(
        f"t, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], body = {SCAN}> (x, Q)",
        lambda m: np.stack([x @ each for each in m]),
        STACK.transpose(1, 0, 2),
    ),
    "a loop that counts": Case(
        f"t, y = Loop <body = {LOOP}> (three, yes, x)",
        lambda m: np.stack([x @ each for each in m]),
        constants={"three": np.int64(3), "yes": np.True_},
    ),
    "a stack of stacks": Case(
        "g = Gather(Q, i) w = Gather(g, i) y = MatMul(x, w)", lambda m: x @ m[8], random_array(3, 3, 4, 5)
    ),
    "codes that are dequantized before": Case(
        "g = DequantizeLinear <axis = 2> (Q, scale) w = Gather(g, i) y = MatMul(x, w)",
        lambda m: x @ (m[2] * np.float32([0.1, 0.2, 0.3, 0.4, 0.5])),
        (STACK * 40).astype(np.int8),
        {"scale": np.float32([0.1, 0.2, 0.3, 0.4, 0.5])},
    ),
    "codes that are dequantized afterwards": Case(
        "g = Gather(Q, s) v = Cast <to = 1> (g) w = Mul(v, scale) u = Unsqueeze(x, one) y = MatMul(u, w)",
        lambda m: each(m, s)[:, None] * np.float32(0.1),
        (STACK * 40).astype(np.int8),
        {"scale": np.float32(0.1)},
    ),
    "half precision": Case(
        "g = Gather(Q, i) w = Cast <to = 1> (g) y = MatMul(x, w)",
        lambda m: x @ m[2],
        STACK.astype(np.float16),
    ),
    "a part of a stack": Case(
        "a, b = Split <axis = 2> (Q, sizes) w = Gather(a, i) y = MatMul(x, w)",
        lambda m: x @ m[2][:, :2],
        constants={"sizes": np.array([2, 3])},
    ),
}


def matrices_of(weight, consumer):
    """The matrices of a weight, by the words of docs/format.md."""
    array = weight.tensor.numpy()
    for step in consumer.path:
        array = array.transpose(step.argument) if step.op == "transpose" else array.reshape(step.argument)
    view = consumer.view
    split = array.reshape(view.split_shape).transpose((*view.matrix_axes, *view.row_axes, *view.column_axes))
    return split.reshape(view.matrices, view.rows, view.columns).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_each_matrix_is_one_that_onnx_runtime_multiplies_with(parse, run, name):
    case = CASES[name]
    model, original = case.model(parse), case.model(parse)
    survey = find_weights(model)
    weight = next(item for item in survey.weights if item.name == "Q" or "Q" in item.sources)
    consumer = next(item for item in weight.consumers if item.is_mvm)
    matrices = matrices_of(weight, consumer)
    [expected] = run(model, **FEEDS)
    np.testing.assert_allclose(case.product(matrices), expected, rtol=1e-4, atol=1e-5)
    assert not [item.name for item in survey.skipped if item.is_mvm]
    MapConductances(SinglePairConductanceConverter(exact=True), granularity="channel")(model)
    for optimization in ("all", "none"):
        np.testing.assert_array_equal(*run(model, optimization, **FEEDS), *run(original, optimization, **FEEDS))
    RestoreWeights()(model)
    if weight.name == "Q":
        assert model.graph.initializers["Q"].const_value.tobytes() == case.stack.tobytes()


def test_kernels_that_an_index_chooses_are_matrices_of_kernels(parse):
    text = "g (float[1,4,8] x, int64 i) => (float y) { w = Gather(Q, i) y = Conv(x, w) }"
    [weight] = find_weights(parse(text, opsets=OPSETS, Q=random_array(3, 5, 4, 2))).weights
    [consumer] = weight.consumers
    np.testing.assert_array_equal(matrices_of(weight, consumer), weight.tensor.numpy().reshape(3, 5, 8).swapaxes(1, 2))


NO_MATRICES = "no whole matrices are chosen"


@pytest.mark.parametrize(
    ("nodes", "stack", "why"),
    [
        ("w = Gather(Q, s) u = MatMul(w, x)", (6, 2), NO_MATRICES),  # rows of one matrix
        ("w = Gather <axis = 1> (Q, s) u = MatMul(x, w)", (4, 6), NO_MATRICES),
        ("w = Gather <axis = 1> (Q, s) u = MatMul(w, x)", (1, 6, 2), NO_MATRICES),  # of a table of positions
        ("w = Gather <axis = 1> (Q, s) u = Conv(x, w)", (6, 4, 3), NO_MATRICES),  # channels
        ("g = Gather(Q, s) w = Flatten <axis = 2> (g) u = MatMul(x, w)", (3, 4, 5), "Flatten of axes of indices"),
        ("g = Gather(Q, s) w = Reshape(g, m) u = MatMul(x, w)", (3, 4, 5), "a reshape to [4, 10] of chosen matrices"),
        ("g = Gather(Q, s) w = Squeeze(g) u = MatMul(x, w)", (3, 4, 5), "Squeeze of all axes of size 1"),
        (
            "g = Gather(Q, s) a, b = Split <axis = 1> (g, two) w = Reshape(a, m) u = MatMul(x, w)",
            (3, 4, 5),
            "Reshape of a part of what was chosen",
        ),
        (
            "k = NonZero(x) w = Gather(Q, k) u = MatMul(x, w)",
            (3, 4, 5),
            "the model does not say how many axes the indices of '' have",
        ),
        ("w = GatherND(Q, n) u = MatMul(x, w)", (3, 4, 5), "the model does not say by how many indices '' chooses"),
        ("g = Gather(R, i) w = Gather(Q, i) u = MatMul(g, w)", (3, 4, 5), None),  # two weights, and no activation
    ],
)
def test_what_is_no_stack_of_matrices_is_listed_with_the_reason(parse, nodes, stack, why):
    text = f"g (float[2,4] x, int64 i, int64[2] s, int64[rows,n] n) => (float y) {{ {nodes} y = Relu(u) }}"
    constants = {"m": np.array([4, 10]), "two": np.array([2, 2]), "R": random_array(3, 2, 4)}
    survey = find_weights(parse(text, opsets=OPSETS, Q=random_array(*stack), **constants))
    assert not survey.weights
    [item] = [item for item in survey.skipped if item.name == "Q"]
    assert (str(item.reason), item.is_mvm) == ("chosen_at_run_time", True)
    assert (why or "through Gather to MatMul[1]") in item.detail


def test_a_computed_stack_that_is_none_of_matrices_is_listed_with_the_reason(parse):
    text = "g (float[2,4] x, int64[2] s) => (float y) { h = Add(Q, k) w = Gather(h, s) y = MatMul(w, x) }"
    [item] = find_weights(parse(text, opsets=OPSETS, Q=random_array(6, 2), k=np.float32(1))).skipped
    assert (item.name, item.shape, str(item.reason)) == ("h", (6, 2), "chosen_at_run_time")
    assert item.detail == f"Add of Q: {NO_MATRICES}"


def test_a_lookup_that_chooses_for_a_product_is_no_table(parse):
    text = "g (float[2,4] x, int64 i) => (float y) { w = Gather(Q, i) y = MatMul(x, w) }"
    [weight] = find_weights(parse(text, opsets=OPSETS, Q=STACK), lookups=["Gather"]).weights
    assert [item.node.op_type for item in weight.consumers] == ["MatMul"]
