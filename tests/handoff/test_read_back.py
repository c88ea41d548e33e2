"""The loop: a chip that is off by known errors gives the figures and the model that it should."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import converters, read_back, verify
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import BundleError, ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import write_bundle
from onnx_gconv.handoff.read_back import default_measured_path
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.matrix_reader import stored_from_matrices
from tests.handoff.chip import constants_of, programmed, weights_of

PAIR = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
UNIFORM = ConductanceLevels.uniform(32, 1.0, 40.0)
SCHEMES = {
    "single pair": MappingScheme(PAIR, Granularity()),
    "exact": MappingScheme(converters.SinglePairConductanceConverter(exact=True), Granularity()),
    "channels": MappingScheme(PAIR, Granularity("channel")),
    "tiles": MappingScheme(PAIR, Granularity("tile", (4, 3), "equal")),
    "channels of tiles": MappingScheme(PAIR, Granularity("tile_channel", (4, 3))),
    "n pair": MappingScheme(converters.NPairConductanceConverter([1.0, 2.0]), Granularity("channel")),
    "single device": MappingScheme(converters.SingleDeviceConductanceConverter(g_min=1.0), Granularity("channel")),
    "offset": MappingScheme(converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0), Granularity("tile", (5, 4))),
    "bit-sliced": MappingScheme(converters.BitSlicedPairConductanceConverter(bits=8, slice_bits=4), Granularity()),
    "levels": MappingScheme(PAIR, Granularity(), levels=UNIFORM),
    "codes": MappingScheme(PAIR, Granularity("channel"), levels=UNIFORM, storage="codes"),
    "codes in a table": MappingScheme(
        PAIR, Granularity(), levels=ConductanceLevels.of_table([1.0, 4.0, 9.0, 20.0, 40.0]), storage="codes"
    ),
}  # fmt: skip


@pytest.fixture
def loop(handed_off, tmp_path):
    """Hands an op off, programs a chip, and reads it back; gives the chip, the report and the measured model."""

    def make(op="Gemm", array=(5, 4), *, scheme=SCHEMES["single pair"], chip=None, name="measured.h5", **options):
        handoff = {key: options.pop(key) for key in ("partition", "arrays", "preset") if key in options}
        bundle = handed_off(op, array, scheme=scheme, **handoff)
        bundle.close()
        on_chip = programmed(bundle.path, **(chip or {}))
        on_chip.write(tmp_path / name)
        report = read_back(
            tmp_path / "model.gconv.onnx", tmp_path / name, tmp_path / "measured.onnx", **options
        )  # fmt: skip
        return on_chip, report, load_model(tmp_path / "measured.onnx")

    return make


def assert_has_figures_of(found, errors, cells):
    """The figures of a part of a report are those of the errors, computed here from all of them at once."""
    assert (found["cells"], found["measured"]) == (cells, errors.size)
    assert found["kept_targets"] == cells - errors.size
    assert found["mean_error_us"] == pytest.approx(errors.mean(), rel=1e-9)
    assert found["std_error_us"] == pytest.approx(errors.std(), rel=1e-9)
    assert found["rms_error_us"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9)
    assert found["max_abs_error_us"] == np.abs(errors).max()
    histogram = found["histogram"]
    counts = np.array(histogram["counts"])
    edges = histogram["lowest_us"] + histogram["width_us"] * np.arange(counts.size + 1)
    np.testing.assert_array_equal(counts, np.histogram(errors, edges)[0])
    assert counts.sum() == errors.size


@pytest.mark.parametrize("name", ["measured.h5", "measured.npz", "elsewhere.hdf5"])
def test_the_figures_are_those_of_the_chip(loop, name):
    chip, report, _ = loop(chip={"dropped": 0.05}, name=name, tolerance_us=0.4, bundle=None)
    document = report.to_json()
    [layer] = chip.manifest["layers"]
    cells = 2 * 13 * 10
    assert_has_figures_of(document, chip.errors_of(layer), cells)
    [found] = document["layers"]
    assert_has_figures_of(found, chip.errors_of(layer), cells)
    failed = sum(int((~mask).sum()) for mask in chip.success.values())
    assert 0 < failed == found["failed"]
    assert found["yield"] == pytest.approx(1 - failed / cells)
    assert found["within_tolerance"] == pytest.approx(np.mean(np.abs(chip.errors_of(layer)) <= 0.4))
    for number, device in enumerate(found["devices"]):
        assert device["device"] == layer["devices"][number]["name"]
        assert_has_figures_of(device, chip.errors_of(layer, device=number), cells // 2)
    assert [tile["id"] for tile in found["tiles"]] == [tile["id"] for tile in layer["tiles"]]
    for tile, entry in zip(found["tiles"], layer["tiles"], strict=True):
        (first, stop), (left, right) = entry["inputs"], entry["outputs"]
        assert_has_figures_of(tile, chip.errors_of(layer, tile["id"]), 2 * (stop - first) * (right - left))


def test_the_effect_on_the_weights_is_that_of_the_errors(loop, tmp_path):
    chip, report, _ = loop(scheme=SCHEMES["channels of tiles"], chip={"dropped": 0.1})
    folder = tmp_path / "model.gconv"
    measured = weights_of(chip, constants_of(folder, chip.manifest))["L000"][0]
    for key, errors in chip.errors.items():
        chip.errors[key] = np.zeros_like(errors)
    targets = weights_of(chip, constants_of(folder, chip.manifest))["L000"][0]
    [layer], [found] = chip.manifest["layers"], report.to_json()["layers"]
    largest = report.layers[0].max_abs
    places = [(slice(*tile["inputs"]), slice(*tile["outputs"])) for tile in layer["tiles"]]
    for entry, part in [(found, (slice(None), slice(None))), *zip(found["tiles"], places, strict=True)]:
        difference = (measured - targets)[part]
        assert entry["weights"]["max_abs_error"] == pytest.approx(np.abs(difference).max(), rel=1e-9)
        assert entry["weights"]["rms_error"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-9)
        assert entry["weights"]["max_relative_error"] == pytest.approx(np.abs(difference).max() / largest, rel=1e-9)
        assert entry["weights"]["changed"] == np.count_nonzero(difference)


OPS = {
    "MatMul": ((2, 13), lambda x, w: x @ w[0]),
    "Gemm": ((2, 13), lambda x, w: 0.5 * (x @ w[0])),
    "Gemm transB": ((2, 13), lambda x, w: x @ w[0]),
    "MatMul of a batch": ((3, 2, 13), lambda x, w: x @ w),
    "MatMul of a transposed weight": ((2, 13), lambda x, w: x @ w[0]),
    "Conv": ((1, 3, 6, 6), lambda x, w: convolved(x, w, (3, 2))),
    "Conv of a kernel in another order": ((1, 3, 6, 6), lambda x, w: convolved(x, w, (3, 2))),
    "grouped Conv": ((1, 6, 6, 6), lambda x, w: convolved(x, w, (3, 2))),
}


def convolved(x, matrices, kernel):
    """A convolution without padding as products of matrices, one for each group."""
    found = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))  # [1, channels, high, wide, *kernel]
    rows = found[0].transpose(1, 2, 0, 3, 4).reshape(-1, len(matrices), matrices.shape[1])
    y = np.concatenate([rows[:, group] @ matrix for group, matrix in enumerate(matrices)], axis=1)
    return y.T.reshape(1, -1, *found.shape[2:4])


def bias_of(model, op):
    return model.graph.initializers["c"].const_value.numpy().reshape(-1, *([1, 1] if "Conv" in op else [])) if (
        "c" in model.graph.initializers
    ) else 0.0  # fmt: skip


CASES = [*((op, "channels of tiles") for op in OPS), *(("Gemm", name) for name in SCHEMES), ("grouped Conv", "codes")]


@pytest.mark.parametrize(("op", "scheme"), CASES)
def test_the_measured_model_computes_what_the_chip_computes(loop, run, tmp_path, op, scheme):
    chip, report, model = loop(op, scheme=SCHEMES[scheme], partition="equal", chip={"sigma": 0.5})
    assert report.errors.measured < report.errors.cells
    weights = weights_of(chip, constants_of(tmp_path / "model.gconv", chip.manifest))["L000"]
    shape, product = OPS[op]
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    expected = product(x.astype(np.float64), weights) + bias_of(model, op)
    for optimization in ("none", "all"):
        [y] = run(model, optimization, x=x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert CheckMapping().violations(model) == ()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("op", ["Gemm", "LSTM", "ConvTranspose", "depthwise Conv", "one output"])
def test_every_cell_comes_back_to_its_place(loop, tmp_path, op, scheme):
    chip, _, model = loop(op, scheme=SCHEMES[scheme], array=(4, 3), chip={"dtype": np.float32})
    for layer, record in zip(chip.manifest["layers"], read_manifest(model).weights, strict=True):
        for number, item in enumerate(record.conductances):
            whole = np.empty([layer["matrix_view"][name] for name in ("matrices", "rows", "columns")], np.float32)
            for tile in layer["tiles"]:
                key = tile["conductances"][number]["key"]
                measured = np.where(chip.success[key], chip.measured[key], chip.targets[key])
                whole[tile["matrix"], slice(*tile["inputs"]), slice(*tile["outputs"])] = measured
            layout = record.consumers[0].matrix_view.layout(record.shape, ())
            stored = model.graph.initializers[item.name].const_value.numpy()
            np.testing.assert_array_equal(stored, stored_from_matrices(whole, layout))


def test_tiles_that_were_not_measured_keep_their_targets(loop):
    chip, report, model = loop(chip={"tiles": lambda tile: tile.endswith("1"), "dropped": 0})
    [layer] = report.to_json()["layers"]
    assert 0 < layer["measured"] < layer["cells"]
    assert (layer["failed"], layer["yield"]) == (0, 1.0)
    by_id = {tile["id"]: tile for tile in layer["tiles"]}
    assert by_id["L000/T0001"]["measured"] == by_id["L000/T0001"]["cells"]
    assert (by_id["L000/T0000"]["measured"], by_id["L000/T0000"]["yield"]) == (0, None)
    assert by_id["L000/T0000"]["mean_error_us"] is None
    assert by_id["L000/T0000"]["weights"]["changed"] == 0
    plus = model.graph.initializers["W.g_plus"].const_value.numpy()
    np.testing.assert_array_equal(plus[:5, :4], chip.targets["L000/T0000/g_plus"])
    np.testing.assert_array_equal(plus[:5, 4:8], chip.measured["L000/T0001/g_plus"].astype(np.float32))
    measured = read_manifest(model).weights[0].measured
    assert (measured.cells, measured.measured) == (layer["cells"], layer["measured"])


def test_one_device_of_a_tile_may_be_measured_alone(loop, tmp_path):
    chip, _, _ = loop()
    only = {"L000/T0002/g_minus": chip.measured["L000/T0002/g_minus"]}
    success = {key: chip.success[key] for key in only}
    chip.measured, chip.success = only, success
    chip.write(tmp_path / "some.npz")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "some.npz", tmp_path / "some.onnx")
    plus, minus = report.to_json()["layers"][0]["devices"]
    assert (plus["device"], plus["measured"], minus["measured"]) == (
        "g_plus", 0, int(success["L000/T0002/g_minus"].sum())
    )  # fmt: skip


def test_measurements_may_stand_in_the_folder_or_in_place_of_the_targets(loop, tmp_path):
    chip, report, _ = loop(chip={"dropped": 0}, arrays="npz")
    folder = tmp_path / "model.gconv"
    expected = report.to_json()["layers"]
    chip.write(folder / "measured.h5")
    inside = read_back(tmp_path / "model.gconv.onnx", folder, tmp_path / "inside.onnx")
    assert inside.measured == folder / "measured.h5"
    assert inside.to_json()["layers"] == expected
    (folder / "measured.h5").unlink()
    arrays = {**np.load(folder / "conductances.npz"), **chip.measured}
    np.savez(folder / "conductances.npz", **arrays)
    replaced = read_back(tmp_path / "model.gconv.onnx", folder, tmp_path / "replaced.onnx")
    assert replaced.to_json()["layers"] == expected
    for name in ("W.g_plus", "W.g_minus"):
        one, other = (load_model(tmp_path / file).graph.initializers[name] for file in ("inside.onnx", "replaced.onnx"))
        np.testing.assert_array_equal(one.const_value.numpy(), other.const_value.numpy())


def test_a_bundle_without_measurements_gives_the_mapped_model_and_says_so(handed_off, run, tmp_path):
    bundle = handed_off()
    report = read_back(tmp_path / "model.gconv.onnx", bundle.path, tmp_path / "measured.onnx", as_if_measured=True)
    assert report.errors.largest_us == 0
    assert "holds the targets themselves, which are taken for measurements" in report.notes[0]
    x = np.random.default_rng(3).normal(size=(2, 13)).astype(np.float32)
    for optimization in ("none", "all"):
        measured, mapped = (
            run(load_model(tmp_path / name), optimization, x=x) for name in ("measured.onnx", "model.gconv.onnx")
        )
        np.testing.assert_array_equal(measured, mapped)


def test_readings_of_failed_cells_count_if_that_is_asked_for(loop, tmp_path):
    chip, report, _ = loop(chip={"dropped": 0.2})
    assert report.errors.measured == report.errors.cells - report.errors.failed
    key = "L000/T0000/g_plus"
    row, column = np.argwhere(~chip.success[key])[0]
    chip.measured[key][row, column] = chip.targets[key][row, column] + 2.5  # the others are NaN
    chip.write(tmp_path / "readings.h5")
    arguments = tmp_path / "model.gconv.onnx", tmp_path / "readings.h5", tmp_path / "readings.onnx"
    assert read_back(*arguments).errors.largest_us < 2
    report_with = read_back(*arguments, failed_cells="measured")
    assert report_with.errors.largest_us == pytest.approx(2.5)
    assert report_with.errors.measured == report.errors.measured + 1
    assert report_with.errors.failed == report.errors.failed
    stored = load_model(tmp_path / "readings.onnx").graph.initializers["W.g_plus"].const_value.numpy()
    assert stored[row, column] == np.float32(chip.measured[key][row, column])


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"tolerance_us": 0.3}, lambda targets: np.full_like(targets, 0.3)),
        ({"tolerance_relative": 0.05}, lambda targets: 0.05 * targets),
        ({"tolerance_us": 0.2, "tolerance_relative": 0.05}, lambda targets: np.maximum(0.2, 0.05 * targets)),
    ],
)
def test_a_tolerance_is_absolute_or_a_part_of_the_target(loop, options, allowed):
    chip, report, _ = loop(**options)
    within = total = 0
    for key, errors in chip.errors.items():
        is_measured = ~np.isnan(errors)
        limit = np.broadcast_to(allowed(chip.targets[key].astype(np.float64)), errors.shape)
        within += int((np.abs(errors[is_measured]) <= limit[is_measured]).sum())
        total += int(is_measured.sum())
    assert report.errors.within_tolerance == pytest.approx(within / total)


def test_the_tolerance_of_the_preset_counts_if_no_other_is_given(loop, tmp_path):
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0), Granularity())
    _, report, _ = loop(scheme=scheme, preset="rram-neurram")
    assert report.tolerance.absolute_us == 1.0
    assert report.to_json()["tolerance_us"] == 1.0
    again = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tolerance_us=0.1, dry_run=True)
    assert again.tolerance.absolute_us == 0.1
    assert again.errors.within_tolerance < report.errors.within_tolerance


def test_a_dry_run_writes_nothing(loop, tmp_path):
    loop()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tmp_path / "new.onnx", dry_run=True)
    assert report.output is None
    assert report.errors.measured > 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_arrays_that_no_tile_has_are_named(loop, tmp_path):
    chip, _, _ = loop()
    chip.measured["L000/T0000/g_plus_pulses"] = np.ones((5, 4))
    chip.measured["L000/T77/g_plus"] = np.ones((5, 4))
    chip.write(tmp_path / "more.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "more.h5", tmp_path / "more.onnx")
    assert report.unused_keys == ("L000/T0000/g_plus_pulses", "L000/T77/g_plus")
    assert "Not used, since no tile has such arrays: 'L000/T0000/g_plus_pulses', 'L000/T77/g_plus'." in str(report)


def test_readings_that_look_like_siemens_are_refused_unless_their_unit_is_given(loop, tmp_path):
    chip, _, _ = loop(scheme=MappingScheme(converters.SinglePairConductanceConverter(), Granularity()))
    chip.measured = {key: np.nan_to_num(values) for key, values in chip.measured.items()}
    chip.write(tmp_path / "us.h5")
    chip.measured = {key: values * 1e-6 for key, values in chip.measured.items()}
    chip.write(tmp_path / "siemens.h5")
    mapped, siemens = tmp_path / "model.gconv.onnx", tmp_path / "siemens.h5"
    with pytest.raises(BundleError, match=r"siemens.h5': the largest reading is 2\.\d+e-05 µS, but targets .* 25 µS"):
        read_back(mapped, siemens, tmp_path / "siemens.onnx")
    with pytest.raises(BundleError, match=r"siemens.h5': the largest .* If readings are in siemens, give --unit S"):
        read_back(mapped, tmp_path / "us.h5", tmp_path / "siemens.onnx", updates=[siemens])
    assert not (tmp_path / "siemens.onnx").exists()
    in_us = read_back(mapped, tmp_path / "us.h5", tmp_path / "us.onnx")
    converted = read_back(mapped, siemens, tmp_path / "converted.onnx", unit="S")
    for one, other in zip(in_us.layers, converted.layers, strict=True):
        assert other.errors.largest_us == pytest.approx(one.errors.largest_us, rel=1e-6)
        assert other.weights.rms == pytest.approx(one.weights.rms, rel=1e-6)
    dead = read_back(mapped, siemens, tmp_path / "dead.onnx", unit="uS")
    assert dead.layers[0].errors.mean_us < in_us.layers[0].errors.mean_us - 1
    with pytest.raises(ConfigError, match="readings are in 'uS' or in 'S', siemens, but not in 'mS'"):
        read_back(mapped, siemens, tmp_path / "x.onnx", unit="mS")


CONVERTED = r"--unit S (unit='S') has converted "
TO_US = r"--unit uS (unit='uS')"
IN_SIEMENS = "If readings are in siemens, give --unit S (unit='S'); "


@pytest.mark.parametrize(
    ("factor", "unit", "limits", "remedy"),
    [
        (1.0, "S", None, f"{CONVERTED}it from siemens; if the file is in µS, give {TO_US}"),
        (1e-5, "S", None, f"{CONVERTED}it from siemens; give conductances in siemens, or a wider range with --limits "),
        (1e-6, None, (-1e-6, 1e-6), "give conductances in µS, or a wider range with --limits LOW..HIGH (limits="),
        (
            1e-6,
            None,
            (1.0, 30.0),
            "if readings are in siemens, give --unit S (unit='S'); else give a wider range",
        ),
        (1e-6, "uS", (1.0, 30.0), "give conductances in µS, or a wider range with --limits LOW..HIGH (limits="),
        (1e3, None, None, "give conductances in µS, or a wider range with --limits LOW..HIGH (limits="),
        (1e-9, None, None, f"{IN_SIEMENS}if they are in millisiemens, convert them; if they are in µS, give {TO_US}"),
        (1e-12, "S", None, f"{CONVERTED}them from siemens; if the chip conducts so little, give µS and {TO_US}"),
    ],
)
def test_the_remedy_for_readings_in_another_unit_fits_the_unit_that_was_given(
    loop, tmp_path, factor, unit, limits, remedy
):
    chip, _, _ = loop(scheme=MappingScheme(converters.SinglePairConductanceConverter(), Granularity()))
    chip.measured = {key: np.nan_to_num(values) * factor for key, values in chip.measured.items()}
    chip.write(tmp_path / "other.h5")
    with pytest.raises(BundleError, match=re.escape(remedy)):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "other.h5", dry_run=True, unit=unit, limits=limits)


def test_readings_of_devices_near_zero_are_not_taken_for_siemens(loop, tmp_path):
    chip, _, _ = loop(scheme=MappingScheme(converters.SinglePairConductanceConverter(), Granularity()))
    key, targets = next(iter(chip.targets.items()))
    is_off = targets == 0
    assert 0 < is_off.sum() < is_off.size
    chip.measured, chip.success = {key: np.full(is_off.shape, 1e-3)}, {key: is_off}
    chip.write(tmp_path / "off.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "off.h5", tmp_path / "off.onnx")
    assert report.layers[0].errors.measured == is_off.sum()


@pytest.mark.parametrize("scheme", ["single pair", "exact", "channels", "levels", "codes", "bit-sliced"])
def test_the_measured_model_verifies_against_the_original(loop, tmp_path, scheme):
    loop(scheme=SCHEMES[scheme])
    found = verify(tmp_path / "plain-source.onnx", tmp_path / "measured.onnx")
    assert found.passed, found.problems
    assert not found.weights[0].bit_identical
    assert found.weights[0].max_abs_error <= found.weights[0].bound
    assert "conductances were measured on a chip" in found.outputs.notes[0]
    assert found.outputs.comparisons[0].max_abs_error > 1e-3  # against the original, which the chip is not


def test_a_measured_model_that_was_changed_does_not_verify(loop, tmp_path):
    _, _, model = loop()
    plus = model.graph.initializers["W.g_plus"]
    changed = plus.const_value.numpy().copy()
    changed[2, 3] += 30
    plus.const_value = ir.tensor(changed, name="W.g_plus")
    save_model(model, tmp_path / "changed.onnx")
    found = verify(tmp_path / "plain-source.onnx", tmp_path / "changed.onnx")
    assert not found.weights[0].passed


def test_a_measured_model_is_restored_to_plain_weights(loop, tmp_path):
    chip, _, model = loop("Gemm transB")
    weights = weights_of(chip, constants_of(tmp_path / "model.gconv", chip.manifest))["L000"][0]
    RestoreWeights()(model)
    found = model.graph.initializers["W"].const_value.numpy()
    np.testing.assert_allclose(found, weights.T, rtol=0, atol=1e-6 * np.abs(weights).max())


def test_integer_codes_are_rounded_to_what_the_chip_is_nearest_to(parse, run, tmp_path):
    codes = np.random.default_rng(2).integers(-128, 128, (9, 7), np.int8)
    codes[0, :2] = -128, 127
    text = "g (uint8[2,9] x) => (int32 y) { y = MatMulInteger(x, W, p, z) }"
    save_model(parse(text, W=codes, p=np.uint8(3), z=np.int8(0)), tmp_path / "original.onnx")
    model = load_model(tmp_path / "original.onnx")
    MapConductances(converters.SinglePairConductanceConverter(g_max=25.0))(model)
    save_model(model, tmp_path / "model.gconv.onnx")
    write_bundle(tmp_path / "model.gconv.onnx", array=(4, 4))
    chip = programmed(tmp_path / "model.gconv", sigma=0.4)
    chip.write(tmp_path / "measured.h5")
    read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tmp_path / "measured.onnx")
    weights = weights_of(chip, constants_of(tmp_path / "model.gconv", chip.manifest))["L000"][0]
    expected = np.clip(np.rint(weights.astype(np.float32)), -128, 127).astype(np.int64)
    assert (expected != codes).any()
    assert (np.rint(weights) > 127).any()
    x = np.random.default_rng(4).integers(0, 256, (2, 9), np.uint8)
    for optimization in ("none", "all"):
        [y] = run(load_model(tmp_path / "measured.onnx"), optimization, x=x)
        np.testing.assert_array_equal(y, (x.astype(np.int64) - 3) @ expected)
    found = verify(tmp_path / "original.onnx", tmp_path / "measured.onnx")
    assert found.passed, found.problems


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", np.float64])
def test_weights_of_other_types_come_back(parse, tmp_path, normal, dtype):
    weight = normal(13, 10).astype(dtype)
    name = np.dtype(dtype).name
    graph = f"g ({name.replace('float32', 'float')}[2,13] x) => (y) {{ y = MatMul(x, W) }}".replace("float64", "double")
    save_model(parse(graph, W=weight, opsets='"" : 17'), tmp_path / "original.onnx")
    model = load_model(tmp_path / "original.onnx")
    MapConductances(PAIR)(model)
    save_model(model, tmp_path / "model.gconv.onnx")
    write_bundle(tmp_path / "model.gconv.onnx", array=(5, 4))
    chip = programmed(tmp_path / "model.gconv")
    chip.write(tmp_path / "measured.h5")
    read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tmp_path / "measured.onnx")
    measured = load_model(tmp_path / "measured.onnx")
    RestoreWeights()(measured)
    weights = weights_of(chip, constants_of(tmp_path / "model.gconv", chip.manifest))["L000"][0]
    tolerance = 1e-2 if name == "bfloat16" else 1e-3 if name == "float16" else 1e-12
    found = measured.graph.initializers["W"].const_value.numpy().astype(np.float64)
    np.testing.assert_allclose(found, weights, rtol=0, atol=tolerance * np.abs(weights).max())


def test_a_model_in_external_data_comes_back_in_external_data(handed_off, run, tmp_path):
    bundle = handed_off("Gemm transB", external_data=True)
    chip = programmed(bundle.path)
    chip.write(tmp_path / "measured.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5")
    assert [file.name for file in report.files] == ["model.measured.onnx", "model.measured.onnx.data"]
    weights = weights_of(chip, constants_of(bundle.path, chip.manifest))["L000"][0]
    model = load_model(tmp_path / "model.measured.onnx")
    RestoreWeights()(model)
    found = model.graph.initializers["W"].const_value.numpy()
    np.testing.assert_allclose(found, weights.T, rtol=0, atol=1e-6 * np.abs(weights).max())


def test_the_model_in_the_bundle_serves_as_well(loop, tmp_path):
    _, report, _ = loop()
    shutil.move(tmp_path / "model.gconv.onnx", tmp_path / "away.onnx")
    again = read_back(tmp_path / "model.gconv" / "model.onnx", tmp_path / "measured.h5", tmp_path / "again.onnx")
    assert again.to_json()["layers"] == report.to_json()["layers"]


def test_a_model_with_measured_conductances_is_no_target_of_a_chip(loop, tmp_path):
    loop()
    with pytest.raises(ModelError, match=r"'W' has conductances measured on a chip \('measured.h5'\), no targets"):
        write_bundle(tmp_path / "measured.onnx", tmp_path / "again.gconv", (5, 4))
    with pytest.raises(ModelError, match="take the model that was handed off"):
        read_back(tmp_path / "measured.onnx", tmp_path / "model.gconv", tmp_path / "twice.onnx")


def test_the_default_output_stands_beside_the_model(tmp_path):
    assert default_measured_path(tmp_path / "net.gconv.onnx") == tmp_path / "net.measured.onnx"
    assert default_measured_path(tmp_path / "net.onnx") == tmp_path / "net.measured.onnx"


def test_the_report_is_json_and_readable(loop):
    _, report, _ = loop(chip={"dropped": 0.1}, tolerance_us=0.5)
    json.dumps(report.to_json(), allow_nan=False)
    text = str(report)
    assert "Measured minus target, in µS" in text
    assert f"{report.errors.measured:,} of 260 conductances were measured." in text
    assert "Within the tolerance of 0.5 µS" in text
    assert "Tiles with the largest errors (rms): L000/T" in text
