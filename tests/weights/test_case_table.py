"""The ways in which models hold and use weights, one test each: mapped and verified, or listed with a reason."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_gconv as gconv

FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
DENSE = "g (float[2,3] x) => (float[2,4] y) { [dense] y = MatMul(x, W) }"


@pytest.fixture
def write(parse, tmp_path):
    """Writes a model given as text, and weights by name; shapes of outputs that the text leaves out are inferred."""

    def write_model(text, **options) -> Path:
        model = ir.to_proto(parse(text, **options))
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        for output, known in zip(model.graph.output, inferred, strict=True):
            output.CopyFrom(known)
        file = tmp_path / "model.onnx"
        onnx.save(model, file)
        return file

    return write_model


@pytest.fixture
def map_and_verify(tmp_path):
    """Maps a model, verifies what was written, weights and outputs, and returns the report."""

    def map_file(file, *, has_outputs=True, inputs=None, **options):
        report = gconv.map_model(file, tmp_path / "mapped.onnx", **options)
        onnx.checker.check_model(tmp_path / "mapped.onnx")
        verified = gconv.verify(file, tmp_path / "mapped.onnx", inputs=inputs)
        verified.raise_if_failed()
        assert len(verified.weights) == len(report.mapped)
        assert (verified.outputs.not_compared is None) == has_outputs
        return report

    return map_file


def mapped_names(report) -> list[str]:
    return sorted(weight.name for weight in report.mapped)


def skipped_reasons(report) -> dict[str, str]:
    """Reason by name of each weight of an MVM op that is not mapped."""
    return {item.name: item.reason for item in report.skipped if item.is_mvm}


def all_mapped(report) -> bool:
    return report.mvm_share == 1.0 and not skipped_reasons(report)


def nodes(file, op_type) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(file).graph.node if node.op_type == op_type]


def initializers(file) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer}


# Who reads a weight


def test_an_initializer_used_by_two_matmuls_is_mapped_once(write, map_and_verify, normal):
    text = "g (float[2,3] x) => (float[] y) { [first] a = MatMul(x, W) [second] y = MatMul(a, W) }"
    report = map_and_verify(write(text, W=normal(3, 3)))
    [weight] = report.mapped
    assert [consumer.node for consumer in weight.consumers] == ["first", "second"]
    assert len(nodes(report.output, "Div")) == 1


TIED = """g (int64[5] tokens) => (float[5,6] x, float[5,11] y) {
    x = Gather(W, tokens)
    turned = Transpose<perm = [1, 0]>(W)
    [head] y = MatMul(x, turned)
}"""


def test_a_weight_shared_with_a_gather_is_one_pair_that_both_read(write, map_and_verify, normal):
    report = map_and_verify(write(TIED, W=normal(11, 6)))
    [weight] = report.mapped
    assert {(consumer.op_type, consumer.is_mvm) for consumer in weight.consumers} == {
        ("Gather", False),
        ("MatMul", True),
    }
    assert "W" not in initializers(report.output)


def test_a_shared_weight_is_split_on_request_so_that_the_gather_keeps_the_exact_values(write, map_and_verify, normal):
    file = write(TIED, W=normal(11, 6))
    coarse = gconv.SinglePairConductanceConverter(g_max=25.0, g_min=5.0)
    report = map_and_verify(file, converter=coarse, shared="split")
    [gather] = nodes(report.output, "Gather")
    assert initializers(report.output)[gather.input[0]].tobytes() == normal(11, 6).tobytes()
    [weight] = report.mapped
    assert {(consumer.op_type, consumer.reads) for consumer in weight.consumers} == {
        ("Gather", "digital"),
        ("MatMul", "rebuilt"),
    }


def test_weights_that_an_exporter_untied_are_reported_as_one_parameter(parse, map_and_verify, normal, tmp_path):
    """torch's optimizer folds the transposition of a tied head into a second tensor."""
    table = normal(11, 6)
    model = parse(
        """g (int64[5] tokens, float[2,6] h) => (float[5,6] x, float[2,11] y) {
            x = Gather(table, tokens)
            [head] y = MatMul(h, val_82)
        }""",
        table=table,
        val_82=np.ascontiguousarray(table.T),
    )
    model.graph.initializers["val_82"].metadata_props[FOLDED_FROM] = "['table']"
    ir.save(model, tmp_path / "model.onnx")
    [weight] = map_and_verify(tmp_path / "model.onnx").mapped
    assert weight.name == "val_82"
    assert [(item.name, item.relation) for item in weight.same_source_as] == [("table", "transposed")]


def test_a_weight_that_is_a_graph_output_too_is_still_one_after_the_mapping(write, map_and_verify, normal):
    report = map_and_verify(
        write("g (float[2,3] x) => (float[2,4] y, float[3,4] W) { y = MatMul(x, W) }", W=normal(3, 4))
    )
    assert [item.name for item in onnx.load(report.output).graph.output] == ["y", "W"]
    assert all_mapped(report)


# Weights that a caller may replace


def overridable(folder, normal):
    names = {"x": [2, 3], "W": [3, 4]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("MatMul", ["a", "V"], ["y"])],
        "graph",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(normal(3, 4), "W"), numpy_helper.from_array(normal(4, 5), "V")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_the_default_of_a_graph_input_is_skipped_because_a_caller_may_replace_it(map_and_verify, normal, tmp_path):
    report = map_and_verify(overridable(tmp_path, normal), inputs={"x": normal(2, 3)})
    assert mapped_names(report) == ["V"]
    assert skipped_reasons(report) == {"W": "overridable_input"}
    assert [item.name for item in onnx.load(report.output).graph.input] == ["x", "W"]


def test_the_default_of_a_graph_input_is_mapped_if_inputs_are_frozen(map_and_verify, normal, tmp_path):
    report = map_and_verify(overridable(tmp_path, normal), inputs={"x": normal(2, 3)}, freeze_inputs=True)
    assert mapped_names(report) == ["V", "W"]
    assert all_mapped(report)
    assert [item.name for item in onnx.load(report.output).graph.input] == ["x"]


def test_freezing_inputs_keeps_those_without_a_default(map_and_verify, write, normal):
    report = map_and_verify(write(DENSE, W=normal(3, 4)), freeze_inputs=True)
    assert [item.name for item in onnx.load(report.output).graph.input] == ["x"]


# Nodes between a weight and its slot


@pytest.mark.parametrize(
    ("between", "shape"),
    [
        ("w = Identity(W)", (3, 4)),
        ("w = Transpose<perm = [1, 0]>(W)", (4, 3)),
        ("s = Constant<value_ints = [3, 4]>() w = Reshape(W, s)", (2, 6)),
        ("s = Constant<value_ints = [0]>() w = Squeeze(W, s)", (1, 3, 4)),
        ("s = Constant<value_ints = [0]>() w = Unsqueeze(W, s)", (3, 4)),
        ("w = Flatten(W)", (3, 2, 2)),
        ("s = Constant<value_ints = [0]>() e = Constant<value_ints = [3]>() w = Slice(W, s, e)", (5, 4)),
        ("s = Constant<value_ints = [1, 2]>() a, b = Split<axis = 0>(W, s) w = Concat<axis = 0>(b, a)", (3, 4)),
    ],
    ids=["identity", "transpose", "reshape", "squeeze", "unsqueeze", "flatten", "slice", "split_and_concat"],
)
def test_a_weight_behind_nodes_that_move_its_elements_is_mapped(write, map_and_verify, normal, between, shape):
    report = map_and_verify(
        write(f"g (float[2,3] x) => (float[] y) {{ {between} y = MatMul(x, w) }}", W=normal(*shape))
    )
    assert report.mapped
    assert all_mapped(report)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=["float16", "float64", "bfloat16"])
def test_a_weight_behind_a_cast_is_mapped(write, map_and_verify, normal, dtype):
    text = "g (float[2,3] x) => (float[] y) { w = Cast<to = 1>(W) y = MatMul(x, w) }"
    assert all_mapped(map_and_verify(write(text, W=normal(3, 4, dtype=dtype))))


def test_a_weight_behind_a_constant_factor_is_mapped(write, map_and_verify, normal):
    text = "g (float[2,3] x) => (float[] y) { half = Constant<value_float = 0.5>() w = Mul(W, half) y = MatMul(x, w) }"
    assert all_mapped(map_and_verify(write(text, W=normal(3, 4))))


def test_weights_that_are_concatenated_to_one_are_mapped(write, map_and_verify, normal):
    text = "g (float[2,3] x) => (float[] y) { w = Concat<axis = 1>(V, W) y = MatMul(x, w) }"
    report = map_and_verify(write(text, V=normal(3, 4), W=normal(3, 2, seed=1)))
    assert report.mapped_parameters == 18
    assert all_mapped(report)


DEQUANTIZED = "g (float[2,3] x) => (float[] y) { w = DequantizeLinear<axis = 1>(W, scale, zero) y = MatMul(x, w) }"
CODES = {
    "W": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "scale": np.float32([0.1, 0.2, 0.3, 0.4]),
    "zero": np.int8([0, 1, -1, 2]),
}


def test_a_dequantized_weight_is_mapped_by_its_integers(write, map_and_verify, tmp_path):
    file = write(DEQUANTIZED, **CODES)
    report = map_and_verify(file)
    assert mapped_names(report) == ["W"]
    assert all_mapped(report)
    assert [item.bit_identical for item in gconv.verify(file, tmp_path / "mapped.onnx").weights] == [True]


def test_a_dequantized_weight_can_be_left_alone(write):
    report = gconv.map_model(write(DEQUANTIZED, **CODES), quantized="skip", dry_run=True)
    assert report.mapped == ()
    assert skipped_reasons(report) == {"W": "quantized"}


# Where a weight lives


def test_a_weight_in_a_constant_node_is_mapped(write, map_and_verify):
    text = "g (float[1,2] x) => (float[] y) { W = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, W) }"
    report = map_and_verify(write(text))
    assert mapped_names(report) == ["W"]


FUNCTION = """
<domain: "local", opset_import: ["" : 17]>
dense (x, w) => (y) { y = MatMul(x, w) }
"""
FUNCTION_WITH_CONSTANT = """
<domain: "local", opset_import: ["" : 17]>
twice (x) => (y) { K = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, K) }
"""


def test_a_weight_that_a_function_is_called_with_is_mapped(write, map_and_verify, normal):
    text = f"g (float[2,3] x) => (float[2,4] y) {{ y = local.dense(x, W) }}{FUNCTION}"
    report = map_and_verify(write(text, opsets='"" : 17, "local" : 1', W=normal(3, 4)))
    assert mapped_names(report) == ["W"]
    assert all_mapped(report)


def test_a_constant_in_the_body_of_a_function_is_mapped(write, map_and_verify):
    text = f"g (float[1,2] x) => (float[1,2] y) {{ y = local.twice(x) }}{FUNCTION_WITH_CONSTANT}"
    report = map_and_verify(write(text, opsets='"" : 17, "local" : 1'))
    assert [weight.shape for weight in report.mapped] == [(2, 2)]
    assert all_mapped(report)


def test_a_weight_in_the_body_of_an_if_is_mapped_there(write, map_and_verify):
    text = """g (bool c, float[1,2] x) => (float[1,2] y) {
        [choose] y = If (c) <
            then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { a = MatMul(x, W) },
            else_branch = e () => (float[1,2] b) <float[2,2] V = {5, 6, 7, 8}> { b = MatMul(x, V) }
        >
    }"""
    report = map_and_verify(write(text))
    assert {weight.name: weight.graph for weight in report.mapped} == {
        "W": "choose.then_branch",
        "V": "choose.else_branch",
    }


LOOP = """g (float[1,2] x) => (float[1,2] y) {
    n = Constant<value_int = 3>()
    c = Constant<value = bool {1}>()
    [repeat] y = Loop (n, c, x) <
        body = b (int64 i, bool c_in, float[1,2] v) => (bool c_out, float[1,2] w) %s {
            c_out = Identity(c_in)
            [inner] w = MatMul(v, W)
        }
    >
}"""


def test_a_weight_that_a_loop_captures_is_rebuilt_once_in_the_graph_that_owns_it(write, map_and_verify, normal):
    report = map_and_verify(write(LOOP % "", W=normal(2, 2)))
    [weight] = report.mapped
    assert weight.graph == ""
    assert [consumer.graph for consumer in weight.consumers] == ["repeat.body"]
    assert len(nodes(report.output, "Div")) == 1


def test_a_weight_of_the_body_of_a_loop_is_mapped(write, map_and_verify):
    report = map_and_verify(write(LOOP % "<float[2,2] W = {1, 2, 3, 4}>"))
    assert mapped_names(report) == ["W"]
    assert all_mapped(report)


def test_a_weight_that_a_scan_reads_is_mapped(write, map_and_verify, normal):
    text = """g (float[1,2] start, float[3,1,2] xs) => (float[1,2] s, float[3,1,2] z) {
        s, z = Scan <
            num_scan_inputs = 1,
            body = d (float[1,2] s_in, float[1,2] e) => (float[1,2] s_out, float[1,2] f) {
                f = MatMul(e, W)
                s_out = Add(s_in, f)
            }
        > (start, xs)
    }"""
    assert all_mapped(map_and_verify(write(text, W=normal(2, 2))))


# Names


def test_weights_of_one_name_in_two_branches_are_two_weights(write, map_and_verify):
    text = """g (bool c, float[1,2] x) => (float[1,2] y) {
        [choose] y = If (c) <
            then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { a = MatMul(x, W) },
            else_branch = e () => (float[1,2] b) <float[2,2] W = {5, 6, 7, 8}> { b = MatMul(x, W) }
        >
    }"""
    report = map_and_verify(write(text))
    assert mapped_names(report) == ["W", "W"]
    conductances = [item.name for weight in report.mapped for item in weight.conductances]
    assert len(set(conductances)) == 4


def test_a_generated_name_that_is_taken_gets_a_number(map_and_verify, normal, tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["W.g_plus"]),
            helper.make_node("MatMul", ["W.g_plus", "W"], ["a"]),
            helper.make_node("MatMul", ["a", "W.g_scale"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(normal(3, 4), "W"), numpy_helper.from_array(normal(4, 5), "W.g_scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    report = map_and_verify(tmp_path / "model.onnx")
    names = [item.name for weight in report.mapped for item in (*weight.conductances, weight.scale)]
    assert len(set(names)) == 6
    assert {"W.g_plus_1", "W.g_scale_1"} <= set(names)


# Types


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "double")])
def test_a_weight_of_half_or_double_precision_is_mapped_in_its_type(write, map_and_verify, normal, dtype, name):
    text = DENSE.replace("float", name)
    [weight] = map_and_verify(write(text, W=normal(3, 4, dtype=dtype))).mapped
    assert weight.dtype == np.dtype(dtype).name


def test_a_bfloat16_weight_is_mapped_though_onnx_runtime_cannot_multiply_it(write, map_and_verify, normal):
    text = DENSE.replace("float", "bfloat16")
    report = map_and_verify(write(text, W=normal(3, 4, dtype=ml_dtypes.bfloat16)), has_outputs=False)
    [weight] = report.mapped
    assert (weight.dtype, weight.compute_dtype) == ("bfloat16", "float32")


# Versions


def test_a_model_of_an_opset_without_broadcasting_is_refused_with_the_remedy(write, normal):
    file = write(DENSE, opsets='"" : 6', ir_version=4, W=normal(3, 4))
    with pytest.raises(gconv.ModelError, match=r"opset 6.*opset 7"):
        gconv.map_model(file)


def test_a_model_of_an_old_opset_is_mapped_if_the_opset_may_be_raised(write, map_and_verify, normal):
    report = map_and_verify(write(DENSE, opsets='"" : 6', ir_version=4, W=normal(3, 4)), upgrade_opset=True)
    [opset] = [item.version for item in onnx.load(report.output).opset_import if not item.domain]
    assert opset >= 7
    assert all_mapped(report)


def test_a_model_of_a_new_opset_keeps_it_though_it_might_be_raised(write, map_and_verify, normal):
    report = map_and_verify(write(DENSE, W=normal(3, 4)), upgrade_opset=True)
    assert [item.version for item in onnx.load(report.output).opset_import] == [17]


@pytest.mark.parametrize("ir_version", [4, 8, 10, 13])
def test_the_ir_version_stays_as_it_is(write, map_and_verify, normal, ir_version):
    report = map_and_verify(write(DENSE, opsets='"" : 9', ir_version=ir_version, W=normal(3, 4)))
    assert onnx.load(report.output).ir_version == ir_version


def test_a_model_without_nodes_of_the_default_domain_is_mapped(write, map_and_verify, normal):
    text = "g (float[2,3] x) => (float[2,4] y) { y = com.microsoft.FusedMatMul(x, W) }"
    report = map_and_verify(write(text, opsets='"com.microsoft" : 1', W=normal(3, 4)))
    assert all_mapped(report)
    assert "" in {item.domain for item in onnx.load(report.output).opset_import}


# Ops and slots


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_both_weights_of_a_recurrent_op_are_mapped_and_its_bias_is_not(write, map_and_verify, normal, op_type, gates):
    text = f"g (float[5,2,3] x) => (float[] y) {{ y = {op_type}<hidden_size = 4>(x, W, R, B) }}"
    weights = {"W": normal(1, 4 * gates, 3), "R": normal(1, 4 * gates, 4), "B": normal(1, 8 * gates)}
    report = map_and_verify(write(text, **weights))
    assert mapped_names(report) == ["R", "W"]
    assert skipped_reasons(report) == {}


@pytest.mark.parametrize(
    ("node", "shape", "columns"),
    [
        ("Conv(x, W)", (6, 4, 3, 3), 6),
        ("Conv<group = 2>(x, W)", (6, 2, 3, 3), 3),
        ("ConvTranspose(x, W)", (4, 5, 3, 3), 45),
        ("ConvTranspose<group = 2>(x, W)", (4, 5, 3, 3), 45),
    ],
    ids=["conv", "grouped_conv", "conv_transpose", "grouped_conv_transpose"],
)
def test_the_output_channels_of_a_convolution_are_columns(write, map_and_verify, normal, node, shape, columns):
    report = map_and_verify(write(f"g (float[1,4,6,6] x) => (float[] y) {{ y = {node} }}", W=normal(*shape)))
    [consumer] = report.mapped[0].consumers
    assert consumer.matrix_view.columns == columns


def test_a_weight_on_the_left_of_a_matmul_is_mapped(write, map_and_verify, normal):
    [weight] = map_and_verify(write("g (float[3,4] x) => (float[] y) { y = MatMul(W, x) }", W=normal(5, 3))).mapped
    [consumer] = weight.consumers
    assert (consumer.slot, consumer.matrix_view.rows, consumer.matrix_view.columns) == (0, 3, 5)


def test_an_operand_of_an_einsum_is_mapped(write, map_and_verify, normal):
    text = 'g (float[2,3] x) => (float[] y) { y = Einsum<equation = "bi,io->bo">(x, W) }'
    assert all_mapped(map_and_verify(write(text, W=normal(3, 4))))


EMBEDDED = "g (int64[5] tokens) => (float[] y) { x = Gather(table, tokens) [head] y = MatMul(x, W) }"


def test_the_table_of_an_embedding_is_listed_and_not_mapped(write, map_and_verify, normal):
    report = map_and_verify(write(EMBEDDED, table=normal(11, 6), W=normal(6, 4)))
    assert mapped_names(report) == ["W"]
    assert [(item.name, item.is_mvm) for item in report.skipped] == [("table", False)]


def test_the_table_of_an_embedding_is_mapped_on_request(write, map_and_verify, normal):
    report = map_and_verify(write(EMBEDDED, table=normal(11, 6), W=normal(6, 4)), include_ops=["Gather"])
    assert mapped_names(report) == ["W", "table"]
    assert all_mapped(report)


def test_an_op_on_request_that_is_not_known_is_an_error(write, normal):
    with pytest.raises(gconv.ConfigError, match="Relu"):
        gconv.map_model(write(DENSE, W=normal(3, 4)), include_ops=["Relu"], dry_run=True)


def test_the_weight_of_fused_attention_is_mapped(write, map_and_verify, normal):
    text = "g (float[1,3,8] x) => (float[1,3,8] y) { y = com.microsoft.Attention<num_heads = 2>(x, W, b) }"
    report = map_and_verify(
        write(text, opsets='"" : 17, "com.microsoft" : 1', W=normal(8, 24), b=normal(24)),
    )
    assert mapped_names(report) == ["W"]


def test_the_packed_codes_of_matmulnbits_are_mapped(write, map_and_verify):
    text = "g (float[2,32] x) => (float[2,4] y) { y = com.microsoft.MatMulNBits<%s>(x, W, scales) }"
    text %= "K = 32, N = 4, bits = 4, block_size = 16"
    weights = {"W": np.full((4, 2, 8), 0x5A, np.uint8), "scales": np.ones((4, 2), np.float32)}
    report = map_and_verify(write(text, opsets='"" : 17, "com.microsoft" : 1', **weights))
    assert mapped_names(report) == ["W"]


def test_gains_of_normalizations_and_biases_are_not_mapped(write, map_and_verify, normal):
    text = """g (float[2,3] x) => (float[2,4] y) {
        a = LayerNormalization(x, gain, shift)
        b = Gemm(a, W, c)
        d = com.microsoft.SkipLayerNormalization(b, b, skip_gain)
        y = Add(d, matrix_bias)
    }"""
    weights = {"gain": normal(3), "shift": normal(3), "W": normal(3, 4), "c": normal(4), "skip_gain": normal(4)}
    report = map_and_verify(write(text, opsets='"" : 17, "com.microsoft" : 1', matrix_bias=normal(2, 4), **weights))
    assert mapped_names(report) == ["W"]
    assert skipped_reasons(report) == {}


# Data


def test_weights_in_external_data_are_mapped_to_external_data(parse, map_and_verify, normal, tmp_path):
    text = "g (float[2,16] x) => (float[2,16] y) { y = MatMul(x, W) }"
    ir.save(parse(text, W=normal(16, 16)), tmp_path / "model.onnx", external_data="model.data")
    before = (tmp_path / "model.data").read_bytes()
    report = map_and_verify(tmp_path / "model.onnx")
    assert [file.suffix for file in report.files if file != report.output] == [".data"]
    assert (tmp_path / "model.data").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="/proc says how many bytes a process has read")
def test_external_data_of_what_is_not_mapped_are_not_read(parse, normal, tmp_path):
    size = 1 << 30
    ir.save(parse(EMBEDDED, table=normal(11, 6), W=normal(6, 4)), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    [table] = [item for item in model.graph.initializer if item.name == "table"]
    table.ClearField("raw_data")
    table.dims[:] = [size // 16, 4]
    table.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "table.data", "offset": "0", "length": str(size)}.items():
        table.external_data.add(key=key, value=value)
    with (tmp_path / "table.data").open("wb") as file:
        file.truncate(size)  # a hole, which takes no space
    onnx.save(model, tmp_path / "model.onnx")
    before = bytes_read()
    report = gconv.map_model(tmp_path / "model.onnx", dry_run=True)
    assert bytes_read() - before < 1 << 24
    assert mapped_names(report) == ["W"]


def bytes_read() -> int:
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(dict(line.split(": ") for line in text.splitlines())["rchar"])


def test_an_empty_weight_is_skipped(write, map_and_verify, normal):
    text = "g (float[2,3] x) => (float[] a, float[] y) { a = MatMul(x, E) y = MatMul(x, W) }"
    report = map_and_verify(write(text, E=np.zeros((3, 0), np.float32), W=normal(3, 4)))
    assert mapped_names(report) == ["W"]
    assert skipped_reasons(report) == {"E": "empty"}


def test_a_scalar_in_a_weight_slot_is_skipped(write):
    text = "g (float[2,3] x) => (float y) { y = MatMul(x, S) }"
    report = gconv.inspect_model(write(text, S=np.float32(2.0)))
    assert skipped_reasons(report) == {"S": "invalid_shape"}


def test_a_sparse_initializer_is_refused_because_it_would_be_lost(write, normal, tmp_path):
    model = onnx.load(write(DENSE, W=normal(3, 4)))
    values = numpy_helper.from_array(np.float32([1.0]), "S")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([5]), "S_indices"), [3, 4])
    model.graph.sparse_initializer.append(sparse)
    onnx.save(model, tmp_path / "sparse.onnx")
    with pytest.raises(gconv.ModelError, match="sparse initializer 'S'"):
        gconv.map_model(tmp_path / "sparse.onnx")


def test_strings_are_no_weights(write, map_and_verify, normal):
    text = "g (float[2,3] x, int64[1] i) => (float[] y, string[] word) { y = MatMul(x, W) word = Gather(words, i) }"
    words = ir.StringTensor(np.array([[b"a", b"b"]], dtype=object), name="words")
    report = map_and_verify(write(text, W=normal(3, 4), words=words), inputs={"x": normal(2, 3), "i": np.int64([0])})
    assert mapped_names(report) == ["W"]
    assert "words" not in skipped_reasons(report)


# Mapping again


def test_a_mapped_model_is_not_mapped_again(write, map_and_verify, normal, tmp_path):
    report = map_and_verify(write(DENSE, W=normal(3, 4)))
    with pytest.raises(gconv.ModelError, match="mapped already"):
        gconv.map_model(report.output, tmp_path / "twice.onnx")


def test_a_mapped_model_that_lost_its_manifest_is_not_mapped_again(write, map_and_verify, normal, tmp_path):
    model = onnx.load(map_and_verify(write(DENSE, W=normal(3, 4))).output)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "stripped.onnx")
    with pytest.raises(gconv.ModelError, match="mapped already"):
        gconv.map_model(tmp_path / "stripped.onnx", tmp_path / "twice.onnx")


# Choosing weights


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest(write, normal, option):
    with pytest.raises(gconv.ConfigError, match=r"'densr'.*'dense'"):
        gconv.map_model(write(DENSE, W=normal(3, 4)), **{option: ["densr"]})


def test_an_empty_pattern_does_not_match_nodes_without_a_name(write, normal):
    file = write("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
    with pytest.raises(gconv.ConfigError, match="matches no weight"):
        gconv.map_model(file, exclude=[""])


@pytest.fixture
def exported(parse, normal, tmp_path):
    """A model with the notes that torch's exporter leaves: where a tensor was folded from, and the scopes of nodes."""
    model = parse(
        """g (float[2,3] x) => (float[2,5] y) {
            [node_linear] a = MatMul(x, val_0)
            [node_linear_1] y = MatMul(a, val_1)
        }""",
        val_0=normal(3, 4),
        val_1=normal(4, 5),
    )
    for number, node in enumerate(model.graph):
        node.metadata_props[NAME_SCOPES] = f"['', 'layers.{number}', 'layers.{number}.linear', 'linear']"
    for number in range(2):
        value = model.graph.initializers[f"val_{number}"]
        value.metadata_props[FOLDED_FROM] = f"['layers.{number}.linear.weight']"
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "pattern",
    ["val_0", "node_linear", "layers.0.linear.weight", "layers.0.linear", "layers.0", "layers.0.*", "*.0.*weight"],
)
def test_patterns_match_tensors_nodes_parameters_of_torch_and_modules(exported, map_and_verify, pattern):
    assert mapped_names(map_and_verify(exported, include=[pattern])) == ["val_0"]
    assert mapped_names(map_and_verify(exported, exclude=[pattern])) == ["val_1"]


def test_a_pattern_that_matches_nothing_is_told_the_nearest_parameter_of_torch(exported):
    with pytest.raises(gconv.ConfigError, match=r"'layers\.1\.linear\.weight'"):
        gconv.map_model(exported, include=["layers.1.liner.weight"])
