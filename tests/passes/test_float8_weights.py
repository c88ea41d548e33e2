"""float8 weights, which nodes cast or dequantize, are mapped in float32 and cast back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

TYPES = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz]
PATHS = {"cast": "t = Cast <to = 1> (W)", "dequantized": "t = DequantizeLinear(W, s)"}


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimization", ["none", "all"])
def test_they_come_back_and_give_the_same_outputs(parse, run, normal, dtype, path, optimization):
    weight = normal(4, 8).astype(dtype)
    model = parse(
        f"g (float[2,4] x) => (float[2,8] y) {{ {PATHS[path]} y = MatMul(x, t) }}",
        opsets='"" : 19',
        W=weight,
        s=np.float32(0.5),
    )
    x = normal(2, 4, seed=1)
    expected = run(model, optimization, x=x)
    MapConductances()(model)
    [record] = read_manifest(model).weights
    assert (record.name, record.dtype, record.compute_dtype) == ("W", np.dtype(dtype).name, "float32")
    assert CheckMapping().violations(model) == ()
    assert run(model, optimization, x=x)[0].tobytes() == expected[0].tobytes()
    RestoreWeights()(model)
    assert model.graph.initializers["W"].const_value.numpy().tobytes() == weight.tobytes()


def test_below_opset_19_they_are_skipped_with_the_remedy(parse, normal):
    model = parse(
        "g (float[2,4] x) => (float[2,8] y, float[2,8] z) { t = Cast <to = 1> (W) y = MatMul(x, t) z = MatMul(x, V) }",
        opsets='"" : 18',
        W=normal(4, 8).astype(ml_dtypes.float8_e4m3fn),
        V=normal(4, 8),
    )
    MapConductances()(model)
    [skipped] = read_manifest(model).skipped
    assert (skipped.name, skipped.reason, skipped.detail) == (
        "W",
        "opset_too_old",
        "float8e4m3fn at opset 18, needs 19",
    )
