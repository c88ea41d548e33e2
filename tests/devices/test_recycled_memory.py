"""Memory that is used again: never while anybody can still see what is in it."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.devices import recycled_memory
from onnx_gconv.devices.recycled_memory import LARGEST, empty


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(recycled_memory, "_kept", recycled_memory._Kept())


def place(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_refers_to_is_used_again():
    first = empty(LARGEST)
    where = place(first)
    del first
    assert place(empty(LARGEST - 5)) == where


@pytest.mark.parametrize(
    "kept",
    [
        lambda array: array,
        lambda array: array[7:9],
        lambda array: array[1:].reshape(-1, 1)[3:],
        lambda array: array.view(np.uint32),
        memoryview,
        lambda array: {"of somebody": [array]},
        lambda array: np.ndarray(4, np.float32, buffer=array.data),
    ],
)
def test_memory_that_anything_refers_to_is_not(kept):
    first = empty(LARGEST)
    where, other = place(first), kept(first)
    del first
    assert place(empty(LARGEST)) != where
    del other
    assert where in {place(each) for each in [empty(LARGEST), empty(LARGEST)]}


@given(st.lists(st.tuples(st.integers(1, LARGEST + 9), st.booleans()), max_size=30))
def test_no_two_arrays_that_are_alive_share_memory(wanted):
    alive = []
    for number, (size, stays) in enumerate(wanted):
        array = empty(size)
        assert array.shape == (size,)
        assert array.dtype == np.float32
        array[:] = number
        if stays:
            alive.append((number, array))
        for each, values in alive:
            assert (values == each).all()


def test_small_and_large_arrays_keep_no_memory():
    for size in (0, 1, LARGEST // 2, LARGEST + 1):
        empty(size)
    assert recycled_memory._kept.memory._pieces == []


def test_a_thread_keeps_few_arrays_however_many_are_asked_for():
    alive = [empty(LARGEST) for _ in range(20)]
    assert len({place(each) for each in alive}) == 20
    assert len(recycled_memory._kept.memory._pieces) == recycled_memory._MOST


def test_threads_share_none():
    here, there = empty(LARGEST), []
    del here
    thread = threading.Thread(target=lambda: there.append(empty(LARGEST)))
    where = place(empty(LARGEST))
    thread.start()
    thread.join()
    assert place(there[0]) != where
