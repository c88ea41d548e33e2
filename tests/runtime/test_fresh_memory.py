"""Elements that a model never writes: found by what memory was filled with, and by nothing else."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest

from onnx_gconv.runtime.fresh_memory import FILLS, filled_memory, unwritten_elements, without


def of_bytes(fill, dtype, shape=(2, 3)):
    dtype = np.dtype(dtype)
    return np.frombuffer(bytes([fill]) * (dtype.itemsize * int(np.prod(shape))), dtype).reshape(shape).copy()


def test_new_memory_holds_the_fill_while_it_is_asked_for_and_not_afterwards():
    size = 1 << 16
    with filled_memory(FILLS[0]):
        memory = np.empty(size, np.uint8)
        assert set(memory.tolist()) <= {FILLS[0], FILLS[0] ^ 0xFF}
        del memory
    assert ctypes.CDLL(None).mallopt(-6, 0) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint8, ml_dtypes.bfloat16])
@pytest.mark.parametrize("complement", [0, 0xFF])
def test_an_element_that_holds_both_fills_was_not_written(dtype, complement):
    first, second = (of_bytes(fill ^ complement, dtype) for fill in FILLS)
    first[0, 1] = second[0, 1] = 1
    found = unwritten_elements(first, second)
    assert found is not None
    assert found.tolist() == [[True, False, True], [True, True, True]]


def test_an_element_that_holds_one_fill_in_both_runs_was_written():
    first = of_bytes(FILLS[0], np.float32)
    assert unwritten_elements(first, first) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, np.zeros(2)),
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.array(["a"], object), np.array(["b"], object)),
    ],
)
def test_other_outputs_have_no_such_elements(first, second):
    assert unwritten_elements(first, second) is None


def test_what_was_not_written_is_zero_afterwards():
    output = np.array([1.0, 2.0])
    assert without(output, np.array([True, False])).tolist() == [0, 2]
    assert output.tolist() == [1, 2]
    assert without(output, None) is output
    assert without(output, np.array([True])) is output
