"""Codes of levels of packed weights are the same, whether whole bytes, single codes or numbers are computed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.converters import (
    BitSlicedPairConductanceConverter,
    Decoding,
    OffsetConductanceConverter,
    Scaling,
    SinglePairConductanceConverter,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError
from onnx_gconv.passes import MapConductances, RestoreWeights
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors import codes as codes_module
from onnx_gconv.tensors import conductance, packed_levels, streamed
from onnx_gconv.tensors import packed as packed_module
from onnx_gconv.tensors.codes import DecodedLevelsTensor, EffectiveIntegerTensor, highest_code
from onnx_gconv.tensors.conductance import level_code_tensors
from onnx_gconv.tensors.packed import BlockZeroPoint, PackedTensor, Packing, UnpackedTensor
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.rebuilt_bytes import RebuiltBytesTensor
from onnx_gconv.tensors.streamed import byte_chunks
from tests.packed_models import matmul_model, packed, quantized


@contextmanager
def chunks_of(count):
    """Chunks of few elements, so that tiny tensors have several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (streamed, conductance, packed_levels, packed_module, codes_module):
            patch.setattr(module, "CHUNK_ELEMENTS", count)
        yield


@st.composite
def weights(draw):
    """Codes of all bits and blocks, with and without padding, and with zero points of all kinds that are integers."""
    bits, points = draw(st.sampled_from([2, 4, 4, 8])), draw(st.sampled_from(["none", "packed", "float"]))
    columns = draw(st.sampled_from([1, 15, 16, 33, 48, 64, 96]))
    rows, block = draw(st.integers(1, 3)), draw(st.sampled_from([16, 32]))
    weight = quantized(rows, columns, bits=bits, block=block, points=points, seed=draw(st.integers(0, 99)))
    if points != "float":
        return weight
    whole = np.rint(weight.points)
    return replace(weight, points=whole, stored_points=whole.astype(np.float32))


@settings(max_examples=40)
@given(
    weight=weights(),
    converter=st.sampled_from([SinglePairConductanceConverter(), OffsetConductanceConverter()]),
    opset=st.sampled_from([18, 21]),
    chunk=st.sampled_from([8, 32, 1 << 18]),
)
def test_codes_of_levels_are_those_of_each_number_and_come_back_as_the_same_bytes(weight, converter, opset, chunk):
    with chunks_of(chunk):
        model = ir.from_proto(matmul_model(weight, opset=opset))
        MapConductances(converter, levels="weight", storage="codes")(model)
        devices = [model.graph.initializers[f"W.{name}_code"].const_value for name in converter.device_names]
        numbers = weight.numbers.astype(np.int64)
        wanted = [np.maximum(numbers, 0), np.maximum(-numbers, 0)]
        if len(devices) == 1:
            wanted = [numbers + np.abs(numbers).max()]
        for device, codes in zip(devices, wanted, strict=True):
            np.testing.assert_array_equal(device.numpy().astype(np.int64), codes)
            each = codes.astype(np.uint16 if device.dtype.bitwidth > 8 else np.uint8).reshape(1, -1)
            assert device.tobytes() == (packed(each, 4) if device.dtype == ir.DataType.UINT4 else each).tobytes()
            assert highest_code(device) == codes.max()
        RestoreWeights()(model)
        assert model.graph.initializers["W"].const_value.tobytes() == weight.stored.tobytes()


def test_slices_of_bits_of_packed_codes_come_back_too():
    weight = quantized(3, 64, points="packed")
    model = ir.from_proto(matmul_model(weight))
    converter = BitSlicedPairConductanceConverter(bits=5, slice_bits=2)
    MapConductances(converter, levels=4, storage="codes")(model)
    devices = [model.graph.initializers[f"W.{name}_code"].const_value for name in converter.device_names]
    assert {tensor.numpy().astype(np.uint8).max() for tensor in devices} <= {1, 2, 3}
    RestoreWeights()(model)
    assert model.graph.initializers["W"].const_value.tobytes() == weight.stored.tobytes()


def test_one_block_with_a_zero_point_of_its_own_is_looked_up_in_its_row():
    weight = quantized(1, 16, bits=2)
    packing = Packing(2, (1, 16), weight.stored.shape)
    converter, levels = SinglePairConductanceConverter(), ConductanceLevels.uniform(4, 0.0, 25.0)
    conversion = WeightConversion(converter, Scaling(25.0 / 3), levels=levels, has_integers_on_levels=True)
    points = BlockZeroPoint(np.full((1, 1), 3.0), 16, packing.shape)
    numbers = EffectiveIntegerTensor(UnpackedTensor(ir.Tensor(weight.stored), packing), points, ir.DataType.FLOAT)
    names = converter.device_names
    tensors = level_code_tensors(
        numbers, conversion, dtype=ir.DataType.FLOAT, names=names, code_dtype=ir.DataType.UINT4
    )
    for tensor, wanted in zip(tensors, (0 * weight.codes, 3 - weight.codes), strict=True):
        assert tensor.tobytes() == packed(wanted.astype(np.uint8), 4).tobytes()


def outcome(tensor, start, stop):
    """The bytes of a tensor, or what is wrong with it."""
    try:
        return np.concatenate([part.copy() for part in tensor.chunks(start, stop)]).tolist()
    except ModelError as error:
        return str(error)


@settings(max_examples=60)
@given(st.data())
def test_whole_bytes_are_rebuilt_as_single_codes_are_and_refused_for_the_same_reason(data):
    coefficients = data.draw(st.sampled_from([(1.0, -1.0), (-1.0, 1.0), (1.0,), (2.0, -2.0), (1.0, -1.0, 3.0)]))
    count = data.draw(st.integers(2, 16 if len(coefficients) < 3 else 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    rows, columns, block = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([16, 48, 47])), 16
    per_row = -(-columns // block)
    packing = Packing(4, (rows, columns), (rows, per_row, block // 2))
    values = rng.integers(5, 9, (rows, per_row)).astype(np.float64)
    points = BlockZeroPoint(values if data.draw(st.booleans()) else values[0, 0].reshape(()), block, packing.shape)
    is_small = data.draw(st.booleans())  # most sums are codes then
    devices = [rng.integers(0, min(count, 3) if is_small else count, packing.shape) for _ in coefficients]
    if data.draw(st.booleans()):
        devices[-1][-1, -1] = data.draw(st.integers(0, 15))  # perhaps of no level
    scale = 24 / (count - 1)
    levels = ConductanceLevels.uniform(count, 1.0, 25.0)
    rebuilt = RebuiltTensor(
        [
            DecodedLevelsTensor(
                ir.Tensor(codes.astype(np.uint8), dtype=ir.DataType.UINT4), levels, ir.DataType.FLOAT, f"W.{number}"
            )
            for number, codes in enumerate(devices)
        ],
        Decoding(coefficients, float(sum(coefficients)), scale, 0.0),
        dtype=ir.DataType.UINT8,
        name="W",
        rounded=True,
        zero_point=points,
        highest=15,
    )
    assert rebuilt.level_steps is not None
    padding = rng.integers(0, 16, (rows, packing.padding), np.uint8)
    with chunks_of(data.draw(st.sampled_from([8, 1 << 18]))):
        start = data.draw(st.integers(0, packing.rows * packing.row_codes // 2 - 1))
        stop = data.draw(st.integers(start + 1, packing.rows * packing.row_codes // 2))
        fast, plain = (kind(rebuilt, packing, padding) for kind in (RebuiltBytesTensor, PackedTensor))
        assert outcome(fast, start, stop) == outcome(plain, start, stop)


@given(st.data())
def test_the_extremes_of_numbers_are_those_of_codes_less_their_zero_points(data):
    weight = data.draw(weights())
    packing = Packing(weight.bits, weight.codes.shape, weight.stored.shape)
    points = BlockZeroPoint(weight.points, weight.block, packing.shape)
    flat = weight.numbers.reshape(-1)
    start = data.draw(st.integers(0, flat.size - 1))
    stop = data.draw(st.integers(start + 1, flat.size))
    codes = UnpackedTensor(ir.Tensor(weight.stored), packing)
    with chunks_of(data.draw(st.sampled_from([8, 1 << 18]))):
        assert codes.extremes(start, stop, points) == (flat[start:stop].min(), flat[start:stop].max())


@pytest.mark.parametrize("is_external", [False, True])
def test_bytes_of_codes_are_read_from_wherever_they_are(tmp_path, is_external):
    codes = np.random.default_rng(0).integers(0, 16, 77).astype(np.uint8)
    tensor = ir.Tensor(codes, dtype=ir.DataType.UINT4)
    stored = packed(codes[None], 4).tobytes()
    if is_external:
        (tmp_path / "data").write_bytes(b"before" + stored)
        tensor = ir.ExternalTensor(
            "data", 6, len(stored), ir.DataType.UINT4, shape=ir.Shape([77]), name="W", base_dir=tmp_path
        )
    with chunks_of(8):
        assert b"".join(chunk.tobytes() for chunk in byte_chunks(tensor)) == stored
        assert b"".join(chunk.tobytes() for chunk in byte_chunks(tensor, 3, 21)) == stored[3:21]
        assert highest_code(tensor) == codes.max()
