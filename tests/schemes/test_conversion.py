"""What weights lose when they are clipped and rounded, part by part."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter, WeightStatistics
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.conversion import WeightConversion

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def conversion():
    """Weights of up to 1, and levels of 0.1 from 0 to 1."""
    converter = SinglePairConductanceConverter(g_max=10.0, g_min=0.0)
    scaling = converter.scaling(WeightStatistics(-1.0, 1.0, 4), FLOAT32)
    return WeightConversion(converter, scaling, is_clipped=True, levels=ConductanceLevels.uniform(11, 0.0, 10.0))


def loss(conversion, *weights):
    return conversion.loss(np.array(weights, np.float32), 0, rounded=False)


def test_errors_of_clipping_and_of_rounding_are_told_apart(conversion):
    found = loss(conversion, 0.52, -3.0, 1.5, 0.3)
    assert found.clipped == 2
    assert found.max_clipping_error == pytest.approx(2.0)
    assert found.max_rounding_error == pytest.approx(0.02, rel=1e-5)
    assert found.rms_error == pytest.approx(np.sqrt((0.02**2 + 2.0**2 + 0.5**2) / 4), rel=1e-5)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_loss_of_a_weight_is_that_of_its_parts_together(conversion, split):
    weights = (-3.0, 0.52, 1.5, 0.3)
    whole, parts = loss(conversion, *weights), loss(conversion, *weights[:split]) | loss(conversion, *weights[split:])
    assert (parts.clipped, parts.count) == (whole.clipped, whole.count)
    assert parts.max_clipping_error == whole.max_clipping_error
    assert parts.max_rounding_error == whole.max_rounding_error
    assert parts.rms_error == pytest.approx(whole.rms_error)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)


def test_a_weight_without_errors_has_no_ratio(conversion):
    found = loss(conversion, 0.0, 1.0)
    assert (found.rms_error, found.sqnr_db) == (0.0, None)
