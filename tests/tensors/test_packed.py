"""Codes packed into bytes: unpacked and packed again, from any place, in flat memory."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors import packed as module
from onnx_gconv.tensors import streamed
from onnx_gconv.tensors.packed import BlockZeroPoint, PackedTensor, Packing, UnpackedTensor, read_padding
from onnx_gconv.tensors.streamed import element_chunks
from tests.packed_models import packed


@st.composite
def packings(draw):
    """A packing, the codes with their padding, and the bytes."""
    bits, columns = draw(st.sampled_from([2, 4, 8])), draw(st.integers(1, 40))
    lead = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    block = draw(st.sampled_from([4, 8, 16]))
    blocks = -(-columns // block)
    codes = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**bits, (*lead, blocks * block), np.uint8)
    stored = packed(codes, bits).reshape(*lead, blocks, -1)
    return Packing(bits, (*lead, columns), stored.shape), codes, stored


@given(packings())
def test_codes_are_unpacked_and_packed_to_the_same_bytes(case):
    packing, codes, stored = case
    columns = packing.shape[-1]
    tensor = ir.Tensor(stored)
    unpacked = UnpackedTensor(tensor, packing)
    np.testing.assert_array_equal(unpacked.numpy(), codes[..., :columns])
    padding = read_padding(tensor, packing)
    np.testing.assert_array_equal(padding, codes[..., columns:].reshape(padding.shape))
    again = PackedTensor(unpacked, packing, padding)
    assert again.tobytes() == stored.tobytes()
    np.testing.assert_array_equal(packing.pack(unpacked.numpy(), padding), stored)
    np.testing.assert_array_equal(packing.unpack(stored), unpacked.numpy())


@given(packings(), st.data())
def test_any_stretch_is_read_in_chunks_of_one_size(case, data):
    packing, codes, stored = case
    columns, chunk = packing.shape[-1], 16
    start = data.draw(st.integers(0, packing.rows * columns - 1))
    stop = data.draw(st.integers(start + 1, packing.rows * columns))
    with pytest.MonkeyPatch.context() as patch:
        for place in (module, streamed):
            patch.setattr(place, "CHUNK_ELEMENTS", chunk)
        unpacked = UnpackedTensor(ir.Tensor(stored), packing)
        chunks = [part.copy() for part in unpacked.chunks(start, stop)]
        assert {part.size for part in chunks[:-1]} <= {chunk}
        np.testing.assert_array_equal(np.concatenate(chunks), codes[..., :columns].reshape(-1)[start:stop])
        again = PackedTensor(unpacked, packing, read_padding(ir.Tensor(stored), packing))
        first = data.draw(st.integers(0, stored.size - 1))
        last = data.draw(st.integers(first + 1, stored.size))
        parts = [part.copy() for part in again.chunks(first, last)]
        assert {part.size for part in parts[:-1]} <= {chunk}
        np.testing.assert_array_equal(np.concatenate(parts), stored.reshape(-1)[first:last])


def test_codes_in_external_data_are_read_from_their_file(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (300, 2048), np.uint8)
    stored = packed(codes, 4)
    (tmp_path / "data").write_bytes(b"offset" + stored.tobytes())
    tensor = ir.ExternalTensor(
        "data", 6, stored.nbytes, ir.DataType.UINT8, shape=ir.Shape(stored.shape), name="W", base_dir=tmp_path
    )
    unpacked = UnpackedTensor(tensor, Packing(4, codes.shape, stored.shape))
    assert list(unpacked.sources) == [tensor]
    found = np.concatenate([chunk.copy() for chunk in element_chunks(unpacked)])
    np.testing.assert_array_equal(found.reshape(codes.shape), codes)
    (tmp_path / "data").write_bytes(stored.tobytes()[:-1])
    with pytest.raises(ModelError, match="it is truncated or belongs to another model"):
        unpacked.numpy()


@given(packings())
def test_zero_points_are_those_of_the_blocks(case):
    packing, codes, _ = case
    block = 4
    values = np.arange(packing.rows * (packing.row_codes // block), dtype=np.float64)
    values = values.reshape(*packing.shape[:-1], -1)
    points = BlockZeroPoint(values, block, packing.shape)
    wanted = np.repeat(values, block, axis=-1)[..., : packing.shape[-1]].reshape(-1)
    np.testing.assert_array_equal(points.chunk(0, wanted.size), wanted)
    middle = wanted.size // 2
    np.testing.assert_array_equal(points.chunk(middle, 1), wanted[middle : middle + 1])
    assert points.is_integer
    assert not BlockZeroPoint(values + 0.5, block, packing.shape).is_integer
    assert codes.size >= wanted.size


@pytest.mark.parametrize(
    ("bits", "shape", "stored"),
    [(3, (2, 8), (2, 3)), (4, (2, 9), (2, 4)), (4, (3, 8), (2, 4)), (8, (), (4,)), (4, (0, 8), (0, 4))],
)
def test_codes_that_are_not_packed_so_are_refused(bits, shape, stored):
    with pytest.raises(ModelError, match=rf"^codes of {bits} bits and of the shape .* are not packed in bytes of the"):
        Packing(bits, shape, stored)


@pytest.mark.parametrize(
    ("values", "block"), [(np.zeros((2, 1)), 4), (np.zeros((3, 2)), 4), (np.full((2, 2), np.nan), 4), (np.zeros(()), 0)]
)
def test_zero_points_that_are_none_of_the_codes_are_refused(values, block):
    with pytest.raises(ModelError, match=r"do not fit codes of \[2, 8\]; take the model as it was mapped"):
        BlockZeroPoint(values, block, (2, 8))


@given(packings(), st.data())
def test_the_extremes_of_a_stretch_are_those_of_its_codes(case, data):
    packing, codes, stored = case
    flat = codes[..., : packing.shape[-1]].reshape(-1)
    start = data.draw(st.integers(0, flat.size - 1))
    stop = data.draw(st.integers(start + 1, flat.size))
    found = UnpackedTensor(ir.Tensor(stored), packing).extremes(start, stop)
    assert found == (flat[start:stop].min(), flat[start:stop].max())
