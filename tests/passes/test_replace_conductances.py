"""Measured conductances take the place of targets, in floats or in place of codes, and the model says so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, MeasuredConductances, ReplaceConductances, RestoreWeights
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

UNIFORM = ConductanceLevels.uniform(32, 1.0, 25.0)
TABLE = ConductanceLevels.of_table([1.0, 2.0, 5.0, 9.0, 17.0, 25.0])
PAIR = converters.SinglePairConductanceConverter(g_max=25.0, g_min=1.0)
SCHEMES = {
    "floats": MappingScheme(PAIR),
    "channels": MappingScheme(PAIR, granularity=Granularity("channel")),
    "codes": MappingScheme(PAIR, levels=UNIFORM, storage="codes"),
    "codes in a table": MappingScheme(PAIR, levels=TABLE, storage="codes"),
    "codes of tiles": MappingScheme(
        PAIR, granularity=Granularity("tile", (3, 2)), levels=UNIFORM, storage="codes"
    ),
    "single device": MappingScheme(converters.SingleDeviceConductanceConverter()),
    "n pair": MappingScheme(converters.NPairConductanceConverter([1.0, 2.0])),
}  # fmt: skip


def measured_for(model, *, weight="W", noise=0.7, tensors=None):
    """Random conductances around 5 µS for every device of a weight."""
    [record] = [item for item in read_manifest(model).weights if item.name == weight]
    rng = np.random.default_rng(7)
    arrays = [
        (5 + noise * rng.normal(size=record.shape)).astype(record.compute_dtype) for _ in record.conductances
    ] if tensors is None else tensors  # fmt: skip
    cells = len(arrays) * int(np.prod(record.shape))
    return arrays, {
        (record.graph, weight): MeasuredConductances(
            tuple(map(ir.tensor, arrays)),
            source="chip.h5",
            cells=cells,
            measured=cells,
            max_abs_error=9.0,
            rms_error=1.0,
        )
    }


def rebuilt_by_hand(record, arrays, scale, zero):
    total = sum(
        item.coefficient * array.astype(np.float64) for item, array in zip(record.conductances, arrays, strict=True)
    )
    return (total - record.offset_us) / scale + zero


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_model_computes_with_measured_conductances(parse, run, normal, name, optimization):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(scheme=SCHEMES[name])(model)
    before = read_manifest(model).weights[0]
    scale = model.graph.initializers[before.scale.name].const_value.numpy().astype(np.float64)
    if before.scale.form == "tiles":
        scale = scale.repeat([3, 3], axis=0).repeat([2, 2, 1], axis=1)
    arrays, replacements = measured_for(model)
    assert ReplaceConductances(replacements)(model).modified
    [record] = read_manifest(model).weights
    zero = record.zero if isinstance(record.zero, float) else 0.0
    x = normal(2, 6, seed=3)
    [y] = run(model, optimization, x=x)
    expected = x.astype(np.float64) @ rebuilt_by_hand(record, arrays, scale, zero)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert CheckMapping().violations(model) == ()


def test_codes_of_levels_are_gone_and_the_conductances_have_the_names_that_were_decoded(parse, run, normal):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(scheme=SCHEMES["codes"])(model)
    assert "W.g_plus_code" in model.graph.initializers
    ReplaceConductances(measured_for(model)[1])(model)
    assert [node.op_type for node in model.graph] == ["Sub", "Div", "MatMul"]
    assert sorted(model.graph.initializers) == ["W.g_minus", "W.g_plus", "W.g_scale"]
    [record] = read_manifest(model).weights
    assert [item.name for item in record.conductances] == ["W.g_plus", "W.g_minus"]
    assert record.levels.storage == "float"
    assert record.levels.count == 32  # what the targets had


def test_the_manifest_says_that_a_weight_is_measured_and_by_how_much_it_is_off(parse, normal):
    model = parse("g (float[2,6] x) => (float y) { h = MatMul(x, W) y = MatMul(h, V) }", W=normal(6, 5), V=normal(5, 4))
    MapConductances(scheme=SCHEMES["floats"])(model)
    ReplaceConductances(measured_for(model)[1])(model)
    first, second = read_manifest(model).weights
    assert (first.measured.source, first.measured.cells, first.measured.measured) == ("chip.h5", 60, 60)
    assert (first.measured.max_abs_error, first.measured.rms_error, first.measured.saturated) == (9.0, 1.0, False)
    assert "60 of 60 conductances were measured" in first.notes[-1]
    assert second.measured is None
    assert second.notes == ()


INTEGER = "g (uint8[2,3] x) => (int32 y) { y = MatMulInteger(x, W, p, z) }"
CODES = np.array([[-128, 127, 3, 0], [5, -7, 127, -128], [1, 2, 3, 4]], np.int8)


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_codes_beyond_their_type_are_set_to_its_ends(parse, run, optimization, dtype):
    offset = 0 if dtype == np.int8 else 128
    codes = (CODES.astype(int) + offset).astype(dtype)
    model = parse(INTEGER, W=codes, z=np.array(0, dtype), p=np.array(3, np.uint8))
    MapConductances(converters.SinglePairConductanceConverter())(model)
    [record] = read_manifest(model).weights
    scale = record.scale.value
    wanted = codes.astype(np.float64) + np.array([[-9, 9, 0.3, 0.4], [0, 0, 9, -9], [-0.4, 0.7, 0, 0]])
    weights = (wanted * scale).astype(np.float32)
    arrays = [np.maximum(weights, 0), np.maximum(-weights, 0)]
    _, replacements = measured_for(model, tensors=arrays)
    ReplaceConductances(replacements)(model)
    info = np.iinfo(dtype)
    expected_codes = np.clip(np.rint(wanted), info.min, info.max).astype(np.int64)
    x = np.array([[1, 0, 7], [255, 4, 2]], np.uint8)
    [y] = run(model, optimization, x=x)
    assert np.array_equal(y, (x.astype(np.int64) - 3) @ expected_codes)
    assert CheckMapping().violations(model) == ()
    RestoreWeights()(model)
    assert np.array_equal(model.graph.initializers["W"].const_value.numpy(), expected_codes.astype(dtype))
    assert [node.op_type for node in model.graph] == ["MatMulInteger"]


def test_half_precision_that_would_overflow_is_set_to_the_largest_number(parse, run):
    weight = np.array([[60000.0, 1.0], [2.0, -3.0]], np.float16)
    model = parse("g (float16[1,2] x) => (float16 y) { y = MatMul(x, W) }", W=weight)
    MapConductances(converters.SinglePairConductanceConverter())(model)
    scale = read_manifest(model).weights[0].scale.value
    off = np.array([[70000.0, 1.0], [2.0, -70000.0]])
    arrays = [np.maximum(off * scale, 0).astype(np.float32), np.maximum(-off * scale, 0).astype(np.float32)]
    _, replacements = measured_for(model, tensors=arrays)
    replacements = {
        key: MeasuredConductances(item.tensors, item.source, 8, 8, 69997.0, 1.0) for key, item in replacements.items()
    }
    ReplaceConductances(replacements)(model)
    [y] = run(model, "none", x=np.array([[1, 0]], np.float16))
    assert y.tolist() == [[65504.0, 1.0]]


@pytest.mark.parametrize("node", ["Max", "Min"])
def test_another_limit_of_codes_is_found(parse, node):
    model = parse(INTEGER, W=CODES, z=np.int8(0), p=np.uint8(3))
    MapConductances(converters.SinglePairConductanceConverter())(model)
    ReplaceConductances(measured_for(model)[1])(model)
    [found] = [item for item in model.graph if item.op_type == node]
    found.inputs[1].const_value = ir.tensor(np.array(100.0, np.float32), name=found.inputs[1].name)
    [violation] = CheckMapping().violations(model)
    assert "should keep it within -128 to 127" in violation.message


def test_a_measured_conductance_that_is_no_number_is_found(parse, normal):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(scheme=SCHEMES["floats"])(model)
    arrays, replacements = measured_for(model)
    arrays[1][3, 2] = np.nan
    ReplaceConductances(replacements)(model)
    [violation] = CheckMapping().violations(model)
    assert violation.message == "'W.g_minus' has nan µS at flat index 17"


def test_a_model_that_is_not_mapped_is_refused(parse, normal):
    with pytest.raises(ModelError, match="carries no mapping"):
        ReplaceConductances({})(parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((6, 5), np.float32)], "it has 2 devices, but 1 were measured"),
        ([np.zeros((6, 5))] * 2, r"is float64 \[6, 5\], but it should be float32 \[6, 5\]"),
        ([np.zeros((5, 6), np.float32)] * 2, r"is float32 \[5, 6\], but it should be float32 \[6, 5\]"),
    ],
)
def test_measurements_that_do_not_fit_are_refused_and_change_nothing(parse, normal, serialized, arrays, message):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(scheme=SCHEMES["floats"])(model)
    before = serialized(model)
    _, replacements = measured_for(model, tensors=arrays)
    with pytest.raises(ModelError, match=message):
        ReplaceConductances(replacements)(model)
    assert serialized(model) == before


def test_a_weight_that_is_not_mapped_cannot_be_measured(parse, normal):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(scheme=SCHEMES["floats"])(model)
    [item] = measured_for(model)[1].values()
    with pytest.raises(ModelError, match="measurements of 'V', but no such weight is mapped"):
        ReplaceConductances({("", "V"): item})(model)
