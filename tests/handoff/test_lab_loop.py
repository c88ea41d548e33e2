"""Rounds of writing and verifying: the tables that a pulse programmer gets, and the readings that come back."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from onnx_gconv import map_model, read_back, write_bundle, write_targets
from onnx_gconv.devices.presets import preset
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import save_model
from tests.handoff.chip import constants_of, programmed

TOLERANCE = 0.5
GOOD = "tile,device,row,column,reading_us\n"
HEADER = ["array", "tile", "device", "row", "column", "array_row", "array_column", "target_us", "tolerance_us",
          "reading_us"]  # fmt: skip


@pytest.fixture(scope="module")
def handed_off(tmp_path_factory, parse, normal):
    """Two weights, mapped, and the bundle of 7 tiles; the devices of a pair stand side by side."""
    folder = tmp_path_factory.mktemp("lab")
    text = "g (float[1,40] x) => (float y) { t = MatMul(x, w0) y = MatMul(t, w1) }"
    save_model(parse(text, w0=normal(40, 30, seed=0), w1=normal(30, 20, seed=1)), folder / "m.onnx")
    map_model(folder / "m.onnx", folder / "m.gconv.onnx")
    write_bundle(folder / "m.gconv.onnx", folder / "m.gconv", (24, 32), pair_layout="adjacent_columns")
    return folder


def lines_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert path.read_text(encoding="utf-8").partition("\n")[0].split(",") == HEADER
    return lines


def place(line):
    return f"{line['tile']}/{line['device']}", int(line["row"]), int(line["column"])


class NoisyChip:
    """A chip that lands near what it is told to, with normal errors; knows nothing of the package."""

    def __init__(self, folder, sigma):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        read = constants_of(folder, manifest)
        keys = [item["key"] for layer in manifest["layers"] for tile in layer["tiles"] for item in tile["conductances"]]
        self.targets = {key: read(key).astype(np.float64) for key in keys}
        self.states = {key: np.full(targets.shape, np.nan) for key, targets in self.targets.items()}
        self.rng, self.sigma, self.written = np.random.default_rng(0), sigma, []

    def write(self, lines):
        """Program the cells of a table; the table with the readings of these cells."""
        self.written.append({place(line) for line in lines})
        for line in lines:
            key, row, column = place(line)
            self.states[key][row, column] = float(line["target_us"]) + self.rng.normal(0, self.sigma)
            line["reading_us"] = repr(float(self.states[key][row, column]))
        return lines

    def off_target(self):
        """The cells that are further from their target than the tolerance."""
        return {
            (key, int(row), int(column))
            for key, targets in self.targets.items()
            for row, column in np.argwhere(~(np.abs(self.states[key] - targets) <= TOLERANCE))
        }


def save(path, lines):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_three_rounds_converge_and_write_only_what_is_off_target(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.25)  # of which 4.6 % are beyond the tolerance
    write_targets(bundle, tmp_path / "all.csv", tolerance_us=TOLERANCE)
    measured = save(tmp_path / "measured.csv", chip.write(lines_of(tmp_path / "all.csv")))
    updates, left = [], [len(chip.off_target())]
    for number in range(1, 4):
        off_target = chip.off_target()
        table = tmp_path / f"table{number}.csv"
        report = write_targets(
            bundle, table, only_off_target=measured, updates=updates, tolerance_us=TOLERANCE
        )  # fmt: skip
        lines = lines_of(table)
        for line in lines:  # what they say of the present
            key, row, column = place(line)
            assert float(line["reading_us"]) == chip.states[key][row, column]
            assert float(line["tolerance_us"]) == TOLERANCE
        updates.append(save(tmp_path / f"round{number}.csv", chip.write(lines)))
        assert chip.written[-1] == off_target
        assert (report.total.listed, report.total.off_target) == (len(off_target), len(off_target))
        left.append(len(chip.off_target()))
    assert left[0] > 100
    assert all(later < 0.07 * earlier + 5 for earlier, later in itertools.pairwise(left))

    report = read_back(
        handed_off / "m.gconv.onnx", measured, tmp_path / "chip.onnx",
        updates=updates, bundle=bundle, tolerance_us=TOLERANCE,
    )  # fmt: skip
    errors = np.concatenate([(chip.states[key] - chip.targets[key]).ravel() for key in chip.targets])
    assert (report.errors.measured, report.errors.cells) == (errors.size, errors.size)
    assert report.errors.largest_us == np.abs(errors).max()
    assert report.errors.within == np.count_nonzero(np.abs(errors) <= TOLERANCE) == errors.size - left[-1]
    assert report.to_json()["updates"] == [str(update) for update in updates]


def test_readings_in_siemens_are_refused_in_a_table_and_converted_in_arrays(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.25)
    write_targets(bundle, tmp_path / "all.csv", tolerance_us=TOLERANCE)
    lines = chip.write(lines_of(tmp_path / "all.csv"))
    for line in lines:
        line["reading_us"] = repr(float(line["reading_us"]) * 1e-6)
    table, arrays = save(tmp_path / "siemens.csv", lines), tmp_path / "siemens.npz"
    np.savez(arrays, **{key: states * 1e-6 for key, states in chip.states.items()})
    in_us = "give --unit uS (unit='uS')"
    for measured, remedy in (
        (table, f"If readings are in siemens or millisiemens, write µS into the table; if they are in µS, {in_us}"),
        (
            arrays,
            "If readings are in siemens, give --unit S (unit='S'); if they are in millisiemens, convert them; if",
        ),
    ):
        message = rf"siemens\....': the largest reading is .*e-05 µS, but targets .*\. {re.escape(remedy)}"
        with pytest.raises(BundleError, match=message):
            write_targets(bundle, tmp_path / "t.csv", only_off_target=measured, tolerance_us=TOLERANCE)
        assert not (tmp_path / "t.csv").exists()
    with pytest.raises(ConfigError, match=r"siemens\.csv' is a table, which is in µS, .* so that the unit S is of no"):
        write_targets(bundle, tmp_path / "t.csv", only_off_target=table, tolerance_us=TOLERANCE, unit="S")
    report = write_targets(bundle, tmp_path / "t.csv", only_off_target=arrays, tolerance_us=TOLERANCE, unit="S")
    assert report.total.listed == len(chip.off_target())


def test_a_table_has_every_cell_once_where_it_stands_on_the_chip(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    report = write_targets(bundle, tmp_path / "all.csv")
    lines = lines_of(tmp_path / "all.csv")
    chip = NoisyChip(bundle, sigma=0.0)
    assert len({place(line) for line in lines}) == len(lines) == sum(item.size for item in chip.targets.values())
    assert len({(line["array"], line["array_row"], line["array_column"]) for line in lines}) == len(lines)
    arrays = [int(line["array"]) for line in lines]
    assert arrays == sorted(arrays)
    assert report.arrays == len(set(arrays))
    for line in lines:
        key, row, column = place(line)
        assert np.float32(line["target_us"]) == chip.targets[key][row, column]
        assert (int(line["array_row"]), int(line["array_column"])) == (row, 2 * column + key.endswith("g_minus"))
        assert (line["tolerance_us"], line["reading_us"]) == ("", "")


def test_arrays_are_in_their_order_also_on_a_chip_with_defects(handed_off, tmp_path):
    """Tiles that are too large for a damaged array leave it to later ones; rows that are left out move the others."""
    defects = {
        "format": "onnx_gconv.defects", "format_version": 1,
        "arrays": [{"array": 0, "unusable_rows": list(range(14))}, {"array": 1, "unusable_rows": [2]}],
    }  # fmt: skip
    (tmp_path / "chip.json").write_text(json.dumps(defects), encoding="utf-8")
    write_bundle(handed_off / "m.gconv.onnx", tmp_path / "b", (24, 16), defects=tmp_path / "chip.json", spare_rows=4)
    write_targets(tmp_path / "b", tmp_path / "t.csv", tolerance_relative=0.1)
    lines = lines_of(tmp_path / "t.csv")
    arrays = [int(line["array"]) for line in lines]
    assert arrays == sorted(arrays)
    assert {line["tile"] for line in lines if line["array"] == "0"} == {"L001/T0002"}  # of 10 inputs
    assert {line["tile"] for line in lines if line["array"] == "1"} == {"L000/T0000"}
    assert {int(line["array_row"]) for line in lines if line["array"] == "1"} >= {0, 1, 3}
    assert not any(line["array_row"] == "2" for line in lines if line["array"] == "1")
    assert all(line["tolerance_us"] == f"{0.1 * float(np.float32(line['target_us'])):.6g}" for line in lines[:200])


def test_the_tolerance_is_that_of_the_preset_unless_another_is_given(handed_off, tmp_path):
    with pytest.raises(ConfigError, match="which devices are off target depends on the tolerance, and the bundle has"):
        write_targets(handed_off / "m.gconv", tmp_path / "t.csv", only_off_target=handed_off / "m.gconv")
    map_model(handed_off / "m.onnx", tmp_path / "m.gconv.onnx", preset="rram-neurram")
    write_bundle(tmp_path / "m.gconv.onnx", tmp_path / "b", preset="rram-neurram")
    report = write_targets(tmp_path / "b", tmp_path / "t.csv")
    assert report.tolerance.absolute_us == preset("rram-neurram").tolerance_us


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_arrays_of_a_later_round_take_the_place_of_what_they_have(handed_off, tmp_path, suffix):
    """NaN, and what a mask leaves out, is none of the round."""
    bundle = handed_off / "m.gconv"
    chip = programmed(bundle, sigma=0.4, dropped=0.02)
    chip.write(tmp_path / "measured.npz")
    key = "L000/T0000/g_plus"
    again = np.full(chip.targets[key].shape, np.nan)
    again[::2] = chip.targets[key][::2] + 0.125
    mask = np.ones(again.shape, bool)
    mask[0] = False
    arrays = {key: again, f"{key}_success": mask}
    if suffix == ".npz":
        np.savez(tmp_path / "again.npz", **arrays)
    else:
        with h5py.File(tmp_path / "again.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
    report = read_back(
        handed_off / "m.gconv.onnx", tmp_path / "measured.npz", bundle=bundle,
        updates=[tmp_path / f"again{suffix}"], dry_run=True,
    )  # fmt: skip
    expected = chip.errors[key].copy()
    expected[2::2] = (again - chip.targets[key].astype(np.float64))[2::2]
    [tile] = [tile for layer in report.layers for tile in layer.tiles if tile.id == "L000/T0000"]
    figures = tile.devices["g_plus"]
    assert figures.measured == np.count_nonzero(~np.isnan(expected))
    assert figures.failed == np.count_nonzero(np.isnan(expected))
    assert figures.largest_us == np.nanmax(np.abs(expected))
    assert figures.rms_us == pytest.approx(np.sqrt(np.nanmean(expected**2)))


def test_devices_without_a_reading_are_listed_too(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    chip = programmed(bundle, sigma=0.01, dropped=0.01, tiles=lambda tile: tile == "L000/T0000")
    chip.write(tmp_path / "measured.h5")
    report = write_targets(bundle, tmp_path / "t.csv", only_off_target=tmp_path / "measured.h5", tolerance_us=1.0)
    listed = {place(line) for line in lines_of(tmp_path / "t.csv")}
    expected = {
        (key, int(row), int(column))
        for key, errors in chip.errors.items()
        for row, column in np.argwhere(np.isnan(errors))
    }
    assert listed == expected
    assert (report.total.off_target, report.total.without_reading) == (0, len(expected))
    shown = write_targets(bundle, tmp_path / "all.csv", measured=tmp_path / "measured.h5")
    assert shown.total.listed == shown.total.cells


def test_nothing_is_left_when_all_is_within_the_tolerance_and_an_empty_round_is_no_error(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    programmed(bundle, sigma=0.01, dropped=0).write(tmp_path / "measured.h5")
    table = tmp_path / "t.csv"
    report = write_targets(bundle, table, only_off_target=tmp_path / "measured.h5", tolerance_us=1.0)
    assert table.read_text(encoding="utf-8") == f"{','.join(HEADER)}\n"
    assert "nothing is left to program" in str(report)
    found = read_back(
        handed_off / "m.gconv.onnx", tmp_path / "measured.h5", bundle=bundle, updates=[table], dry_run=True
    )
    assert found.errors.measured == found.errors.cells


# Targets as measurements


@pytest.mark.parametrize("name", ["m.gconv", "copy.h5", "copy.npz"])
def test_targets_are_not_taken_for_measurements_under_any_name(handed_off, tmp_path, name):
    bundle = handed_off / "m.gconv"
    measured = bundle if name == "m.gconv" else tmp_path / name
    if name == "copy.h5":
        measured.write_bytes((bundle / "conductances.h5").read_bytes())
    elif name == "copy.npz":
        with h5py.File(bundle / "conductances.h5") as file:
            np.savez(measured, **{key: file[key][()] for key in ("L000/T0000/g_plus", "L000/T0001/g_minus")})
    out = tmp_path / "chip.onnx"
    with pytest.raises(BundleError, match=r"holds the targets themselves: all its \d+ arrays are those of the bundle"):
        read_back(handed_off / "m.gconv.onnx", measured, out, bundle=bundle)
    with pytest.raises(BundleError, match="or accept the targets as measurements with --as-if-measured"):
        write_targets(bundle, tmp_path / "t.csv", only_off_target=measured, tolerance_us=1.0)
    assert not out.exists()
    assert not (tmp_path / "t.csv").exists()
    report = read_back(handed_off / "m.gconv.onnx", measured, out, bundle=bundle, as_if_measured=True)
    assert report.errors.largest_us == 0
    assert report.notes[0].endswith("holds the targets themselves, which are taken for measurements")


@pytest.mark.parametrize("digits", [None, 6])
def test_targets_that_another_program_wrote_are_no_measurements_either(handed_off, tmp_path, digits):
    bundle, measured = handed_off / "m.gconv", tmp_path / "measured.npz"
    with h5py.File(bundle / "conductances.h5") as file:
        found = {key: file[key][()].astype(np.float64) for key in ("L000/T0000/g_plus", "L000/T0001/g_minus")}
    np.savez(measured, **{key: array if digits is None else array.round(digits) for key, array in found.items()})
    how = "bit for bit" if digits is None else "rounded"
    with pytest.raises(BundleError, match=f"holds the targets themselves: all its 2 arrays are .*, {how}; give what"):
        read_back(handed_off / "m.gconv.onnx", measured, bundle=bundle, dry_run=True)
    np.savez(measured, **{key: array + 1e-3 for key, array in found.items()})
    assert read_back(handed_off / "m.gconv.onnx", measured, bundle=bundle, dry_run=True).notes == ()


def test_a_table_whose_targets_were_copied_to_the_readings_is_none(handed_off, tmp_path):
    bundle, table = handed_off / "m.gconv", tmp_path / "round.csv"
    write_targets(bundle, table)
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    names = head.split(",")
    target, reading = names.index("target_us"), names.index("reading_us")
    cells = [line.split(",") for line in lines]
    copied = [",".join([*line[:reading], line[target], *line[reading + 1 :]]) for line in cells]
    table.write_text("\n".join([head, *copied]) + "\n", encoding="utf-8")
    with pytest.raises(BundleError, match="holds the targets themselves"):
        read_back(handed_off / "m.gconv.onnx", table, bundle=bundle, dry_run=True)


def test_a_later_round_does_not_hide_that_the_first_one_is_the_targets(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    (tmp_path / "round.csv").write_text(f"{GOOD}L000/T0000,g_plus,3,1,2.5\n", encoding="utf-8")
    with pytest.raises(BundleError, match="holds the targets themselves"):
        read_back(handed_off / "m.gconv.onnx", bundle, updates=[tmp_path / "round.csv"], dry_run=True)


@pytest.mark.parametrize("cells", [5, 200])
def test_a_later_round_whose_targets_were_copied_is_none_either(handed_off, tmp_path, cells):
    """Unless it is of a few cells, which may well be read at their targets."""
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.3)
    write_targets(bundle, tmp_path / "all.csv")
    lines = [line for line in lines_of(tmp_path / "all.csv") if float(line["target_us"]) > 0]
    save(tmp_path / "measured.csv", chip.write(lines))
    rounds = [save(tmp_path / "good.csv", chip.write(lines[300:400]))]
    rounds.append(save(tmp_path / "copied.csv", [{**line, "reading_us": line["target_us"]} for line in lines[:cells]]))
    given = handed_off / "m.gconv.onnx", tmp_path / "measured.csv"
    if cells < 10:
        assert read_back(*given, updates=rounds, bundle=bundle, dry_run=True).notes == ()
        return
    with pytest.raises(
        BundleError, match=r"copied\.csv' holds the targets themselves: all its \d+ arrays are those of"
    ):
        read_back(*given, updates=rounds, bundle=bundle, dry_run=True)
    report = read_back(*given, updates=rounds, bundle=bundle, dry_run=True, as_if_measured=True)
    assert report.notes == (f"'{rounds[1]}' holds the targets themselves, which are taken for measurements",)


def test_a_later_round_in_siemens_is_named_and_one_of_dead_devices_is_none(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.3)
    write_targets(bundle, tmp_path / "all.csv")
    lines = [line for line in lines_of(tmp_path / "all.csv") if float(line["target_us"]) > 1]
    save(tmp_path / "measured.csv", chip.write(lines))
    given = handed_off / "m.gconv.onnx", tmp_path / "measured.csv"
    good = save(tmp_path / "good.csv", chip.write(lines[:20]))
    for part, is_siemens in ((1e-6, True), (5e-4, False)):
        bad = save(
            tmp_path / "last.csv",
            [{**line, "reading_us": repr(part * float(line["target_us"]))} for line in lines[:3]],
        )
        if is_siemens:
            with pytest.raises(
                BundleError, match=r"^'[^']*last\.csv': the largest reading is .* write µS into the table"
            ):
                read_back(*given, updates=[good, bad], bundle=bundle, dry_run=True)
        else:
            assert read_back(*given, updates=[good, bad], bundle=bundle, dry_run=True).errors.measured == len(lines)


def test_single_arrays_of_targets_are_named(handed_off, tmp_path):
    bundle = handed_off / "m.gconv"
    chip = programmed(bundle, dropped=0, dtype=np.float32)
    chip.measured["L000/T0000/g_plus"] = chip.targets["L000/T0000/g_plus"]
    chip.write(tmp_path / "measured.npz")
    report = read_back(handed_off / "m.gconv.onnx", tmp_path / "measured.npz", bundle=bundle, dry_run=True)
    assert report.notes == (
        (
            f"'{tmp_path / 'measured.npz'}': 1 array of it is the targets themselves, bit for bit: L000/T0000/g_plus; "
            "leave out arrays that were not measured"
        ),
    )


# Tables of readings


WRONG_TABLES = {
    f"{GOOD}L000/T0000,g_plus,0,0,1.5\nL009/T0000,g_plus,0,0,1\n": "line 3: the bundle has no tile 'L009/T0000' with a "
    "device 'g_plus'",
    f"{GOOD}L000/T0000,g_plus,24,0,1\n": "line 2: tile 'L000/T0000' of 24x16 has no row 24, column 0",
    f"{GOOD}L000/T0000,g_plus,0,0,'1,5'\n".replace("'", '"'): "line 2: reading_us is no number: '1,5'; numbers have a "
    "decimal point",
    f"{GOOD}L000/T0000,g_plus,0,0,1,5\n": "line 2: it has 6 cells, but there are 5 columns; numbers have a decimal "
    "point, because commas separate cells",
    f"{GOOD}L000/T0000,g_plus,0,0,1_5\n": "line 2: reading_us is no number: '1_5'",
    f"{GOOD}L000/T0000,g_plus,0,0,٣\n": "line 2: reading_us is no number: '٣'",
    f"{GOOD}L000/T0000,g_plus,0.0,0,1\n": "line 2: row is no whole number from 0: '0.0'",
    f"{GOOD}L000/T0000,g_plus,0,-1,1\n": "line 2: column is no whole number from 0: '-1'",
    f"{GOOD}L000/T0000,g_plus,{'9' * 5000},0,1\n": f"line 2: row is no whole number from 0: '{'9' * 40} [...] "
    f"{'9' * 40}'",
    f'{GOOD}L000/T0000,g_plus,0,0,1\n"L000/T0000,g_plus,0,1,1\n': "line 3: unexpected end of data",
    f"{GOOD}L000/T0000,g_plus\n": "line 2: it has too few columns",
}


@pytest.mark.parametrize("text", WRONG_TABLES)
def test_a_wrong_table_is_refused_with_its_line(handed_off, tmp_path, text):
    file = tmp_path / "round.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BundleError) as found:
        read_back(handed_off / "m.gconv.onnx", file, bundle=handed_off / "m.gconv", dry_run=True)
    assert str(found.value) == f"'{file}', {WRONG_TABLES[text]}; correct it, or write the table again"


def test_a_file_of_other_columns_is_no_table_of_readings(handed_off, tmp_path):
    (tmp_path / "round.csv").write_text("tile,device,row,reading_us\n", encoding="utf-8")
    with pytest.raises(BundleError) as found:
        read_back(handed_off / "m.gconv.onnx", tmp_path / "round.csv", bundle=handed_off / "m.gconv", dry_run=True)
    assert str(found.value) == (
        f"'{tmp_path / 'round.csv'}' is no file of arrays; measured arrays come as .h5, .hdf5, .npz, or as a table "
        "with the columns tile, device, row, column, reading_us, separated by commas, but this one has no column "
        "'column'"
    )


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        (GOOD.replace(",", ";"), "utf-8-sig", "semicolons separate its cells; write it again with commas between them"),
        (GOOD.replace(",", " \t"), "utf-8", "tabs separate its cells; write it again with commas between them, and"),
        (f"x,{GOOD.strip()},reading_us\n", "utf-8", "2 columns are called reading_us; leave one of them, or give the"),
        (GOOD, "utf-16", "is no text in UTF-8; write the table again as CSV in UTF-8"),
        (f"{GOOD}L000/T0000,g_plus,0,0,1,µ\n", "latin-1", "is no text in UTF-8; write the table again as CSV in UTF-8"),
    ],
)
def test_tables_as_spreadsheets_write_them_are_refused_with_what_to_change(
    handed_off, tmp_path, text, encoding, message
):
    (tmp_path / "round.csv").write_text(text, encoding=encoding)
    with pytest.raises(BundleError, match=re.escape(message)):
        read_back(handed_off / "m.gconv.onnx", tmp_path / "round.csv", bundle=handed_off / "m.gconv", dry_run=True)


def test_cells_without_content_beyond_the_columns_are_no_error(handed_off, tmp_path):
    text = f"{GOOD}L000/T0000,g_plus,0,0,1.5,,\n,,,,,,\n\nL000/T0000,g_plus,0,1,2.5\n"
    (tmp_path / "round.csv").write_text(text.replace("tile,device", " tile , device"), encoding="utf-8")
    report = read_back(handed_off / "m.gconv.onnx", tmp_path / "round.csv", bundle=handed_off / "m.gconv", dry_run=True)
    assert report.errors.measured == 2


def test_the_table_of_another_bundle_is_refused(handed_off, tmp_path):
    """Its targets say so, as far as there are some; a spreadsheet may have shortened them."""
    bundle, key = handed_off / "m.gconv", "L000/T0000/g_plus"
    target = float(NoisyChip(bundle, sigma=0.0).targets[key].max())
    row, column = (int(n[0]) for n in np.nonzero(NoisyChip(bundle, sigma=0.0).targets[key] == np.float32(target)))
    file, place = tmp_path / "round.csv", f"L000/T0000,g_plus,{row},{column}"
    for written, is_right in ((f"{target:.1f}", True), ("", True), (f"{0.9 * target}", False), ("nan", True)):
        file.write_text(f"target_us,{GOOD}{written},{place},{target + 0.2}\n", encoding="utf-8")
        if is_right:
            assert read_back(handed_off / "m.gconv.onnx", file, bundle=bundle, dry_run=True).errors.measured == 1
            continue
        message = f"'{file}': array '{key}', row {row}, column {column}: target_us is {0.9 * target:.6g} µS, but the "
        for call in (
            lambda: read_back(handed_off / "m.gconv.onnx", file, bundle=bundle, dry_run=True),
            lambda: write_targets(bundle, tmp_path / "t.csv", measured=file),
        ):
            with pytest.raises(BundleError, match=re.escape(message) + "target of the bundle is .* of another bundle"):
                call()
        assert not (tmp_path / "t.csv").exists()


def test_a_full_disk_of_temporary_files_is_named(handed_off, tmp_path, monkeypatch):
    bundle = handed_off / "m.gconv"
    write_targets(bundle, tmp_path / "all.csv")
    table = save(tmp_path / "round.csv", NoisyChip(bundle, sigma=0.3).write(lines_of(tmp_path / "all.csv")))
    full = Path("/dev/full").open("w+b")  # noqa: SIM115 - the table closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
    monkeypatch.setattr(tempfile, "tempdir", "/scratch")
    message = "its readings cannot be sorted in a temporary file: No space left on device; make room in '/scratch', or"
    with pytest.raises(ConfigError, match=re.escape(f"'{table}': {message}")):
        read_back(handed_off / "m.gconv.onnx", table, bundle=bundle, dry_run=True)
    assert full.closed


def test_targets_that_have_changed_since_the_hand_off_are_not_listed(handed_off, tmp_path):
    shutil.copytree(handed_off / "m.gconv", tmp_path / "b")
    with h5py.File(tmp_path / "b" / "conductances.h5", "a") as file:
        file["L000/T0001/g_minus"][3, 2] = 7.5
    with pytest.raises(BundleError, match=r"array 'L000/T0001/g_minus' has changed: .* copy the bundle again"):
        write_targets(tmp_path / "b", tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("first", ["all", "part", "nothing"])
def test_a_chip_may_be_read_as_a_whole_in_a_later_round(handed_off, tmp_path, first):
    """Then no reading of the first file is left."""
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.3)
    write_targets(bundle, tmp_path / "all.csv")
    lines = chip.write(lines_of(tmp_path / "all.csv"))
    save(tmp_path / "first.csv", {"all": lines, "part": lines[:50], "nothing": []}[first])
    save(tmp_path / "again.csv", chip.write(lines))
    report = read_back(
        handed_off / "m.gconv.onnx", tmp_path / "first.csv", updates=[tmp_path / "again.csv"], bundle=bundle,
        dry_run=True,
    )  # fmt: skip
    errors = np.concatenate([(chip.states[key] - chip.targets[key]).ravel() for key in chip.targets])
    assert (report.errors.measured, report.errors.largest_us) == (errors.size, np.abs(errors).max())


def test_wrong_readings_name_tile_and_cell(handed_off, tmp_path):
    file = tmp_path / "round.csv"
    for reading, message in {
        "1e4": r"tile L000/T0000, g_minus, row 5, column 7 \(input 5, output 7 of 'w0'\) is 10000 µS, out of",
        "-50": r"row 5, column 7 .* is -50 µS, out of the range .* with --limits LOW..HIGH \(limits=\(low, high\)\)$",
        "inf": "row 5, column 7 .* is inf, no conductance; leave reading_us empty where a cell could not be measured$",
        "1.5\nL000/T0000,g_minus,5,7,1.6": "row 5, column 7 has more than one reading",
    }.items():
        file.write_text(f"{GOOD}L000/T0000,g_minus,5,7,{reading}\n", encoding="utf-8")
        with pytest.raises(BundleError, match=message):
            read_back(handed_off / "m.gconv.onnx", file, bundle=handed_off / "m.gconv", dry_run=True)


def test_lines_may_stand_in_any_order_and_cells_may_be_missing(handed_off, tmp_path, monkeypatch):
    """Also if they do not fit into one block; columns may have any order, and spreadsheets begin with a mark."""
    monkeypatch.setattr("onnx_gconv.handoff.measured.readings_table._BLOCK_LINES", 7)
    bundle = handed_off / "m.gconv"
    chip = NoisyChip(bundle, sigma=0.3)
    write_targets(bundle, tmp_path / "all.csv")
    lines = chip.write(lines_of(tmp_path / "all.csv")[::17])
    np.random.default_rng(1).shuffle(lines)
    text = "".join(
        f"{line['reading_us']},{line['column']},{line['row']},{line['device']},{line['tile']}\n" for line in lines
    )
    (tmp_path / "part.csv").write_text(f"\ufeffreading_us,column,row,device,tile\n{text}", encoding="utf-8")
    report = read_back(handed_off / "m.gconv.onnx", tmp_path / "part.csv", bundle=bundle, dry_run=True)
    errors = np.concatenate([(chip.states[key] - chip.targets[key]).ravel() for key in chip.targets])
    assert (report.errors.measured, report.errors.failed) == (len(lines), 0)
    assert report.errors.largest_us == np.nanmax(np.abs(errors))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measured": "a", "only_off_target": "b"}, "measured and only_off_target are the same measurements"),
        ({"updates": ["a"]}, "updates are later rounds of measurements; give those, too"),
        ({"tolerance_us": -1.0}, r"--tolerance \(tolerance_us\) is positive and finite, but it is -1.0"),
        (
            {"measured": "a", "failed_cells": "both"},
            "failed cells keep their 'target' or count as 'measured', but not 'both'",
        ),
        ({"measured": "a", "limits": (2.0, 1.0)}, "limits are the lowest and the highest conductance in µS"),
        (
            {"limits": (0.0, 1.0)},
            r"--limits \(limits\) is for readings, but none are given; leave it out, or give some",
        ),
        ({"unit": "S"}, r"--unit \(unit\) is for readings, but none are given"),
        ({"failed_cells": "measured"}, r"--failed-cells \(failed_cells\) is for readings, but none are given"),
        ({"as_if_measured": True}, r"--as-if-measured \(as_if_measured\) is for readings, but none are given"),
    ],
)
def test_contradicting_options_are_refused(handed_off, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_targets(handed_off / "m.gconv", tmp_path / "t.csv", **options)


def test_an_older_table_stays_unless_it_is_to_be_replaced_and_nothing_is_written_into_the_bundle(handed_off, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("older", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'.*t\.csv' exists; choose another name, or replace it with --overwrite"):
        write_targets(handed_off / "m.gconv", table)
    assert table.read_text(encoding="utf-8") == "older"
    write_targets(handed_off / "m.gconv", table, overwrite=True)
    assert lines_of(table)
    with pytest.raises(ConfigError, match=r"is in the folder '.*m\.gconv', which is read"):
        write_targets(handed_off / "m.gconv", handed_off / "m.gconv" / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("name", ["t.npz", "t.txt", "t"])
def test_a_table_has_the_name_by_which_it_is_known_when_it_comes_back(handed_off, tmp_path, name):
    with pytest.raises(ConfigError, match=rf"'.*{name}': it is a CSV file; give a name that ends in .csv, by which"):
        write_targets(handed_off / "m.gconv", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_table_that_nobody_has_filled_in_is_no_measurement(handed_off, tmp_path):
    write_targets(handed_off / "m.gconv", tmp_path / "empty.csv")
    with pytest.raises(BundleError, match=r"empty\.csv. has no reading of any device, of 3,600 that the bundle asks"):
        read_back(
            handed_off / "m.gconv.onnx", tmp_path / "empty.csv", tmp_path / "c.onnx", bundle=handed_off / "m.gconv"
        )
    assert not (tmp_path / "c.onnx").exists()
