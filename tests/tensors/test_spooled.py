"""Tensors in a temporary file are what they were when they were computed."""

from __future__ import annotations

import errno
import os

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.tensors import spooled
from onnx_gconv.tensors.spooled import Spool, SpooledTensor
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor

SIZE = 2 * CHUNK_ELEMENTS + 17


class Counted(StreamedTensor):
    """A tensor that counts how often its elements are computed."""

    def __init__(self, array):
        super().__init__(ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape), "W")
        self.array, self.computed = array.reshape(-1), 0

    def chunks(self, start=0, stop=None):
        stop = self.size if stop is None else stop
        for first in range(start, stop, CHUNK_ELEMENTS):
            chunk = self.array[first : min(first + CHUNK_ELEMENTS, stop)]
            self.computed += chunk.size
            yield chunk


def numbers(dtype=np.float32, size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_elements_are_computed_once(tmp_path, dtype):
    tensors = [Counted(numbers(dtype, seed=seed).reshape(1, -1)) for seed in range(3)]
    with Spool(tmp_path) as spool:
        kept = [spool.kept(tensor) for tensor in tensors]
        for _ in range(3):
            for each, tensor in zip(kept, tensors, strict=True):
                assert each.numpy().tobytes() == tensor.array.tobytes()
                assert (each.dtype, each.shape, each.name) == (tensor.dtype, tensor.shape, "W")
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files, too
    assert [tensor.computed for tensor in tensors] == [SIZE] * 3


@given(data=st.data())
def test_any_part_is_the_same_before_and_after(tmp_path_factory, data):
    start = data.draw(st.integers(0, SIZE - 1))
    stop = data.draw(st.integers(start + 1, SIZE))
    tensor = Counted(numbers())
    with Spool(tmp_path_factory.getbasetemp()) as spool:
        kept = spool.kept(tensor)
        for _ in range(2):
            parts = [chunk.copy() for chunk in kept.chunks(start, stop)]
            assert np.array_equal(np.concatenate(parts), tensor.array[start:stop])
            kept.numpy()


def test_what_somebody_else_computes_is_kept(tmp_path):
    tensor, others = Counted(numbers()), numbers(seed=1)
    both = ((others[:1], chunk) for chunk in (tensor.array[:5], tensor.array[5:]))
    with Spool(tmp_path) as spool:
        kept = spool.kept(tensor)
        assert kept.group is None
        assert [first.size for first, _ in kept.storing(both)] == [1, 1]
        assert np.array_equal(kept.numpy(), tensor.array)
        group, index = kept.group
        memory = np.empty(CHUNK_ELEMENTS, np.float32)
        parts = [chunks[index].copy() for chunks in group.chunks(3, SIZE, lambda: [memory])]
        assert np.array_equal(np.concatenate(parts), tensor.array[3:])
        assert group.dtypes == (np.float32,)
    assert tensor.computed == 0


def test_a_reader_that_stops_early_leaves_the_tensor_to_be_computed(tmp_path):
    tensor = Counted(numbers())
    with Spool(tmp_path) as spool:
        kept = spool.kept(tensor)
        next(kept.chunks())
        assert np.array_equal(kept.numpy(), tensor.array)
        assert np.array_equal(kept.numpy(), tensor.array)
    assert tensor.computed == CHUNK_ELEMENTS + SIZE


def test_without_room_on_the_disk_tensors_are_computed_each_time(tmp_path, monkeypatch):
    tensor, write, calls = Counted(numbers()), os.pwrite, []

    def full(file, content, place):
        calls.append(place)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content, place)

    monkeypatch.setattr(spooled.os, "pwrite", full)
    with Spool(tmp_path) as spool:
        kept = spool.kept(tensor)
        for _ in range(2):
            assert np.array_equal(kept.numpy(), tensor.array)
    assert tensor.computed == 2 * SIZE


def test_where_no_file_can_be_made_tensors_are_computed_each_time(tmp_path):
    tensor = Counted(numbers())
    with Spool(tmp_path / "missing") as spool:
        assert spool.kept(tensor) is tensor


def test_the_sources_are_those_of_the_tensor(tmp_path):
    class Of(Counted):
        sources = ("source",)

    with Spool(tmp_path) as spool:
        kept = spool.kept(Of(numbers(size=3)))
        assert isinstance(kept, SpooledTensor)
        assert kept.sources == ("source",)
