"""A data file holds every tensor at its offset, whoever computes it, and errors come out where it is written."""

from __future__ import annotations

import threading

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import Scaling, SinglePairConductanceConverter
from onnx_gconv.errors import ModelError
from onnx_gconv.files import data_file
from onnx_gconv.files.data_file import write_data_file
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors import conductance as conductance_tensor
from onnx_gconv.tensors import streamed as streamed_tensor
from onnx_gconv.tensors.conductance import conductance_tensors
from onnx_gconv.tensors.streamed import StreamedTensor

CHUNK, PART = 8, 32


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Parts of 4 chunks of 8 elements, so that tiny tensors have several."""
    for module in (streamed_tensor, conductance_tensor, data_file):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", CHUNK)
    monkeypatch.setattr(data_file, "_PART_ELEMENTS", PART)


class Streamed(StreamedTensor):
    """Elements that are computed on their own; fails at one of them if asked to."""

    def __init__(self, array, error=None, at=0):
        super().__init__(ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape), "streamed")
        self._array, self._error, self._at = array, error, at

    def chunks(self, start=0, stop=None):
        for first in range(start, self.size if stop is None else stop, CHUNK):
            if self._error is not None and first >= self._at:
                raise self._error
            yield self._array[first : min(first + CHUNK, stop)].copy()


def pair(size, dtype=np.float32, seed=0, converter=None):
    weight = np.random.default_rng(seed).normal(size=size).astype(dtype)
    converter = converter or SinglePairConductanceConverter()
    expected, params = converter.convert_to_conductances(weight)
    tensors = conductance_tensors(
        ir.Tensor(weight),
        WeightConversion(converter, Scaling(float(params["scale_ratio"]))),
        dtype=ir.DataType.from_numpy(expected[0].dtype),
        names=["g_plus", "g_minus"],
    )
    return tensors, expected


def written(path, tensors):
    offsets = write_data_file(path, tensors, lambda _: None)
    data = path.read_bytes()
    assert len(data) == sum(tensor.nbytes for tensor in tensors)
    return [data[offset : offset + tensor.nbytes] for offset, tensor in zip(offsets, tensors, strict=True)]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, PART, PART + 1, 5 * PART + 3])
def test_every_tensor_stands_at_its_offset(tmp_path, monkeypatch, size, workers):
    monkeypatch.setattr(data_file, "worker_count", lambda: workers)
    (a_plus, a_minus), a = pair(size)
    (b_plus, b_minus), b = pair(size + 5, np.float64, seed=1)
    plain, streamed = np.arange(7, dtype=np.int16), np.arange(size, dtype=np.float16)
    tensors = [a_plus, ir.Tensor(plain), a_minus, b_minus, Streamed(streamed), b_plus]
    expected = [a[0], plain, a[1], b[1], streamed, b[0]]
    assert written(tmp_path / "data", tensors) == [array.tobytes() for array in expected]


def test_a_group_of_which_one_tensor_is_wanted_gives_that_one(tmp_path):
    (_, minus), expected = pair(50)
    assert written(tmp_path / "data", [minus]) == [expected[1].tobytes()]


def test_a_tensor_that_stands_twice_is_written_twice(tmp_path):
    (plus, _), expected = pair(20)
    plain = ir.Tensor(np.arange(5))
    found = written(tmp_path / "data", [plus, plain, plus, plain])
    assert found == [expected[0].tobytes(), plain.tobytes()] * 2


def test_a_tensor_of_the_bare_protocol_is_written(tmp_path):
    class Bare:
        nbytes = 3

        def tobytes(self):
            return b"abc"

    assert written(tmp_path / "data", [Bare()]) == [b"abc"]


class ShortWrites:
    """A file that takes three bytes at a time, as the kernel takes 2 GiB at most."""

    def __init__(self):
        self.content = b""

    def write(self, data):
        self.content += bytes(data[:3])
        return min(len(data), 3)


@pytest.mark.parametrize("array", [np.arange(20, dtype=np.float32), np.arange(12, dtype=np.int16).reshape(3, 4).T])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_tensor_in_memory_is_written_whole_where_one_write_does_not_take_it_all(array, lazy):
    class WritesOnce(ir.Tensor):
        def tofile(self, file):
            file.write(self.tobytes())

    tensor, file = WritesOnce(array), ShortWrites()
    if lazy:
        tensor = ir.LazyTensor(lambda kept=tensor: kept, tensor.dtype, tensor.shape)
    data_file._write_whole(tensor, file)
    assert file.content == array.tobytes()


def test_packed_codes_are_written_whole_where_one_write_does_not_take_them_all():
    codes = ir.Tensor(np.arange(15, dtype=np.uint8), dtype=ir.DataType.UINT4)
    file = ShortWrites()
    data_file._write_whole(codes, file)
    assert file.content == codes.tobytes()
    assert len(file.content) == 8


def test_the_weight_of_a_pair_is_read_once(tmp_path, monkeypatch):
    reads = []
    original = conductance_tensor.element_chunks
    monkeypatch.setattr(
        conductance_tensor, "element_chunks", lambda *args, **kw: reads.append(args) or original(*args, **kw)
    )
    tensors, _ = pair(PART)
    written(tmp_path / "data", tensors)
    assert len(reads) == 1


def test_progress_goes_from_nothing_to_everything_by_chunks(tmp_path):
    tensors, _ = pair(3 * CHUNK)
    calls = []
    write_data_file(tmp_path / "data", tensors, calls.append)
    assert calls == [0, *(number * CHUNK * 4 * 2 for number in (1, 2, 3))]


def test_an_existing_file_is_left_alone(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(FileExistsError):
        write_data_file(tmp_path / "data", pair(5)[0], lambda _: None)
    assert (tmp_path / "data").read_text() == "mine"


@pytest.mark.parametrize("error", [ModelError("gone"), OSError(5, "Input/output error"), ZeroDivisionError("oops")])
@pytest.mark.parametrize("at", [0, 3 * PART + CHUNK])
def test_what_goes_wrong_in_a_worker_is_raised_and_no_thread_stays(tmp_path, error, at):
    tensors, _ = pair(10 * PART)
    broken = Streamed(np.zeros(10 * PART, np.float32), error, at)
    with pytest.raises(type(error)) as raised:
        write_data_file(tmp_path / "data", [*tensors, broken, *pair(10 * PART, seed=2)[0]], lambda _: None)
    assert raised.value is error
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-file-")]


@pytest.mark.parametrize("at", [0, 5])
def test_an_interrupt_while_writing_ends_all_threads(tmp_path, at):
    calls = []

    def progress(done):
        calls.append(done)
        if len(calls) > at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_data_file(
            tmp_path / "data", [tensor for seed in range(5) for tensor in pair(9 * PART, seed=seed)[0]], progress
        )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-file-")]


def test_memory_is_used_again_for_tensors_of_other_types_and_numbers(tmp_path):
    pairs = [pair(PART + 1, dtype, seed) for seed, dtype in enumerate([np.float32, np.float64, np.float16] * 2)]
    alone = np.arange(PART, dtype=np.float64)
    tensors = [tensor for tensors, _ in pairs for tensor in tensors] + [Streamed(alone)]
    expected = [array for _, arrays in pairs for array in arrays] + [alone]
    assert written(tmp_path / "data", tensors) == [array.tobytes() for array in expected]
