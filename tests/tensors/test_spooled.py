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

from onnx_gconv.files.data_file import write_data_file
from onnx_gconv.tensors import spooled
from onnx_gconv.tensors.spooled import Spool, SpooledTensor, become_file
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


@pytest.fixture
def stored(tmp_path):
    """Three tensors in one spool, of which two have been read."""
    with Spool(tmp_path) as spool:
        kept = [spool.kept(Counted(numbers(seed=seed, size=SIZE - seed))) for seed in range(3)]
        for each in kept[:2]:
            each.numpy()
        yield kept


def test_the_temporary_file_becomes_the_data_file(tmp_path, stored):
    arrays = [each.numpy() for each in stored]
    few = ir.tensor(np.arange(5, dtype=np.float32))
    path = tmp_path / "data"
    tensors, done = [stored[2], few, stored[0], stored[1]], []
    offsets = write_data_file(path, tensors, done.append)
    stored_bytes = 4 * (3 * SIZE - 3)
    assert offsets == [4 * (2 * SIZE - 1), stored_bytes, 0, 4 * SIZE]
    assert path.read_bytes() == np.concatenate([*arrays, np.arange(5, dtype=np.float32)]).tobytes()
    assert done == [0, stored_bytes + 20]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert path.stat().st_nlink == 1


def test_a_file_with_other_tensors_is_copied(tmp_path, stored):
    path = tmp_path / "data"
    assert become_file(path, stored) == {}  # one is not stored
    stored[2].numpy()
    assert become_file(path, stored[:2]) == {}  # one is not wanted
    with Spool(tmp_path) as other:
        elsewhere = other.kept(Counted(numbers()))
        elsewhere.numpy()
        assert become_file(path, [*stored, elsewhere]) == {}
    assert not path.exists()
    assert write_data_file(path, stored[1:], lambda _: None) == [0, 4 * (SIZE - 1)]
    assert path.read_bytes() == np.concatenate([each.numpy() for each in stored[1:]]).tobytes()


@pytest.mark.parametrize("missing", ["O_TMPFILE", "link", "little"])
def test_where_a_temporary_file_cannot_be_named_it_is_copied(tmp_path, monkeypatch, missing):
    opened = os.open

    def refuse(*arguments, **_):
        if missing == "link" or arguments[1] & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(*arguments)

    if missing != "little":
        monkeypatch.setattr(os, "open" if missing == "O_TMPFILE" else "link", refuse)
    else:
        monkeypatch.setattr(spooled.sys, "byteorder", "big")
    path, array = tmp_path / "data", numbers()
    with Spool(tmp_path) as spool:
        kept = spool.kept(Counted(array))
        kept.numpy()
        assert become_file(path, [kept]) == {}
        assert write_data_file(path, [kept], lambda _: None) == [0]
    assert path.read_bytes() == array.tobytes()
    assert os.listdir(tmp_path) == ["data"]  # noqa: PTH208 - hidden files, too


def test_small_tensors_are_not_kept(tmp_path):
    tensor = Counted(numbers(size=100))
    with Spool(tmp_path) as spool:
        assert spool.kept(tensor) is tensor
        assert spool.end == 0


def test_the_sources_are_those_of_the_tensor(tmp_path):
    class Of(Counted):
        sources = ("source",)

    with Spool(tmp_path) as spool:
        kept = spool.kept(Of(numbers()))
        assert isinstance(kept, SpooledTensor)
        assert kept.sources == ("source",)
