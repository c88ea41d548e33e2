"""The largest numbers of a type come back as what they are, or are refused; they never come back as infinity."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnx_gconv.converters import OffsetConductanceConverter, TwoSidedPairConductanceConverter
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.verification.weights import compare_weights
from tests.scheme_choices import CONVERTERS

TEXT = "g (float[1,2] x) => (float y) { y = MatMul(x, W) }"


def largest(dtype, name=""):
    """Of a single device, whose range is that of the weights, the largest numbers are of one sign."""
    end = ml_dtypes.finfo(dtype).max
    low = dtype(0) if name == "single device" else -end
    return np.array([[end, low, 0], [end * dtype(0.75), 3, low]], dtype)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", CONVERTERS)
def test_the_largest_float32_numbers_come_back(parse, name, granularity):
    scheme = MappingScheme(CONVERTERS[name], Granularity(granularity))
    original, model = (parse(TEXT, W=largest(np.float32, name)) for _ in range(2))
    MapConductances(scheme=scheme)(model)
    assert CheckMapping().violations(model) == ()
    [found] = compare_weights(original, model, read_manifest(model))
    assert found.passed, found
    RestoreWeights()(model)
    assert np.isfinite(model.graph.initializers["W"].const_value.numpy()).all()


@pytest.mark.parametrize("name", CONVERTERS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_the_largest_numbers_of_half_precision_come_back(parse, name, dtype):
    model = parse(TEXT.replace("float", np.dtype(dtype).name), W=largest(dtype, name))
    MapConductances(CONVERTERS[name], conductance_dtype="weight")(model)
    assert CheckMapping().violations(model) == ()
    RestoreWeights()(model)
    assert np.isfinite(model.graph.initializers["W"].const_value.numpy().astype(np.float64)).all()


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_largest_float64_numbers_come_back_or_are_refused(parse, name):
    model = parse(TEXT.replace("float", "double"), W=largest(np.float64, name))
    try:
        MapConductances(CONVERTERS[name])(model)
    except UnmappableWeightError as error:
        refused = str(error)
        assert refused.startswith(
            "the weight 'W' has values up to 1.79769e+308, which may overflow when rebuilt in float64"
        )
        assert list(model.graph.initializers) == ["W"]
        return
    RestoreWeights()(model)
    assert np.isfinite(model.graph.initializers["W"].const_value.numpy()).all()


WITH_CASTS = pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float32], ids=["float16", "bfloat16", "float32"]
)


def text_of(dtype):
    return TEXT.replace("float", np.dtype(dtype).name.replace("float32", "float"))


@WITH_CASTS
@pytest.mark.parametrize("name", ["bit-sliced pair", "bit-sliced offset"])
def test_numbers_that_rounded_conductances_would_make_infinite_are_refused(parse, name, dtype):
    weight = largest(dtype)
    model = parse(text_of(dtype), W=weight)
    with pytest.raises(UnmappableWeightError) as refused:
        MapConductances(CONVERTERS[name], levels=3)(model)
    assert str(refused.value).startswith(
        f"the weight 'W' has values up to {float(weight.max()):g}, which may overflow when rebuilt in "
        f"{np.dtype(dtype).name}, because its conductances are rounded; scale it down, or map it with more levels or "
        "bits"
    )
    assert list(model.graph.initializers) == ["W"]


@WITH_CASTS
@pytest.mark.parametrize(("levels", "factor"), [(None, 1), (16, 1), (3, 0.25)])
@pytest.mark.parametrize("name", ["bit-sliced pair", "bit-sliced offset"])
def test_numbers_that_rounded_conductances_leave_finite_are_mapped(parse, name, dtype, levels, factor):
    model = parse(text_of(dtype), W=largest(dtype) * dtype(factor))
    MapConductances(CONVERTERS[name], levels=levels)(model)
    RestoreWeights()(model)
    assert np.isfinite(model.graph.initializers["W"].const_value.numpy().astype(np.float64)).all()


def test_conductances_become_float64_only_where_float32_has_no_room(parse):
    for end, dtype in ((1.0, "float64"), (0.5, "float32")):
        model = parse(TEXT, W=largest(np.float32) * np.float32(end))
        MapConductances(TwoSidedPairConductanceConverter())(model)
        [record] = read_manifest(model).weights
        assert record.compute_dtype == dtype
        note = "conductances are float64: it has values up to 3.40282e+38, which may overflow when rebuilt in float32"
        assert record.notes == ((note,) if dtype == "float64" else ())


@pytest.mark.parametrize("converter", [OffsetConductanceConverter(), TwoSidedPairConductanceConverter()], ids=str)
def test_arrays_of_them_are_refused_by_value_and_place(converter):
    for dtype, remedy in ((np.float32, "give it in float64, or scale it down"), (np.float64, "scale it down")):
        end = np.finfo(dtype).max
        with pytest.raises(UnmappableWeightError) as refused:
            converter.convert_to_conductances(np.array([0, end], dtype))
        assert str(refused.value) == (
            f"the weight has the value {float(end):g} at flat index 1, which overflows when it is rebuilt in "
            f"{np.dtype(dtype).name}; {remedy}"
        )
    wide = np.array([0, np.finfo(np.float32).max], np.float64)
    conductances, params = converter.convert_to_conductances(wide)
    np.testing.assert_allclose(converter.convert_back_to_weights(conductances, params), wide, rtol=1e-15)
