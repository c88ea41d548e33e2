"""A simulated chip is a model: it runs, is verified and restored, and comes again from its seed."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_gconv as gconv
from onnx_gconv.devices.base_device import BaseDeviceModel, Devices
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.models import model_path
from onnx_gconv.passes import CheckMapping, MapConductances
from onnx_gconv.simulation import program_model
from onnx_gconv.tensors.spooled import Spool
from tests.graphs import chain_model, tensors
from tests.scheme_choices import CONVERTERS, GRANULARITIES

LAYERS = "g (float[2,9] x) => (float[2,4] y) { h = MatMul(x, W) a = Relu(h) y = Gemm <transB = 1> (a, V, b) }"


@pytest.fixture
def files(parse, normal, tmp_path):
    """Writes a model and what a scheme makes of it."""

    def build(scheme=None, **options):
        constants = {"W": normal(9, 7), "V": normal(4, 7, seed=1), "b": normal(4, seed=2)}
        save_model(parse(LAYERS, **constants), tmp_path / "plain.onnx")
        model = load_model(tmp_path / "plain.onnx")
        MapConductances(scheme=scheme, **options)(model)
        save_model(model, tmp_path / "mapped.onnx")
        return tmp_path / "plain.onnx", tmp_path / "mapped.onnx"

    return build


def gaussian(scheme):
    converter = scheme.converter
    return {"g_max": converter.g_max * 1.001, "g_min": 0.0, "sigma_us": 0.1}


def weights(path):
    model = load_model(path)
    values = ModelValues(model)
    return {record.name: locate(record, values).rebuilt.numpy() for record in read_manifest(model).weights}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("converter", CONVERTERS)
def test_a_chip_of_any_scheme_is_verified_and_restored(files, run, tmp_path, converter, granularity):
    scheme = gconv.MappingScheme(CONVERTERS[converter], granularity=GRANULARITIES[granularity])
    plain, mapped = files(scheme)
    settings, chip = gaussian(scheme), tmp_path / "chip.onnx"
    report = program_model(mapped, chip, "gaussian", settings=settings, drift_compensation="global", seed=1)
    assert all(weight.max_abs_error > 0 for weight in report.weights)
    onnx.checker.check_model(chip, full_check=True)
    assert CheckMapping().violations(load_model(chip)) == ()
    found = gconv.verify(plain, chip)
    assert found.passed, found.problems
    targets, programmed = weights(mapped), weights(chip)
    for weight in report.weights:
        errors = programmed[weight.name].astype(np.float64) - targets[weight.name]
        assert weight.max_abs_error == pytest.approx(np.abs(errors).max(), rel=1e-3)
        assert weight.rms_error == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-3)
    gconv.restore_model(chip, tmp_path / "restored.onnx")
    x = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    [ours], [theirs] = (run(ir.load(tmp_path / name), "none", x=x) for name in ("chip.onnx", "restored.onnx"))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("compensation", ["none", "global"])
@pytest.mark.parametrize("g_min", [0.0, 5.0])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_errors_are_those_of_the_weights_of_the_chip(files, tmp_path, g_min, compensation, granularity):
    converter = gconv.SinglePairConductanceConverter(25.0, g_min)
    scheme = gconv.MappingScheme(converter, granularity=GRANULARITIES[granularity])
    _, mapped = files(scheme)
    options = {"time": "1mo", "seed": 2, "drift_compensation": compensation}
    report = program_model(mapped, tmp_path / "chip.onnx", "pcm", **options)
    before, after = weights(mapped), weights(tmp_path / "chip.onnx")
    for found in report.weights:
        ideal = before[found.name].astype(np.float64)
        errors = after[found.name] - ideal
        assert found.max_abs_error == pytest.approx(np.abs(errors).max(), rel=1e-4)
        assert found.rms_error == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-4)
        assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(ideal**2) / np.sum(errors**2)), abs=1e-3)


@pytest.mark.parametrize("storage", ["float", "codes"])
def test_levels_are_those_of_the_targets_and_devices_are_none(files, tmp_path, storage):
    scheme = gconv.MappingScheme(
        gconv.SinglePairConductanceConverter(), levels=ConductanceLevels.uniform(16, 0.0, 25.0), storage=storage
    )
    plain, mapped = files(scheme)
    program_model(mapped, tmp_path / "chip.onnx", "gaussian", settings={"g_max": 25.0, "sigma_us": 0.1})
    [first, _] = read_manifest(load_model(tmp_path / "chip.onnx")).weights
    assert first.levels.storage == "float"
    assert gconv.verify(plain, tmp_path / "chip.onnx").passed


def test_devices_without_errors_leave_the_weights(files, tmp_path):
    plain, mapped = files()
    settings = {"programming_scale": 0.0, "drift_scale": 0.0, "read_scale": 0.0}
    report = program_model(
        mapped, tmp_path / "chip.onnx", settings=settings, time="1y", drift_compensation="global", seed=5
    )
    assert [weight.max_abs_error for weight in report.weights] == [0.0, 0.0]
    assert [weight.drift_factor for weight in report.weights] == [1.0, 1.0]
    assert [weight.sqnr_db for weight in report.weights] == [None, None]
    assert all(np.array_equal(weights(mapped)[name], array) for name, array in weights(tmp_path / "chip.onnx").items())
    assert gconv.verify(plain, tmp_path / "chip.onnx").passed


def test_the_same_seed_and_chip_give_the_same_file_and_others_another(files, tmp_path, monkeypatch):
    _, mapped = files()
    out = tmp_path / "chip.onnx"

    def written(**options):
        program_model(mapped, out, "pcm", **{"time": "1h", "seed": 7, **options})
        return out.read_bytes()

    first = written()
    monkeypatch.setattr("onnx_gconv.simulation.program.worker_count", lambda: 1)
    assert written() == first
    others = [written(seed=8), written(chip=1), written(time="1d"), written(drift_compensation="global")]
    assert len({first, *others}) == 5


def test_the_manifest_says_which_chip_it_is_and_gives_it_again(files, tmp_path):
    _, mapped = files()
    settings = {"read_scale": 0.5, "t_0": np.float64(30)}
    report = program_model(
        mapped, tmp_path / "a.onnx", settings=settings, time="1mo", seed=9, chip=2, drift_compensation="global"
    )
    document = json.loads(load_model(tmp_path / "a.onnx").metadata_props["onnx_gconv"])
    measured = document["weights"][0]["measured"]
    assert measured["simulated"] == {
        "device": "pcm",
        "settings": {"read_scale": 0.5, "t_0": 30.0},
        "seconds": 30 * 86400.0,
        "seed": 9,
        "chip": 2,
        "drift_compensation": "global",
    }
    assert (measured["source"], measured["cells"], measured["measured"]) == ("pcm", 126, 126)
    assert measured["factor"] == report.weights[0].drift_factor > 1
    said = measured["simulated"]
    program_model(
        mapped,
        tmp_path / "b.onnx",
        said["device"],
        settings=said["settings"],
        time=said["seconds"],
        seed=said["seed"],
        chip=said["chip"],
        drift_compensation=said["drift_compensation"],
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_compensated_scale_is_that_of_the_targets_divided_by_the_factor(files, tmp_path):
    _, mapped = files(gconv.MappingScheme(granularity=GRANULARITIES["channel"]))
    report = program_model(mapped, tmp_path / "chip.onnx", time="1y", drift_compensation="global")
    before, after = (load_model(each) for each in (mapped, tmp_path / "chip.onnx"))
    for old, new, weight in zip(
        read_manifest(before).weights, read_manifest(after).weights, report.weights, strict=True
    ):
        scales = [model.graph.initializers[old.scale.name].const_value.numpy() for model in (before, after)]
        assert np.allclose(scales[0] / weight.drift_factor, scales[1], rtol=1e-6)
        assert (new.scale.minimum, new.scale.maximum) == (scales[1].min(), scales[1].max())
        assert new.scale.minimum < old.scale.minimum


def test_drift_makes_weights_smaller_and_compensation_makes_up_for_it(files, tmp_path):
    _, mapped = files()
    target = np.abs(weights(mapped)["W"]).mean()

    def mean(**options):
        program_model(mapped, tmp_path / "chip.onnx", time="1y", **options)
        return np.abs(weights(tmp_path / "chip.onnx")["W"]).mean()

    assert mean() < 0.75 * target
    assert mean(drift_compensation="global") == pytest.approx(target, rel=0.15)


def test_a_model_of_integer_codes_keeps_its_type(parse, tmp_path):
    codes = np.random.default_rng(0).integers(-127, 128, (8, 6)).astype(np.int8)
    text = """g (float[2,8] x) => (float[2,6] y) {
        d = DequantizeLinear(W, s) y = MatMul(x, d) }"""
    save_model(parse(text, W=codes, s=np.array(0.02, np.float32)), tmp_path / "plain.onnx")
    gconv.map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", time="1d", seed=3)
    [found] = weights(tmp_path / "chip.onnx").values()
    assert found.dtype == np.int8
    assert not np.array_equal(found, codes)
    assert gconv.verify(tmp_path / "plain.onnx", tmp_path / "chip.onnx").passed


class Halving(BaseDeviceModel):
    """Each conductance is half of its target."""

    name = "halving"

    def _devices(self, targets_us, rng):  # noqa: ARG002
        return Devices.after_programming(targets_us, targets_us / 2)


def test_a_device_model_of_ones_own(files, tmp_path):
    _, mapped = files()
    report = program_model(mapped, tmp_path / "chip.onnx", Halving())
    assert report.simulated.device == "halving"
    for name, array in weights(tmp_path / "chip.onnx").items():
        assert np.allclose(array, weights(mapped)[name] / 2)


def test_a_device_of_measurements_in_a_file(files, tmp_path):
    _, mapped = files()
    rows = [f"{g},{t},{g * f},0" for g, (t, f) in itertools.product((0, 25), ((1, 1.0), (100, 0.5)))]
    (tmp_path / "lab.csv").write_text("\n".join(["target_us,seconds,mean_us,sigma_us", *rows]))
    program_model(mapped, tmp_path / "chip.onnx", str(tmp_path / "lab.csv"), time=100)
    for name, array in weights(tmp_path / "chip.onnx").items():
        assert np.allclose(array, weights(mapped)[name] / 2, atol=1e-6)


def test_large_tensors_lie_beside_the_model(tmp_path):
    gconv.map_model(model_path("digits_mlp.onnx"), tmp_path / "mapped.onnx")
    report = program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", external_data=True)
    assert [file.name for file in report.files] == ["chip.onnx", "chip.onnx.data"]


@pytest.mark.parametrize("compensation", ["none", "global"])
def test_a_temporary_file_becomes_the_data_file_beside_small_weights(tmp_path, monkeypatch, compensation):
    rng = np.random.default_rng(0)
    shapes = {"large": (90, 100), "small": (100, 3), "tiny": (3, 2), "last": (2, 5000)}
    onnx.save(
        chain_model(*tensors({name: rng.normal(size=shape) for name, shape in shapes.items()})), tmp_path / "m.onnx"
    )
    gconv.map_model(tmp_path / "m.onnx", tmp_path / "mapped.onnx")
    named, name = [], Spool.name
    options = {"seed": 3, "time": "1d", "external_data": True, "drift_compensation": compensation}

    def counted(spool, path):
        named.append(name(spool, path))
        return named[-1]

    monkeypatch.setattr(Spool, "name", counted)
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", **options)
    assert named == [True]
    monkeypatch.setattr(Spool, "name", lambda *_: False)
    program_model(tmp_path / "mapped.onnx", tmp_path / "copied.onnx", **options)
    chip, copied = (
        {item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / file).graph.initializer}
        for file in ("chip.onnx", "copied.onnx")
    )
    assert chip.keys() == copied.keys()
    assert all(np.array_equal(array, copied[key]) for key, array in chip.items())


def test_progress_is_told(files, tmp_path):
    _, mapped = files()
    told = []
    program_model(mapped, tmp_path / "chip.onnx", progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "simulate"][-1] == ("simulate", 182, 182)
    assert {step[0] for step in told} == {"simulate", "write"}


# What is refused


def refused(expected, error=gconv.ConfigError):
    return pytest.raises(error, match=expected)


def test_devices_that_there_are_not_and_wrong_settings(files, tmp_path):
    _, mapped = files()
    with refused("^there is no device model 'pmc'; did you mean pcm"):
        program_model(mapped, tmp_path / "chip.onnx", "pmc")
    with refused("has no setting 'noise'"):
        program_model(mapped, tmp_path / "chip.onnx", "pcm", settings={"noise": 1})
    with refused("^the setting 'x' is for a device by name"):
        program_model(mapped, tmp_path / "chip.onnx", Halving(), settings={"x": 1})
    with refused("^a device is the name of a model, or a device model, but not a int"):
        program_model(mapped, tmp_path / "chip.onnx", 7)
    with refused("a device model, but not a SimpleNamespace, which lacks g_max$"):
        program_model(mapped, tmp_path / "chip.onnx", SimpleNamespace(g_min=0, program=1, drift=1, read=1))
    for settings in ({1: 2}, "read_scale=0", [("read_scale", 0)]):
        with refused("^settings of a device are values by name, such as "):
            program_model(mapped, tmp_path / "chip.onnx", "pcm", settings=settings)
    with refused("a device of measurements has no setting 'x'"):
        program_model(mapped, tmp_path / "chip.onnx", "lab.csv", settings={"x": 1})
    assert not (tmp_path / "chip.onnx").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"time": "1 day"}, "a time is a number and one of s, min, h, d, mo, y"),
        ({"time": -1.0}, "a time is 0 seconds or more after programming, but it is -1.0"),
        ({"time": float("nan")}, "a time is 0 seconds or more after programming, but it is nan"),
        ({"seed": -1}, r"the seed is a whole number from 0 to 2\^64 - 1, but it is -1"),
        ({"seed": 2**64}, r"the seed is a whole number from 0 to 2\^64 - 1"),
        ({"chip": 0.5}, r"the chip is a whole number from 0 to 2\^64 - 1, but it is 0.5"),
        (
            {"drift_compensation": "row"},
            "the compensation of drift is one of none, global, tile, column, but not 'row'",
        ),
    ],
)
def test_wrong_options(files, tmp_path, options, expected):
    _, mapped = files()
    with refused(f"^{expected}"):
        program_model(mapped, tmp_path / "chip.onnx", **options)


def test_conductances_beyond_the_range_of_the_device(files, tmp_path):
    _, mapped = files(gconv.MappingScheme(gconv.SinglePairConductanceConverter(g_max=40.0)))
    with refused(
        "mapped.onnx': the weight 'W' has conductances from 0 to 40 \u00b5S, but the device pcm is valid from 0 to 25 "
        "\u00b5S; map with --g-min 0 --g-max 25, or choose another device$"
    ):
        program_model(mapped, tmp_path / "chip.onnx")


def test_models_without_targets(files, tmp_path):
    plain, mapped = files()
    chip = tmp_path / "chip.onnx"
    program_model(mapped, chip)
    with refused("plain.onnx': the model carries no mapping", gconv.ModelError):
        program_model(plain, tmp_path / "other.onnx")
    again = "chip.onnx': the weight 'W' has conductances of a simulated chip \\('pcm'\\), no targets; take the model"
    with refused(again, gconv.ModelError):
        program_model(chip, tmp_path / "other.onnx")
    with refused(again, gconv.ModelError):
        gconv.write_bundle(chip, tmp_path / "bundle", (8, 8))


def test_the_model_itself_is_not_overwritten(files):
    _, mapped = files()
    with refused("is the input; inputs are never overwritten, choose another name"):
        program_model(mapped, mapped)


def test_a_mapping_that_another_tool_has_changed(files, tmp_path):
    _, mapped = files()
    proto = onnx.load(mapped)
    next(node for node in proto.graph.node if node.op_type == "Sub").op_type = "Add"
    onnx.save(proto, mapped)
    with refused("the weight 'W' cannot be programmed: .*; program the model as it was mapped", gconv.ModelError):
        program_model(mapped, tmp_path / "chip.onnx")


def test_scales_that_another_tool_has_joined_are_compensated_together_by_none(parse, tmp_path, normal):
    same = normal(6, 6)
    text = "g (float[2,6] x) => (float[2,6] y) { h = MatMul(x, W) y = MatMul(h, V) }"
    model = parse(text, W=same, V=same[::-1].copy())
    MapConductances()(model)
    scales = [node.inputs[1] for node in model.graph if node.op_type == "Div"]
    scales[1].replace_all_uses_with(scales[0])
    del model.graph.initializers[scales[1].name]
    save_model(model, tmp_path / "mapped.onnx")
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", time="1d")
    with refused("joined its scale and that of 'V'; take the model as it was mapped", gconv.ModelError):
        program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", time="1d", drift_compensation="global")


def test_the_digits_keep_their_accuracy_for_a_day(tmp_path, run):
    mapped, chip = tmp_path / "mapped.onnx", tmp_path / "chip.onnx"
    gconv.map_model(model_path("digits_mlp.onnx"), mapped)
    program_model(mapped, chip, "pcm", time="1d", drift_compensation="global", seed=1)
    with np.load(model_path("digits_test.npz")) as data:
        images, labels = data["images"], data["labels"]
    name = load_model(chip).graph.inputs[0].name
    [scores] = run(load_model(chip), **{name: images.reshape(len(images), -1).astype(np.float32)})
    assert 0.9 < (scores.argmax(axis=1) == labels).mean() < 0.99


def test_a_device_without_errors_is_noted(files, tmp_path):
    _, mapped = files()
    report = program_model(mapped, tmp_path / "chip.onnx", "gaussian")
    said = "the chip has exactly the targets: the device 'gaussian' has no errors"
    assert any(note.startswith(said) for note in report.notes)
    report = program_model(mapped, tmp_path / "other.onnx", "gaussian", settings={"sigma_us": 0.1})
    assert not any(note.startswith(said) for note in report.notes)
