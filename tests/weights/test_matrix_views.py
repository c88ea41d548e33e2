"""A matrix view holds all of a node that a crossbar has to know: computing with it alone gives the node's output."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.weights import MVM_OPS, MatrixView, find_weights


def matrices(weight, view):
    """The matrices of a weight, as [matrices, rows, columns], by the words of `MatrixView` alone."""
    split = weight.reshape(view.split_shape)
    unrolled = split.transpose((*view.matrix_axes, *view.row_axes, *view.column_axes))
    return unrolled.reshape(view.matrices, view.rows, view.columns)


def view_of(model, weight="W"):
    """The matrix view of the only consumer of a weight."""
    [found] = [item for item in find_weights(model).weights if item.name == weight]
    [consumer] = found.consumers
    return consumer.view


def patches(x, kernel, *, strides, pads, dilations):
    """The inputs of every position of a convolution: [images, positions..., channels, kernel...]."""
    axes = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, stride) for stride in strides)
    taps = tuple(slice(None, None, dilation) for dilation in dilations)
    return np.moveaxis(windows[(slice(None), slice(None), *steps, *taps)], 1, 1 + axes)


class TestMatMul:
    @pytest.mark.parametrize(
        ("x_shape", "w_shape"),
        [
            ((2, 3), (3, 4)),
            ((3,), (3, 4)),
            ((5, 2, 3), (3, 4)),
            ((5, 2, 3), (5, 3, 4)),
            ((6, 5, 2, 3), (6, 5, 3, 4)),
            ((2, 3), (5, 3, 4)),
        ],
    )
    def test_on_the_right(self, parse, run, normal, x_shape, w_shape):
        x, w = normal(*x_shape), normal(*w_shape, seed=1)
        model = parse(f"g (float{list(x_shape)} x) => (float y) {{ y = MatMul(x, W) }}", W=w)
        view = view_of(model)
        if view.matrices == 1:
            output = x @ matrices(w, view)[0]
        else:
            stack = np.broadcast_to(x, (*w_shape[:-2], *x.shape[-2:])).reshape(view.matrices, *x.shape[-2:])
            output = [rows @ crossbar for rows, crossbar in zip(stack, matrices(w, view), strict=True)]
        [expected] = run(model, x=x)
        np.testing.assert_allclose(np.reshape(output, expected.shape), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("w_shape", "x_shape"),
        [((4, 3), (3, 2)), ((4, 3), (3,)), ((5, 4, 3), (5, 3, 2)), ((6, 5, 4, 3), (6, 5, 3, 2)), ((5, 4, 3), (3, 2))],
    )
    def test_on_the_left(self, parse, run, normal, w_shape, x_shape):
        x, w = normal(*x_shape), normal(*w_shape, seed=1)
        model = parse(f"g (float{list(x_shape)} x) => (float y) {{ y = MatMul(W, x) }}", W=w)
        view = view_of(model)
        columns = x.reshape(x_shape if len(x_shape) > 1 else (*x_shape, 1))
        columns = np.broadcast_to(columns, (*w_shape[:-2], *columns.shape[-2:])).reshape(-1, *columns.shape[-2:])
        outputs = [(x.T @ crossbar).T for x, crossbar in zip(columns, matrices(w, view), strict=True)]
        [expected] = run(model, x=x)
        np.testing.assert_allclose(np.reshape(outputs, expected.shape), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("inputs", "x_shape"), [("x, W", (2, 3)), ("W, x", (3, 2))])
    def test_with_a_vector_as_one_column(self, parse, run, normal, inputs, x_shape):
        x, w = normal(*x_shape), normal(3, seed=1)
        model = parse(f"g (float{list(x_shape)} x) => (float[2] y) {{ y = MatMul({inputs}) }}", W=w)
        view = view_of(model)
        assert (view.rows, view.columns, view.column_axes) == (3, 1, ())
        rows = x if inputs == "x, W" else x.T
        np.testing.assert_allclose((rows @ matrices(w, view)[0])[:, 0], run(model, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, -2.5])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
class TestGemm:
    def test_on_the_right(self, parse, run, normal, *, trans_b, trans_a, alpha):
        x, w, bias = normal(*((3, 2) if trans_a else (2, 3))), normal(*((4, 3) if trans_b else (3, 4))), normal(4)
        model = parse(
            f"g (float{list(x.shape)} x) => (float[2,4] y) "
            f"{{ y = Gemm <alpha = {alpha}, transA = {trans_a}, transB = {trans_b}> (x, W, C) }}",
            W=w,
            C=bias,
        )
        view = view_of(model)
        rows = x.T if trans_a else x
        output = view.factor * (rows @ matrices(w, view)[0]) + bias
        np.testing.assert_allclose(output, run(model, x=x)[0], rtol=1e-4, atol=1e-5)

    def test_on_the_left(self, parse, run, normal, *, trans_b, trans_a, alpha):
        x, w = normal(*((2, 3) if trans_b else (3, 2))), normal(*((3, 4) if trans_a else (4, 3)))
        model = parse(
            f"g (float{list(x.shape)} x) => (float[4,2] y) "
            f"{{ y = Gemm <alpha = {alpha}, transA = {trans_a}, transB = {trans_b}> (W, x) }}",
            W=w,
        )
        view = view_of(model)
        rows = x if trans_b else x.T
        output = (view.factor * (rows @ matrices(w, view)[0])).T
        np.testing.assert_allclose(output, run(model, x=x)[0], rtol=1e-4, atol=1e-5)


CONVOLUTIONS = {
    "1-D": {"x": (2, 3, 9), "w": (4, 3, 3)},
    "2-D": {"x": (2, 3, 7, 6), "w": (4, 3, 3, 2)},
    "3-D": {"x": (2, 2, 5, 4, 6), "w": (3, 2, 2, 3, 2)},
    "pointwise": {"x": (1, 5, 4, 4), "w": (7, 5, 1, 1)},
    "strides, pads and dilations": {
        "x": (1, 2, 9, 8),
        "w": (3, 2, 3, 2),
        "strides": (2, 1),
        "pads": (1, 0, 2, 1),
        "dilations": (1, 2),
    },
    "two groups": {"x": (2, 4, 6, 6), "w": (6, 2, 3, 3), "groups": 2},
    "three groups, 1-D": {"x": (2, 6, 8), "w": (9, 2, 3), "groups": 3},
    "depthwise": {"x": (2, 4, 6, 6), "w": (4, 1, 3, 3), "groups": 4},
    "depthwise with two outputs a channel": {"x": (2, 3, 6, 6), "w": (6, 1, 3, 3), "groups": 3},
}


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(parse, run, normal, case):
    x, w = normal(*case["x"]), normal(*case["w"], seed=1)
    axes = w.ndim - 2
    options = {
        "strides": case.get("strides", (1,) * axes),
        "pads": case.get("pads", (0,) * 2 * axes),
        "dilations": case.get("dilations", (1,) * axes),
    }
    attributes = ", ".join(f"{name} = {list(value)}" for name, value in options.items())
    model = parse(
        f"""g (float{list(x.shape)} x) => (float y) {{
            y = Conv <group = {case.get("groups", 1)}, {attributes}> (x, W)
        }}""",
        W=w,
    )
    view = view_of(model)
    outputs = []
    for channels, crossbar in zip(np.split(x, view.matrices, axis=1), matrices(w, view), strict=True):
        inputs = patches(channels, w.shape[2:], **options)
        outputs.append(inputs.reshape(*inputs.shape[: 1 + axes], view.rows) @ crossbar)
    output = np.moveaxis(np.concatenate(outputs, axis=-1), -1, 1)
    np.testing.assert_allclose(output, run(model, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "shape", "expected"),
    [
        ("MatMul(x, W)", (3, 4), MatrixView(3, 4, 1, (3, 4), (), (0,), (1,))),
        ("MatMul(W, x)", (4, 3), MatrixView(3, 4, 1, (4, 3), (), (1,), (0,))),
        ("MatMul(x, W)", (5, 6, 3, 4), MatrixView(3, 4, 30, (5, 6, 3, 4), (0, 1), (2,), (3,))),
        ("Gemm <transB = 1, alpha = 0.5> (x, W)", (4, 3), MatrixView(3, 4, 1, (4, 3), (), (1,), (0,), factor=0.5)),
        ("Conv (x, W)", (6, 4, 3, 5), MatrixView(60, 6, 1, (6, 4, 3, 5), (), (1, 2, 3), (0,))),
        ("Conv <group = 2> (x, W)", (6, 2, 3, 5), MatrixView(30, 3, 2, (2, 3, 2, 3, 5), (0,), (2, 3, 4), (1,))),
    ],
)
def test_a_view_counts_rows_columns_and_matrices(parse, normal, node, shape, expected):
    assert view_of(parse(f"g (float x) => (float y) {{ y = {node} }}", W=normal(*shape))) == expected


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        ("Gemm (x, W)", (3,)),
        ("Gemm (W, x)", ()),
        ("MatMul (x, W)", ()),
        ("MatMul (W, x)", ()),
        ("Conv <group = 0> (x, W)", (4, 2, 3)),
        ("Conv <group = 3> (x, W)", (4, 2, 3)),
        ("Conv (x, W)", (4,)),
    ],
)
def test_a_weight_whose_shape_does_not_fit_its_op_is_skipped(parse, normal, node, shape):
    survey = find_weights(parse(f"g (float x) => (float y) {{ y = {node} }}", W=normal(*shape)))
    assert survey.weights == ()
    [skipped] = survey.skipped
    assert (skipped.name, skipped.reason, skipped.is_mvm) == ("W", "invalid_shape", True)
    assert skipped.detail == f"{list(shape)} for {node.split()[0]}"


def test_every_row_of_the_table_is_filed_under_its_own_domain_and_op():
    for (domain, op_type), row in MVM_OPS.items():
        assert (row.domain, row.op_type) == (domain, op_type)
        assert row.slots
        for slot in row.slots:
            assert slot.index != slot.activation
