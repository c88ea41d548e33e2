"""Every converter with every granularity, levels and clipping, on weights of all kinds of ops, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS
from tests.pairs import in_pairs
from tests.scheme_choices import CONVERTERS, GRANULARITIES


def weight(*shape, seed=0):
    """Normally distributed numbers of which some outputs, and some stretches of inputs, are much smaller."""
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    array[..., : shape[-1] // 3] *= 0.01
    array[: max(shape[0] // 3, 1)] *= 0.1
    return array


def graph(node, x, **weights):
    return f"g (float{list(x)} x) => (float y) {{ {node} }}", x, weights


# The text of the graph, the shape of x, and the weights.
OPS = {
    "MatMul": graph("y = MatMul(x, W)", (2, 13), W=weight(13, 10)),
    "Gemm": graph("y = Gemm <alpha = 0.5> (x, W)", (2, 13), W=weight(13, 10)),
    "Gemm transB": graph("y = Gemm <transB = 1> (x, W)", (2, 13), W=weight(10, 13)),
    "one output": graph("y = MatMul(x, W)", (2, 13), W=weight(13, 1)),
    "Conv": graph("y = Conv(x, W)", (1, 3, 6, 6), W=weight(7, 3, 3, 2)),
    "grouped Conv": graph("y = Conv <group = 3> (x, W)", (1, 6, 6, 6), W=weight(9, 2, 3, 2)),
    "depthwise Conv": graph("y = Conv <group = 6> (x, W)", (1, 6, 6, 6), W=weight(6, 1, 3, 2)),
    "ConvTranspose": graph("y = ConvTranspose(x, W)", (1, 7, 4, 4), W=weight(7, 4, 3, 2)),
    "grouped ConvTranspose": graph("y = ConvTranspose <group = 3> (x, W)", (1, 6, 4, 4), W=weight(6, 5, 3, 2)),
    "LSTM": graph(
        """y, h = LSTM <hidden_size = 3, direction = "bidirectional"> (x, W, R)""",
        (4, 1, 5),
        W=weight(2, 12, 5),
        R=weight(2, 12, 3, seed=1),
    ),
}


def mapped_model(parse, op, scheme, *, opsets='"" : 17', **options):
    text, _, weights = OPS[op]
    model = parse(text, opsets=opsets, **weights)
    assert MapConductances(scheme=scheme, **options)(model).modified
    return model


def bounds(model, name):
    """The error that the converter allows for each element of a weight, and the weight rebuilt in NumPy."""
    [record] = [item for item in read_manifest(model).weights if item.name == name]
    mapped = locate(record, ModelValues(model))
    return record, mapped


def check(model, run, op, scheme):
    """The mapping holds, ONNX Runtime computes it at all levels, and every weight is within its bound."""
    _, shape, weights = OPS[op]
    CheckMapping()(model)
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    written = ir.to_proto(model)
    restored, exposed = ir.from_proto(written), ir.from_proto(written)
    RestoreWeights()(restored)
    assert set(restored.graph.initializers) == set(weights)  # nothing of scales, tiles and codes stays
    rebuilt = {}
    for name, original in weights.items():
        record, mapped = bounds(model, name)
        rebuilt[name] = mapped.rebuilt.numpy()
        assert np.array_equal(rebuilt[name], restored.graph.initializers[name].const_value.numpy())
        assert_within_bound(mapped, record, rebuilt[name], original)
    values = {output.name: output for node in exposed.graph for output in node.outputs}
    exposed.graph.outputs.extend(values[name] for name in weights)
    exposed, restored, mapped = (
        item.SerializeToString() for item in (ir.to_proto(exposed), ir.to_proto(restored), written)
    )
    for optimization in ("none", "basic", "all"):
        for name, found in zip(weights, run(exposed, optimization, x=x)[1:], strict=True):
            assert np.array_equal(found, rebuilt[name]), f"'{name}' at {optimization}"
        [expected], [found] = (run(item, optimization, x=x) for item in (restored, mapped))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_within_bound(mapped, record, rebuilt, original):
    decoding, grid = mapped.decoding, record.grid
    scaling = converters.Scaling(decoding.scale, decoding.zero)
    levels = None if record.levels is None else record.levels.levels
    conversion = WeightConversion(
        record.converter.converter(), scaling, grid, is_clipped=record.clipping is not None, levels=levels
    )
    size = original.size
    groups = np.zeros(size, np.intp) if grid is None else grid.groups(0, size)
    count = 1 if grid is None else grid.count
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, original.reshape(-1))
    np.maximum.at(high, groups, original.reshape(-1))
    shape = () if grid is None else grid.shape
    statistics = converters.WeightStatistics(low.reshape(shape)[()], high.reshape(shape)[()], size)
    bound = np.asarray(conversion.error_bound(statistics, np.dtype(np.float32))).reshape(-1)
    wide = original.astype(np.float64).reshape(-1)
    if conversion.is_clipped:
        ends = conversion.scaling_at(0, size, np.dtype(np.float64))
        wide = np.clip(wide, *conversion.converter.limits(ends))
    error = np.abs(rebuilt.astype(np.float64).reshape(-1) - wide)
    assert np.all(error <= bound[groups]), (error / np.maximum(bound[groups], 1e-300)).max()


# An op says which elements share a scale, a granularity how many do, and a converter, levels and clipping what is done
# with the elements of one scale: none has to do with two others.


@pytest.mark.parametrize(("converter", "granularity", "op"), in_pairs(CONVERTERS, GRANULARITIES, OPS))
def test_a_weight_comes_back_within_its_bound_in_onnx_runtime(parse, run, converter, granularity, op):
    scheme = MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity])
    check(mapped_model(parse, op, scheme), run, op, scheme)


@pytest.mark.parametrize(
    ("count", "storage", "granularity", "op"),
    in_pairs([16, 256, 1000], ["float", "codes"], ["tensor", "channel", "tile max"], OPS),
)
def test_levels_are_rebuilt_from_floats_and_from_codes(parse, run, count, storage, granularity, op):
    levels = ConductanceLevels.uniform(count, 1.0, 40.0)
    converter = CONVERTERS["single pair above 0"]
    scheme = MappingScheme(converter, GRANULARITIES[granularity], levels=levels, storage=storage)
    check(mapped_model(parse, op, scheme), run, op, scheme)


@pytest.mark.parametrize("opset", [9, 10, 13, 21, 27, 28])
@pytest.mark.parametrize("count", [256, 257])
def test_codes_and_floats_rebuild_the_same_weights_at_every_opset(parse, run, count, opset):
    levels = ConductanceLevels.uniform(count, 1.0, 40.0)
    rebuilt = []
    for storage in ("float", "codes"):
        scheme = MappingScheme(CONVERTERS["single pair above 0"], levels=levels, storage=storage)
        model = mapped_model(parse, "MatMul", scheme, opsets=f'"" : {opset}')
        check(model, run, "MatMul", scheme)
        rebuilt.append(bounds(model, "W")[1].rebuilt.numpy())
    assert np.array_equal(*rebuilt)
    ops = [node.op_type for node in model.graph]
    dequantizes = (10 if count == 256 else 21) <= opset <= 27
    assert ("DequantizeLinear" in ops) == dequantizes
    assert model.graph.initializers["W.g_plus_code"].dtype == (
        ir.DataType.UINT8 if count == 256 else ir.DataType.UINT16
    )


@pytest.mark.parametrize(
    "converter", ["dual pair", "n pair", "custom pair", "single device", "two-sided pair", "offset"]
)
@pytest.mark.parametrize("storage", ["float", "codes"])
def test_all_converters_take_levels(parse, run, storage, converter):
    chosen = CONVERTERS[converter]
    levels = ConductanceLevels.uniform(64, chosen.g_min, chosen.g_max)
    scheme = MappingScheme(chosen, GRANULARITIES["tile max"], levels=levels, storage=storage)
    check(mapped_model(parse, "Conv", scheme), run, "Conv", scheme)


@pytest.mark.parametrize("storage", ["float", "codes"])
def test_a_table_of_levels_is_looked_up(parse, run, storage):
    levels = ConductanceLevels.of_table([1.0, 3.0, 9.0, 20.0, 40.0])
    scheme = MappingScheme(CONVERTERS["single pair above 0"], levels=levels, storage=storage)
    model = mapped_model(parse, "Conv", scheme)
    check(model, run, "Conv", scheme)
    [record] = read_manifest(model).weights
    assert record.levels.values == (1.0, 3.0, 9.0, 20.0, 40.0)


@pytest.mark.parametrize("converter", ["bit-sliced pair", "bit-sliced offset"])
def test_digits_of_bit_slices_are_codes(parse, run, converter):
    scheme = MappingScheme(CONVERTERS[converter], storage="codes")
    model = mapped_model(parse, "MatMul", scheme)
    check(model, run, "MatMul", scheme)
    [record] = read_manifest(model).weights
    assert (record.levels.count, record.levels.storage) == (16, "uint8")


@pytest.mark.parametrize(
    ("converter", "clipping", "granularity", "op"),
    in_pairs(
        ["single pair above 0", "n pair", "single device", "bit-sliced pair"],
        [Clipping(percentile=90.0), Clipping(value=0.5)],
        ["tensor", "channel", "tile max"],
        OPS,
    ),
    ids=str,
)
def test_clipped_weights_come_back_as_the_largest_that_devices_hold(parse, run, converter, clipping, granularity, op):
    scheme = MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity], clipping)
    model = mapped_model(parse, op, scheme)
    check(model, run, op, scheme)
    if clipping.value is not None or granularity == "tensor":  # of a few elements, the largest is the 90th percentile
        assert all(record.loss.clipped > 0 for record in read_manifest(model).weights)


def test_clipped_weights_are_counted_and_their_error_is_reported(parse):
    _, _, weights = OPS["MatMul"]
    scheme = MappingScheme(clipping=Clipping(value=0.5))
    model = mapped_model(parse, "MatMul", scheme)
    [record] = read_manifest(model).weights
    beyond = np.abs(weights["W"]) - 0.5
    assert record.loss.clipped == np.count_nonzero(beyond > 0)
    assert record.loss.max_clipping_error == pytest.approx(beyond.max(), rel=1e-6)
    rebuilt = bounds(model, "W")[1].rebuilt.numpy()
    rms = np.sqrt(np.mean((rebuilt - weights["W"]) ** 2))
    assert record.loss.rms_error == pytest.approx(rms, rel=1e-5)


def test_the_loss_by_levels_is_reported(parse):
    _, _, weights = OPS["Conv"]
    scheme = MappingScheme(levels=ConductanceLevels.uniform(16, 0.0, 25.0))
    model = mapped_model(parse, "Conv", scheme)
    [record] = read_manifest(model).weights
    error = bounds(model, "W")[1].rebuilt.numpy() - weights["W"]
    assert record.loss.max_rounding_error == pytest.approx(np.abs(error).max(), rel=1e-6)
    signal = np.sum(weights["W"].astype(float) ** 2)
    assert record.loss.sqnr_db == pytest.approx(10 * np.log10(signal / np.sum(error.astype(float) ** 2)), rel=1e-5)
    assert record.loss.max_rounding_error <= np.abs(weights["W"]).max() / 30 * (1 + 1e-5)
    assert record.loss.clipped == 0


def test_integers_come_back_exactly_through_levels_that_tell_them_apart(parse, run):
    codes = np.random.default_rng(0).integers(-128, 128, (6, 5)).astype(np.int8)
    model = parse("g (uint8[2,6] x) => (int32 y) { y = MatMulInteger(x, W) }", W=codes)
    scheme = MappingScheme(
        levels=ConductanceLevels.uniform(256, 0.0, 25.0), storage="codes", granularity=Granularity("channel")
    )
    MapConductances(scheme=scheme)(model)
    CheckMapping()(model)
    x = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert np.array_equal(run(model, x=x)[0], x.astype(np.int32) @ codes.astype(np.int32))
    record, mapped = bounds(model, "W")
    assert np.array_equal(mapped.rebuilt.numpy(), codes)
    assert (record.loss.max_rounding_error, record.loss.rms_error, record.loss.sqnr_db) == (0.0, 0.0, None)


def test_bit_slices_of_integers_are_their_bits(parse, run):
    codes = np.random.default_rng(0).integers(-100, 101, (6, 5)).astype(np.int8)  # not the largest that 8 bits hold
    model = parse("g (uint8[2,6] x) => (int32 y) { y = MatMulInteger(x, W) }", W=codes)
    scheme = MappingScheme(CONVERTERS["bit-sliced pair"], storage="codes")
    MapConductances(scheme=scheme)(model)
    assert np.array_equal(bounds(model, "W")[1].rebuilt.numpy(), codes)
    low = model.graph.initializers["W.g_plus_1_code"].const_value.numpy()
    assert np.array_equal(low, np.maximum(codes, 0) & 15)


def mapped_integers(parse, codes, scheme):
    model = parse(
        f"g (float[1,{codes.size}] x) => (float y) {{ d = DequantizeLinear(W, s)  y = MatMul(x, d) }}",
        opsets='"" : 21',
        W=np.stack([codes, codes[::-1]], axis=1),  # two channels: with one, no scale would have an axis
        s=np.float32(0.1),
    )
    MapConductances(scheme=scheme)(model)
    CheckMapping()(model)
    return bounds(model, "W")


@pytest.mark.parametrize("converter", ["bit-sliced pair", "bit-sliced offset"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_bit_slices_tell_all_integers_apart_that_their_bits_hold_and_no_more(parse, converter, granularity):
    scheme = MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity], storage="codes")
    largest = CONVERTERS[converter].largest_integer
    codes = np.arange(-largest, largest + 1, dtype=np.int16)
    record, mapped = mapped_integers(parse, codes, scheme)
    assert np.array_equal(mapped.rebuilt.numpy(), np.stack([codes, codes[::-1]], axis=1))
    assert record.loss.max_rounding_error == 0.0
    with pytest.raises(UnmappableWeightError, match=f"hold them up to {largest}; give it more bits"):
        mapped_integers(parse, np.append(codes, np.int16(largest + 1)), scheme)


@pytest.mark.parametrize("count", [15, 16])
@pytest.mark.parametrize("storage", ["float", "codes"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_weights_of_zero_stay_zero_through_any_number_of_levels_of_an_offset(parse, run, granularity, storage, count):
    array = weight(13, 10)
    array[::2] = 0.0
    levels = ConductanceLevels.uniform(count, 1.0, 40.0)
    scheme = MappingScheme(CONVERTERS["offset"], GRANULARITIES[granularity], levels=levels, storage=storage)
    model = parse("g (float[2,13] x) => (float y) { y = MatMul(x, W) }", W=array)
    MapConductances(scheme=scheme)(model)
    CheckMapping()(model)
    assert not bounds(model, "W")[1].rebuilt.numpy()[::2].any()
    x = np.zeros((2, 13), np.float32)
    x[:, ::2] = 1.0
    assert not run(model, x=x)[0].any()


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            MappingScheme(levels=ConductanceLevels.uniform(16, 0.0, 25.0)),
            "up to 128, which 16 levels of conductances of 0 to 25 µS cannot tell apart; give it 129 levels or more",
        ),
        (
            MappingScheme(clipping=Clipping(value=5.0)),
            "which clipped conductances of 0 to 25 µS cannot tell apart; map it without clipping",
        ),
        (
            MappingScheme(converters.BitSlicedPairConductanceConverter(bits=6, slice_bits=3)),
            "integers up to 128, but the bits of .* hold them up to 31; give it more bits",
        ),
    ],
    ids=["levels", "clipping", "bits"],
)
def test_integers_that_would_not_come_back_are_refused(parse, scheme, message):
    codes = np.array([[-128, 127], [3, 0]], np.int8)
    model = parse("g (uint8[2,2] x) => (int32 y) { y = MatMulInteger(x, W) }", W=codes)
    with pytest.raises(UnmappableWeightError, match=message):
        MapConductances(scheme=scheme)(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"storage": "codes"}, "level codes need levels"),
        ({"storage": "bits"}, "storage is one of float, codes, but not 'bits'"),
        (
            {"levels": ConductanceLevels.uniform(4, 0.0, 20.0)},
            "the levels go from 0 to 20 µS, but the devices from 0 to 25",
        ),
        (
            {"converter": CONVERTERS["exact"], "levels": ConductanceLevels.uniform(4, 0.0, 25.0)},
            "exact mapping and levels contradict each other",
        ),
        (
            {"converter": CONVERTERS["exact"], "clipping": Clipping(percentile=99.0)},
            "exact mapping and clipping contradict each other",
        ),
    ],
)
def test_schemes_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MappingScheme(**arguments)


def test_a_converter_and_a_scheme_are_not_both_given():
    with pytest.raises(ConfigError, match="give a converter or a scheme"):
        MapConductances(CONVERTERS["exact"], scheme=MappingScheme())


def test_scales_for_each_channel_are_those_of_each_column_alone(parse):
    _, _, weights = OPS["MatMul"]
    converter = converters.SinglePairConductanceConverter(g_min=0.5)
    model = mapped_model(parse, "MatMul", MappingScheme(converter, Granularity("channel")))
    g_plus = model.graph.initializers["W.g_plus"].const_value.numpy()
    for column in range(10):
        (expected, _), params = converter.convert_to_conductances(weights["W"][:, column])
        assert np.array_equal(g_plus[:, column], expected)
        assert model.graph.initializers["W.g_scale"].const_value.numpy()[0, column] == params["scale_ratio"]


def test_a_weight_that_fits_one_tile_has_one_scale_and_says_of_which_tiles(parse, run):
    scheme = MappingScheme(granularity=Granularity("tile", (64, 64), "max"))
    model = mapped_model(parse, "MatMul", scheme)
    check(model, run, "MatMul", scheme)
    [record] = read_manifest(model).weights
    assert (record.granularity, record.scale.form, record.scale.shape) == ("tile", "number", ())
    assert record.tiling.model_dump() == {
        "rows": 64,
        "columns": 64,
        "partition": "max",
        "row_starts": (0,),
        "column_starts": (0,),
    }


def test_a_shared_weight_says_that_other_readers_see_its_channels_otherwise(parse):
    model = parse(
        "g (float[2,4] x, float[2,3] z) => (float y, float w) { y = MatMul(x, W)  w = Gemm <transB = 1> (z, W) }",
        W=weight(4, 3),
    )
    MapConductances(scheme=MappingScheme(granularity=Granularity("channel")))(model)
    [record] = read_manifest(model).weights
    assert record.scale.shape == (1, 3)
    assert "reads it otherwise" in record.notes[0]


@pytest.mark.parametrize("granularity", ["channel", "tile max"])
def test_scales_follow_the_mvm_op_where_another_node_reads_the_weight_first(parse, granularity):
    model = parse(
        "g (int64[2] i, float[2,6] x) => (float e, float y) { e = Gather(W, i)  y = Gemm <transB = 1> (x, W) }",
        W=weight(9, 6),
    )
    MapConductances(scheme=MappingScheme(granularity=GRANULARITIES[granularity]))(model)
    CheckMapping()(model)
    [record] = read_manifest(model).weights
    assert record.consumers[record.scale.consumer].op_type == "Gemm"
    assert record.axis == (0 if granularity == "channel" else None)


def test_a_reshape_that_mixes_axes_has_one_scale_at_most(parse):
    text = "g (float[2,3] x) => (float y) <int64[2] s = {3, 8}> { V = Reshape(W, s)  y = MatMul(x, V) }"
    MapConductances()(parse(text, W=weight(4, 6)))
    with pytest.raises(UnmappableWeightError, match="give it the granularity tensor"):
        MapConductances(scheme=MappingScheme(granularity=Granularity("channel")))(parse(text, W=weight(4, 6)))


def loss_by_levels(parse, array):
    model = parse("g (double[2,13] x) => (double y) { y = MatMul(x, W) }", W=array)
    MapConductances(scheme=MappingScheme(levels=ConductanceLevels.uniform(16, 0.0, 25.0)))(model)
    [record] = read_manifest(model).weights
    return record.loss


def test_weights_whose_squares_are_beyond_float64_have_a_loss(parse):
    array = weight(13, 10).astype(np.float64)
    usual, large = loss_by_levels(parse, array), loss_by_levels(parse, array * 1e200)
    assert large.rms_error == pytest.approx(usual.rms_error * 1e200)
    assert large.sqnr_db == pytest.approx(usual.sqnr_db)


def test_weights_whose_squares_are_below_float64_have_a_loss(parse):
    array = weight(13, 10).astype(np.float64)
    small = loss_by_levels(parse, array * 1e-200)  # all are rounded to 0, for the scale is that of max|W| = 1e-7
    assert small.rms_error == pytest.approx(np.sqrt(np.mean(array**2)) * 1e-200)
    assert small.sqnr_db == 0.0


@pytest.mark.parametrize("storage", ["float", "codes"])
@pytest.mark.parametrize("granularity", ["channel", "tile max"])
def test_scales_of_weights_of_many_chunks_are_those_of_their_elements(parse, granularity, storage):
    sizes = np.geomspace(1.0, 1e3, 9)  # those of groups differ, and no chunk begins where a group does
    array = (np.random.default_rng(0).uniform(0.5, 1.0, (CHUNK_ELEMENTS // 4 + 5, 9)) * sizes).astype(np.float32)
    array[: len(array) // 2] *= 0.1
    levels = ConductanceLevels.uniform(256, 1.0, 40.0)
    chosen = Granularity("channel") if granularity == "channel" else Granularity("tile", (len(array) // 3, 1), "max")
    scheme = MappingScheme(
        converters.SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0), chosen, levels=levels, storage=storage
    )
    model = parse(f"g (float[1,{len(array)}] x) => (float y) {{ y = MatMul(x, W) }}", W=array)
    MapConductances(scheme=scheme)(model)
    CheckMapping()(model)
    record, mapped = bounds(model, "W")
    assert_within_bound(mapped, record, mapped.rebuilt.numpy(), array)
    error = mapped.rebuilt.numpy().astype(np.float64) - array
    assert record.loss.rms_error == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert record.loss.max_rounding_error == pytest.approx(np.abs(error).max(), rel=1e-5)


def test_a_damaged_code_of_a_later_chunk_is_named(parse):
    array = np.ones((2, CHUNK_ELEMENTS), np.float32)
    levels = ConductanceLevels.uniform(16, 0.0, 25.0)
    model = parse("g (float[1,2] x) => (float y) { y = MatMul(x, W) }", W=array)
    MapConductances(scheme=MappingScheme(levels=levels, storage="codes"))(model)
    value = model.graph.initializers["W.g_plus_code"]
    codes = value.const_value.numpy().copy()
    codes[1, 7] = 16
    value.const_value = ir.tensor(codes, name=value.name)
    [violation] = CheckMapping().violations(model)
    assert f"has the code 16 at flat index {CHUNK_ELEMENTS + 7}" in str(violation)
