"""A bias may stand in rows of the arrays, which are driven with 1: then the tiles give the layer by themselves."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnx_gconv import converters, open_bundle, read_back, verify, write_bundle
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.chip import constants_of, programmed, weights_of

PAIR = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
LEVELS = ConductanceLevels.uniform(64, 1.0, 40.0)
SCHEMES = {
    "single pair": MappingScheme(PAIR, Granularity()),
    "channels": MappingScheme(PAIR, Granularity("channel")),
    "tiles": MappingScheme(PAIR, Granularity("tile", (4, 3), "equal")),
    "channels of tiles": MappingScheme(PAIR, Granularity("tile_channel", (4, 3))),
    "n pair": MappingScheme(converters.NPairConductanceConverter([1.0, 2.0]), Granularity()),
    "single device": MappingScheme(converters.SingleDeviceConductanceConverter(g_min=1.0), Granularity()),
    "offset": MappingScheme(converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0), Granularity()),
    "bit-sliced": MappingScheme(converters.BitSlicedPairConductanceConverter(bits=12, slice_bits=4), Granularity()),
    "codes": MappingScheme(PAIR, Granularity(), levels=LEVELS, storage="codes"),
}


def small(*shape, seed=5):
    return (0.2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def weight(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def of_matrix(x, matrices):
    return np.concatenate([x, np.ones((*x.shape[:-1], matrices.shape[1] - x.shape[-1]))], axis=-1) @ matrices


def of_convolution(x, matrices):
    found = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(2, 3))  # [1, channels, high, wide, *kernel]
    rows = found[0].transpose(1, 2, 0, 3, 4)
    rows = rows.reshape(rows.shape[0] * rows.shape[1], len(matrices), -1)
    y = np.concatenate([of_matrix(rows[:, k], matrices[k : k + 1])[0] for k in range(len(matrices))], axis=1)
    return y.T.reshape(1, -1, *found.shape[2:4])


# The node, the shape of x, the constants, and the product with the rows of the bias.
OPS = {
    "Gemm": ("y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": small(10)}, lambda x, w: of_matrix(x, w)[0]),
    "Gemm with alpha and beta": (
        "y = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (x, W, c)",
        (2, 13),
        {"W": weight(10, 13), "c": 0.2 * small(1, 10)},
        lambda x, w: 0.5 * of_matrix(x, w)[0],
    ),
    "Gemm with one number": (
        "y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": small()}, lambda x, w: of_matrix(x, w)[0]
    ),
    "MatMul and Add": (
        "h = MatMul(x, W) y = Add(h, c)",
        (2, 13),
        {"W": weight(13, 10), "c": small(10)},
        lambda x, w: of_matrix(x, w)[0],
    ),
    "batch of MatMul and Add": (
        "h = MatMul(x, W) y = Add(c, h)", (3, 2, 13), {"W": weight(3, 13, 10), "c": small(10)}, of_matrix
    ),
    "Conv": ("y = Conv(x, W, c)", (1, 3, 6, 6), {"W": weight(7, 3, 3, 2), "c": small(7)}, of_convolution),
    "grouped Conv": (
        "y = Conv <group = 3> (x, W, c)", (1, 6, 6, 6), {"W": weight(9, 2, 3, 2), "c": small(9)}, of_convolution
    ),
}  # fmt: skip
LOSSY = {"bit-sliced", "codes"}


@pytest.fixture
def handed(parse, tmp_path):
    """Writes the bundle of an op with a bias; gives the mapped model and the report."""

    def make(op, scheme="single pair", rows=1, array=(5, 4), **options):
        node, shape, constants, _ = OPS[op] if isinstance(op, str) else op
        text = f"g (float{list(shape)} x) => (float y) {{ {node} }}"
        save_model(parse(text, opsets='"" : 17, "com.microsoft" : 1', **constants), tmp_path / "plain.onnx")
        model = load_model(tmp_path / "plain.onnx")
        MapConductances(scheme=SCHEMES[scheme])(model)
        save_model(model, tmp_path / "model.gconv.onnx")
        report = write_bundle(
            tmp_path / "model.gconv.onnx", tmp_path / "model.gconv", array, bias_rows=rows, overwrite=True, **options
        )
        return load_model(tmp_path / "model.gconv.onnx"), report

    return make


def matrices_of(chip, folder):
    """What the tiles hold, with the rows of the bias: [matrices, inputs and rows, outputs]."""
    for layer in chip.manifest["layers"]:
        layer["matrix_view"]["rows"] += layer["bias"]["rows"]
    return weights_of(chip, constants_of(folder, chip.manifest))["L000"]


CASES = [
    *((op, "channels of tiles", rows) for op in OPS for rows in (1, 3)),
    *(("Gemm", scheme, rows) for scheme in SCHEMES for rows in (1, 2)),
]


@pytest.mark.parametrize("partition", ["max", "equal"])
@pytest.mark.parametrize(("op", "scheme", "rows"), CASES)
def test_tiles_with_the_bias_in_rows_compute_the_layer(handed, run, tmp_path, op, scheme, rows, partition):
    model, report = handed(op, scheme, rows, partition=partition)
    [layer] = report.layers
    assert (layer.bias, layer.bias_rows, layer.bias_reason) == ("c", rows, None)
    chip = programmed(tmp_path / "model.gconv", sigma=0.0, dropped=0)
    shape, product = OPS[op][1], OPS[op][3]
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    expected = run(model, x=x)[0]
    y = product(x.astype(np.float64), matrices_of(chip, tmp_path / "model.gconv"))
    atol = 2e-6 * np.abs(expected).max() + layer.bias_max_abs_error
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol)
    assert layer.bias_max_abs_error < (0.2 if scheme in LOSSY else 1e-6)


@pytest.mark.parametrize(
    ("op", "scheme", "rows"), [("Gemm with alpha and beta", "tiles", 2), ("grouped Conv", "codes", 1)]
)
def test_the_reader_gives_weight_and_bias_apart(handed, tmp_path, op, scheme, rows):
    _, report = handed(op, scheme, rows)
    constants = OPS[op][2]
    with open_bundle(tmp_path / "model.gconv") as bundle:
        bundle.verify_hashes()
        [layer] = bundle.layers
        added, record = layer.rebuilt_bias(), layer.record
        assert record.bias.mode == "rows"
        np.testing.assert_allclose(
            added.reshape(-1),
            record.bias.beta * constants["c"].reshape(-1),
            rtol=0,
            atol=record.bias.max_abs_error + 1e-7,
        )
        assert layer.rebuilt_weight().shape == constants["W"].shape
        assert sum(tile.shape[0] * tile.shape[1] for tile in layer.tiles) == constants["W"].size + rows * added.size
    assert report.layers[0].utilization == pytest.approx(
        (constants["W"].size + rows * constants["c"].size) / (report.arrays / 2 * 20)
    )


def test_without_rows_the_bias_is_digital(handed, tmp_path):
    handed("Gemm", rows=0)
    with open_bundle(tmp_path / "model.gconv") as bundle:
        assert bundle.layers[0].rebuilt_bias() is None
        bias = bundle.layers[0].record.bias
        assert (bias.mode, bias.rows, bias.initializer, bias.reason) == ("digital", 0, "c", None)


DIGITAL = {
    "too large": (
        ("y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": np.full(10, 7, np.float32)}, None),
        r"^2 rows do not hold it; 4 rows would do$",
    ),
    "read twice": (
        ("h = MatMul(x, W) i = Add(h, c) y = Mul(i, c)", (2, 13), {"W": weight(13, 10), "c": small(10)}, None),
        "^other nodes read 'c', too$",
    ),
    "of another shape": (
        ("y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": small(2, 10)}, None),
        r"^its shape \[2, 10\] is not that of the outputs$",
    ),
    "transposed convolution": (
        ("y = ConvTranspose (x, W, c)", (1, 7, 4, 4), {"W": weight(7, 4, 3, 2), "c": small(4)}, None),
        "^ConvTranspose does not add it once to each output of the product$",
    ),
    "LSTM": (
        (
            "y, h = LSTM <hidden_size = 3> (x, W, R, c)",
            (4, 1, 5),
            {"W": weight(1, 12, 5), "R": weight(1, 12, 3), "c": small(1, 24)},
            None,
        ),
        "^LSTM does not add it once",
    ),
    "of one of two readers": (
        ("y = Gemm (x, W, c) z = Gemm (x, W, d)", (2, 13), {"W": weight(13, 10), "c": small(10), "d": small(10)}, None),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "that another reader lacks": (
        ("h = MatMul(x, W) y = Add(h, c) z = MatMul(x, W)", (2, 13), {"W": weight(13, 10), "c": small(10)}, None),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "that another reader multiplies": (
        ("y = Gemm (x, W, c) z = Gemm <beta = 0.5> (x, W, c)", (2, 13), {"W": weight(13, 10), "c": small(10)}, None),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "of readers on both sides": (
        ("y = Gemm (x, W, c) v = Gemm (W, x, c)", (10, 10), {"W": weight(10, 10), "c": small(10)}, None),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "of a reader of the transposed weight": (
        (
            "y = Gemm (x, W, c) t = Transpose <perm = [1, 0]> (W) z = Gemm (x, t, c)",
            (2, 10),
            {"W": weight(10, 10), "c": small(10)},
            None,
        ),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "of a reader that rounds the sum": (
        (
            "y = Gemm (x, W, c) z = com.microsoft.GemmFloat8 <dtype = 1> (x, W, c)",
            (2, 13),
            {"W": weight(13, 10), "c": small(10)},
            None,
        ),
        "^not all nodes that multiply with the weight add the same bias$",
    ),
    "of an output without it": (
        ("y = MatMul(x, W) z = Add(y, c)", (2, 13), {"W": weight(13, 10), "c": small(10)}, None),
        "^'y', the product without the bias, is an output of the model, too$",
    ),
    "no number": (
        ("y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": np.full(10, np.nan, np.float32)}, None),
        "^it has values that are no finite numbers$",
    ),
}


def test_a_bias_that_all_readers_add_alike_stands_in_rows(handed, run, tmp_path):
    nodes = "h = MatMul(x, W) i = Add(c, h) g = Relu(i) j = MatMul(g, W) y = Add(j, c)"
    model, report = handed((nodes, (2, 10), {"W": weight(10, 10), "c": small(10)}, None))
    assert (report.layers[0].bias_rows, report.layers[0].bias_reason) == (1, None)
    matrices = matrices_of(programmed(tmp_path / "model.gconv", sigma=0.0, dropped=0), tmp_path / "model.gconv")
    x = np.random.default_rng(3).normal(size=(2, 10)).astype(np.float32)
    inner = np.maximum(of_matrix(x.astype(np.float64), matrices)[0], 0)
    expected = run(model, x=x)[0]
    np.testing.assert_allclose(of_matrix(inner, matrices)[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_node_that_multiplies_with_nothing_does_not_keep_the_bias_out_of_the_rows(handed):
    nodes = "y = Gemm (x, W, c) z = Abs (W)"
    _, report = handed((nodes, (2, 13), {"W": weight(13, 10), "c": small(10)}, None))
    assert (report.layers[0].bias_rows, report.layers[0].bias_reason) == (1, None)


@pytest.mark.parametrize("case", DIGITAL)
def test_what_cannot_stand_in_rows_stays_digital_with_a_reason(handed, tmp_path, case):
    op, reason = DIGITAL[case]
    _, report = handed(op, rows=2)
    found = report.layers[0].bias_reason
    assert found is not None
    assert re.search(reason, found)
    assert f"L000: the bias 'c' stays digital: {found}." in str(report)
    with open_bundle(tmp_path / "model.gconv") as bundle:
        record = bundle.layers[0].record
        assert (record.bias.mode, record.bias.rows, record.bias.reason) == ("digital", 0, found)
        assert record.tiles[-1].inputs[1] == record.matrix_view.rows


def test_as_many_rows_as_are_named_would_do(handed):
    large = ("y = Gemm (x, W, c)", (2, 13), {"W": weight(13, 10), "c": np.full(10, 7, np.float32)}, None)
    _, report = handed(large, rows=4)
    assert report.layers[0].bias_rows == 4
    assert report.layers[0].bias_max_abs_error < 1e-5


def test_integer_weights_keep_their_bias_digital(handed, parse, tmp_path):
    node = "y = QLinearConv (x, s, z, W, s, w, s, z, c)"
    constants = {
        "W": np.random.default_rng(0).integers(-128, 128, (4, 2, 3, 3), np.int8), "s": np.float32(0.1),
        "z": np.uint8(3), "w": np.int8(0), "c": np.arange(4, dtype=np.int32),
    }  # fmt: skip
    save_model(parse(f"g (uint8[1,2,5,5] x) => (uint8 y) {{ {node} }}", **constants), tmp_path / "i.onnx")
    model = load_model(tmp_path / "i.onnx")
    MapConductances(PAIR)(model)
    save_model(model, tmp_path / "i.gconv.onnx")
    report = write_bundle(tmp_path / "i.gconv.onnx", array=(8, 8), bias_rows=1)
    assert report.layers[0].bias_reason == "it is added to sums of integer codes"


def test_whole_kernels_leave_the_rows_of_the_bias_at_the_end(handed, tmp_path):
    handed("Conv", rows=2, array=(12, 4), whole_kernels=True)
    with open_bundle(tmp_path / "model.gconv") as bundle:
        record = bundle.layers[0].record
        assert record.tile_row_starts == (0, 12)  # two kernels of 3 x 2; one, and two rows of the bias
        assert record.tiles[-1].inputs == (12, 20)
    handed("Conv", rows=2, array=(6, 4), whole_kernels=True)
    with open_bundle(tmp_path / "model.gconv") as bundle:
        assert bundle.layers[0].record.tile_row_starts == (0, 6, 12, 18)


def test_fewer_rows_than_none_are_an_error(handed):
    with pytest.raises(ConfigError, match="bias rows are 0, for a digital bias, or more, but they are -1"):
        handed("Gemm", rows=-1)


def test_more_rows_than_can_be_counted_are_an_error(handed):
    with pytest.raises(ConfigError, match=r"bias rows are .* or more \(at most 65,536\), but they are 2147483647"):
        handed("Gemm", rows=2**31 - 1)


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize(
    "op", ["Gemm with alpha and beta", "Gemm with one number", "batch of MatMul and Add", "grouped Conv"]
)
def test_the_measured_bias_takes_the_place_of_the_initializer(handed, run, tmp_path, op, as_constant):
    node, shape, constants, product = OPS[op]
    if as_constant:
        values = constants["c"].reshape(-1).tolist()
        text = "{" + ", ".join(f"{value!r}" for value in values) + "}"
        dims = f"[{','.join(map(str, constants['c'].shape))}]" if constants["c"].ndim else ""
        node = f"c = Constant <value = float{dims} {text}> () {node}"
        constants = {"W": constants["W"]}
    handed((node, shape, constants, product), "channels of tiles", rows=2)
    chip = programmed(tmp_path / "model.gconv", sigma=0.5, dropped=0.1)
    chip.write(tmp_path / "measured.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tmp_path / "measured.onnx")
    measured = matrices_of(chip, tmp_path / "model.gconv")
    for key, errors in chip.errors.items():
        chip.errors[key] = np.zeros_like(errors)
    for layer in chip.manifest["layers"]:
        layer["matrix_view"]["rows"] -= layer["bias"]["rows"]
    targets = matrices_of(chip, tmp_path / "model.gconv")
    inputs = chip.manifest["layers"][0]["matrix_view"]["rows"] - 2
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    expected = product(x.astype(np.float64), measured)
    for optimization in ("none", "all"):
        [y] = run(load_model(tmp_path / "measured.onnx"), optimization, x=x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    factor = 0.5 if "alpha" in op else 1.0
    error = factor * (measured - targets)[:, inputs:].sum(axis=1)
    [layer] = report.to_json()["layers"]
    assert layer["bias_max_abs_error"] == pytest.approx(np.abs(error).max(), rel=1e-6)
    assert layer["weights"]["max_abs_error"] == pytest.approx(np.abs((measured - targets)[:, :inputs]).max(), rel=1e-6)
    found = verify(tmp_path / "plain.onnx", tmp_path / "measured.onnx")
    assert found.passed, found.problems
