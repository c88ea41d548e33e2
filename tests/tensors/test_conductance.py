"""A conductance tensor computes while it is read what the converter computes at once."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import Scaling, SinglePairConductanceConverter, compute_dtype, weight_statistics
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors import conductance as conductance_tensor
from onnx_gconv.tensors import streamed as streamed_tensor
from onnx_gconv.tensors.conductance import conductance_tensors

CONVERTERS = [
    SinglePairConductanceConverter(),
    SinglePairConductanceConverter(20.0, 2.0),
    SinglePairConductanceConverter(exact=True),
]


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Chunks of 8 elements, so that tiny tensors have several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (streamed_tensor, conductance_tensor):
            patch.setattr(module, "CHUNK_ELEMENTS", 8)
        yield


def pair(weights, converter, tensor=None):
    """The conductance tensors of a weight, and what the converter gives for all of it at once."""
    conductances, params = converter.convert_to_conductances(weights)
    dtype = ir.DataType.from_numpy(compute_dtype(weights.dtype))
    tensors = conductance_tensors(
        tensor or ir.Tensor(weights),
        WeightConversion(converter, Scaling(float(params["scale_ratio"]))),
        dtype=dtype,
        names=[f"W.{name}" for name in converter.device_names],
    )
    return tensors, conductances


@given(
    weights=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(max_dims=3, max_side=6),
        elements=st.floats(-8, 8, width=16),
    ),
    converter=st.sampled_from(CONVERTERS),
)
def test_it_is_bit_identical_to_the_converter(weights, converter):
    tensors, conductances = pair(weights, converter)
    for tensor, expected in zip(tensors, conductances, strict=True):
        assert tensor.numpy().tobytes() == tensor.tobytes() == expected.tobytes()
        assert tensor.numpy().shape == weights.shape


@pytest.mark.parametrize("converter", CONVERTERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_part_is_the_same_part_of_the_whole(dtype, converter):
    weights = np.random.default_rng(0).normal(size=40).astype(dtype)
    tensors, conductances = pair(weights, converter)
    for start, stop in [(0, None), (3, 20), (8, 16), (7, 9), (5, 5), (39, 40)]:
        for tensor, expected in zip(tensors, conductances, strict=True):
            parts = [chunk.copy() for chunk in tensor.chunks(start, stop)]
            assert b"".join(part.tobytes() for part in parts) == expected[start:stop].tobytes()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17])
def test_sizes_around_the_chunk_are_computed_whole(size):
    tensors, conductances = pair(np.random.default_rng(size).normal(size=size).astype(np.float32), CONVERTERS[0])
    assert [tensor.tobytes() for tensor in tensors] == [expected.tobytes() for expected in conductances]


def test_it_reads_external_data_from_its_file(tmp_path):
    weights = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    (tmp_path / "model.data").write_bytes(bytes(7) + weights.tobytes())
    external = ir.ExternalTensor(
        "model.data", 7, 120, ir.DataType.FLOAT, shape=ir.Shape((5, 6)), name="W", base_dir=str(tmp_path)
    )
    tensors, conductances = pair(weights, CONVERTERS[1], external)
    assert [tensor.tobytes() for tensor in tensors] == [expected.tobytes() for expected in conductances]


def test_float16_weights_give_float32_conductances():
    [g_plus, _], _ = pair(np.array([[0.5, -1.0]], np.float16), CONVERTERS[0])
    assert (g_plus.dtype, g_plus.shape, g_plus.name) == (ir.DataType.FLOAT, ir.Shape((1, 2)), "W.g_plus")
    assert g_plus.numpy().tolist() == [[12.5, 0.0]]


def test_float32_weights_may_be_given_float64_conductances():
    weights = np.array([2.0**-149, -1000.0], np.float32)
    converter = SinglePairConductanceConverter(exact=True)
    scaling = converter.scaling(weight_statistics([weights.astype(np.float64)]), np.dtype(np.float64))
    scale = scaling.scale
    g_plus, g_minus = conductance_tensors(
        ir.Tensor(weights), WeightConversion(converter, scaling), dtype=ir.DataType.DOUBLE, names=["G+", "G-"]
    )
    assert g_plus.numpy().tolist() == [scale * 2.0**-149, 0.0]
    assert g_minus.numpy().tolist() == [0.0, scale * 1000]


def test_it_keeps_nothing_of_what_it_computed():
    weights = np.ones(20, np.float32)
    [g_plus, _], _ = pair(weights, CONVERTERS[0])
    before = g_plus.numpy()
    weights[:] = 0.5
    assert (before == 25).all()
    assert (g_plus.numpy() == 12.5).all()
