"""NeuroSim's program runs on the folder as it is, and what it reads is the model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnx_gconv import converters, map_model, write_bundle
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff.formats import layer_conductances
from onnx_gconv.handoff.formats.neurosim.network import novel_mapping_fits, rows_of_subarrays
from onnx_gconv.handoff.formats.neurosim.weights import numbers_of_weights
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.formats.neurosim_reader import (
    code_of,
    codes_that_should_be,
    command_of,
    network_read,
    traces_read,
    vectors_read,
    weights_read,
)

BITS = 8
PAIR = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)


@pytest.fixture(scope="module")
def images():
    with np.load(model_path("digits_test.npz")) as found:
        return found["images"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory, images):
    """The folders of the two networks of digits, on 64x64 arrays, and the report of each."""
    folder = tmp_path_factory.mktemp("digits")
    samples = {"digits_mlp": {"pixels": images[:1].reshape(1, 64)}, "digits_cnn": {"image": images[:1]}}
    found = {}
    for name, inputs in samples.items():
        map_model(model_path(f"{name}.onnx"), folder / f"{name}.gconv.onnx")
        np.savez(folder / "sample.npz", **inputs)
        report = write_bundle(
            folder / f"{name}.gconv.onnx", array=(64, 64), formats=["neurosim"], inputs=folder / "sample.npz"
        )
        found[name] = folder / f"{name}.gconv" / "neurosim", report
    return found


def original_weights(name):
    model = load_model(model_path(f"{name}.onnx"))
    return {key: value.const_value.numpy() for key, value in model.graph.initializers.items()}


def written(parse, folder, text, arrays, scheme=None, array=(8, 8), **options):
    """Map a model, hand it off, and give the folder and the report."""
    opsets = options.pop("opsets", '"" : 17')
    inputs = options.pop("inputs", None)
    save_model(parse(text, opsets=opsets, **arrays), folder / "plain.onnx")
    model = load_model(folder / "plain.onnx")
    assert MapConductances(scheme=scheme or MappingScheme(PAIR, Granularity()))(model).modified
    save_model(model, folder / "net.gconv.onnx")
    report = write_bundle(
        folder / "net.gconv.onnx", folder / "out", array, formats=["neurosim"], inputs=inputs, **options
    )
    return folder / "out" / "neurosim", report


def product_of(inputs, outputs, op="y = Gemm <transB = 1> (x, W)", seed=0):
    weights = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    return f"g (float[1, {inputs}] x) => (float y) {{ {op} }}", {"W": weights}


# Numbers


@example(weight=1.0, bits=8)
@example(weight=-1.0, bits=8)
@example(weight=1 - 2**-8, bits=8)
@given(weight=st.floats(-1, 1), bits=st.integers(2, 12))
def test_a_number_of_five_decimals_has_the_code_of_the_weight(weight, bits):
    [number] = numbers_of_weights(np.array([weight]), bits)
    expected = codes_that_should_be(np.array([weight]), bits, 1.0)[0]
    assert code_of(f"{number:10.5f}", bits) == expected < 2**bits
    assert abs(number - weight) <= (1.5e-5 if expected < 2**bits - 1 else 2.0**-bits + 1e-5)


def test_a_weight_of_exactly_one_would_be_the_smallest_to_neurosim():
    """What the largest number is for."""
    assert code_of("1.00000", BITS) == 2**BITS  # of which the cells hold the lowest bits: 0, as of -1
    assert code_of("-1.00000", BITS) == 0


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_neurosim_reads_the_codes_that_the_weights_should_have(digits, name):
    folder, _ = digits[name]
    originals = {
        "digits_mlp": ["hidden1.weight", "hidden2.weight", "classifier.weight"],
        "digits_cnn": ["stem.weight", None, "pointwise.weight", "hidden.weight", "classifier.weight"],
    }[name]
    weights = original_weights(name)
    for number, key in enumerate(originals):
        if key is not None:
            expected = codes_that_should_be(weights[key].reshape(len(weights[key]), -1).T, BITS)
            np.testing.assert_array_equal(weights_read(folder / f"weightL{number:03d}.csv", BITS), expected)
            assert 0 in expected or 255 in expected  # max|W| is there


@pytest.mark.parametrize(
    ("op", "is_left"),
    [("y = MatMul(x, W)", False), ("y = Gemm <alpha = 0.5> (x, W)", False), ("y = MatMul(W, x)", True)],
)
def test_both_slots_of_a_product_are_inputs_by_outputs(parse, tmp_path, op, is_left):
    weights = np.random.default_rng(1).standard_normal((12, 20)).astype(np.float32)
    size = (20, 3) if is_left else (3, 12)
    folder, _ = written(parse, tmp_path, f"g (float[{size[0]}, {size[1]}] x) => (float y) {{ {op} }}", {"W": weights})
    expected = codes_that_should_be(weights.T if is_left else weights, BITS)
    np.testing.assert_array_equal(weights_read(folder / "weightL000.csv", BITS), expected)
    [line] = network_read(folder / "NetWork_net.csv")
    assert line[2:6] == [*(1 if n else size for n, size in enumerate(expected.shape[:1])), 1, 1, expected.shape[1]]


def test_a_kernel_in_another_order_is_unrolled_as_the_op_reads_it(parse, tmp_path):
    weights = np.random.default_rng(2).standard_normal((3, 2, 3, 7)).astype(np.float32)
    text = "g (float[1, 3, 6, 6] x) => (float y) { t = Transpose <perm = [3, 2, 0, 1]> (W) y = Conv(x, t) }"
    folder, _ = written(parse, tmp_path, text, {"W": weights})
    expected = codes_that_should_be(weights.transpose(3, 2, 0, 1).reshape(7, -1).T, BITS)
    np.testing.assert_array_equal(weights_read(folder / "weightL000.csv", BITS), expected)


@pytest.mark.parametrize(
    ("scheme", "largest"),
    [
        (MappingScheme(PAIR, Granularity(), clipping=Clipping(value=1.25)), lambda _: 1.25),
        (MappingScheme(PAIR, Granularity("channel")), lambda weights: np.abs(weights).max(axis=0)),
        (MappingScheme(converters.SinglePairConductanceConverter(exact=True)), lambda weights: np.abs(weights).max()),
        (MappingScheme(converters.OffsetConductanceConverter()), lambda weights: np.abs(weights).max()),
        (MappingScheme(converters.NPairConductanceConverter([1.0, 2.0])), lambda weights: np.abs(weights).max()),
    ],
    ids=["clip", "channel", "exact", "offset", "n-pair"],
)
def test_one_is_the_largest_weight_of_a_scale_or_where_weights_are_clipped(parse, tmp_path, scheme, largest):
    text, arrays = product_of(30, 9)
    folder, _ = written(parse, tmp_path, text, arrays, scheme)
    weights = arrays["W"].T
    expected = codes_that_should_be(weights, BITS, largest(weights))
    np.testing.assert_array_equal(weights_read(folder / "weightL000.csv", BITS), expected)


@pytest.mark.parametrize("block_cells", [4, 33])
def test_codes_are_the_same_however_much_is_read_at_once(parse, tmp_path, monkeypatch, block_cells):
    monkeypatch.setattr(layer_conductances, "_BLOCK_CELLS", block_cells)
    text, arrays = product_of(30, 9)
    folder, _ = written(parse, tmp_path, text, arrays, MappingScheme(PAIR, Granularity("tile", (7, 4), "max")))
    weights, expected = arrays["W"].T, np.empty((30, 9), int)
    for row in range(0, 30, 7):
        for column in range(0, 9, 4):
            part = np.s_[row : row + 7, column : column + 4]
            expected[part] = codes_that_should_be(weights[part], BITS)
    np.testing.assert_array_equal(weights_read(folder / "weightL000.csv", BITS), expected)


def test_a_weight_of_zeros_is_the_middle(parse, tmp_path):
    folder, _ = written(parse, tmp_path, product_of(8, 8)[0], {"W": np.zeros((8, 8), np.float32)})
    assert set(weights_read(folder / "weightL000.csv", BITS).flat) == {128}


# The network


def test_lines_of_the_network_are_those_of_the_model(digits):
    assert network_read(digits["digits_mlp"][0] / "NetWork_digits_mlp.csv") == [
        [1, 1, 64, 1, 1, 64, 0, 1],
        [1, 1, 64, 1, 1, 32, 0, 1],
        [1, 1, 32, 1, 1, 10, 0, 1],
    ]
    assert network_read(digits["digits_cnn"][0] / "NetWork_digits_cnn.csv") == [
        [8, 8, 1, 3, 3, 16, 0, 1],
        [8, 8, 16, 1, 1, 32, 1, 1],
        [1, 1, 512, 1, 1, 64, 0, 1],
        [1, 1, 64, 1, 1, 10, 0, 1],
    ]


RESIDUAL = """g (float[N, 3, 12, 12] x) => (float y) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, A)
    r = Relu(a)
    b = Conv <auto_pad = "SAME_UPPER"> (r, B)
    s = Conv(r, S)
    t = Add(s, b)
    u = Relu(t)
    m = GlobalAveragePool(u)
    f = Flatten(m)
    y = MatMul(f, C)
}"""


def residual_weights():
    rng = np.random.default_rng(3)
    shapes = {"C": (8, 5), "S": (8, 6, 1, 1), "B": (8, 6, 3, 2), "A": (6, 3, 3, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_layers_stand_in_the_order_in_which_they_run_and_the_last_before_a_pool_is_followed_by_it(parse, tmp_path):
    """Of two layers whose sum is pooled, NeuroSim's own Python side notes the one that ran last."""
    folder, report = written(parse, tmp_path, RESIDUAL, residual_weights())
    assert network_read(folder / "NetWork_net.csv") == [
        [12, 12, 3, 3, 3, 6, 0, 2],
        [6, 6, 6, 3, 2, 8, 0, 1],
        [6, 6, 6, 1, 1, 8, 1, 1],
        [1, 1, 8, 1, 1, 5, 0, 1],
    ]
    assert any("NeuroSim counts positions without padding" in note for note in report.notes)


@pytest.mark.parametrize(
    ("node", "opset", "is_pool"),
    [
        ("ReduceMean <axes = [2, 3]> (a)", 17, True),
        ("ReduceMean <axes = [-1, -2]> (a)", 17, True),
        ("ReduceMax <axes = [1]> (a)", 17, False),
        ("ReduceMean (a, axes)", 18, True),
    ],
)
def test_a_mean_over_the_image_is_a_pool(parse, tmp_path, node, opset, is_pool):
    text = f"g (float[1, 3, 5, 5] x) => (float y) {{ a = Conv(x, W) y = {node} }}"
    arrays = {"W": np.random.default_rng(0).standard_normal((8, 3, 2, 2)).astype(np.float32)}
    arrays |= {"axes": np.array([2, 3])} if opset > 17 else {}
    folder, _ = written(parse, tmp_path, text, arrays, opsets=f'"" : {opset}')
    assert network_read(folder / "NetWork_net.csv") == [[5, 5, 3, 2, 2, 8, int(is_pool), 1]]


def test_what_is_pooled_behind_a_layer_that_is_refused_is_not_pooled_before_it(parse, tmp_path):
    text = """g (float[1, 3, 9, 9] x) => (float y) {
        a = Conv(x, W) b = Relu(a) c = Conv <group = 8> (b, D) y = MaxPool <kernel_shape = [2, 2]> (c)
    }"""
    shapes = {"W": (8, 3, 2, 2), "D": (8, 1, 3, 3)}
    arrays = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    folder, _ = written(parse, tmp_path, text, arrays)
    assert network_read(folder / "NetWork_net.csv") == [[9, 9, 3, 2, 2, 8, 0, 1]]


def test_a_sequence_is_as_many_positions_and_the_first_sample_counts(parse, tmp_path):
    text = "g (float[B, T, 6] x) => (float y) { y = MatMul(x, W) }"
    weights = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32)
    folder, report = written(parse, tmp_path, text, {"W": weights}, inputs={"x": x})
    assert network_read(folder / "NetWork_net.csv") == [[4, 1, 6, 1, 1, 10, 0, 1]]
    expected = np.rint(x[0].T.astype(np.float64) / np.abs(x[0]).max() * 127)
    np.testing.assert_array_equal(traces_read(folder / "inputL000.csv", BITS), expected)
    assert not any("random" in note for note in report.notes)


def test_a_line_is_a_plane_of_width_one(parse, tmp_path):
    text = "g (float[1, 4, 20] x) => (float y) { y = Conv <pads = [2, 0]> (x, W) }"
    weights = np.random.default_rng(0).standard_normal((8, 4, 3)).astype(np.float32)
    folder, _ = written(parse, tmp_path, text, {"W": weights})
    [line] = network_read(folder / "NetWork_net.csv")
    assert line == [20, 1, 4, 3, 1, 8, 0, 1]
    assert traces_read(folder / "inputL000.csv", BITS).shape == (12, 20)
    assert vectors_read(line) == 18


# What arrives


def test_what_arrives_times_the_weights_is_what_the_layers_give(parse, tmp_path):
    """Of all kinds of padding and strides, against ONNX Runtime."""
    arrays = residual_weights()
    x = np.random.default_rng(4).standard_normal((2, 3, 12, 12)).astype(np.float32)
    folder, _ = written(parse, tmp_path, RESIDUAL, arrays, inputs={"x": x})
    model = parse(RESIDUAL, **arrays)
    names = ["a", "b", "s", "y"]
    inner = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [inner[name] for name in names]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    arriving = {"a": x, **dict.fromkeys("bs", session.run(["a"], {"x": x})[0].clip(0))}
    _, _, files = command_of(folder / "trace_command.sh")
    for name, weight, (_, trace), output in zip(names, "ABSC", files, session.run(names, {"x": x}), strict=True):
        codes = traces_read(folder / trace, BITS)
        matrix = arrays[weight] if weight == "C" else arrays[weight].reshape(len(arrays[weight]), -1).T
        expected = output[0].reshape(len(matrix.T), -1)
        largest = np.abs(arriving[name][0]).max() if name in arriving else None
        found = matrix.T.astype(np.float64) @ codes
        if largest is None:  # of the last one, only the direction is known here
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
        else:
            assert np.abs(found * largest / 127 - expected).max() <= 0.51 * largest / 127 * np.abs(matrix).sum(0).max()


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_both_versions_read_the_same_and_find_all_that_they_read(digits, name):
    folder, _ = digits[name]
    network, numbers, files = command_of(folder / "trace_command.sh")
    other_network, other_numbers, others = command_of(folder / "V1.5" / "trace_command.sh")
    assert (f".{network}", numbers) == (other_network, other_numbers)
    assert [f".{weight}" for weight, _ in files] == [weight for weight, _ in others]
    for line, (weight, bits), (_, integers) in zip(network_read(folder / network), files, others, strict=True):
        codes = np.loadtxt(folder / "V1.5" / integers, delimiter=",", ndmin=2, dtype=int)
        codes = codes.reshape(line[2] * line[3] * line[4], -1)
        np.testing.assert_array_equal(traces_read(folder / bits, BITS), codes)
        assert np.abs(codes).max() == 127
        assert codes.shape[1] >= vectors_read(line) >= 1  # NeuroSim reads beyond the end of shorter lines
        assert weights_read(folder / weight, BITS).shape == (len(codes), line[5])


def test_without_a_sample_the_report_says_that_numbers_are_random(parse, tmp_path):
    folder, report = written(parse, tmp_path, *product_of(8, 8))
    [note] = [note for note in report.notes if "random" in note]
    assert "which says little about energy; give --inputs" in note
    assert "the activations x for random numbers" in (folder / "README.txt").read_text()


# Commands and README.txt


def test_the_command_runs_a_program_in_the_folder_wherever_it_is_called(digits, tmp_path):
    folder, _ = digits["digits_mlp"]
    program = tmp_path / "main"
    program.write_text('#!/bin/sh\npwd\nfor name in "$1"; do cat "$name"; done\necho "$@"\n')
    program.chmod(0o755)
    for place, shared in ((folder, "."), (folder / "V1.5", "..")):
        assert os.access(place / "trace_command.sh", os.X_OK)
        found = subprocess.run(
            [place / "trace_command.sh", "./main"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        where, *network, arguments = found.stdout.splitlines()
        assert where == str(place)
        assert "\n".join(network) + "\n" == (folder / "NetWork_digits_mlp.csv").read_text()
        assert arguments.split() == [
            *(f"{shared}/NetWork_digits_mlp.csv", "8", "8", "32", "32"),
            *(f"{shared}/weightL000.csv", "./inputL000.csv", f"{shared}/weightL001.csv", "./inputL001.csv"),
            *(f"{shared}/weightL002.csv", "./inputL002.csv"),
        ]


@pytest.mark.parametrize(
    ("lines", "columns_per_weight", "rows", "expected"),
    [
        # NetWork_VGG8.csv with the defaults, 128 rows and cells of one bit, which NeuroSim takes
        ([(32, 32, 3, 3, 3, 128), (32, 32, 128, 3, 3, 128), (1, 1, 8192, 1, 1, 1024)], 8, 128, 128),
        # What NeuroSim was seen to take of the networks of digits, with cells of 4 bits
        ([(1, 1, 64, 1, 1, 64), (1, 1, 64, 1, 1, 32), (1, 1, 32, 1, 1, 10)], 2, 256, 64),
        ([(8, 8, 1, 3, 3, 16), (8, 8, 16, 1, 1, 32), (1, 1, 512, 1, 1, 64)], 2, 64, 8),
        ([(1, 1, 4, 1, 1, 1)], 1, 64, 1),
    ],
)
def test_subarrays_are_as_large_as_neurosim_takes_them(lines, columns_per_weight, rows, expected):
    assert rows_of_subarrays(lines, columns_per_weight, rows) == expected


def test_without_novel_mapping_other_subarrays_are_taken():
    """As NeuroSim V1.4 was seen to take 16 rows and not 32 of the network of digits, with a cell for each weight."""
    lines = [(8, 8, 1, 3, 3, 16), (8, 8, 16, 1, 1, 32), (1, 1, 512, 1, 1, 64), (1, 1, 64, 1, 1, 10)]
    assert rows_of_subarrays(lines, 1, 64, is_novel=False) == 16


@pytest.mark.parametrize(
    ("lines", "rows", "expected"),
    [
        # Two cells for each weight. What NeuroSim V1.4 and V1.5, built with a check of memory accesses, were seen to do
        ([(1, 1, 64, 1, 1, 64), (1, 1, 64, 1, 1, 32), (1, 1, 32, 1, 1, 10)], 64, True),
        ([(8, 8, 1, 3, 3, 16), (8, 8, 16, 1, 1, 32), (1, 1, 512, 1, 1, 64), (1, 1, 64, 1, 1, 10)], 8, True),
        ([(18, 18, 4, 5, 5, 26), (7, 7, 26, 1, 1, 27), (1, 1, 27, 1, 1, 10)], 32, True),
        ([(7, 1, 48, 1, 1, 96), (7, 1, 96, 1, 1, 20)], 32, False),  # which an unchecked program does not notice
        ([(1, 1, 316, 1, 1, 358)], 64, False),
        ([(1, 1, 316, 1, 1, 358)], 128, False),
        ([(1, 1, 594, 1, 1, 436)], 64, False),
        ([(1, 1, 594, 1, 1, 436)], 128, True),
        ([(1, 1, 517, 1, 1, 73)], 128, False),
    ],
)
def test_novel_mapping_is_taken_only_if_neurosim_reads_nothing_but_the_weights(lines, rows, expected):
    assert novel_mapping_fits(lines, 2, rows) == expected


LEVELS_OF_4_BITS = MappingScheme(PAIR, Granularity(), levels=ConductanceLevels.uniform(16, 1.0, 40.0))


SMALL_KERNELS = """g (float[1, 1, 9, 9] x) => (float[1, 20] y) {
    t = Conv <pads = [2, 2, 2, 2]> (x, V) f = Flatten (t) y = Gemm <transB = 1> (f, W) }"""


@pytest.mark.parametrize(
    ("shapes", "taken", "reason"),
    [
        ([(784, 128)], 64, "read memory behind the weights, because it cuts layers into parts that do not divide them"),
        ([(768, 128)], 64, None),
        ([(4, 1, 5, 5), (324, 20)], 16, "take no sub-arrays of more than 4 rows, which are too low for its circuits"),
        ([(16, 4)], 4, None),
    ],
)
def test_the_command_is_for_the_mapping_with_which_neurosim_runs(parse, tmp_path, shapes, taken, reason):
    text, arrays = product_of(*shapes[-1])
    if len(shapes) > 1:
        text, arrays = SMALL_KERNELS, {**arrays, "V": np.random.default_rng(1).normal(size=shapes[0]).astype("f")}
    folder, report = written(parse, tmp_path, text, arrays, LEVELS_OF_4_BITS, array=(64, 64))
    readme = " ".join((folder / "README.txt").read_text().split())
    command = (folder / "trace_command.sh").read_text()
    assert f" 8 8 {taken} {taken} " in command
    assert f"numColSubArray = {taken} of Param.cpp, as numRowSubArray = {taken} of the command" in readme
    said = [note for note in report.notes if "the command is for novelMapping = false in Param.cpp" in note]
    if reason is None:
        assert "- novelMapping = true (the default)." in readme
        assert not said
    else:
        assert f"- novelMapping = false. With true, the default, NeuroSim would {reason}" in readme
        assert len(said) == 1
        assert reason in said[0]


def test_the_readme_says_which_parameters_have_to_agree(parse, tmp_path):
    levels = MappingScheme(PAIR, Granularity(), levels=ConductanceLevels.uniform(16, 1.0, 40.0))
    folder, report = written(parse, tmp_path, *product_of(40, 64), levels, array=(32, 48))
    text = (folder / "README.txt").read_text()
    for part in (
        "memcelltype = 2 (RRAM)",
        "currentMode = true",
        "cellBit = 4: devices have 16 levels",
        "numColSubArray = 48 of Param.cpp, as numRowSubArray = 32 of the command",
        "resistanceOn = 25000 (ohm; 1 / g_max of 40 µS), resistanceOff = 1000000 (ohm; 1 / g_min of 1 µS)",
        "algoWeightMin = -1, algoWeightMax = 1",
        "- L000: 1 of 1",
    ):
        assert part in text
    assert not any("sub-arrays" in note for note in report.notes)


def test_the_readme_says_how_neurosim_counts_padding_and_takes_larger_arrays(digits):
    text = (digits["digits_cnn"][0] / "README.txt").read_text()
    assert "- L000: 36 of 64; 64 with 10,10 as height and width in its line\n- L002: 64 of 64\n" in text
    assert "so small a network takes no sub-arrays of more than 8 rows. With\n  novelMapping = false" in text
    assert "novelMapping = false of Param.cpp it takes 16; then change the command, too." in text


@pytest.mark.parametrize("bits", [(4, 6), (2, 2), (12, 10)])
def test_files_and_command_have_the_bits_that_were_asked_for(parse, tmp_path, bits):
    text, arrays = product_of(8, 40)
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    folder, report = written(parse, tmp_path, text, arrays, inputs={"x": x}, bits=bits)
    assert command_of(folder / "trace_command.sh")[1][:2] == list(bits)
    np.testing.assert_array_equal(
        weights_read(folder / "weightL000.csv", bits[0], 2), codes_that_should_be(arrays["W"].T, bits[0])
    )
    expected = np.rint(x.T.astype(np.float64) / np.abs(x).max() * (2 ** (bits[1] - 1) - 1))
    np.testing.assert_array_equal(traces_read(folder / "inputL000.csv", bits[1]), expected)
    assert any(f"weights have {bits[0]} bits and inputs {bits[1]}" in note for note in report.notes)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((1, 8), "weights have 2 to 14 bits, but not 1"),
        ((8, 15), "inputs have 2 to 14 bits, but not 15"),
        ((8, 8.0), "inputs have 2 to 14 bits, but not 8.0"),
        (8, "bits are 8, but should be two whole numbers, for weights and for inputs"),
    ],
)
def test_other_bits_are_errors(mapped, tmp_path, bits, message):
    with pytest.raises(ConfigError) as error:
        write_bundle(mapped("Gemm"), tmp_path / "out", (8, 8), formats=["neurosim"], bits=bits)
    assert str(error.value) == message


def test_a_range_from_zero_has_a_resistance_that_is_none(digits):
    text = (digits["digits_mlp"][0] / "README.txt").read_text()
    assert "resistanceOn = 40000 (ohm; 1 / g_max of 25 µS), resistanceOff = 1e+12 (ohm; g_min is 0 µS" in text
    assert "cellBit = 8: the mapping has no levels of conductance; with as many bits as a weight" in text


# The states of a cell


def states_read(path):
    """As ``_utils.py`` of NeuroSim V1.5 reads them."""
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return tuple([float(row[header.index(name)]) for row in rows] for name in ("mean", "std"))


@pytest.mark.parametrize(
    ("scheme", "values"),
    [
        (MappingScheme(PAIR, levels=ConductanceLevels.uniform(4, 1.0, 40.0)), [1.0, 14.0, 27.0, 40.0]),
        (MappingScheme(PAIR, levels=ConductanceLevels.of_table([1.0, 40.0]), storage="codes"), [1.0, 40.0]),
        (MappingScheme(converters.BitSlicedPairConductanceConverter(slice_bits=2, g_max=30.0)), [0, 10.0, 20.0, 30.0]),
    ],
)
def test_states_of_a_cell_are_the_levels_in_siemens(parse, tmp_path, scheme, values):
    folder, _ = written(parse, tmp_path, *product_of(8, 8), scheme)
    means, deviations = states_read(folder / "mem_states.csv")
    assert means == pytest.approx([value * 1e-6 for value in values], rel=1e-12)
    assert deviations == [0.0] * len(values)


def test_levels_that_are_no_states_of_a_cell_are_named(parse, tmp_path):
    scheme = MappingScheme(PAIR, levels=ConductanceLevels.uniform(5, 1.0, 40.0))
    folder, report = written(parse, tmp_path, *product_of(8, 8), scheme)
    why = "the mapping has 5 levels, no power of two"
    assert f"neurosim: mem_states.csv is not written, because {why}: L000" in report.notes
    assert f"mem_states.csv is not there: {why}." in (folder / "README.txt").read_text()
    assert not (folder / "mem_states.csv").exists()


# What NeuroSim cannot hold


def conv(attributes="", x="1, 4, 9, 9", w=(8, 4, 3, 3)):
    return f"g (float[{x}] x) => (float y) {{ y = Conv {attributes} (x, W) }}", w


REFUSED = {
    "it is a convolution of 2 groups, but a layer of NeuroSim is one matrix": conv("<group = 2>", w=(8, 2, 3, 3)),
    "it is a depthwise convolution, but": conv("<group = 4>", w=(8, 1, 3, 3)),
    "its strides are 2 and 1, but NeuroSim has one for both directions": conv("<strides = [2, 1]>"),
    "its kernel has gaps": conv("<dilations = [2, 2]>"),
    "its kernel has 3 axes, but NeuroSim knows two": conv(x="1, 4, 5, 5, 5", w=(8, 4, 3, 3, 3)),
    "it moves by 2 along one axis": conv("<strides = [2]>", x="1, 4, 9", w=(8, 4, 3)),
    "its kernel of 3x3 is larger than the activations of 2x2": conv("<pads = [1, 1, 1, 1]>", x="1, 4, 2, 2"),
    "it is a weight of ConvTranspose, but": ("g (float[1, 4, 5, 5] x) => (float y) { y = ConvTranspose(x, W) }",
                                             (4, 8, 3, 3)),
    "it has 2 matrices, but": ("g (float[2, 3, 6] x) => (float y) { y = MatMul(x, W) }", (2, 6, 8)),
    "2 nodes multiply with it, but a layer of NeuroSim runs once": (
        "g (float[1, 8] x) => (float y) { a = MatMul(x, W) y = MatMul(a, W) }", (8, 8)),
    "it is a weight of LSTM, but NeuroSim knows only convolutions and products with a matrix": (
        "g (float[2, 1, 8] x) => (float y) { y = LSTM <hidden_size = 2> (x, W, R) }", (1, 8, 8)),
    "it stands in a subgraph or a function": ("""g (float[1, 8] x, bool c) => (float y) {
        y = If (c) <then_branch = t () => (float a) { a = MatMul(x, W) },
                    else_branch = e () => (float b) { b = Identity(x) }>
    }""", (8, 8)),
    "its activations are not finite in a run of one sample": (
        "g (float[1, 8] x) => (float y) { z = Sub(x, x) d = Div(x, z) y = MatMul(d, W) }", (8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_of_which_neurosim_holds_nothing_is_refused_with_the_reason(parse, tmp_path, reason):
    text, shape = REFUSED[reason]
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    others = {"R": np.ones((1, 8, 2), np.float32)} if "LSTM" in text else {}
    with pytest.raises(ConfigError) as error:
        written(parse, tmp_path, text, {"W": weights, **others})
    assert f"NeuroSim can hold no layer of the model ('W': {reason}" in str(error.value)
    assert str(error.value).endswith("; leave the format neurosim out")
    assert not (tmp_path / "out").exists()


def test_a_network_for_which_subarrays_would_be_too_low_is_named(parse, tmp_path):
    _, report = written(parse, tmp_path, *product_of(4, 4))
    assert (
        "neurosim: NeuroSim finds sub-arrays of fewer than 8 rows too low for its circuits, and stops: L000"
        in report.notes
    )


def test_other_layers_are_written_beside_one_that_is_refused(digits):
    folder, report = digits["digits_cnn"]
    reason = "it is a depthwise convolution, but a layer of NeuroSim is one matrix"
    assert f"neurosim: not written, because {reason}: L001" in report.notes
    text = (folder / "README.txt").read_text()
    assert f"- not written, because {reason}: L001\n" in text
    assert sorted(path.name for path in folder.glob("weight*")) == [f"weightL00{n}.csv" for n in (0, 2, 3, 4)]
    assert "L001: weight" not in text


# Inputs


def test_inputs_that_do_not_fit_the_model_are_errors(parse, tmp_path):
    text, arrays = product_of(8, 8)
    with pytest.raises(ConfigError, match=r"inputs: no input is named 'z'"):
        written(parse, tmp_path, text, arrays, inputs={"z": np.zeros((1, 8), np.float32)})
    with pytest.raises(ConfigError, match=r"missing\.npz: does not exist"):
        written(parse, tmp_path, text, arrays, inputs=tmp_path / "missing.npz")
    with pytest.raises(
        ConfigError, match=r"inputs are for formats that run the model on a sample \(neurosim, zigzag, accelforge\)"
    ):
        write_bundle(tmp_path / "net.gconv.onnx", tmp_path / "out", (8, 8), formats=["npy"], inputs={})


def test_a_model_that_does_not_run_is_an_error_with_the_remedy(parse, tmp_path):
    text = "g (float[1, N] x) => (float y) { t = Reshape(x, s) y = MatMul(t, W) }"
    arrays = {"W": np.ones((6, 8), np.float32), "s": np.array([2, 6])}
    with pytest.raises(ConfigError, match=r"does not run it on the given inputs: .*; give other inputs \(--inputs\)"):
        written(parse, tmp_path, text, arrays, inputs={"x": np.ones((1, 7), np.float32)})
    with pytest.raises(ConfigError, match=r"does not run it on random inputs: .*; give other inputs \(--inputs\)"):
        written(parse, tmp_path, text.replace("N]", "7]"), arrays)
    text = "g (float[1, 6] x) => (float y) { t = nobody.Knows(x) y = MatMul(t, W) }"
    with pytest.raises(ModelError, match=r"net\.gconv\.onnx': ONNX Runtime does not load it: .*nobody"):
        written(parse, tmp_path, text, {"W": arrays["W"]}, opsets='"" : 17, "nobody" : 1')
    assert not (tmp_path / "out").exists()


def test_a_model_with_external_data_runs_where_its_data_is(parse, tmp_path):
    text, arrays = product_of(64, 40)
    save_model(parse(text, **arrays), tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "net.gconv.onnx", external_data=True)
    write_bundle(tmp_path / "net.gconv.onnx", tmp_path / "out", (8, 8), formats=["neurosim"])
    found = weights_read(tmp_path / "out" / "neurosim" / "weightL000.csv", BITS)
    np.testing.assert_array_equal(found, codes_that_should_be(arrays["W"].T, BITS))


def test_of_a_language_model_the_tokens_are_enough(tmp_path):
    source = Path(__file__).parents[2] / "data" / "language_models" / "mobius_llama_past_fp32.onnx"
    mapped = map_model(source, tmp_path / "m.gconv.onnx").output
    report = write_bundle(
        mapped, tmp_path / "out", (256, 256), formats=["neurosim"], inputs={"input_ids": np.array([[7, 5, 3]])}
    )
    assert report.output == tmp_path / "out"
    network = next((tmp_path / "out" / "neurosim").glob("NetWork_*.csv")).read_text().splitlines()
    assert len(network) == len(report.layers)
