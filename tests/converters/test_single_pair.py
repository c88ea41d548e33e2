"""Laws of the single pair, and the ways of calling it wrong."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from onnx_gconv.converters import Scaling, SinglePairConductanceConverter, WeightStatistics, weight_statistics
from onnx_gconv.errors import ConfigError, GconvError, UnmappableWeightError

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
COMPUTE_DTYPES = st.sampled_from([FLOAT32, FLOAT64])


def arrays(dtypes=COMPUTE_DTYPES, **bounds):
    """Arrays of finite numbers of float32 or float64; not of the largest, which may be refused."""

    def of(dtype):
        limit = 2.0 ** (np.finfo(dtype).maxexp - 2)
        ends = {"min_value": -limit, "max_value": limit} | bounds
        elements = st.floats(width=8 * dtype.itemsize, allow_nan=False, allow_infinity=False, **ends)
        return hnp.arrays(dtype, SHAPES, elements=elements)

    return dtypes.flatmap(of)


def ordinary_arrays():
    """Arrays of numbers whose conductances are neither subnormal nor near the ends of their type."""
    magnitudes = st.floats(2.0**-20, 2.0**20, width=32)
    elements = st.builds(math.copysign, magnitudes, st.sampled_from([-1.0, 1.0])) | st.just(0.0)
    return COMPUTE_DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES, elements=elements))


@st.composite
def ranges_us(draw, *, g_min_is_zero=False):
    """A device range as (g_max, g_min)."""
    g_max = draw(st.floats(0.1, 1000))
    share = 0.0 if g_min_is_zero else draw(st.sampled_from([0.0, 1e-4, 0.02, 0.1, 0.5, 0.9]) | st.floats(0, 0.95))
    return g_max, g_max * share


def converted(converter, weights):
    (g_plus, g_minus), params = converter.convert_to_conductances(weights)
    return g_plus, g_minus, params["scale_ratio"]


def largest_error(converter, weights):
    back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
    return float(np.abs(np.longdouble(back) - np.longdouble(weights)).max())


def error_bound(converter, weights):
    statistics = weight_statistics([weights])
    return converter.error_bound(statistics, converter.scaling(statistics, weights.dtype), weights.dtype)


class TestRoundTrip:
    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    def test_error_stays_within_the_bound_that_the_converter_states(self, weights, range_us):
        converter = SinglePairConductanceConverter(*range_us)
        assert largest_error(converter, weights) <= error_bound(converter, weights)

    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
    def test_error_stays_within_the_bound_up_to_the_largest_number_of_the_type(self, dtype):
        # The reciprocal of such a number is subnormal.
        converter = SinglePairConductanceConverter()
        for share in np.linspace(0.3, 1, 500):
            weights = np.array([share * np.finfo(dtype).max], dtype)
            assert largest_error(converter, weights) <= error_bound(converter, weights), weights

    @given(ordinary_arrays(), ranges_us(g_min_is_zero=True))
    def test_error_with_g_min_zero_is_at_most_one_and_a_half_epsilon_of_the_largest_weight(self, weights, range_us):
        largest = max(float(np.abs(weights).max()), 1e-7)
        assert largest_error(SinglePairConductanceConverter(*range_us), weights) <= (
            1.5 * np.finfo(weights.dtype).eps * largest * (1 + 1e-6)
        )

    @given(ordinary_arrays(), ranges_us())
    def test_stated_bound_is_not_looser_than_a_few_epsilon_of_the_range(self, weights, range_us):
        g_max, g_min = range_us
        largest = max(float(np.abs(weights).max()), 1e-7)
        bound = error_bound(SinglePairConductanceConverter(*range_us), weights)
        assert bound <= 4 * np.finfo(weights.dtype).eps * largest * g_max / (g_max - g_min)

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    def test_subtracting_the_pair_and_dividing_gives_the_same_as_converting_back(self, weights, range_us):
        converter = SinglePairConductanceConverter(*range_us)
        g_plus, g_minus, scale = converted(converter, weights)
        rebuilt = converter.decoding(Scaling(float(scale))).decode([g_plus, g_minus], weights.dtype)
        back = converter.convert_back_to_weights([g_plus, g_minus], {"scale_ratio": scale})
        np.testing.assert_array_equal(rebuilt, back)

    @given(arrays(st.just(FLOAT32), min_value=-65504, max_value=65504), ranges_us(g_min_is_zero=True))
    def test_float16_weights_come_back_exactly_with_g_min_zero(self, numbers, range_us):
        weights = numbers.astype(np.float16)
        converter = SinglePairConductanceConverter(*range_us)
        back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
        np.testing.assert_array_equal(back.astype(np.float16), weights)

    @given(ordinary_arrays(), ranges_us(g_min_is_zero=True))
    def test_bfloat16_weights_come_back_exactly_with_g_min_zero(self, numbers, range_us):
        weights = numbers.astype(ml_dtypes.bfloat16)
        converter = SinglePairConductanceConverter(*range_us)
        back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
        np.testing.assert_array_equal(back.astype(ml_dtypes.bfloat16), weights)


class TestConductances:
    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us(g_min_is_zero=True))
    def test_with_g_min_zero_they_lie_between_zero_and_g_max(self, weights, range_us):
        g_max, _ = range_us
        g_plus, g_minus, _ = converted(SinglePairConductanceConverter(*range_us), weights)
        for conductance in (g_plus, g_minus):
            assert conductance.min() >= 0
            assert conductance.max() <= weights.dtype.type(g_max)

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    # A float32 just below a power of two: its ulp is half an epsilon, and the roundings add up to three of them.
    @example(np.array(0.8106693, np.float32), (15.9, 0.1))
    def test_they_never_fall_below_g_min_and_exceed_g_max_by_four_ulps_at_most(self, weights, range_us):
        g_max, g_min = (weights.dtype.type(end) for end in range_us)
        g_plus, g_minus, _ = converted(SinglePairConductanceConverter(*range_us), weights)
        for conductance in (g_plus, g_minus):
            assert conductance.min() >= g_min
            assert conductance.max() <= g_max + 4 * np.spacing(g_max)

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us(), st.booleans())
    def test_they_stay_within_the_bounds_that_the_converter_states(self, weights, range_us, exact):
        converter = SinglePairConductanceConverter(range_us[0], 0 if exact else range_us[1], exact=exact)
        try:
            g_plus, g_minus, _ = converted(converter, weights)
        except UnmappableWeightError:  # some weights cannot be mapped exactly
            return
        lowest, highest = converter.conductance_bounds(weights.dtype)
        for conductance in (g_plus, g_minus):
            assert lowest <= float(conductance.min()) <= float(conductance.max()) <= highest

    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
    def test_the_stated_bounds_are_the_range_but_for_a_few_roundings(self, dtype):
        lowest, highest = SinglePairConductanceConverter(15.9, 0.1).conductance_bounds(dtype)
        assert lowest == dtype.type(0.1)
        assert 15.9 < highest <= 15.9 * (1 + 4 * np.finfo(dtype).eps)

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    def test_one_device_of_every_pair_is_at_g_min(self, weights, range_us):
        g_plus, g_minus, _ = converted(SinglePairConductanceConverter(*range_us), weights)
        assert (np.minimum(g_plus, g_minus) == weights.dtype.type(range_us[1])).all()

    @given(ordinary_arrays(), ranges_us())
    def test_the_largest_weight_reaches_g_max_but_for_rounding(self, weights, range_us):
        assume(weights.any())
        g_plus, g_minus, _ = converted(SinglePairConductanceConverter(*range_us), weights)
        assert float(max(g_plus.max(), g_minus.max())) == pytest.approx(range_us[0], rel=1e-6)

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    def test_negated_weights_swap_the_pair(self, weights, range_us):
        converter = SinglePairConductanceConverter(*range_us)
        g_plus, g_minus, scale = converted(converter, weights)
        swapped_minus, swapped_plus, same_scale = converted(converter, -weights)
        assert [g.tobytes() for g in (g_plus, g_minus, scale)] == [
            g.tobytes() for g in (swapped_plus, swapped_minus, same_scale)
        ]

    @given(ordinary_arrays(), ranges_us(), st.integers(-2, 30))
    def test_weights_multiplied_by_a_power_of_two_have_the_same_conductances(self, weights, range_us, exponent):
        assume(np.abs(weights).max() > 1e-6)  # times 2**-2 still above the clamp at 1e-7
        converter = SinglePairConductanceConverter(*range_us)
        multiplied = np.ldexp(weights, exponent)
        expected, found = converted(converter, weights), converted(converter, multiplied)
        assert [g.tobytes() for g in found[:2]] == [g.tobytes() for g in expected[:2]]
        assert found[2] == np.ldexp(expected[2], -exponent)

    @given(ordinary_arrays(), ranges_us(), st.booleans(), st.randoms(use_true_random=False))
    def test_permuted_weights_have_permuted_conductances(self, weights, range_us, exact, random):
        flat = weights.reshape(-1)
        order = random.sample(range(flat.size), flat.size)
        converter = SinglePairConductanceConverter(range_us[0], 0 if exact else range_us[1], exact=exact)
        expected = converted(converter, flat)
        for found, conductance in zip(converted(converter, flat[order])[:2], expected[:2], strict=True):
            assert found.tobytes() == conductance[order].tobytes()

    @given(ordinary_arrays(), ranges_us(), st.booleans(), st.integers(0, 300))
    def test_weights_converted_in_chunks_give_the_same_as_converted_at_once(self, weights, range_us, exact, cut):
        flat = weights.reshape(-1)
        cut %= flat.size + 1
        converter = SinglePairConductanceConverter(range_us[0], 0 if exact else range_us[1], exact=exact)
        *whole, scale = converted(converter, flat)
        found = [np.full_like(flat, np.nan) for _ in whole]
        for part in (slice(None, cut), slice(cut, None)):
            converter.convert_chunk(flat[part], Scaling(float(scale)), [array[part] for array in found])
        assert [array.tobytes() for array in found] == [array.tobytes() for array in whole]

    @given(arrays(max_value=2.0**120, min_value=-(2.0**120)), ranges_us())
    def test_the_weights_are_left_as_they_are(self, weights, range_us):
        before = weights.tobytes()
        SinglePairConductanceConverter(*range_us).convert_to_conductances(weights)
        assert weights.tobytes() == before

    def test_an_all_zero_weight_is_at_g_min_and_comes_back_as_zero(self):
        weights = np.zeros((2, 3), np.float32)
        converter = SinglePairConductanceConverter(25.0, 5.0)
        g_plus, g_minus, scale = converted(converter, weights)
        assert (g_plus == 5).all()
        assert (g_minus == 5).all()
        assert scale == pytest.approx(20 / 1e-7)
        assert not converter.convert_back_to_weights([g_plus, g_minus], {"scale_ratio": scale}).any()

    def test_weights_below_the_clamp_keep_its_scale(self):
        (g_plus, _), params = SinglePairConductanceConverter().convert_to_conductances(np.full(3, 1e-9, np.float32))
        assert params["scale_ratio"] == pytest.approx(25 / 1e-7)
        np.testing.assert_allclose(g_plus, 0.25, rtol=1e-6)

    @pytest.mark.parametrize("shape", [(), (1,), (4, 1), (2, 1, 3)])
    def test_they_have_the_shape_of_the_weight(self, shape):
        g_plus, g_minus, scale = converted(SinglePairConductanceConverter(), np.ones(shape, np.float32))
        assert (g_plus.shape, g_minus.shape, scale.shape) == (shape, shape, ())

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (np.float16, np.float32),
            (ml_dtypes.bfloat16, np.float32),
            (np.float32, np.float32),
            (np.float64, np.float64),
            (np.int8, np.float32),
            (np.int64, np.float32),
            (np.bool_, np.float32),
        ],
    )
    def test_all_but_float64_weights_are_computed_and_given_back_in_float32(self, dtype, expected):
        (g_plus, g_minus), params = SinglePairConductanceConverter().convert_to_conductances(np.ones(2).astype(dtype))
        assert {g_plus.dtype, g_minus.dtype, params["scale_ratio"].dtype} == {np.dtype(expected)}

    def test_a_list_of_python_numbers_is_a_float64_weight(self):
        (g_plus, g_minus), params = SinglePairConductanceConverter().convert_to_conductances([[0.5, -1.0]])
        assert g_plus.tolist() == [[12.5, 0.0]]
        assert g_minus.tolist() == [[0.0, 25.0]]
        assert params["scale_ratio"] == np.float64(25)

    @pytest.mark.parametrize("layout", [np.asfortranarray, lambda array: array[::-1, ::2], np.transpose])
    def test_the_memory_layout_of_the_weight_does_not_matter(self, layout):
        weights = layout(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))
        found = converted(SinglePairConductanceConverter(), weights)
        expected = converted(SinglePairConductanceConverter(), np.ascontiguousarray(weights))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_the_byte_order_of_the_weight_does_not_matter(self):
        weights = np.array([0.5, -1.0, 0.25], ">f4")
        found = converted(SinglePairConductanceConverter(), weights)
        expected = converted(SinglePairConductanceConverter(), weights.astype("<f4"))
        assert [g.tobytes() for g in found] == [g.tobytes() for g in expected]


class TestExact:
    @given(ordinary_arrays(), ranges_us(g_min_is_zero=True))
    def test_scale_is_the_largest_power_of_two_not_above_the_plain_scale(self, weights, range_us):
        _, _, plain = converted(SinglePairConductanceConverter(*range_us), weights)
        _, _, scale = converted(SinglePairConductanceConverter(*range_us, exact=True), weights)
        assert math.frexp(scale)[0] == 0.5
        assert scale <= plain < 2 * scale

    @given(arrays(), ranges_us(g_min_is_zero=True))
    @example(np.array([-0.0, 0.0, -1.0], np.float32), (25.0, 0.0))
    @example(np.array([1e-45, -1e-45, 1e-40, 1.0], np.float32), (25.0, 0.0))
    @example(np.array([5e-324, 1.0]), (25.0, 0.0))
    @example(np.array([1e-45, 1000.0], np.float32), (25.0, 0.0))
    @example(np.full(17, 4.2535306e37, np.float32), (0.25, 0.0))
    def test_weights_come_back_bit_by_bit_or_are_refused_for_a_value_that_cannot(self, weights, range_us):
        converter = SinglePairConductanceConverter(*range_us, exact=True)
        scaling = converter.scaling(weight_statistics([weights]), weights.dtype)
        unreachable = [
            value for value in weights.reshape(-1) if not is_exact_product(value, scaling.scale, weights.dtype)
        ]
        if unreachable:
            with pytest.raises(UnmappableWeightError, match="cannot hold exactly") as refusal:
                converter.convert_to_conductances(weights)
            assert f"the value {float(unreachable[0]):g}," in str(refusal.value)
            return
        g_plus, g_minus, _ = converted(converter, weights)
        with np.errstate(over="ignore"):  # of NumPy 1.26, for ones that it adds to the last vector
            rebuilt = converter.decoding(scaling).decode([g_plus, g_minus], weights.dtype)
        assert np.asarray(rebuilt).tobytes() == weights.tobytes()

    @given(ordinary_arrays(), ranges_us(g_min_is_zero=True))
    def test_conductances_lie_in_the_range_and_one_device_is_at_zero(self, weights, range_us):
        g_plus, g_minus, _ = converted(SinglePairConductanceConverter(*range_us, exact=True), weights)
        assert (np.minimum(g_plus, g_minus) == 0).all()
        assert float(max(g_plus.max(), g_minus.max())) <= range_us[0] * (1 + 1e-6)

    @given(arrays(st.just(FLOAT32), min_value=-65504, max_value=65504), ranges_us(g_min_is_zero=True))
    def test_float16_weights_come_back_bit_by_bit(self, numbers, range_us):
        weights = numbers.astype(np.float16)
        converter = SinglePairConductanceConverter(*range_us, exact=True)
        back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
        assert back.astype(np.float16).tobytes() == weights.tobytes()

    def test_a_negative_zero_is_held_by_g_plus(self):
        converter = SinglePairConductanceConverter(exact=True)
        g_plus, g_minus, _ = converted(converter, np.array([-0.0, 0.0, 1.0], np.float32))
        assert np.signbit(g_plus).tolist() == [True, False, False]
        assert np.signbit(g_minus).tolist() == [False, False, False]

    def test_it_promises_no_error(self):
        statistics = WeightStatistics(-1.0, 1.0, 3)
        converter = SinglePairConductanceConverter(exact=True)
        assert converter.error_bound(statistics, converter.scaling(statistics, FLOAT32), FLOAT32) == 0

    def test_it_is_refused_together_with_a_g_min(self):
        with pytest.raises(ConfigError, match=r"exact mapping needs g_min = 0, but g_min = 1.0 µS"):
            SinglePairConductanceConverter(25.0, 1.0, exact=True)

    @pytest.mark.parametrize(("scale", "expected"), [(2.0, False), (1.0, False), (0.5, True)])
    def test_only_a_scale_below_one_can_lose_bits_and_needs_a_second_scan(self, scale, expected):
        assert SinglePairConductanceConverter(exact=True).needs_check(Scaling(scale)) is expected
        assert SinglePairConductanceConverter().needs_check(Scaling(scale)) is False


def is_exact_product(value, scale, dtype):
    """Whether value * scale is a number of `dtype`; asked with rational numbers."""
    with np.errstate(under="ignore"):
        return Fraction(float(dtype.type(value) * dtype.type(scale))) == Fraction(float(value)) * Fraction(scale)


class TestRefusals:
    @pytest.mark.parametrize(
        ("g_max", "g_min", "message"),
        [
            (-1.0, None, r"g_max should be a positive value, but it is -1.0 µS"),
            (25.0, -0.5, r"g_min should be a positive value, but it is -0.5 µS"),
            (25.0, 25.0, r"g_min should be smaller than g_max, but g_min=25.0 and g_max=25.0 µS"),
            (0.0, None, r"g_min should be smaller than g_max"),
            (math.nan, None, r"g_max should be finite, but it is nan µS"),
            (math.inf, None, r"g_max should be finite, but it is inf µS"),
            (25.0, math.nan, r"g_min should be finite, but it is nan µS"),
            ("wide", None, r"g_max should be a number in µS, but it is 'wide'"),
            ([25.0, 50.0], None, r"g_max should be a number in µS, but it is \[25.0, 50.0\]"),
        ],
    )
    def test_a_wrong_range_is_refused_with_the_value(self, g_max, g_min, message):
        with pytest.raises(ConfigError, match=f"^{message}"):
            SinglePairConductanceConverter(g_max, g_min)

    def test_exact_is_asked_for_by_name(self):
        with pytest.raises(TypeError):
            SinglePairConductanceConverter(25.0, 0.0, True)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("index", [(0, 0), (1, 2)])
    def test_a_value_that_is_not_finite_is_refused_with_its_flat_index(self, value, index):
        weights = np.ones((2, 3), np.float32)
        weights[index] = value
        flat = 3 * index[0] + index[1]
        with pytest.raises(UnmappableWeightError, match=rf"has the value {value} at flat index {flat}\b"):
            SinglePairConductanceConverter().convert_to_conductances(weights)

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
    def test_a_weight_without_elements_is_refused(self, shape):
        with pytest.raises(UnmappableWeightError, match="has no elements"):
            SinglePairConductanceConverter().convert_to_conductances(np.zeros(shape, np.float32))

    @pytest.mark.parametrize("weights", [[np.nan], [], [1e-45, 1e3]])
    def test_a_refusal_of_an_array_says_that_it_is_about_the_weight(self, weights):
        with pytest.raises(UnmappableWeightError, match=r"^the weight has "):
            SinglePairConductanceConverter(exact=True).convert_to_conductances(np.array(weights, np.float32))

    @pytest.mark.parametrize(
        "weights", [np.array([1j]), np.array(["0.5"]), np.array([None]), np.ones(2, np.longdouble)]
    )
    def test_a_weight_that_is_no_real_number_of_a_known_type_is_refused(self, weights):
        with pytest.raises(UnmappableWeightError, match=f"weights of type {weights.dtype} cannot be mapped"):
            SinglePairConductanceConverter().convert_to_conductances(weights)

    def test_a_range_too_far_from_the_weights_is_refused_with_both(self):
        with pytest.raises(
            UnmappableWeightError, match=r"max\|W\| = 3e\+38, .* scale is 0.0 in float32; rescale .* than g_max = 1e-10"
        ):
            SinglePairConductanceConverter(1e-10).convert_to_conductances(np.array([3e38], np.float32))

    def test_a_range_that_makes_the_scale_infinite_is_refused(self):
        with pytest.raises(UnmappableWeightError, match=r"the scale is inf in float32; rescale .* than g_max = 1e\+35"):
            SinglePairConductanceConverter(1e35).convert_to_conductances(np.array([1e-7], np.float32))

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_only_two_conductances_are_converted_back(self, count):
        with pytest.raises(ValueError, match="exactly two elements"):
            SinglePairConductanceConverter().convert_back_to_weights([np.ones(2)] * count, {"scale_ratio": 1.0})

    def test_conductances_are_not_converted_back_without_their_scale(self):
        with pytest.raises(ValueError, match="params do not contain scale_ratio"):
            SinglePairConductanceConverter().convert_back_to_weights([np.ones(2)] * 2, {})

    def test_a_wrong_range_is_both_a_value_error_and_an_error_of_the_package(self):
        assert issubclass(ConfigError, ValueError)
        assert issubclass(ConfigError, GconvError)


class TestIdentity:
    def test_converters_with_equal_parameters_are_equal_and_hash_alike(self):
        assert SinglePairConductanceConverter(25, 0) == SinglePairConductanceConverter()
        assert hash(SinglePairConductanceConverter(25, 0)) == hash(SinglePairConductanceConverter())

    @pytest.mark.parametrize(
        "other",
        [
            SinglePairConductanceConverter(24.0),
            SinglePairConductanceConverter(25.0, 1.0),
            SinglePairConductanceConverter(exact=True),
            "SinglePairConductanceConverter(g_max=25.0, g_min=0.0)",
            None,
        ],
    )
    def test_anything_else_is_not_equal(self, other):
        assert SinglePairConductanceConverter() != other

    def test_text_is_short_and_repr_builds_an_equal_converter(self):
        for converter in (SinglePairConductanceConverter(3.123, 0.789), SinglePairConductanceConverter(exact=True)):
            assert eval(repr(converter)) == converter  # noqa: S307 - its own repr
        assert (
            str(SinglePairConductanceConverter(3.123, 0.789))
            == "SinglePairConductanceConverter(g_max=3.12, g_min=0.79)"
        )

    def test_parameters_of_the_manifest_build_an_equal_converter(self):
        for converter in (SinglePairConductanceConverter(3.123, 0.789), SinglePairConductanceConverter(exact=True)):
            assert SinglePairConductanceConverter(**converter.manifest_parameters()) == converter

    def test_the_range_can_be_read_but_not_changed(self):
        converter = SinglePairConductanceConverter(30, 2)
        assert (converter.g_max, converter.g_min, converter.is_exact) == (30.0, 2.0, False)
        with pytest.raises(AttributeError):
            converter.g_max = 5.0
