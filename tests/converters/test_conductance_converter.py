"""What all converters share: the types they compute in, the scan over a weight, and the way back from conductances."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import (
    Decoding,
    OffsetConductanceConverter,
    TwoSidedPairConductanceConverter,
    WeightStatistics,
    compute_dtype,
    narrowed_scale,
    weight_statistics,
)
from onnx_gconv.errors import UnmappableWeightError

COEFFICIENTS = st.sampled_from([1.0, -1.0, 0.5, -3.0, 0.3]) | st.floats(-4, 4, width=32).filter(bool)


class TestComputeDtype:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int8, np.uint8, np.bool_])
    def test_is_float32_for_all_but_float64(self, dtype):
        assert compute_dtype(dtype) == np.float32

    def test_is_float64_for_float64(self):
        assert compute_dtype(np.float64) == np.float64

    @pytest.mark.parametrize("text", [">f4", "<f4", ">f8", "<f8"])
    def test_is_in_the_byte_order_of_the_machine(self, text):
        assert compute_dtype(np.dtype(text)) == np.dtype(text).newbyteorder("=")

    @pytest.mark.parametrize(
        "dtype",
        [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz],
    )
    def test_of_eight_bit_floats_is_float32(self, dtype):
        assert compute_dtype(dtype) == np.float32

    @pytest.mark.parametrize("dtype", [np.complex64, np.longdouble, np.object_, np.str_])
    def test_is_refused_for_what_is_no_weight(self, dtype):
        with pytest.raises(UnmappableWeightError, match="float16, bfloat16, float32 and float64 can"):
            compute_dtype(dtype)


class TestWeightStatistics:
    @given(
        hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
        st.integers(0, 1000),
    )
    def test_parts_together_say_the_same_as_the_whole(self, weights, cut):
        cut = 1 + cut % weights.size
        first, rest = weights[:cut], weights[cut:]
        whole = WeightStatistics(float(weights.min()), float(weights.max()), weights.size)
        assert weight_statistics([weights]) == whole
        assert weight_statistics([first, rest]) == whole
        if rest.size:
            assert weight_statistics([first]) | weight_statistics([rest]) == whole

    @pytest.mark.parametrize(("minimum", "maximum", "expected"), [(-2.0, 1.0, 2.0), (-1.0, 2.0, 2.0), (0.0, 0.0, 0.0)])
    def test_largest_magnitude_may_be_that_of_either_end(self, minimum, maximum, expected):
        assert WeightStatistics(minimum, maximum, 1).max_abs == expected

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_the_first_value_that_is_not_finite_is_named_with_its_index_in_the_whole_weight(self, value):
        chunks = [np.ones(4), np.array([[1.0, 2.0], [value, np.nan]])]
        with pytest.raises(UnmappableWeightError, match=rf"the value {value} at flat index 106\b"):
            weight_statistics(chunks, first_index=100)

    @pytest.mark.parametrize("chunks", [[], [np.zeros(0)], [np.zeros((0, 3)), np.zeros(0)]])
    def test_a_weight_without_elements_is_refused(self, chunks):
        with pytest.raises(UnmappableWeightError, match="has no elements"):
            weight_statistics(chunks)

    def test_empty_chunks_between_others_do_not_matter(self):
        chunks = [np.zeros(0), np.array([1.0, -3.0]), np.zeros(0)]
        assert weight_statistics(chunks) == WeightStatistics(-3.0, 1.0, 2)


class TestScaling:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_narrowed_scales_are_those_of_each_group(self, dtype):
        scales = np.random.default_rng(0).uniform(0.1, 100, (3, 4))
        narrowed = narrowed_scale(scales, np.dtype(dtype))
        assert narrowed.dtype == np.float64
        assert narrowed.reshape(-1).tolist() == [narrowed_scale(float(x), np.dtype(dtype)) for x in scales.flat]

    @pytest.mark.parametrize("unfit", [1e6, 1e-6])
    def test_scales_are_not_narrowed_if_one_does_not_fit(self, unfit):
        assert narrowed_scale(np.array([1.0, unfit]), np.dtype(np.float16)) is None


class TestDecoding:
    def test_an_array_fits_the_conductances_by_broadcasting(self):
        decoding = Decoding((1.0,), 0.0, np.array([[1.0], [2.0]]), 0.0)
        found = decoding.decode([np.full((2, 3), 4.0, np.float32)], np.dtype(np.float32))
        assert found.tolist() == [[4, 4, 4], [2, 2, 2]]
        assert found.dtype == np.float32

    @given(
        coefficients=st.lists(COEFFICIENTS, min_size=1, max_size=6),
        offset=st.just(0.0) | st.floats(0.1, 10),
        scale=st.floats(0.01, 1000),
        zero=st.just(0.0) | st.floats(-2, 2),
        dtype=st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]),
        seed=st.integers(0, 1000),
    )
    def test_weights_are_the_weighted_sum_less_the_offset_over_the_scale_plus_the_zero(
        self, *, coefficients, offset, scale, zero, dtype, seed
    ):
        conductances = list(np.random.default_rng(seed).uniform(0, 25, size=(len(coefficients), 2, 3)).astype(dtype))
        number = dtype.type
        total = number(coefficients[0]) * conductances[0]
        for coefficient, conductance in zip(coefficients[1:], conductances[1:], strict=True):
            total = total + number(coefficient) * conductance
        expected = (total - number(offset)) / number(scale) + number(zero)
        decoding = Decoding(tuple(coefficients), offset, scale, zero)
        found = decoding.decode(iter(conductances), dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)

    def test_a_negative_zero_survives_where_nothing_is_added(self):
        pair = Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=2.0, zero=0.0)
        weights = pair.decode([np.array([-0.0], np.float32), np.array([0.0], np.float32)], np.dtype(np.float32))
        assert np.signbit(weights).all()

    @pytest.mark.parametrize("count", [1, 3])
    def test_there_has_to_be_one_conductance_for_each_coefficient(self, count):
        pair = Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=2.0, zero=0.0)
        with pytest.raises(ValueError, match="zip"):
            pair.decode([np.ones(2, np.float32)] * count, np.dtype(np.float32))

    def test_conductances_are_left_as_they_are(self):
        conductances = [np.full(3, 4.0, np.float32), np.full(3, 1.0, np.float32)]
        Decoding((1.0, -1.0), 2.0, 3.0, 1.0).decode(conductances, np.dtype(np.float32))
        assert [g.tolist() for g in conductances] == [[4.0] * 3, [1.0] * 3]


class TestChecks:
    @pytest.mark.parametrize("converter", [OffsetConductanceConverter(), TwoSidedPairConductanceConverter()])
    def test_a_weight_that_has_a_scale_needs_no_second_look_and_passes_it(self, converter):
        weights = np.float32([0.5, -1.0, 1e-30])
        scaling = converter.scaling(weight_statistics([weights]), np.dtype(np.float32))
        assert not converter.needs_check(scaling)
        assert converter.check_chunk(weights, scaling) is None
