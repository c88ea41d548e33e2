"""Integer codes come back exactly, so that mapped and restored models give bit-identical outputs in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import map_model, program_model, verify
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

RNG = np.random.default_rng(0)


def codes(*shape, dtype=np.int8):
    info = np.iinfo(dtype)
    array = RNG.integers(info.min, info.max, shape, dtype, endpoint=True)
    array.reshape(-1)[:2] = info.min, info.max
    return array


def activations(*shape, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, 100, shape).astype(dtype)


SCALES = {"xs": np.float32(0.02), "ws": np.float32(0.01), "ys": np.float32(0.5)}
POINTS = {"xz": np.uint8(3), "yz": np.uint8(100)}

# The nodes, the input x, and the constants.
CASES = {
    "MatMulInteger": ("y = MatMulInteger(x, W)", "uint8[2,3]", "int32", {"W": codes(3, 4)}),
    "MatMulInteger with zero points of columns": (
        "y = MatMulInteger(x, W, xz, z)",
        "uint8[2,3]",
        "int32",
        {"W": codes(3, 4, dtype=np.uint8), "z": np.array([0, 1, 128, 255], np.uint8), "xz": np.uint8(3)},
    ),
    "ConvInteger": (
        "y = ConvInteger(x, W, xz, z)",
        "uint8[1,2,5,5]",
        "int32",
        {"W": codes(3, 2, 3, 3, dtype=np.uint8), "z": np.uint8(120), "xz": np.uint8(3)},
    ),
    "QLinearMatMul": (
        "y = QLinearMatMul(x, xs, xz, W, ws, z, ys, yz)",
        "uint8[2,3]",
        "uint8",
        {"W": codes(3, 4), "z": np.int8(0), **SCALES, **POINTS},
    ),
    "QLinearConv of groups with scales of channels": (
        "y = QLinearConv <group = 2> (x, xs, xz, W, cs, z, ys, yz)",
        "uint8[1,4,5,5]",
        "uint8",
        {
            "W": codes(4, 2, 3, 3),
            "z": np.zeros(4, np.int8),
            "cs": np.array([0.01, 0.02, 0.03, 0.04], np.float32),
            **SCALES,
            **POINTS,
        },
    ),
    "DynamicQuantizeMatMul": (
        "y = com.microsoft.DynamicQuantizeMatMul (x, W, ws, z)",
        "float[2,3]",
        "float",
        {"W": codes(3, 4), "z": np.int8(0), **SCALES},
    ),
    "MatMulIntegerToFloat": (
        "y = com.microsoft.MatMulIntegerToFloat (x, W, xs, ws, xz, z)",
        "uint8[2,3]",
        "float",
        {"W": codes(3, 4, dtype=np.uint8), "z": np.uint8(7), **SCALES, **POINTS},
    ),
    "DynamicQuantizeLSTM": (
        "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> (x, W, R, , , , , , a, b, a, b)",
        "float[5,1,3]",
        "float",
        {"W": codes(1, 3, 8), "R": codes(1, 2, 8), "a": np.array([0.01], np.float32), "b": np.zeros(1, np.int8)},
    ),
    "QDQ in front of MatMul": (
        "d = DequantizeLinear <axis = 1> (W, cs, z) y = MatMul(x, d)",
        "float[2,3]",
        "float",
        {"W": codes(3, 4), "cs": np.full(4, 0.01, np.float32), "z": np.array([0, 1, -5, 127], np.int8)},
    ),
    "QDQ in front of Gemm, transposed": (
        "d = DequantizeLinear <axis = 0> (W, cs, z) t = Transpose(d) y = Gemm(x, t)",
        "float[2,3]",
        "float",
        {"W": codes(4, 3, dtype=np.uint8), "cs": np.full(4, 0.01, np.float32), "z": np.array([0, 1, 5, 127], np.uint8)},
    ),
    "QDQ in front of Conv": (
        "d = DequantizeLinear(W, ws) y = Conv(x, d)",
        "float[1,2,5,5]",
        "float",
        {"W": codes(3, 2, 3, 3), **SCALES},
    ),
    "int8, Cast, Mul": (
        "c = Cast <to = 1> (W) d = Mul(c, cs) y = MatMul(x, d)",
        "float[2,3]",
        "float",
        {"W": codes(3, 4), "cs": np.full((1, 4), 0.01, np.float32)},
    ),
    "uint8, Cast, Sub, Mul": (
        "c = Cast <to = 1> (W) e = Sub(c, zf) d = Mul(e, ws) y = MatMul(x, d)",
        "float[2,3]",
        "float",
        {"W": codes(3, 4, dtype=np.uint8), "zf": np.float32(128), **SCALES},
    ),
    "int16 QDQ": (
        "d = DequantizeLinear(W, ws) y = MatMul(x, d)",
        "float[2,3]",
        "float",
        {"W": codes(3, 4, dtype=np.int16), **SCALES},
    ),
    "int32 MatMul": ("y = MatMul(x, W)", "int32[2,3]", "int32", {"W": codes(3, 4, dtype=np.int32) // 1000}),
    "two columns of slices": (
        "a, b = Split <axis = 1, num_outputs = 2> (W) y = MatMulInteger(x, b)",
        "uint8[2,3]",
        "int32",
        {"W": codes(3, 8)},
    ),
}
CONVERTERS = [
    SinglePairConductanceConverter(),
    SinglePairConductanceConverter(g_max=90, g_min=10),
    SinglePairConductanceConverter(exact=True),
]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, parse):
    nodes, x, y, constants = CASES[request.param]
    opsets = '"" : 21, "com.microsoft" : 1'
    model = parse(f"g ({x} x) => ({y} y) {{ {nodes} }}", opsets=opsets, **constants)
    shape = [int(size) for size in x.split("[")[1].rstrip("]").split(",")]
    dtype = {"uint8": np.uint8, "float": np.float32, "int32": np.int32}[x.split("[")[0]]
    return model, activations(*shape, dtype=dtype)


@pytest.mark.parametrize("converter", CONVERTERS, ids=["default", "offset", "exact"])
@pytest.mark.parametrize("optimization", ["none", "all"])
def test_outputs_are_bit_identical(case, run, converter, optimization):
    model, x = case
    expected = run(model, optimization, x=x)
    MapConductances(converter)(model)
    assert all(weight.rounded for weight in read_manifest(model).weights)
    assert CheckMapping().violations(model) == ()
    for found, wanted in zip(run(model, optimization, x=x), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("converter", CONVERTERS, ids=["default", "offset", "exact"])
def test_restored_codes_are_the_codes(case, run, converter):
    model, x = case
    expected = run(model, "all", x=x)
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    MapConductances(converter)(model)
    names = [weight.name for weight in read_manifest(model).weights]
    RestoreWeights()(model)
    for name in names:
        restored = model.graph.initializers[name].const_value.numpy()
        wanted = before[name] if name in before else before["W"][:, 4:]
        assert (restored.dtype, restored.tobytes()) == (wanted.dtype, np.ascontiguousarray(wanted).tobytes())
    for found, wanted in zip(run(model, "all", x=x), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_below_opset_11_codes_are_rounded_with_floor(parse, run):
    model = parse(
        "g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger(x, W, xz, z) }",
        opsets='"" : 10',
        W=codes(3, 4, dtype=np.uint8),
        xz=np.uint8(1),
        z=np.uint8(9),
    )
    x = activations(2, 3)
    expected = run(model, "none", x=x)
    MapConductances()(model)
    assert [node.op_type for node in model.graph][:7] == ["Sub", "Div", "Add", "Floor", "Add", "Cast", "MatMulInteger"]
    assert CheckMapping().violations(model) == ()
    assert run(model, "none", x=x)[0].tobytes() == expected[0].tobytes()
    RestoreWeights()(model)
    assert [node.op_type for node in model.graph] == ["MatMulInteger"]
    assert run(model, "none", x=x)[0].tobytes() == expected[0].tobytes()


def test_four_bit_codes_come_back_exactly(parse):
    model = parse(
        "g (float[2,4] x) => (float[2,4] y) { d = DequantizeLinear(W, s) y = MatMul(x, d) }",
        opsets='"" : 21',
        s=np.float32(0.1),
    )
    import ml_dtypes

    array = np.arange(-8, 8).reshape(4, 4).astype(ml_dtypes.int4)
    value = ir.Value(name="W", const_value=ir.Tensor(array, dtype=ir.DataType.INT4, name="W"))
    value.shape, value.type = ir.Shape((4, 4)), ir.TensorType(ir.DataType.INT4)
    node = next(iter(model.graph))
    node.replace_input_with(0, value)
    model.graph.initializers.add(value)
    MapConductances()(model)
    RestoreWeights()(model)
    restored = model.graph.initializers["W"].const_value
    assert restored.dtype == ir.DataType.INT4
    assert (restored.numpy().astype(int) == array.astype(int)).all()


def test_conductances_are_those_of_the_codes_less_their_zero_points(parse):
    model = parse(
        "g (uint8[2,2] x) => (int32[2,2] y) { y = MatMulInteger(x, W, xz, z) }",
        W=np.array([[0, 50], [100, 150]], np.uint8),
        xz=np.uint8(0),
        z=np.array([50, 100], np.uint8),
    )
    MapConductances(SinglePairConductanceConverter(g_max=50))(model)
    [weight] = read_manifest(model).weights
    assert (weight.dtype, weight.max_abs, weight.scale.value) == ("uint8", 50, 1)
    constants = {name: value.const_value.numpy().tolist() for name, value in model.graph.initializers.items()}
    assert constants["W.g_plus"] == [[0, 0], [50, 50]]
    assert constants["W.g_minus"] == [[50, 50], [0, 0]]
    assert constants[weight.zero_point] == [[50, 100]]


def test_a_changed_zero_point_operand_is_found(parse):
    model = parse(
        "g (uint8[2,2] x) => (int32[2,2] y) { y = MatMulInteger(x, W, xz, z) }",
        W=np.array([[0, 50], [100, 150]], np.uint8),
        xz=np.uint8(0),
        z=np.uint8(50),
    )
    MapConductances()(model)
    add = next(node for node in model.graph if node.op_type == "Add")
    add.replace_input_with(1, model.graph.initializers["xz"])
    [violation] = CheckMapping().violations(model)
    assert "the zero points added to it are 'xz', but the manifest names 'W.g_zero_point'" in violation.message


def test_integers_that_float32_conductances_cannot_tell_apart_are_held_in_float64(parse, run):
    model = parse(
        "g (int32[1,2] x) => (int32[1,2] y) { y = MatMul(x, W) }",
        W=np.array([[2**31 - 1, 1], [-(2**31), 3]], np.int32),
    )
    x = np.array([[1, 0]], np.int32)
    MapConductances()(model)
    assert read_manifest(model).weights[0].compute_dtype == "float64"
    assert run(model, "none", x=x)[0].tolist() == [[2**31 - 1, 1]]


def test_a_range_in_which_float32_loses_integers_gives_float64_conductances_and_says_so(parse, run):
    weight = codes(3, 4)
    model = parse("g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger(x, W) }", W=weight)
    x = activations(2, 3)
    expected = run(model, "none", x=x)
    MapConductances(SinglePairConductanceConverter(g_max=25, g_min=24.9999))(model)
    [record] = read_manifest(model).weights
    assert record.compute_dtype == "float64"
    assert "float32 conductances of 24.9999 to 25 µS cannot tell apart" in record.notes[0]
    assert run(model, "none", x=x)[0].tobytes() == expected[0].tobytes()


def test_a_range_in_which_float64_loses_integers_is_refused(parse):
    model = parse("g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger(x, W) }", W=codes(3, 4))
    with pytest.raises(UnmappableWeightError, match=r"float64 conductances .* cannot tell apart"):
        MapConductances(SinglePairConductanceConverter(g_max=25, g_min=25 - 1e-13))(model)


@pytest.mark.parametrize("options", [{"quantized": "keep"}, {"include_ops": ["Conv"]}, {"include_ops": "Gather"}])
def test_options_that_are_not_known_are_refused(options):
    with pytest.raises(ConfigError):
        MapConductances(**options)


def test_errors_of_codes_are_judged_beside_the_codes_less_their_zero_points(parse, tmp_path):
    """As the figures of the program that makes a chip are: the zero point is no part of what devices hold."""
    stored = np.random.default_rng(0).integers(110, 174, (64, 32), np.uint8)  # many, so that noise is near its mean
    model = parse(
        "g (uint8[2,64] x) => (int32[2,32] y) { y = MatMulInteger(x, W, xz, z) }",
        W=stored,
        xz=np.uint8(3),
        z=np.full(32, 128, np.uint8),
    )
    save_model(model, tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    programmed = program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", "pcm", time="1s")
    [found] = verify(tmp_path / "plain.onnx", tmp_path / "chip.onnx").weights
    chip = load_model(tmp_path / "chip.onnx")
    [record] = read_manifest(chip).weights
    rebuilt = locate(record, ModelValues(chip)).rebuilt.numpy()
    signal = np.sum((stored.astype(float) - 128) ** 2)
    noise = np.sum((rebuilt.astype(float) - stored) ** 2)
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    largest = np.abs(stored.astype(float) - 128).max()
    assert found.max_relative_error == pytest.approx(np.abs(rebuilt.astype(float) - stored).max() / largest)
    assert found.sqnr_db == pytest.approx(programmed.weights[0].sqnr_db, abs=0.3)  # before codes are rounded
