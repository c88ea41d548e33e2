"""A matrix view holds all of a node that a crossbar has to know: computing with it alone gives the node's output."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
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


def spread(columns, shape, kernel, *, strides, pads):
    """What every input position of a transposed convolution adds to the output, from [images, positions..., taps]."""
    axes = len(kernel)
    output = np.zeros(shape, columns.dtype)
    columns = columns.reshape(*columns.shape[: 1 + axes], shape[1], *kernel)
    for position in np.ndindex(*columns.shape[1 : 1 + axes]):
        for tap in np.ndindex(*kernel):
            place = [p * s + t - pad for p, s, t, pad in zip(position, strides, tap, pads, strict=False)]
            if all(0 <= p < size for p, size in zip(place, shape[2:], strict=True)):
                output[(slice(None), slice(None), *place)] += columns[(slice(None), *position, slice(None), *tap)]
    return output


TRANSPOSED = {
    "1-D": {"x": (2, 3, 5), "w": (3, 4, 3)},
    "2-D": {"x": (2, 3, 4, 3), "w": (3, 4, 3, 2), "strides": (2, 1), "pads": (1, 0, 1, 0)},
    "3-D": {"x": (1, 2, 3, 2, 2), "w": (2, 3, 2, 1, 2)},
    "two groups": {"x": (2, 4, 3, 3), "w": (4, 3, 2, 2), "groups": 2, "strides": (2, 2)},
    "depthwise": {"x": (1, 3, 4, 4), "w": (3, 1, 2, 2), "groups": 3},
}


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_convolution(parse, run, normal, case):
    x, w, groups = normal(*case["x"]), normal(*case["w"], seed=1), case.get("groups", 1)
    axes = w.ndim - 2
    strides, pads = case.get("strides", (1,) * axes), case.get("pads", (0,) * 2 * axes)
    model = parse(
        f"g (float{list(x.shape)} x) => (float y) "
        f"{{ y = ConvTranspose <group = {groups}, strides = {list(strides)}, pads = {list(pads)}> (x, W) }}",
        W=w,
    )
    [expected] = run(model, x=x)
    view = view_of(model)
    assert (view.matrices, view.rows) == (groups, x.shape[1] // groups)
    shape = (x.shape[0], expected.shape[1] // groups, *expected.shape[2:])
    outputs = [
        spread(np.moveaxis(channels, 1, -1) @ crossbar, shape, w.shape[2:], strides=strides, pads=pads)
        for channels, crossbar in zip(np.split(x, groups, axis=1), matrices(w, view), strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("directions", [1, 2])
def test_plain_recurrent_net(parse, run, normal, directions):
    steps, inputs, hidden = 3, 4, 5
    x, w, r = normal(steps, 2, inputs), normal(directions, hidden, inputs, seed=1), normal(directions, hidden, hidden)
    direction = "bidirectional" if directions == 2 else "forward"
    model = parse(
        f"g (float[{steps},2,{inputs}] x) => (float y) "
        f'{{ y = RNN <hidden_size = {hidden}, direction = "{direction}"> (x, W, R) }}',
        W=w,
        R=r,
    )
    [expected] = run(model, x=x)
    crossbars = matrices(w, view_of(model)), matrices(r, view_of(model, "R"))
    for number, (for_inputs, for_state) in enumerate(zip(*crossbars, strict=True)):
        state, order = np.zeros((2, hidden), np.float32), range(steps) if number == 0 else reversed(range(steps))
        for step in order:
            state = np.tanh(x[step] @ for_inputs + state @ for_state)
            np.testing.assert_allclose(state, expected[step, number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_the_gates_of_a_recurrent_op_are_columns_side_by_side(parse, normal, op_type, gates):
    w, r = normal(2, gates * 5, 4), normal(2, gates * 5, 5)
    model = parse(
        f'g (float x) => (float y) {{ y = {op_type} <hidden_size = 5, direction = "bidirectional"> (x, W, R) }}',
        W=w,
        R=r,
    )
    for name, weight in (("W", w), ("R", r)):
        np.testing.assert_array_equal(matrices(weight, view_of(model, name)), weight.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("equation", "x_shape", "w_shape", "weight_first"),
    [
        ("ij,jk->ik", (2, 3), (3, 4), False),
        ("ij,kj->ik", (2, 3), (4, 3), False),
        ("bij,bjk->bik", (5, 2, 3), (5, 3, 4), False),
        ("bthd,hdk->btk", (2, 3, 4, 5), (4, 5, 6), False),
        ("kj,ij->ik", (2, 3), (4, 3), True),
        ("ij,jk", (2, 3), (3, 4), False),
        ("i j, h j k -> h i k", (2, 3), (5, 3, 4), False),
        ("ij,jkl->ilk", (2, 3), (3, 4, 5), False),
    ],
)
def test_einsum(parse, run, normal, equation, x_shape, w_shape, weight_first):
    x, w = normal(*x_shape), normal(*w_shape, seed=1)
    operands = "W, x" if weight_first else "x, W"
    model = parse(
        f'g (float{list(x_shape)} x) => (float y) {{ y = Einsum <equation = "{equation}"> ({operands}) }}', W=w
    )
    view = view_of(model)
    # Compute by the view: one product of matrices for each of the weight's matrices.
    terms, _, result = equation.replace(" ", "").partition("->")
    first, second = terms.split(",")
    label_x, label_w = (second, first) if weight_first else (first, second)
    result = result or "".join(sorted(c for c in set(first + second) if (first + second).count(c) == 1))
    matrix_labels = [label_w[axis] for axis in view.matrix_axes]
    row_labels = [label_w[axis] for axis in view.row_axes]
    column_labels = [label_w[axis] for axis in view.column_axes]
    shared = [label for label in matrix_labels if label in label_x]
    kept = [label for label in label_x if label not in row_labels and label not in shared]
    order = [label_x.index(label) for label in (*shared, *kept, *row_labels)]
    sizes = dict(zip(label_x, x.shape, strict=True)) | dict(zip(label_w, w.shape, strict=True))
    rows = x.transpose(order).reshape(-1 if shared else 1, int(np.prod([sizes[k] for k in kept])), view.rows)
    product = np.matmul(rows, matrices(w, view)).reshape([sizes[k] for k in (*matrix_labels, *kept, *column_labels)])
    labels = [*matrix_labels, *kept, *column_labels]
    output = product.transpose([labels.index(label) for label in result])
    np.testing.assert_allclose(output, run(model, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["...j,jk->...k", "...j,jk", "a...j,jk->a...k"])
def test_dots_of_an_einsum_stand_for_axes_of_the_activations(parse, run, normal, equation):
    x, w = normal(5, 2, 3), normal(3, 4, seed=1)
    model = parse(f'g (float[5,2,3] x) => (float y) {{ y = Einsum <equation = "{equation}"> (x, W) }}', W=w)
    view = view_of(model)
    assert (view.rows, view.columns, view.matrices) == (3, 4, 1)
    np.testing.assert_allclose(run(model, x=x)[0], x @ matrices(w, view)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("equation", ["ij,jk,kl->il", "j,...jk->...k", "ij,kl->il", "ij,jkk->i", "ij,jj->ij"])
def test_an_einsum_that_is_no_product_of_matrices_is_skipped(parse, normal, equation):
    shape = (3,) * (len(equation.split("->")[0].split(",")[1]))
    model = parse(
        f'g (float x, float z) => (float y) {{ y = Einsum <equation = "{equation}"> (x, W) }}', W=normal(*shape)
    )
    [skipped] = find_weights(model).skipped
    assert (skipped.name, skipped.reason) == ("W", "invalid_shape")


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("trans_batch", [0, 1])
@pytest.mark.parametrize("side", ["A", "B"])
def test_fused_matmul(parse, run, normal, side, trans_batch, trans):
    dense = normal(6, 3, 4, seed=1) if side == "B" else normal(6, 4, 3, seed=1)  # [batch, rows, columns] of the product
    w = dense.swapaxes(1, 2) if trans else dense
    w = np.moveaxis(w, 1, 0) if trans_batch else w
    x = normal(6, 2, 3) if side == "B" else normal(6, 3, 2)
    operands = "x, W" if side == "B" else "W, x"
    model = parse(
        f"g (float{list(x.shape)} x) => (float y) {{ y = com.microsoft.FusedMatMul "
        f"<alpha = 0.5, trans{side} = {trans}, transBatch{side} = {trans_batch}> ({operands}) }}",
        opsets='"" : 17, "com.microsoft" : 1',
        W=np.ascontiguousarray(w),
    )
    view = view_of(model)
    crossbars = matrices(w, view)
    product = x @ crossbars if side == "B" else (x.swapaxes(1, 2) @ crossbars).swapaxes(1, 2)
    np.testing.assert_allclose(view.factor * product, run(model, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("operands", "x_shape"), [("x, W", (2, 3)), ("W, x", (3, 2))])
def test_fused_matmul_with_a_vector(parse, run, normal, operands, x_shape):
    x, w = normal(*x_shape), normal(3, seed=1)
    text = f"g (float{list(x_shape)} x) => (float y) {{ y = com.microsoft.FusedMatMul <alpha = 0.5> ({operands}) }}"
    model = parse(text, opsets='"" : 17, "com.microsoft" : 1', W=w)
    view = view_of(model)
    [crossbar] = matrices(w, view)
    product = x @ crossbar if operands == "x, W" else (x.T @ crossbar).T
    np.testing.assert_allclose(view.factor * product.reshape(2), run(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_fused_gemm_and_fused_convolution_are_read_as_gemm_and_convolution(parse, normal):
    opsets = '"" : 17, "com.microsoft" : 1'
    gemm = parse(
        "g (float x) => (float y) { y = com.microsoft.FusedGemm <transB = 1> (x, W) }", opsets=opsets, W=normal(4, 3)
    )
    assert view_of(gemm) == MatrixView(3, 4, 1, (4, 3), (), (1,), (0,))
    conv = parse(
        "g (float x) => (float y) { y = com.microsoft.FusedConv <group = 2> (x, W) }",
        opsets=opsets,
        W=normal(6, 2, 3, 5),
    )
    assert view_of(conv) == MatrixView(30, 3, 2, (2, 3, 2, 3, 5), (0,), (2, 3, 4), (1,))


def test_fused_attention(parse, run, normal):
    x, w, bias = normal(2, 3, 8), normal(8, 24, seed=1), normal(24)
    model = parse(
        "g (float[2,3,8] x) => (float y) { y = com.microsoft.Attention <num_heads = 2> (x, W, B) }",
        opsets='"" : 17, "com.microsoft" : 1',
        W=w,
        B=bias,
    )
    projected = x @ matrices(w, view_of(model))[0] + bias
    query, key, value = (part.reshape(2, 3, 2, 4).swapaxes(1, 2) for part in np.split(projected, 3, axis=-1))
    scores = query @ key.swapaxes(2, 3) / 2.0
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    output = (weights / weights.sum(-1, keepdims=True)) @ value
    np.testing.assert_allclose(output.swapaxes(1, 2).reshape(2, 3, 8), run(model, x=x)[0], rtol=1e-3, atol=1e-4)


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
        ("ConvTranspose <group = 3> (x, W)", (4, 2, 3)),
        ("LSTM (x, W)", (8, 3)),
        ("LSTM (x, W)", (1, 2, 4, 3)),
        ("com.microsoft.Attention (x, W)", (2, 3, 4)),
        ("com.microsoft.DynamicQuantizeLSTM (x, W)", (3, 8)),
        ("com.microsoft.MoE (x, r, W)", (6, 4)),
        ("Gather <axis = 2> (W, x)", (3, 4)),
        ("Gather <axis = -3> (W, x)", (3, 4)),
    ],
)
def test_a_weight_whose_shape_does_not_fit_its_op_is_skipped(parse, normal, node, shape):
    opsets = '"" : 17, "com.microsoft" : 1'
    model = parse(f"g (float x, float r) => (float y) {{ y = {node} }}", opsets=opsets, W=normal(*shape))
    survey = find_weights(model, lookups=["Gather"])
    assert survey.weights == ()
    [skipped] = survey.skipped
    assert (skipped.name, skipped.reason, skipped.is_mvm) == ("W", "invalid_shape", True)
    assert skipped.detail == f"{list(shape)} for {node.split()[0].removeprefix('com.microsoft.')}"


def test_mixture_of_experts(parse, run, normal):
    x, router = normal(3, 4), normal(3, 2, seed=1)
    inner, outer = normal(2, 6, 4, seed=2), normal(2, 4, 6, seed=3)
    model = parse(
        """g (float[3,4] x, float[3,2] router) => (float[3,4] y) {
            y = com.microsoft.MoE <k = 1, activation_type = "relu"> (x, router, A, , B)
        }""",
        opsets='"" : 17, "com.microsoft" : 1',
        A=inner,
        B=outer,
    )
    first, second = matrices(inner, view_of(model, "A")), matrices(outer, view_of(model, "B"))
    chosen = router.argmax(axis=1)
    share = np.exp(router).max(axis=1) / np.exp(router).sum(axis=1)
    output = [
        share[row] * np.maximum(token @ first[expert], 0) @ second[expert]
        for row, (token, expert) in enumerate(zip(x, chosen, strict=True))
    ]
    [expected] = run(model, x=x, router=router)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_a_quantized_recurrent_op_has_its_weights_the_other_way_round(parse, run, normal):
    rng = np.random.default_rng(0)
    codes = {"W": rng.integers(-128, 128, (1, 3, 8), np.int8), "R": rng.integers(-128, 128, (1, 2, 8), np.int8)}
    quantized = parse(
        """g (float[5,1,3] x) => (float[5,1,1,2] y) {
            y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> (x, W, R, , , , , , s, z, s, z)
        }""",
        opsets='"" : 17, "com.microsoft" : 1',
        s=np.array([0.01], np.float32),
        z=np.zeros(1, np.int8),
        **codes,
    )
    plain = parse(
        "g (float[5,1,3] x) => (float[5,1,1,2] y) { y = LSTM <hidden_size = 2> (x, W, R) }",
        **{name: np.float32(0.01) * array.transpose(0, 2, 1).astype(np.float32) for name, array in codes.items()},
    )
    x = normal(5, 1, 3)
    np.testing.assert_allclose(run(quantized, x=x)[0], run(plain, x=x)[0], atol=0.02)
    for name, array in codes.items():
        ours, theirs = view_of(quantized, name), view_of(plain, name)
        of_plain = plain.graph.initializers[name].const_value.numpy()
        np.testing.assert_allclose(0.01 * matrices(array, ours), matrices(of_plain, theirs), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("PackedAttention (x, W)", ["W"]),
        ("LongformerAttention (x, W, b, m, V)", ["W", "V"]),
        ("DecoderAttention (x, x, W, V)", ["W", "V"]),
        ("DecoderMaskedSelfAttention (x, W)", ["W"]),
        ("TransposeMatMul (x, W)", ["W"]),
        ("GemmFastGelu (x, W)", ["W"]),
        ("GemmFloat8 (x, W)", ["W"]),
    ],
)
def test_ops_for_other_processors_are_known(parse, normal, call, names):
    model = parse(
        f"g (float[2,4] x) => (float y) {{ y = com.microsoft.{call} }}",
        opsets='"" : 17, "com.microsoft" : 1',
        W=normal(4, 12),
        V=normal(4, 12, seed=1),
        b=normal(12),
        m=normal(2),
    )
    views = {item.name: item.consumers[0].view for item in find_weights(model).weights}
    assert list(views) == names
    assert {(view.rows, view.columns) for view in views.values()} == {(4, 12)}


def test_every_row_of_the_table_is_filed_under_its_own_domain_and_op():
    for (domain, op_type), row in MVM_OPS.items():
        assert (row.domain, row.op_type) == (domain, op_type)
        assert row.slots
        for slot in row.slots:
            assert slot.index != slot.activation


@pytest.mark.parametrize("alpha", ["inf", "nan"])
@pytest.mark.parametrize("op", ["Gemm", "com.microsoft.FusedMatMul"])
def test_a_product_with_a_factor_that_is_not_finite_is_skipped_with_it(parse, normal, op, alpha):
    opsets = '"" : 17, "com.microsoft" : 1'
    model = parse(
        f"g (float[2,4] x) => (float[2,3] y) {{ y = {op} <alpha = 2.0> (x, W) }}", opsets=opsets, W=normal(4, 3)
    )
    [node] = model.graph
    node.attributes["alpha"] = ir.AttrFloat32("alpha", float(alpha))
    survey = find_weights(model)
    assert survey.weights == ()
    [skipped] = [item for item in survey.skipped if item.is_mvm]
    assert (skipped.name, skipped.reason, skipped.detail) == (
        "W",
        "behind_other_nodes",
        f"it is multiplied by alpha = {alpha}",
    )
