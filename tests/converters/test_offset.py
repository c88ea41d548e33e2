"""Offsets and two-sided pairs: a zero weight is in the middle of the range, or on a level."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.converters import OffsetConductanceConverter, Scaling, TwoSidedPairConductanceConverter
from onnx_gconv.errors import ConfigError

WEIGHTS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)


def test_an_offset_has_zero_in_the_middle():
    converter = OffsetConductanceConverter(20.0, 10.0)
    [found], params = converter.convert_to_conductances(WEIGHTS)
    assert found.tolist() == [10.0, 12.5, 15.0, 17.5, 20.0]
    assert params == {"scale_ratio": np.float32(2.5)}
    assert converter.reference_us == 15.0
    assert converter.limits(Scaling(2.5)) == (-2.0, 2.0)


@pytest.mark.parametrize("levels", [3, 5, 255])
def test_an_odd_number_of_levels_changes_nothing(levels):
    plain, found = OffsetConductanceConverter(20.0, 10.0), OffsetConductanceConverter(20.0, 10.0, levels)
    [expected], expected_params = plain.convert_to_conductances(WEIGHTS)
    [conductance], params = found.convert_to_conductances(WEIGHTS)
    assert conductance.tobytes() == expected.tobytes()
    assert params == expected_params
    assert found.reference_us == plain.reference_us


@pytest.mark.parametrize("levels", [4, 16, 256, 65536])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_with_an_even_number_of_levels_zero_and_both_ends_are_levels(levels, dtype):
    converter = OffsetConductanceConverter(25.0, 1.0).for_levels(levels)
    assert converter.levels == levels
    [found], _ = converter.convert_to_conductances(np.array([-2.0, 0.0, 2.0], dtype))
    places = (found - 1.0) / 24.0 * (levels - 1)
    np.testing.assert_allclose(places, [1, levels // 2, levels - 1], rtol=0, atol=1e-5 * levels)
    assert converter.conductance_bounds(np.dtype(dtype))[0] == pytest.approx(float(found[0]))
    assert converter.reference_us == pytest.approx(float(found[1]))


@pytest.mark.parametrize("levels", [2, 0, 65537, 4.0, "16"])
def test_levels_that_cannot_hold_a_zero_and_both_signs_are_refused(levels):
    with pytest.raises(ConfigError, match=f"levels should be a whole number from 3 to 65536, but it is {levels!r}"):
        OffsetConductanceConverter(levels=levels)


def test_a_zero_weight_comes_back_as_zero():
    converter = OffsetConductanceConverter(25.0, 0.3)
    assert converter.convert_back_to_weights(*converter.convert_to_conductances(WEIGHTS))[2] == 0


def test_the_devices_of_a_two_sided_pair_move_in_opposite_directions():
    converter = TwoSidedPairConductanceConverter(20.0, 10.0)
    (g_plus, g_minus), params = converter.convert_to_conductances(WEIGHTS)
    assert g_plus.tolist() == [10.0, 12.5, 15.0, 17.5, 20.0]
    assert g_minus.tolist() == g_plus.tolist()[::-1]
    assert params == {"scale_ratio": np.float32(5)}
    assert converter.limits(Scaling(5.0)) == (-2.0, 2.0)


@pytest.mark.parametrize("kind", [OffsetConductanceConverter, TwoSidedPairConductanceConverter])
def test_the_default_range_is_that_of_a_single_pair(kind):
    assert (kind().g_max, kind().g_min) == (25.0, 0.0)


@pytest.mark.parametrize("kind", [OffsetConductanceConverter, TwoSidedPairConductanceConverter])
def test_back_conversion_checks_what_it_is_given(kind):
    conductances = [np.ones(2, np.float32)] * len(kind().device_names)
    with pytest.raises(ValueError, match="params do not contain scale_ratio"):
        kind().convert_back_to_weights(conductances, {})
    with pytest.raises(ValueError, match="conductances must contain exactly"):
        kind().convert_back_to_weights([*conductances, conductances[0]], {"scale_ratio": 1.0})
