"""A chip whose model draws readings: they are spread as the device's are, and the rest is as for any chip."""

from __future__ import annotations

import json
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import DeduplicateInitializersPass

import onnx_gconv as gconv
from onnx_gconv.devices import device_model
from onnx_gconv.devices.gaussian import GaussianDevice
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import CheckMapping, MapConductances, MeasuredConductances, ReplaceConductances
from onnx_gconv.simulation import program_model
from onnx_gconv.simulation.chips.chips import chips_of
from tests.scheme_choices import CONVERTERS, GRANULARITIES

DAY = 86400.0
PRODUCT = "g (float[8,8] x) => (float[8,6] y) { y = MatMul(x, W) }"
LAYERS = "g (float[2,9] x) => (float[2,4] y) { h = MatMul(x, W) a = Relu(h) y = Gemm <transB = 1> (a, V, b) }"

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@pytest.fixture
def mapped(parse, tmp_path):
    """Writes a model and what a converter makes of it."""

    def write(text=PRODUCT, converter=None, *, opset=21, scheme=None, constants=None, **options):
        constants = {"W": normal_array(8, 6)} if constants is None else constants
        save_model(parse(text, opsets=f'"" : {opset}', **constants), tmp_path / "plain.onnx")
        model = load_model(tmp_path / "plain.onnx")
        MapConductances(converter, scheme=scheme, **options)(model)
        save_model(model, tmp_path / "mapped.onnx")
        return tmp_path / "mapped.onnx"

    return write


def normal_array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def session(path, level="all", optimized=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    content = path if isinstance(path, bytes) else str(path)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def live(mapped, device="pcm", **options):
    chip = mapped.with_name("chip.onnx")
    report = program_model(mapped, chip, device, **{"time": "1d", "seed": 7, **options}, read_noise="live")
    return chip, report


def with_readings_as_outputs(path):
    """The model, and the names of the readings of all devices, which are outputs now."""
    model = load_model(path)
    values = ModelValues(model)
    names = []
    for record in read_manifest(model).weights:
        for term in locate(record, values).terms:
            model.graph.outputs.append(term.decoded)
            names.append(term.decoded.name)
    return ir.to_proto(model).SerializeToString(), names


# How readings are spread

DEVICES = {
    "pcm": {},
    "pcm-hermes-1": {},
    "state-independent": {},
    "gaussian": {"sigma_us": 0.5, "read_sigma_us": 0.2, "read_sigma_relative": 0.1},
    "reram-cmo": {},
    "reram-cmo with stuck devices": {"stuck_low": 0.2, "stuck_high": 0.2},
}


@pytest.mark.parametrize("device", DEVICES)
def test_readings_are_spread_as_the_device_model_reads(mapped, device):
    settings, kind = DEVICES[device], device.split()[0]
    model, runs = device_model(kind, **settings), 400
    path = mapped(converter=gconv.SinglePairConductanceConverter(g_max=model.g_max, g_min=model.g_min))
    chip, _ = live(path, kind, settings=settings)
    content, names = with_readings_as_outputs(chip)
    running = session(content)
    found = [running.run(names, {"x": np.eye(8, dtype=np.float32)}) for _ in range(runs)]
    source = load_model(path)
    [record] = read_manifest(source).weights
    weight = locate(record, ModelValues(source))
    for number, targets in enumerate(weight.tensors):
        simulated = chips_of(kind, settings, 7, "none").chip(0, DAY).devices(record, weight.tensors, number)
        devices = simulated.programmed(targets.numpy(), 0)
        later = simulated.model.drift(devices, DAY, simulated.streams("drift", 0))
        expected = np.array([model.read(later, DAY, np.random.default_rng(seed)) for seed in range(runs)], np.float64)
        drawn = np.array([each[number] for each in found], np.float64)
        _assert_same_moments(drawn, expected)


def _assert_same_moments(one, other):
    """Mean and standard deviation of each element over the first axis agree within 4.5 standard errors."""
    runs = len(one)
    spread = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 2)
    steady = spread < 1e-6 * np.abs(other).max()
    np.testing.assert_allclose(one.mean(axis=0)[steady], other.mean(axis=0)[steady], rtol=1e-5, atol=1e-5)
    assert not steady.all()
    one, other, spread = one[:, ~steady], other[:, ~steady], spread[~steady]
    centered = [each - each.mean(axis=0) for each in (one, other)]
    fourth = sum((each**4).mean(axis=0) for each in centered) / 2
    of_variance = np.sqrt(2 * np.maximum(fourth - spread**4, spread**4 / 8) / runs)
    means = np.abs(one.mean(axis=0) - other.mean(axis=0)) / (spread * np.sqrt(2 / runs))
    variances = np.abs(one.var(axis=0) - other.var(axis=0)) / of_variance
    assert means.max() < 4.5
    assert variances.max() < 4.5


def test_all_devices_draw_numbers_of_their_own(mapped):
    constants = {"W": normal_array(9, 7), "V": normal_array(4, 7, seed=1), "b": normal_array(4, seed=2)}
    path = mapped(LAYERS, constants={**constants, "V": constants["W"][:4].copy()})  # of which some are equal
    chip, _ = live(path, "gaussian", settings={"read_sigma_us": 1.0}, time="0s")
    content, names = with_readings_as_outputs(chip)
    running, x = session(content), np.zeros((2, 9), np.float32)
    runs = [[part.reshape(-1)[:28] for part in running.run(names, {"x": x})] for _ in range(300)]
    numbers = np.array(runs).transpose(1, 0, 2)
    numbers -= numbers.mean(axis=1, keepdims=True)
    correlations = np.corrcoef(numbers.reshape(4, -1))
    assert np.abs(correlations - np.eye(4)).max() < 4.5 / np.sqrt(300 * 28)
    seeds = [item.seed for record in read_manifest(load_model(chip)).weights for item in record.read_noise]
    assert len(set(seeds)) == 4


# What ONNX Runtime does with the nodes


@pytest.mark.parametrize("level", LEVELS)
def test_each_run_draws_anew_at_each_optimization_level(mapped, level, tmp_path):
    chip, _ = live(mapped())
    optimized = tmp_path / "optimized.onnx"
    running, x = session(chip, level, optimized), {"x": np.eye(8, dtype=np.float32)}
    [first], [second], [third] = (running.run(None, x) for _ in range(3))
    assert not np.isclose(first, second).any()
    assert not np.isclose(second, third).any()
    ops = [node.op_type for node in onnx.load(optimized).graph.node]
    assert ops.count("RandomNormalLike") == 2


def test_runs_of_a_session_repeat_in_another_one(mapped):
    chip, _ = live(mapped())
    x = {"x": np.eye(8, dtype=np.float32)}
    one, other = ([running.run(None, x)[0] for _ in range(3)] for running in (session(chip), session(chip, "none")))
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_weights_in_branches_draw_other_numbers_than_those_around_them(mapped):
    text = """g (float[8,8] x, bool c) => (float[8,6] y, float[8,6] z) { y = MatMul(x, W)
        z = If (c) <then_branch = t () => (float[8,6] p) { p = MatMul(x, V) },
                    else_branch = e () => (float[8,6] q) { q = Neg(y) }> }"""
    weight = normal_array(8, 6)
    chip, _ = live(mapped(text, constants={"W": weight, "V": -weight}))
    running, x = session(chip), np.eye(8, dtype=np.float32)
    runs = [running.run(None, {"x": x, "c": np.array(True)}) for _ in range(200)]
    drawn = np.array(runs).transpose(1, 0, 2, 3).reshape(2, 200, -1)
    drawn -= drawn.mean(axis=1, keepdims=True)
    drawn /= drawn.std(axis=1, keepdims=True)
    assert abs((drawn[0] * drawn[1]).mean()) < 4.5 / np.sqrt(drawn[0].size)
    [_, z] = running.run(None, {"x": x, "c": np.array(False)})
    assert z.shape == (8, 6)


def test_a_weight_that_stays_in_a_loop_is_read_in_each_iteration(mapped):
    text = """g (int64 n, bool c, float[2,2] x) => (float[k,2,2] s) { s = Loop (n, c) <body = b (int64 i, bool go) =>
        (bool on, float[2,2] o) { on = Identity(go) W = Constant <value = int8[2,2] {90, -80, 70, -60}> ()
        a = Constant <value = float {0.02}> () d = DequantizeLinear(W, a) o = MatMul(x, d) }> }"""
    chip, _ = live(mapped(text, constants={}))
    [record] = read_manifest(load_model(chip)).weights
    assert record.graph  # a DequantizeLinear node reads it there
    [found] = session(chip).run(None, {"n": np.array(3), "c": np.array(True), "x": np.eye(2, dtype=np.float32)})
    assert len(np.unique(found.reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize("opset", [8, 13, 21])
def test_opsets_that_onnx_runtime_draws_numbers_in(mapped, opset):
    chip, report = live(mapped(opset=opset))
    assert report.read_noise == "live"
    onnx.checker.check_model(chip, full_check=True)
    assert gconv.verify(chip.with_name("plain.onnx"), chip).passed


@pytest.mark.parametrize("opset", [7, 22, 24])
def test_opsets_that_it_does_not_draw_them_in(mapped, opset):
    path = mapped(opset=opset)
    with pytest.raises(gconv.ModelError) as raised:
        live(path)
    message = str(raised.value)
    assert f"cannot draw readings of float32 in a model of opset {opset} (" in message
    assert message.endswith("); export it with opset 8 to 21, or read the chip once (read noise: fixed)")
    assert "\n" not in message
    assert not path.with_name("chip.onnx").exists()


# What is as for any chip


SUMS = ["single pair above 0", "dual pair", "custom pair", "single device", "offset", "bit-sliced pair"]


@pytest.mark.parametrize("converter", SUMS)
def test_a_live_chip_of_any_scheme_is_verified_and_restored(mapped, tmp_path, converter):
    constants = {"W": normal_array(9, 7), "V": normal_array(4, 7, seed=1), "b": normal_array(4, seed=2)}
    scheme = gconv.MappingScheme(CONVERTERS[converter], granularity=GRANULARITIES["tile channel"])
    path = mapped(LAYERS, constants=constants, scheme=scheme)
    settings = {"g_max": scheme.converter.g_max * 1.001, "g_min": 0.0, "sigma_us": 0.1}
    chip, report = live(path, "gaussian", settings={**settings, "read_sigma_us": 0.2}, drift_compensation="global")
    assert report.read_noise == "live"
    onnx.checker.check_model(chip, full_check=True)
    assert CheckMapping().violations(load_model(chip)) == ()
    found = gconv.verify(tmp_path / "plain.onnx", chip)
    assert found.passed, found.problems
    gconv.restore_model(chip, tmp_path / "restored.onnx")
    steady = tmp_path / "steady.onnx"
    program_model(path, steady, "gaussian", settings=settings, time="1d", seed=7, drift_compensation="global")
    gconv.restore_model(steady, tmp_path / "expected.onnx")
    assert (tmp_path / "restored.onnx").read_bytes() == (tmp_path / "expected.onnx").read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8], ids=str)
@pytest.mark.parametrize("conductance_dtype", ["float32", "weight"])
def test_weights_of_other_types(mapped, tmp_path, dtype, conductance_dtype):
    kind = {"float16": "float16", "bfloat16": "bfloat16", "float64": "double", "int8": "float"}[np.dtype(dtype).name]
    text, constants = PRODUCT.replace("float[", f"{kind}["), {"W": normal_array(8, 6).astype(dtype)}
    if dtype is np.int8:
        text = "g (float[8,8] x) => (float[8,6] y) { d = DequantizeLinear(W, s) y = MatMul(x, d) }"
        codes = np.clip(normal_array(8, 6) * 100, -127, 127).astype(np.int8)
        constants = {"W": codes, "s": np.array(0.02, np.float32)}
    path = mapped(text, constants=constants, conductance_dtype=conductance_dtype)
    if (kind, conductance_dtype) == ("bfloat16", "weight"):
        with pytest.raises(
            gconv.ModelError, match=r"cannot draw readings of bfloat16 in a model of opset 21 .*; map with"
        ):
            live(path)
        return
    chip, report = live(path)
    assert report.read_noise == "live"
    onnx.checker.check_model(chip, full_check=True)
    assert CheckMapping().violations(load_model(chip)) == ()
    [record] = read_manifest(load_model(chip)).weights
    assert record.measured.saturated == (record.dtype != record.compute_dtype)
    if kind == "bfloat16":  # of which ONNX Runtime has no MatMul on the CPU
        return
    found = gconv.verify(tmp_path / "plain.onnx", chip)
    assert found.passed, found.problems
    running = session(chip)
    x = np.eye(
        8, dtype=running.get_inputs()[0].type.split("(")[1][:-1].replace("float", "float32").replace("3216", "16")
    )
    assert not np.array_equal(*(running.run(None, {"x": x})[0] for _ in range(2)))
    gconv.restore_model(chip, tmp_path / "restored.onnx")
    assert "RandomNormalLike" not in [node.op_type for node in onnx.load(tmp_path / "restored.onnx").graph.node]


def test_readings_of_half_precision_are_drawn_in_single_precision(mapped):
    chip, _ = live(
        mapped(
            PRODUCT.replace("float[", "float16["),
            constants={"W": normal_array(8, 6).astype(np.float16)},
            conductance_dtype="weight",
        )
    )
    ops = [node.op_type for node in onnx.load(chip).graph.node]
    assert ops[:6] == ["RandomNormalLike", "Cast", "Mul", "Add", "Max", "RandomNormalLike"]


def test_the_manifest_says_how_readings_are_drawn(mapped):
    path = mapped(converter=gconv.SinglePairConductanceConverter(g_max=88.0, g_min=9.0))
    chip, _ = live(path, "reram-cmo")
    document = json.loads(load_model(chip).metadata_props["onnx_gconv"])
    assert document["format_version"] == 2
    noise = document["weights"][0]["measured"]["simulated"]["read_noise"]
    assert [(item["sigma"], item["low_us"], item["high_us"]) for item in noise] == [
        ("W.g_plus_sigma", 9.0, 88.199997),
        ("W.g_minus_sigma", 9.0, 88.199997),
    ]
    initializers = load_model(chip).graph.initializers
    nodes = {node.inputs[0].name: node for node in load_model(chip).graph if node.op_type == "RandomNormalLike"}
    for item, name in zip(noise, ("W.g_plus", "W.g_minus"), strict=True):
        assert initializers[item["sigma"]].const_value.numpy().min() > 0
        assert nodes[name].attributes.get_float("seed") == item["seed"]
    assert "each run draws new readings of them" in document["weights"][0]["notes"][-1]


def test_the_same_chip_is_the_same_file_and_its_conductances_are_those_that_a_device_without_noise_is_read_with(mapped):
    path = mapped()
    chip, report = live(path, drift_compensation="global")
    first = chip.read_bytes()
    assert live(path, drift_compensation="global")[0].read_bytes() == first
    quiet = program_model(
        path, path.with_name("quiet.onnx"), settings={"read_scale": 0}, time="1d", seed=7, drift_compensation="global"
    )
    assert [item.drift_factor for item in report.weights] == [item.drift_factor for item in quiet.weights]
    one, other = (load_model(each).graph.initializers for each in (chip, path.with_name("quiet.onnx")))
    for name in ("W.g_plus", "W.g_minus", "W.g_scale"):
        np.testing.assert_array_equal(one[name].const_value.numpy(), other[name].const_value.numpy())
    others = [live(path, seed=8), live(path, chip=1), live(path, time="2d")]
    seeds = [item.seed for each, _ in others for item in read_manifest(load_model(each)).weights[0].read_noise]
    assert len(set(seeds)) == 2  # of the last one: all are written to one file


@pytest.mark.parametrize(
    ("device", "time", "settings"),
    [("reram-wan2022", "1d", {}), ("pcm", "1d", {"read_scale": 0}), ("gaussian", "0s", {"sigma_us": 0.1})],
)
def test_devices_without_noise_of_readings_have_nothing_to_draw(mapped, device, time, settings):
    path = mapped()
    chip, report = live(path, device, time=time, settings=settings)
    fixed = program_model(path, path.with_name("fixed.onnx"), device, time=time, settings=settings, seed=7)
    assert chip.read_bytes() == path.with_name("fixed.onnx").read_bytes()
    assert (report.read_noise, fixed.read_noise) == ("fixed", "fixed")
    [note] = report.notes
    assert note == (
        f"readings of the device '{device}' with these settings have no noise at that time: there is nothing to draw, "
        "and each run gives the same"
    )
    assert fixed.notes == ()


def test_pairs_without_noise_of_readings_have_nothing_to_draw(mapped):
    _, report = live(mapped(), "pcm-afm2025", time="0s")
    assert report.read_noise == "fixed"
    assert report.notes[0].startswith("readings of the device 'pcm-afm2025' with these settings have no noise")


def test_drift_of_columns_is_compensated_without_the_noise_of_readings(mapped, tmp_path):
    path = mapped(scheme=gconv.MappingScheme(granularity=GRANULARITIES["channel"]))
    chip, _ = live(path, drift_compensation="column")
    quiet = tmp_path / "quiet.onnx"
    program_model(path, quiet, settings={"read_scale": 0}, time="1d", seed=7, drift_compensation="column")
    one, other = (load_model(each).graph.initializers["W.g_scale"].const_value.numpy() for each in (chip, quiet))
    np.testing.assert_array_equal(one, other)
    assert gconv.verify(tmp_path / "plain.onnx", chip).passed


def test_the_report_says_that_readings_are_drawn(mapped):
    _, report = live(mapped())
    assert report.to_json()["read_noise"] == "live"
    assert "Noise of readings: drawn in each run" in str(report)
    [note] = report.notes
    assert note == (
        "each run draws new readings of all devices; errors and drift factors are those of the conductances without "
        "that noise"
    )


# What is verified


def test_verification_says_what_was_judged_without_noise(mapped, tmp_path):
    chip, _ = live(mapped())
    found = gconv.verify(tmp_path / "plain.onnx", chip)
    assert found.passed
    assert found.draws_readings
    assert found.to_json()["draws_readings"] is True
    assert found.outputs.notes[0] == (
        "each run of the mapped model draws new readings of its devices, so that its outputs differ from run to run: "
        "errors of outputs are those of one run; weights, and what passes of outputs, are judged without that noise"
    )
    assert "PASSED WITHOUT THE NOISE OF READINGS: 1 weight" in " ".join(str(found).split())
    for item in found.outputs.comparisons:
        assert item.max_abs_error > item.rebuilt_error
        assert item.rebuilt_error <= item.tolerance


def test_limits_hold_for_a_run_with_its_noise(mapped, tmp_path):
    chip, _ = live(mapped())
    plain = tmp_path / "plain.onnx"
    error = gconv.verify(plain, chip).outputs.comparisons[0].max_abs_error
    assert gconv.verify(plain, chip, max_error=error * 1.01).passed
    assert not gconv.verify(plain, chip, max_error=error * 0.99).passed


def test_a_conductance_or_a_graph_that_was_changed_is_found_behind_the_noise(mapped, tmp_path):
    constants = {"W": normal_array(9, 7), "V": normal_array(4, 7, seed=1), "b": normal_array(4, seed=2)}
    chip, _ = live(mapped(LAYERS, constants=constants))
    model = load_model(chip)
    next(node for node in model.graph if node.op_type == "Relu").op_type = "Abs"
    save_model(model, tmp_path / "other.onnx")
    found = gconv.verify(tmp_path / "plain.onnx", tmp_path / "other.onnx")
    assert not found.passed
    assert all("is above the tolerance" in problem for problem in found.problems)
    model = load_model(chip)
    weight = model.graph.initializers["W.g_plus"]
    weight.const_value = ir.tensor(weight.const_value.numpy() + np.float32(9), name="W.g_plus")
    save_model(model, tmp_path / "shifted.onnx")
    assert (
        "weight 'W' is rebuilt with an error of"
        in gconv.verify(tmp_path / "plain.onnx", tmp_path / "shifted.onnx").problems[0]
    )


def find(model, op_type, number=0):
    return [node for node in model.graph if node.op_type == op_type][number]


def frozen(model):
    node = find(model, "RandomNormalLike")
    drawn = ir.Value(name="drawn", const_value=ir.tensor(normal_array(8, 6), name="drawn"))
    node.outputs[0].replace_all_uses_with(drawn)
    model.graph.remove(node, safe=True)
    model.graph.initializers.add(drawn)


def merged(model):
    one, other = (find(model, "RandomNormalLike", number) for number in (0, 1))
    other.outputs[0].replace_all_uses_with(one.outputs[0])
    model.graph.remove(other, safe=True)


def without_noise(model):
    sub = find(model, "Sub")
    sub.replace_input_with(0, model.graph.initializers["W.g_plus"])


def exchanged(model):
    one, other = (find(model, "Mul", number) for number in (0, 1))
    first, second = one.inputs[1], other.inputs[1]
    one.replace_input_with(1, second)
    other.replace_input_with(1, first)


def seed_of(number, seed):
    def change(model):
        find(model, "RandomNormalLike", number).attributes["seed"] = ir.AttrFloat32("seed", float(seed(model)))

    return change


def the_other_seed(model):
    return find(model, "RandomNormalLike", 1).attributes.get_float("seed")


def constant(name, change):
    def changed(model):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        value.const_value = ir.tensor(change(array), name=name)
        value.shape = ir.Shape(value.const_value.shape.numpy())

    return changed


def first_is(number):
    def change(array):
        array.reshape(-1)[0] = number
        return array

    return change


def attribute(name, number):
    def change(model):
        find(model, "RandomNormalLike").attributes[name] = ir.AttrFloat32(name, number)

    return change


DAMAGES = {
    "drawn once": (
        frozen,
        (
            "the noise of readings is 'drawn', which no RandomNormalLike node draws in each run: another tool has "
            "drawn it once and for all, or removed it"
        ),
    ),
    "nodes joined": (merged, "the noise of readings in 'W.g_minus_read' is not that of the conductance it is added to"),
    "noise removed": (without_noise, "'W.g_plus' is not read with the noise that the manifest says of it"),
    "another spread": (
        exchanged,
        "readings of 'W.g_plus' are spread by 'W.g_minus_sigma', but the manifest names 'W.g_plus_sigma'",
    ),
    "one seed": (seed_of(0, the_other_seed), "'W.g_plus' is not read with the noise that the manifest says of it"),
    "another seed": (
        seed_of(0, lambda _: 3),
        "'W.g_plus/gconv_RandomNormalLike' draws noise with the seed 3, which the manifest does not name",
    ),
    "mean": (
        attribute("mean", 0.5),
        "'W.g_plus/gconv_RandomNormalLike' draws numbers of mean 0.5 and deviation 1, not 0 and 1",
    ),
    "deviation": (
        attribute("scale", 2.0),
        "'W.g_plus/gconv_RandomNormalLike' draws numbers of mean 0 and deviation 2, not 0 and 1",
    ),
    "lowest": (
        constant("W.g_plus_lowest", lambda _: np.array(1, np.float32)),
        "readings of 'W.g_plus' are cut to 1.0 or more \u00b5S, the manifest says 0.0 or more",
    ),
    "no number": (
        constant("W.g_plus_sigma", first_is(np.nan)),
        "'W.g_plus_sigma', the spread of readings, has nan \u00b5S at flat index 0",
    ),
    "below 0": (
        constant("W.g_plus_sigma", first_is(-0.5)),
        "'W.g_plus_sigma', the spread of readings, has -0.5 \u00b5S at flat index 0",
    ),
    "a row": (
        constant("W.g_plus_sigma", lambda array: array[:1].copy()),
        "the spread of readings 'W.g_plus_sigma' is float32 [1, 6], not float32 [8, 6]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_noise_that_another_tool_has_changed_is_found(mapped, tmp_path, damage):
    chip, _ = live(mapped())
    model = load_model(chip)
    change, expected = DAMAGES[damage]
    change(model)
    assert [violation.message for violation in CheckMapping().violations(model)] == [expected]
    save_model(model, tmp_path / "damaged.onnx")
    assert not gconv.verify(tmp_path / "plain.onnx", tmp_path / "damaged.onnx").passed


def test_equal_conductances_that_another_tool_has_joined_keep_their_noise(mapped, tmp_path):
    constants = {"W": normal_array(6, 6), "V": normal_array(6, 6)}
    text = "g (float[2,6] x) => (float[2,6] y) { h = MatMul(x, W) y = MatMul(h, V) }"
    settings = {"g_max": 30.0, "read_sigma_us": 0.2}
    path = mapped(text, gconv.NPairConductanceConverter([1.0, 1.0]), constants=constants)
    chip, _ = live(path, "gaussian", settings=settings)
    model = load_model(chip)
    before = len(model.graph.initializers)
    DeduplicateInitializersPass()(model)
    assert len(model.graph.initializers) < before - 8
    assert CheckMapping().violations(model) == ()
    save_model(model, tmp_path / "joined.onnx")
    assert gconv.verify(tmp_path / "plain.onnx", tmp_path / "joined.onnx").passed
    gconv.restore_model(tmp_path / "joined.onnx", tmp_path / "restored.onnx")
    gconv.restore_model(chip, tmp_path / "expected.onnx")
    restored, expected = (load_model(tmp_path / name).graph.initializers for name in ("restored.onnx", "expected.onnx"))
    for name in ("W", "V"):
        np.testing.assert_array_equal(restored[name].const_value.numpy(), expected[name].const_value.numpy())


def test_a_damaged_noise_is_not_taken_out(mapped, tmp_path):
    chip, _ = live(mapped())
    model = load_model(chip)
    frozen(model)
    save_model(model, tmp_path / "damaged.onnx")
    with pytest.raises(gconv.ModelError, match="the weight 'W' cannot be restored: the noise of readings is 'drawn'"):
        gconv.restore_model(tmp_path / "damaged.onnx", tmp_path / "restored.onnx")


def test_a_manifest_that_hides_the_noise_or_claims_it(mapped, tmp_path):
    chip, _ = live(mapped())
    model = load_model(chip)
    document = json.loads(model.metadata_props["onnx_gconv"])

    def said(change):
        changed = json.loads(json.dumps(document))
        change(changed)
        model.metadata_props["onnx_gconv"] = json.dumps(changed)
        return CheckMapping().violations(model)[0].message

    def hide(changed):
        del changed["weights"][0]["measured"]["simulated"]["read_noise"]

    def of_one(changed):
        changed["weights"][0]["measured"]["simulated"]["read_noise"].pop()

    assert "the format version is 2, but none of its weights draws noise of readings" in said(hide)
    assert "the format version is 1, but some of its weights draw noise of readings" in said(
        lambda changed: changed.update(format_version=1)
    )
    assert "it has noise of 1 devices, but 2 conductances" in said(of_one)

    def hide_all(changed):
        hide(changed)
        changed["format_version"] = 1

    assert "unexpected node Max" in said(hide_all)


# What is refused


def test_a_live_chip_is_no_model_with_targets(mapped, tmp_path):
    path = mapped()
    chip, _ = live(path)
    gconv.write_bundle(path, tmp_path / "tiles", (8, 8))

    def read_back(model):
        gconv.read_back(model, tmp_path / "tiles", tmp_path / "measured.onnx")

    expected = (
        r"chip.onnx': the weight 'W' has conductances of a simulated chip \('pcm'\), no targets; take the model that "
        "was mapped"
    )
    for attempt in (
        lambda: program_model(chip, tmp_path / "other.onnx"),
        lambda: gconv.simulate(chip),
        lambda: gconv.write_bundle(chip, tmp_path / "bundle", (8, 8)),
        lambda: read_back(chip),
    ):
        with pytest.raises(gconv.ModelError, match=expected):
            attempt()


def test_drawn_readings_are_not_replaced(mapped):
    chip, _ = live(mapped())
    model = load_model(chip)
    tensors = tuple(ir.tensor(np.ones((8, 6), np.float32)) for _ in range(2))
    other = MeasuredConductances(tensors, source="lab", cells=96, measured=96, max_abs_error=1.0, rms_error=1.0)
    with pytest.raises(
        gconv.ModelError,
        match=r"the conductances of 'W' cannot be replaced: readings of it are drawn in each run; take the model",
    ):
        ReplaceConductances({("", "W"): other})(model)


class NoisyAboveZero(GaussianDevice):
    """Readings have noise, but those of devices at 0 have none; then `read_noise` says so by None."""

    name = "noisy-above-zero"

    def _read(self, devices, _, rng):
        return devices.drifted_us * (1 + 0.1 * rng.standard_normal(devices.drifted_us.shape)).astype(np.float32)

    def _read_noise(self, devices, _):
        sigma = devices.drifted_us * devices.drifted_us.dtype.type(0.1)
        return gconv.devices.ReadNoise(sigma) if sigma.any() else None


def test_noise_is_drawn_though_devices_at_zero_have_none(mapped):
    chip, report = live(mapped(), NoisyAboveZero())
    assert report.read_noise == "live"
    assert sum(node.op_type == "RandomNormalLike" for node in load_model(chip).graph) == 2


def test_options_and_device_models_that_there_are_not(mapped):
    path = mapped()
    with pytest.raises(gconv.ConfigError, match=r"^the noise of readings is 'fixed' or 'live', but not 'each run'$"):
        program_model(path, path.with_name("chip.onnx"), read_noise="each run")
    model = GaussianDevice(sigma_us=0.1)
    bare = SimpleNamespace(
        name="bare", g_min=0.0, g_max=25.0, program=model.program, drift=model.drift, read=model.read
    )
    with pytest.raises(gconv.ConfigError, match="device bare: it does not say how its readings are spread"):
        live(path, bare)
    assert not path.with_name("chip.onnx").exists()
    program_model(path, path.with_name("chip.onnx"), bare)
    odd = SimpleNamespace(**vars(bare), read_noise=lambda devices, _: gconv.devices.ReadNoise(-devices.drifted_us))
    with pytest.raises(
        gconv.ConfigError, match=r"it gives no finite numbers from 0, but -.* as the spread of readings"
    ):
        live(path, odd)
