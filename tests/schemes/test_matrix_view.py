"""A matrix view, and the record of it in the manifest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.mapping import MatrixViewRecord, RearrangementRecord
from onnx_gconv.schemes.matrix_view import MatrixView


@st.composite
def views(draw):
    """Views with each axis of a shape in one of three places."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    places = draw(st.lists(st.sampled_from(range(3)), min_size=len(shape), max_size=len(shape)))
    order = draw(st.permutations(range(len(shape))))
    axes = [[axis for axis in order if places[axis] == place] for place in range(3)]
    return MatrixView.of_axes(
        shape,
        matrix_axes=axes[0],
        row_axes=axes[1],
        column_axes=axes[2],
        factor=draw(st.floats(-8, 8)),
        columns_per_channel=draw(st.integers(1, 9)),
    )


@given(views())
def test_a_record_gives_back_the_view_that_it_is_made_of(view):
    record = MatrixViewRecord.of(view)
    assert record.view == view
    assert MatrixViewRecord.model_validate_json(record.model_dump_json()) == record
    assert list(record.model_dump()) == list(vars(view))


@given(views())
def test_a_layout_stands_every_element_where_reshape_and_transpose_put_it(view):
    shape = view.split_shape
    stored = np.arange(np.prod(shape))
    axes = (*view.matrix_axes, *view.row_axes, *view.column_axes)
    expected = stored.reshape(shape).transpose(axes).reshape(view.matrices, view.rows, view.columns)
    layout = view.layout(shape, [])
    matrix, row, column = (layout.index(role, 0, stored.size) for role in ("matrix", "row", "column"))
    np.testing.assert_array_equal(expected[matrix, row, column], stored)
    assert MatrixViewRecord.of(view).layout(shape, ()) == layout


def test_a_layout_follows_the_way_of_the_weight():
    view = MatrixView.of_axes((6, 4), row_axes=(0,), column_axes=(1,))
    path = (RearrangementRecord(op="transpose", argument=(1, 0)),)
    np.testing.assert_array_equal(view.layout((4, 6), path).index("row", 0, 24), np.tile(np.arange(6), 4))
