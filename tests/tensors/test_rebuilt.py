"""A rebuilt tensor computes while it is read what the nodes of a mapped model compute."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import Decoding, Scaling, SinglePairConductanceConverter
from onnx_gconv.errors import ModelError
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors import conductance as conductance_tensor
from onnx_gconv.tensors import streamed as streamed_tensor
from onnx_gconv.tensors.conductance import conductance_tensors
from onnx_gconv.tensors.rebuilt import RebuiltTensor

PAIR = Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=10.0, zero=0.0)


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Chunks of 8 elements, so that tiny tensors have several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (streamed_tensor, conductance_tensor):
            patch.setattr(module, "CHUNK_ELEMENTS", 8)
        yield


def conductances(*shape, count=2, dtype=np.float32):
    return list(np.random.default_rng(0).uniform(0, 25, size=(count, *shape)).astype(dtype))


def rebuilt(arrays, decoding=PAIR, dtype=ir.DataType.FLOAT):
    return RebuiltTensor([ir.Tensor(array) for array in arrays], decoding, dtype=dtype, name="W")


@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    coefficients=st.lists(st.sampled_from([1.0, -1.0, 3.0, -0.3]), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, 1.5]),
    zero=st.sampled_from([0.0, -0.25]),
    wide=st.booleans(),
)
def test_it_is_bit_identical_to_the_decoding_of_all_at_once(shape, coefficients, offset, zero, wide):
    dtype = np.dtype(np.float64 if wide else np.float32)
    arrays = conductances(*shape, count=len(coefficients), dtype=dtype)
    decoding = Decoding(tuple(coefficients), offset, 7.0, zero)
    tensor = rebuilt(arrays, decoding, ir.DataType.from_numpy(dtype))
    assert tensor.numpy().tobytes() == tensor.tobytes() == np.asarray(decoding.decode(arrays, dtype)).tobytes()
    assert (tensor.numpy().shape, tensor.name) == (tuple(shape), "W")


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17])
def test_a_part_is_the_same_part_of_the_whole(size):
    arrays = conductances(size)
    whole = rebuilt(arrays).numpy()
    for start in range(0, size, 3):
        parts = [chunk.copy() for chunk in rebuilt(arrays).chunks(start, size)]
        assert np.concatenate(parts).tobytes() == whole[start:].tobytes()


@pytest.mark.parametrize("dtype", [ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 17])
def test_codes_of_less_than_a_byte_are_packed_as_onnx_stores_them(dtype, size, tmp_path):
    """Conductances as they are: the integers that two bits hold, whatever their sign."""
    integers = np.arange(size) % 2 - (0 if dtype.name.startswith("U") else 1)
    arrays = [np.maximum(integers, 0).astype(np.float32), np.maximum(-integers, 0).astype(np.float32)]
    decoding = Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=1.0, zero=0.0)
    tensor = RebuiltTensor([ir.Tensor(array) for array in arrays], decoding, dtype=dtype, name="W", rounded=True)
    expected = ir.Tensor(integers.astype(dtype.numpy()), dtype=dtype).tobytes()
    assert tensor.tobytes() == expected
    assert tensor.nbytes == len(expected)
    with (tmp_path / "data").open("wb") as file:
        tensor.tofile(file)
    assert (tmp_path / "data").read_bytes() == expected


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_precision_weights_are_rounded_once_at_the_end(dtype):
    arrays = conductances(5, 7)
    expected = ((arrays[0] - arrays[1]) / np.float32(10)).astype(dtype.numpy())
    assert rebuilt(arrays, dtype=dtype).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(("dtype", "onnx_type"), [("float16", 10), ("bfloat16", 16)])
def test_half_precision_weights_are_those_of_a_cast_node(parse, run, dtype, onnx_type):
    # Halfway cases, subnormal and overflowing numbers are where casts differ.
    halves = np.arange(2048, 4097, dtype=np.float32) + np.float32(0.5)
    numbers = np.concatenate([halves, halves * np.float32(2.0**-36), np.float32([65519, 65520, 1e-8, 6e-8, 3e38])])
    model = parse(f"g (float[n] g) => (float[n] w) {{ q = Cast <to = {onnx_type}> (g) w = Cast <to = 1> (q) }}")
    [expected] = run(model, "none", g=numbers)
    decoding = Decoding(coefficients=(1.0,), offset_us=0.0, scale=1.0, zero=0.0)
    with np.errstate(over="ignore"):
        found = rebuilt([numbers], decoding, ir.DataType(onnx_type)).numpy()
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    assert found.dtype == np.dtype(getattr(np, dtype, None) or ml_dtypes.bfloat16)


def test_conductances_of_different_kinds_are_read_side_by_side(tmp_path):
    weights = np.random.default_rng(0).normal(size=100).astype(np.float16)
    converter = SinglePairConductanceConverter()
    [g_plus, g_minus], params = converter.convert_to_conductances(weights)
    scale = float(params["scale_ratio"])
    scaling = Scaling(scale)
    conversion = WeightConversion(converter, scaling)
    (tmp_path / "minus.data").write_bytes(g_minus.tobytes())
    computed, _ = conductance_tensors(
        ir.Tensor(weights), conversion, dtype=ir.DataType.FLOAT, names=["W.g_plus", "W.g_minus"]
    )
    measured = ir.ExternalTensor(
        "minus.data", 0, None, ir.DataType.FLOAT, shape=ir.Shape((100,)), name="W.g_minus", base_dir=str(tmp_path)
    )
    tensor = RebuiltTensor([computed, measured], converter.decoding(scaling), dtype=ir.DataType.FLOAT16, name="W")
    assert tensor.numpy().tobytes() == ((g_plus - g_minus) / np.float32(scale)).astype(np.float16).tobytes()


@pytest.mark.parametrize(("weight", "shown"), [(300.0, "300"), (-1.0, "-1"), (np.nan, "nan")])
def test_integer_codes_beyond_their_type_are_an_error_not_a_wrap(weight, shown):
    arrays = [np.array([10.0, 10.0 * weight], np.float32), np.zeros(2, np.float32)]
    tensor = RebuiltTensor(list(map(ir.Tensor, arrays)), PAIR, dtype=ir.DataType.UINT8, name="W", rounded=True)
    with pytest.raises(
        ModelError, match=rf"the weight 'W' is rebuilt to codes from .*{shown}.*, which UINT8 cannot hold"
    ):
        tensor.numpy()


def test_weights_beyond_their_type_are_what_the_nodes_make_of_them():
    arrays = [np.array([25.0, np.inf, 1e6, 3e38], np.float32), np.array([0.0, np.inf, 0.0, -3e38], np.float32)]
    found = rebuilt(arrays, dtype=ir.DataType.FLOAT16).numpy()
    assert np.array_equal(found, np.array([2.5, np.nan, np.inf, np.inf], np.float16), equal_nan=True)
