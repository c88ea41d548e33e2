"""Where the elements of a weight stand in its matrices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.schemes.matrix_layout import IncommensurableShapeError, MatrixLayout


def matrices(tensor, split_shape, matrix_axes, row_axes, column_axes, path=()):
    """The reference of docs/format.md: an array [matrices, rows, columns]."""
    for op, argument in path:
        tensor = tensor.transpose(argument) if op == "transpose" else tensor.reshape(argument)
    unrolled = tensor.reshape(split_shape).transpose([*matrix_axes, *row_axes, *column_axes])
    sizes = [math.prod(split_shape[axis] for axis in axes) for axes in (matrix_axes, row_axes, column_axes)]
    return unrolled.reshape(sizes)


@st.composite
def views(draw):
    """A shape, a way on which it is rearranged, and a view of the result."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    path, arrived = [], shape
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            permutation = tuple(draw(st.permutations(range(len(arrived)))))
            path.append(("transpose", permutation))
            arrived = tuple(arrived[axis] for axis in permutation)
        else:
            arrived = draw(st.sampled_from([arrived, (math.prod(arrived),), (*arrived, 1), merged(arrived)]))
            path.append(("reshape", arrived))
    split = arrived
    if draw(st.booleans()):  # groups
        axis = draw(st.integers(0, len(arrived) - 1))
        groups = draw(st.sampled_from([size for size in range(1, arrived[axis] + 1) if arrived[axis] % size == 0]))
        split = (*arrived[:axis], groups, arrived[axis] // groups, *arrived[axis + 1 :])
    axes = draw(st.permutations(range(len(split))))
    cuts = sorted((draw(st.integers(0, len(axes))), draw(st.integers(0, len(axes)))))
    return shape, path, split, axes[: cuts[0]], axes[cuts[0] : cuts[1]], axes[cuts[1] :]


def merged(shape):
    return (shape[0] * shape[1], *shape[2:]) if len(shape) > 1 else shape


@given(views(), st.data())
def test_every_element_stands_where_the_reference_puts_it(view, data):
    shape, path, split, matrix_axes, row_axes, column_axes = view
    size = math.prod(shape)
    try:
        layout = MatrixLayout.of(
            shape, path, split, matrix_axes=matrix_axes, row_axes=row_axes, column_axes=column_axes
        )
    except IncommensurableShapeError:
        return
    expected = matrices(np.arange(size).reshape(shape), split, matrix_axes, row_axes, column_axes, path)
    assert expected.shape == (layout.matrices, layout.rows, layout.columns)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, size))
    for role, indices in zip(("matrix", "row", "column"), np.indices(expected.shape), strict=True):
        by_element = np.empty(size, int)
        by_element[expected.reshape(-1)] = indices.reshape(-1)
        assert layout.index(role, start, stop).tolist() == by_element[start:stop].tolist()


def test_a_reshape_that_cuts_across_axes_is_refused():
    with pytest.raises(IncommensurableShapeError, match=r"\[3, 8\] cuts across the axes"):
        MatrixLayout.of((4, 6), [], (3, 8), matrix_axes=(), row_axes=(0,), column_axes=(1,))


@pytest.mark.parametrize(
    ("steps", "shape", "axes", "message"),
    [
        ([], (4, 5), ((), (0,), (1,)), r"the shape \[4, 5\] does not have the 24 elements of the weight"),
        ([], (-4, -6), ((), (0,), (1,)), r"the shape \[-4, -6\] does not have"),
        ([("reshape", (24, 0))], (4, 6), ((), (0,), (1,)), r"the shape \[24, 0\] does not have"),
        ([("transpose", (0, 0))], (4, 6), ((), (0,), (1,)), r"the axes \[0, 0\] are not each of 2 axes once"),
        ([], (4, 6), ((), (0,), ()), r"the axes \[0\] are not each of 2 axes once"),
        ([], (4, 6), ((1,), (0,), (1,)), r"the axes \[1, 0, 1\] are not each of 2 axes once"),
        ([], (4, 6), ((), (0,), (-1,)), r"the axes \[0, -1\] are not each of 2 axes once"),
    ],
)
def test_shapes_of_other_sizes_and_axes_that_are_not_named_once_are_refused(steps, shape, axes, message):
    matrices, rows, columns = axes
    with pytest.raises(ValueError, match=message):
        MatrixLayout.of((4, 6), steps, shape, matrix_axes=matrices, row_axes=rows, column_axes=columns)


def test_a_grouped_convolution_keeps_its_groups_apart():
    layout = MatrixLayout.of((8, 3, 2, 2), [], (2, 4, 3, 2, 2), matrix_axes=(0,), row_axes=(2, 3, 4), column_axes=(1,))
    assert (layout.matrices, layout.rows, layout.columns) == (2, 12, 4)
    assert layout.index("matrix", 0, 96).tolist() == [0] * 48 + [1] * 48
