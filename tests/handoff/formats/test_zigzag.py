"""What ZigZag reads is the plain model with the shapes of a run, and the arrays of the bundle."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from onnx_gconv import converters, map_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import write_bundle
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme

COUNTED = {"Conv", "Gemm", "MatMul"}


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def bundle_of(parse, folder, text, opsets='"" : 17', scheme=None, **arrays):
    """Writes a mapped model, and gives a function that hands it off for ZigZag: the model and the accelerator."""
    options = arrays.pop("options", {})
    model = parse(text, opsets=opsets, **arrays)
    MapConductances(scheme=scheme or MappingScheme())(model)
    save_model(model, folder / "mapped.onnx")
    report = write_bundle(folder / "mapped.onnx", folder / "out", (64, 32), formats=["zigzag"], **options)
    return report, onnx.load(folder / "out/zigzag/model.onnx")


def attributes(node):
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def shapes(model):
    infos = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {item.name: [size.dim_value for size in item.type.tensor_type.shape.dim] for item in infos}


def bits_that_zigzag_counts(model):
    """Weight bits by ZigZag's rule: the second input of a node of which at most one input is computed."""
    computed = {name for node in model.graph.node for name in node.output}
    sizes = {item.name: int(np.prod(item.dims)) for item in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in COUNTED:
            assert sum(name in computed for name in node.input) <= 1
            total += sizes[node.input[1]] * attributes(node)["weight_size"]
    return total


def test_the_model_is_the_original_with_shapes_and_bits(tmp_path):
    source = model_path("digits_cnn.onnx")
    map_model(source, tmp_path / "mapped.onnx")
    write_bundle(
        tmp_path / "mapped.onnx", tmp_path / "out", (64, 32), formats=["zigzag"], dims={"batch": 3},
        adc_bits=6, dac_bits=2,
    )  # fmt: skip
    original, found = onnx.load(source), onnx.load(tmp_path / "out/zigzag/model.onnx")
    weights = {item.name: numpy_helper.to_array(item) for item in original.graph.initializer}
    kept = {item.name: numpy_helper.to_array(item) for item in found.graph.initializer}
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in original.graph.node]
    counted = [node for node in found.graph.node if node.op_type in COUNTED]
    total = 0
    for node in counted:
        weight = weights[node.input[1]]
        total += weight.size
        np.testing.assert_allclose(kept[node.input[1]], weight, rtol=0, atol=1e-6 * np.abs(weight).max())
        said = attributes(node)
        assert (said["weight_size"], said["act_size"], said["output_size"]) == (2, 8, 16)
        assert shapes(found)[node.input[0]][0] == shapes(found)[node.output[0]][0] == 3
    assert total == 144 + 144 + 512 + 32768 + 640
    assert bits_that_zigzag_counts(found) == 2 * total
    assert shapes(found)[counted[2].output[0]] == [3, 32, 8, 8]
    accelerator = yaml.safe_load((tmp_path / "out/zigzag/accelerator.yaml").read_text())
    array = accelerator["operational_array"]
    assert (array["sizes"], array["input_precision"]) == ([32, 64], [8, 2])
    assert (array["adc_resolution"], array["bit_serial_precision"]) == (6, 2)
    memories = accelerator["memories"]
    assert (memories["cells"]["size"], memories["input_register"]["size"], memories["output_register"]["size"]) == (
        2, 8, 16,
    )  # fmt: skip
    assert memories["programmed"]["size"] == 2 * total
    assert memories["cells"]["w_cost"] == memories["programmed"]["r_cost"] == 0
    assert {item["name"] for item in yaml.safe_load((tmp_path / "out/zigzag/mapping.yaml").read_text())} == {
        "default", "Conv", "Gemm", "MatMul",
    }  # fmt: skip
    readme = (tmp_path / "out/zigzag/README.txt").read_text()
    assert "- adc_bits 6 (bits of an analog-to-digital converter): given\n" in readme
    assert "- bits of weights: not given; weight_size is 2, as a weight has 2 cells in a row\n" in readme
    assert "- shapes: those of a run on image 3x1x8x8, random numbers\n" in readme
    compile((tmp_path / "out/zigzag/run.py").read_text(), "run.py", "exec")


def test_values_whose_type_the_model_does_not_say_are_no_message(parse, tmp_path, caplog):
    text = "g (float16[2,9] x) => (float16[2,4] y) { t = MatMul(x, V) y = MatMul(t, W) }"
    arrays = {"V": normal(9, 6).astype(np.float16), "W": normal(6, 4).astype(np.float16)}
    _, found = bundle_of(parse, tmp_path, text, **arrays)
    assert shapes(found)["t"] == [2, 6]
    assert caplog.messages == []


@pytest.mark.parametrize("pads", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_that_is_automatic_is_said(parse, tmp_path, pads):
    """ZigZag knows no automatic padding, nor kernels that only the weight tells; ONNX's own inference is the judge."""
    text = f"""g (float[1, 3, 9, 8] x) => (float y) {{ y = Conv <auto_pad = "{pads}", strides = [2, 3]> (x, W) }}"""
    _, found = bundle_of(parse, tmp_path, text, W=normal(5, 3, 4, 2))
    [node] = found.graph.node
    made = shapes(found)[node.output[0]]
    said = {name: value for name, value in attributes(node).items() if not name.endswith("_size")}
    assert said["kernel_shape"] == [4, 2]
    assert "auto_pad" not in said
    explicit = onnx.helper.make_node("Conv", ["x", "W"], ["y"], **said)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [explicit], "g", [info("x", 1, [1, 3, 9, 8]), info("W", 1, [5, 3, 4, 2])], [info("y", 1, None)]
    )
    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph), strict_mode=True)
    assert shapes(inferred)["y"] == made
    odd = {"SAME_UPPER": [1, 0, 2, 0], "SAME_LOWER": [2, 0, 1, 0], "VALID": [0, 0, 0, 0]}
    assert said["pads"] == odd[pads]


def test_constants_that_nodes_compute_are_initializers(parse, tmp_path):
    """Otherwise ZigZag would take the weights for activations."""
    text = """g (float[2, 6] x) => (float y) {
        w = DequantizeLinear (W, s, z)  t = Transpose <perm = [1, 0]> (w)
        b = Constant <value_floats = [1.0, 2.0, 3.0]> ()
        y = Gemm (x, t, b) }"""
    codes = np.random.default_rng(0).integers(-100, 100, (3, 6)).astype(np.int8)
    scale, zero_point = np.array(0.5, np.float32), np.array(3, np.int8)
    _, found = bundle_of(parse, tmp_path, text, W=codes, s=scale, z=zero_point)
    [node] = found.graph.node
    kept = {item.name: numpy_helper.to_array(item) for item in found.graph.initializer}
    np.testing.assert_array_equal(kept[node.input[1]], 0.5 * (codes.T.astype(np.float32) - 3))
    np.testing.assert_array_equal(kept[node.input[2]], np.array([1, 2, 3], np.float32))
    assert set(kept) == set(node.input[1:])
    assert bits_that_zigzag_counts(found) == 18 * 2


SLICES = MappingScheme(converters.BitSlicedPairConductanceConverter(bits=7, slice_bits=2, g_max=25.0))


@pytest.mark.parametrize(
    ("scheme", "options", "cells", "sizes"),
    [
        (MappingScheme(converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0)), {}, 1, [32, 64]),
        (SLICES, {}, 8, [32, 64]),  # six cells, and ZigZag takes powers of two
        (None, {"pair_layout": "adjacent_columns"}, 2, [16, 64]),
        (None, {"pair_layout": "interleaved_rows"}, 1, [32, 32]),
        (None, {"bits": (8, 4), "spare_rows": 4}, 8, [32, 60]),
    ],
)
def test_cells_of_a_weight_are_those_of_its_row(parse, tmp_path, scheme, options, cells, sizes):
    text = "g (float[2, 6] x) => (float y) { y = MatMul (x, W) }"
    _, found = bundle_of(parse, tmp_path, text, scheme=scheme, W=normal(6, 5), options=options)
    accelerator = yaml.safe_load((tmp_path / "out/zigzag/accelerator.yaml").read_text())
    assert accelerator["operational_array"]["input_precision"] == [options.get("bits", (0, 8))[1], cells]
    assert accelerator["operational_array"]["sizes"] == sizes
    assert bits_that_zigzag_counts(found) == 30 * cells


def test_what_zigzag_would_count_wrongly_is_left_out_with_the_reason(parse, tmp_path):
    text = """g (float[1, 4, 6] x, float[1, 4, 4] a) => (float p, float q, float r, float s, float t) {
        p = Conv (x, A)  q = MatMul (B, x)  r = MatMul (x, C)  s = MatMul (x, D)
        f = Flatten (s)  v = ReduceSum (f)  t = Gemm (f, E, v) }"""
    report, found = bundle_of(
        parse, tmp_path, text, A=normal(5, 4, 3), B=normal(7, 4), C=normal(2, 6, 5), D=normal(6, 3), E=normal(12, 4)
    )
    reasons = [
        "ZigZag takes convolutions over two axes, but this one is over 1: L000",
        "it is the first input of MatMul, and ZigZag takes the second one for the weight: L001",
        "it is 2 matrices, of which ZigZag counts one: L002",
        "nodes compute its bias, so that ZigZag takes its weights for activations: L004",
    ]
    assert [note for note in report.notes if "not counted" in note] == [
        f"zigzag: not counted, because {reason}" for reason in reasons
    ]
    ops = [node.op_type for node in found.graph.node]
    assert [op for op in ops if op in COUNTED] == ["MatMul"]
    assert sorted(op for op in ops if op.startswith("Uncounted")) == [
        "UncountedConv", "UncountedGemm", "UncountedMatMul", "UncountedMatMul",
    ]  # fmt: skip
    assert bits_that_zigzag_counts(found) == 18 * 2


@pytest.mark.parametrize("op", ["LSTM", "ConvTranspose"])
def test_a_model_of_which_zigzag_counts_nothing_is_refused(mapped, tmp_path, op):
    with pytest.raises(ConfigError, match=rf"ZigZag can count no layer of the model \(.*as layers, not {op}"):
        write_bundle(mapped(op), tmp_path / "out", (64, 64), formats=["zigzag"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        (["zigzag"], {"bits": (8, 6)}, "ZigZag takes powers of two for the bits of inputs, but not 6"),
        (["zigzag"], {"bits": (3, 8)}, "ZigZag takes powers of two for the bits of weights, but not 3"),
        (["zigzag"], {"dac_bits": 3}, "ZigZag takes powers of two for the bits of a DAC, but not 3"),
        (["zigzag"], {"dac_bits": 9}, r"dac_bits is 9, but inputs have 8 bits; give 8 or fewer"),
        (["npy"], {"bits": (8, 8)}, r"bits is for other formats \(neurosim, zigzag, accelforge\), but none of them is"),
        (["zigzag"], {"adc_bits": 0}, "adc_bits is a number of bits from 1 to 64, but it is 0"),
        (["npy"], {"adc_bits": 6}, r"adc_bits is for other formats \(zigzag, accelforge\), but none of them is chosen"),
        ([], {"dims": {"batch": 2}}, r"dims are for formats that run the model on a sample \(neurosim, zigzag"),
        (["zigzag"], {"dims": {"n": 2}, "inputs": {}}, "dims are for generated inputs; give either them or the inputs"),
    ],
)
def test_options_that_do_not_fit_are_errors(mapped, tmp_path, formats, options, message):
    with pytest.raises(ConfigError, match=message):
        write_bundle(mapped("Gemm"), tmp_path / "out", (64, 64), formats=formats, **options)
    assert not (tmp_path / "out").exists()
