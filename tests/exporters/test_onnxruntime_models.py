"""What ONNX Runtime's quantization tools write is mapped by its integers, and rebuilt to the very codes."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.passes.report import MappingReport

# One worker quantizes each model once for all tests of it.
pytestmark = pytest.mark.xdist_group("onnxruntime_models")

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
CALIBRATED = 64
TESTED = 50

# Where each op has its weight, and the zero point of that weight
ZERO_POINTS = {
    ("", "DequantizeLinear"): {0: 2},
    ("com.microsoft", "DequantizeLinear"): {0: 2},
    ("", "MatMulInteger"): {1: 3},
    ("", "ConvInteger"): {1: 3},
    ("", "QLinearMatMul"): {3: 5},
    ("", "QLinearConv"): {3: 5},
    ("com.microsoft", "QLinearConv"): {3: 5},
    ("com.microsoft", "QGemm"): {3: 5},
    ("com.microsoft", "DynamicQuantizeMatMul"): {1: 3},
    ("com.microsoft", "MatMulIntegerToFloat"): {1: 5},
    ("com.microsoft", "QAttention"): {1: 7},
    ("com.microsoft", "DynamicQuantizeLSTM"): {1: 9, 2: 11},
}
MATRIX_RANK = 2


def digits(name: str) -> np.ndarray:
    """The test images as the named model takes them."""
    with np.load(model_path("digits_test.npz"), allow_pickle=False) as data:
        images = data["images"]
    return images.reshape(-1, 64) if "mlp" in name else images


class Calibration(CalibrationDataReader):
    def __init__(self, model: Path) -> None:
        [model_input] = onnx.load(model).graph.input
        images = digits(model.name)[:CALIBRATED]
        self.batches = iter([{model_input.name: batch} for batch in np.split(images, 4)])

    def get_next(self):
        return next(self.batches, None)


def digits_model(name: str, folder: Path, *, with_matmul: bool = False) -> Path:
    """A model of the digits; its Gemm nodes become MatMul and Add if asked for.

    It states no shapes of values: older releases of ONNX Runtime transpose weights, but not the shapes that are stated.
    """
    model = ONNXModel(onnx.load(model_path(f"{name}.onnx")))
    del model.model.graph.value_info[:]
    if with_matmul:
        model.replace_gemm_with_matmul()
        model.topological_sort()
    file = folder / f"{name}.plain.onnx"
    onnx.save(model.model, file)
    return file


def static(name, *, with_matmul=False, weight_type=QuantType.QInt8, **options):
    def build(folder: Path) -> Path:
        plain, file = digits_model(name, folder, with_matmul=with_matmul), folder / f"{name}.onnx"
        types = {"weight_type": weight_type, "activation_type": QuantType.QUInt8}
        quantize_static(plain, file, Calibration(plain), **types, **options)
        return file

    return build


def dynamic(name, **options):
    def build(folder: Path) -> Path:
        file = folder / f"{name}.onnx"
        quantize_dynamic(digits_model(name, folder), file, **options)
        return file

    return build


def optimized(build, level):
    """A quantized model with the ops that ONNX Runtime fuses at a level of optimization."""

    def build_optimized(folder: Path) -> Path:
        file = build(folder)
        target = file.with_suffix(".optimized.onnx")
        session(file, level, optimized_model=target)
        return target

    return build_optimized


def torch_lstm(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.LSTM(5, 4, num_layers=2, bidirectional=True).eval()
    file, plain = folder / "lstm.onnx", folder / "lstm.plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.randn(3, 2, 5),), plain, dynamo=False)
    quantize_dynamic(plain, file)
    return file


def torch_attention(folder: Path) -> Path:
    torch = pytest.importorskip("torch")

    class SelfAttention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    file, plain = folder / "attention.onnx", folder / "attention.plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(SelfAttention().eval(), (torch.randn(2, 3, 8),), plain, dynamo=False)
    quantize_dynamic(plain, file)
    return file


def one_node(node, inputs, outputs, folder, **initializers) -> Path:
    graph = helper.make_graph(
        [node], "graph", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    file = folder / f"{node.op_type}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def codes(*shape, dtype=np.int8, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def qattention(folder: Path) -> Path:
    inputs = ["x", "w", "bias", "x_scale", "w_scale", "", "x_zero", "w_zero"]
    return one_node(
        helper.make_node("QAttention", inputs, ["y"], domain="com.microsoft", num_heads=2),
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8])],
        folder,
        w=codes(8, 24),
        bias=np.linspace(-1, 1, 24, dtype=np.float32),
        x_scale=np.float32(0.02),
        w_scale=np.float32(0.01),
        x_zero=np.uint8(128),
        w_zero=np.int8(3),
    )


def matmul_integer_to_float(folder: Path) -> Path:
    inputs = ["x", "w", "x_scale", "w_scale", "x_zero", "w_zero"]
    return one_node(
        helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft"),
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [3, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 6])],
        folder,
        w=codes(8, 6, dtype=np.uint8),
        x_scale=np.float32(0.02),
        w_scale=np.linspace(0.01, 0.02, 6, dtype=np.float32),
        x_zero=np.uint8(128),
        w_zero=codes(6, dtype=np.uint8, seed=1),
    )


RECIPES = {
    **{
        f"static_{style.name.lower()}_{name}_{kind.name.lower()}{'_per_channel' if per_channel else ''}": static(
            f"digits_{name}", quant_format=style, weight_type=kind, per_channel=per_channel
        )
        for style in QuantFormat
        for name, kind, per_channel in [
            ("mlp", QuantType.QInt8, False),
            ("mlp", QuantType.QUInt8, True),
            ("cnn", QuantType.QUInt8, False),
            ("cnn", QuantType.QInt8, True),
        ]
    },
    "static_qoperator_matmul": static("digits_mlp", with_matmul=True, quant_format=QuantFormat.QOperator),
    "static_qdq_matmul_per_channel": static(
        "digits_mlp", with_matmul=True, quant_format=QuantFormat.QDQ, per_channel=True
    ),
    "static_qdq_cnn_reduce_range": static("digits_cnn", quant_format=QuantFormat.QDQ, reduce_range=True),
    "static_qdq_cnn_int16": static("digits_cnn", quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt16),
    "static_qdq_cnn_with_ops_of_onnxruntime": static(
        "digits_cnn", quant_format=QuantFormat.QDQ, extra_options={"UseQDQContribOps": True}
    ),
    **{
        f"dynamic_{name}{'_per_channel' if per_channel else ''}{'_reduce_range' if reduce_range else ''}": dynamic(
            f"digits_{name}", per_channel=per_channel, reduce_range=reduce_range
        )
        for name in ("mlp", "cnn")
        for per_channel in (False, True)
        for reduce_range in (False, True)
    },
    "dynamic_mlp_uint8_per_channel": dynamic("digits_mlp", weight_type=QuantType.QUInt8, per_channel=True),
    "dynamic_cnn_uint8": dynamic("digits_cnn", weight_type=QuantType.QUInt8),
    "dynamic_cnn_torchscript": dynamic("digits_cnn_torchscript"),
    "dynamic_lstm": torch_lstm,
    "dynamic_attention": torch_attention,
    "optimized_dynamic_mlp": optimized(dynamic("digits_mlp"), "extended"),
    "optimized_dynamic_mlp_uint8_per_channel": optimized(
        dynamic("digits_mlp", weight_type=QuantType.QUInt8, per_channel=True), "extended"
    ),
    "optimized_static_qdq_mlp": optimized(static("digits_mlp", quant_format=QuantFormat.QDQ), "extended"),
    "optimized_static_qdq_cnn": optimized(
        static("digits_cnn", quant_format=QuantFormat.QDQ, per_channel=True), "extended"
    ),
    # Channels last: the convolutions are com.microsoft's. It depends on the processor that they are.
    "fully_optimized_static_qdq_cnn": optimized(static("digits_cnn", quant_format=QuantFormat.QDQ), "all"),
    "qattention": qattention,
    "matmul_integer_to_float": matmul_integer_to_float,
}
# The ops of which the recipes exist at all; each stands in a model of that name.
OPS = {
    "static_qdq_mlp_qint8": {"DequantizeLinear"},
    "static_qoperator_mlp_qint8": {"QGemm"},
    "static_qoperator_cnn_qint8_per_channel": {"QLinearConv", "QGemm"},
    "static_qoperator_matmul": {"QLinearMatMul"},
    "dynamic_mlp": {"MatMulInteger"},
    "dynamic_cnn": {"ConvInteger", "MatMulInteger"},
    "dynamic_lstm": {"DynamicQuantizeLSTM"},
    "optimized_dynamic_mlp": {"DynamicQuantizeMatMul"},
    "optimized_static_qdq_mlp": {"QGemm"},
    "qattention": {"QAttention"},
    "matmul_integer_to_float": {"MatMulIntegerToFloat"},
}


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable[[str], Path]:
    """The quantized model of a recipe, built once; no test may write beside it."""

    @functools.cache
    def find(recipe):
        return RECIPES[recipe](tmp_path_factory.mktemp(recipe))

    return find


@pytest.fixture(scope="module", params=RECIPES)
def quantized(request, build) -> Path:
    return build(request.param)


@pytest.fixture(scope="module")
def report(quantized) -> MappingReport:
    """The report of the default mapping of a quantized model, and where the mapped model is."""
    return gconv.map_model(quantized, quantized.with_name("mapped.onnx"))


def arrays(file: Path) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer}


def effective_integers(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name, and code minus zero point, of each weight: an independent walk over the protobuf."""
    known = arrays(file)
    for node in onnx.load(file).graph.node:
        for slot, zero_slot in ZERO_POINTS.get((node.domain, node.op_type), {}).items():
            array = known.get(node.input[slot])
            if array is None or array.ndim < MATRIX_RANK or array.dtype not in (np.int8, np.uint8, np.int16):
                continue
            has_zero = len(node.input) > zero_slot and node.input[zero_slot]
            zero = known[node.input[zero_slot]].astype(np.int32) if has_zero else np.zeros((), np.int32)
            if zero.size > 1:
                zero = zero.reshape(along_channels(node, array, zero))
            yield node.input[slot], array.astype(np.int32) - zero


def along_channels(node, array, zero) -> list[int]:
    """The shape in which a vector of zero points broadcasts against the codes."""
    if node.op_type == "DynamicQuantizeLSTM":  # [directions] or [directions, 4 hidden] for [directions, inputs, ...]
        return [array.shape[0], 1, zero.size // array.shape[0]]
    axis = {"DequantizeLinear": 1, "QLinearConv": 0, "ConvInteger": 0, "QGemm": None}.get(node.op_type, -1)
    for attribute in node.attribute:
        if attribute.name == "axis":
            axis = attribute.i
    if axis is None:  # QGemm: the outputs, wherever transB has them
        trans = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        axis = 0 if trans else 1
    shape = [1] * array.ndim
    shape[axis] = zero.size
    return shape


def session(file: Path, level: str, optimized_model: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimized_model is not None:
        options.optimized_model_filepath = str(optimized_model)
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(file: Path, level: str) -> list[np.ndarray]:
    """The outputs for test images, or for numbers where the model takes no images."""
    loaded = session(file, level)
    [model_input] = loaded.get_inputs()
    if model_input.name in {"pixels", "image"}:
        feed = digits("mlp" if model_input.name == "pixels" else "cnn")[-TESTED:]
    elif model_input.type == "tensor(uint8)":
        feed = codes(*model_input.shape, dtype=np.uint8, seed=2)
    else:
        feed = np.random.default_rng(2).normal(size=model_input.shape).astype(np.float32)
    return loaded.run(None, {model_input.name: feed})


def consumer_ops(report) -> Counter[str]:
    return Counter(item.op_type for weight in report.mapped for item in weight.consumers if item.is_mvm)


@pytest.mark.parametrize("recipe", OPS)
def test_the_quantized_models_have_the_ops_that_are_to_be_tested(recipe, build):
    model = onnx.load(build(recipe))
    assert OPS[recipe] <= {node.op_type for node in model.graph.node}


def test_every_quantized_weight_is_mapped(quantized, report):
    assert {weight.name for weight in report.mapped} == {name for name, _ in effective_integers(quantized)}
    assert [item for item in report.skipped if item.is_mvm] == []
    assert report.mvm_share == 1.0


def test_conductances_hold_code_minus_zero_point(quantized, report):
    stored = arrays(report.output)
    expected = dict(effective_integers(quantized))
    for weight in report.mapped:
        total = sum(item.coefficient * stored[item.name] for item in weight.conductances)
        integers = np.rint((total - weight.offset_us) / stored[weight.scale.name])
        assert np.array_equal(integers, expected[weight.name]), weight.name


def test_rebuilt_codes_are_bit_identical(quantized, report):
    verified = gconv.verify(quantized, report.output)
    verified.raise_if_failed()
    assert {item.name for item in verified.weights} == {name for name, _ in effective_integers(quantized)}
    assert all(item.bit_identical for item in verified.weights)
    assert verified.outputs.not_compared is None


def test_codes_are_rebuilt_where_devices_cannot_be_switched_off(quantized, tmp_path):
    """Adding g_min rounds the conductances, but by far less than half a code."""
    converter = gconv.SinglePairConductanceConverter(g_max=25.0, g_min=1.0)
    gconv.map_model(quantized, tmp_path / "mapped.onnx", converter)
    report = gconv.verify(quantized, tmp_path / "mapped.onnx")
    report.raise_if_failed()
    assert all(item.bit_identical for item in report.weights)


@pytest.mark.parametrize("level", LEVELS)
def test_outputs_are_bit_identical_at_every_level_of_optimization(quantized, report, level):
    for before, after in zip(run(quantized, level), run(report.output, level), strict=True):
        assert before.tobytes() == after.tobytes()


def test_restoring_gives_the_codes_back(quantized, report, tmp_path):
    gconv.restore_model(report.output, tmp_path / "restored.onnx")
    before, after = arrays(quantized), arrays(tmp_path / "restored.onnx")
    for weight in report.mapped:
        assert after[weight.name].dtype == before[weight.name].dtype
        assert np.array_equal(after[weight.name], before[weight.name]), weight.name
    restored = zip(run(quantized, "all"), run(tmp_path / "restored.onnx", "all"), strict=True)
    assert all(first.tobytes() == second.tobytes() for first, second in restored)


def test_quantized_weights_can_be_left_alone(quantized):
    report = gconv.map_model(quantized, quantized="skip", dry_run=True)
    assert report.mapped == ()
    skipped = {item.name: item.reason for item in report.skipped if item.is_mvm}
    assert skipped == {name: "quantized" for name, _ in effective_integers(quantized)}


def test_float_weights_are_mapped_beside_quantized_ones_that_are_left_alone(tmp_path):
    file = dynamic("digits_cnn", op_types_to_quantize=["MatMul"])(tmp_path)
    report = gconv.map_model(file, tmp_path / "mapped.onnx", quantized="skip")
    assert consumer_ops(report) == {"Conv": 3}
    assert {item.reason for item in report.skipped if item.is_mvm} == {"quantized"}
    gconv.verify(file, tmp_path / "mapped.onnx").raise_if_failed()


def test_a_model_may_have_float_and_quantized_weights_mapped(tmp_path):
    file = dynamic("digits_cnn", op_types_to_quantize=["MatMul"])(tmp_path)
    report = gconv.map_model(file, tmp_path / "mapped.onnx")
    assert consumer_ops(report) == {"Conv": 3, "MatMulInteger": 2}
    assert report.mvm_share == 1.0
    gconv.verify(file, tmp_path / "mapped.onnx").raise_if_failed()


@pytest.mark.parametrize("per_channel", [False, True])
def test_float_weights_that_the_model_quantizes_itself_are_mapped(per_channel, tmp_path):
    """For training on: the weight is stored as it was, and a pair of nodes rounds it."""
    options = {"per_channel": per_channel, "extra_options": {"AddQDQPairToWeight": True}}
    file = static("digits_cnn", quant_format=QuantFormat.QDQ, **options)(tmp_path)
    report = gconv.map_model(file, tmp_path / "mapped.onnx")
    assert consumer_ops(report) == {"Conv": 3, "Gemm": 2}
    assert report.mvm_share == 1.0
    gconv.verify(file, tmp_path / "mapped.onnx").raise_if_failed()


def four_bit_model(folder: Path, style: QuantFormat) -> Path:
    model = onnx.load(digits_model("digits_mlp", folder, with_matmul=True))
    quantizer = MatMulNBitsQuantizer(model, block_size=16, is_symmetric=True, quant_format=style)
    quantizer.process()
    file = folder / "four_bits.onnx"
    onnx.save(quantizer.model.model, file)
    return file


def test_blocks_of_packed_codes_are_mapped_and_come_back_bit_by_bit(tmp_path):
    file = four_bit_model(tmp_path, QuantFormat.QOperator)
    packed = {node.input[1] for node in onnx.load(file).graph.node if node.op_type == "MatMulNBits"}
    assert len(packed) == 3
    report = gconv.map_model(file, tmp_path / "mapped.onnx")
    assert {weight.name for weight in report.mapped} == packed
    assert report.mvm_share == 1.0
    verified = gconv.verify(file, tmp_path / "mapped.onnx")
    verified.raise_if_failed()
    assert all(item.bit_identical for item in (*verified.weights, *verified.outputs.comparisons))
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    before, after = (
        {item.name: item.raw_data for item in onnx.load(model).graph.initializer if item.name in packed}
        for model in (file, tmp_path / "restored.onnx")
    )
    assert after == before


@pytest.fixture
def dequantized_in_blocks(tmp_path) -> Path:
    """A model with nodes that dequantize codes of four bits, two in each byte of the file."""
    return four_bit_model(tmp_path, QuantFormat.QDQ)


def test_four_bit_codes_that_are_dequantized_in_blocks_are_mapped(dequantized_in_blocks, tmp_path):
    narrow = {
        name
        for name, value in ir.load(dequantized_in_blocks).graph.initializers.items()
        if value.dtype == ir.DataType.INT4
    }
    assert len(narrow) == 3
    report = gconv.map_model(dequantized_in_blocks, tmp_path / "mapped.onnx")
    assert {weight.name for weight in report.mapped} == narrow
    assert report.mvm_share == 1.0
    verified = gconv.verify(dequantized_in_blocks, tmp_path / "mapped.onnx")
    verified.raise_if_failed()
    assert all(item.bit_identical for item in verified.weights)


@pytest.mark.parametrize("external_data", [False, True])
def test_four_bit_codes_are_packed_again_when_they_are_restored(dequantized_in_blocks, external_data, tmp_path):
    gconv.map_model(dequantized_in_blocks, tmp_path / "mapped.onnx")
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx", external_data=external_data)
    before, after = (ir.load(file).graph.initializers for file in (dequantized_in_blocks, tmp_path / "restored.onnx"))
    for name in before:
        assert after[name].const_value.tobytes() == before[name].const_value.tobytes(), name
    for level in LEVELS:
        [expected], [found] = run(dequantized_in_blocks, level), run(tmp_path / "restored.onnx", level)
        assert expected.tobytes() == found.tobytes()
