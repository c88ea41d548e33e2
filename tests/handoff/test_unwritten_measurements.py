"""Measurements that are not there, though the file has arrays of their names, and what is said of them."""

from __future__ import annotations

import fcntl
import os
import shutil

import h5py
import numpy as np
import pytest

from onnx_gconv import converters, read_back
from onnx_gconv.errors import BundleError
from onnx_gconv.files.models import load_model
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.chip import programmed

SCHEME = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=0.0), Granularity())
KEY = "L000/T0004/g_minus"  # of 5 inputs and 4 outputs
MASK = f"{KEY}_success"


@pytest.fixture
def chip(handed_off):
    handed_off("Gemm", (5, 4), scheme=SCHEME).close()
    folder = handed_off("Gemm", (5, 4), scheme=SCHEME).path
    return programmed(folder, dropped=0)


@pytest.fixture
def measured(chip, tmp_path):
    """A file of measurements without the array KEY, open for writing what there is in its place."""
    del chip.measured[KEY]
    chip.write(tmp_path / "measured.h5")
    with h5py.File(tmp_path / "measured.h5", "a") as file:
        yield file


def read(measured, **options):
    """Close the file and read it back."""
    path = measured.filename
    measured.close()
    folder = os.path.dirname(path)  # noqa: PTH120 - h5py gives text
    return read_back(f"{folder}/model.gconv.onnx", path, f"{folder}/out.onnx", **options)


def refused(measured):
    """The line by which the file is refused, and nothing is written."""
    folder = os.path.dirname(measured.filename)  # noqa: PTH120 - h5py gives text
    with pytest.raises(BundleError) as found:
        read(measured)
    assert not os.path.exists(f"{folder}/out.onnx")  # noqa: PTH110 - h5py gives text
    return str(found.value).replace(f"'{folder}/measured.h5'", "FILE")


@pytest.mark.parametrize(
    "layout",
    [{}, {"chunks": (5, 4)}, {"chunks": (2, 3), "compression": "gzip"}, {"fillvalue": np.nan}, {"chunks": True}],
    ids=["contiguous", "one chunk", "compressed chunks", "NaN as fill value", "chunks of HDF5's choice"],
)
def test_an_array_that_nothing_was_written_to_is_no_measurement(measured, layout, tmp_path):
    without = read_back(tmp_path / "model.gconv.onnx", measured.filename, dry_run=True)
    measured.create_dataset(KEY, (5, 4), "f8", **layout)
    report = read(measured)
    assert report.errors.to_json() == without.errors.to_json()
    assert report.errors.cells - report.errors.measured == 20
    assert report.notes == (f"1 array was created, but never written, so that its cells keep the targets: {KEY}",)
    mapped, new = (load_model(tmp_path / name).graph.initializers for name in ("model.gconv.onnx", "out.onnx"))
    same = mapped["W.g_minus"].const_value.numpy() == new["W.g_minus"].const_value.numpy()
    assert same[5:10, 4:8].all()
    assert not same[5:10, :4].any()


def test_several_arrays_that_nothing_was_written_to_are_counted(measured):
    for key in [f"L000/{tile}/g_plus" for tile in measured["L000"] if tile != "T0000"]:
        shape = measured[key].shape
        del measured[key]
        measured.create_dataset(key, shape, "f4")
    [note] = read(measured).notes
    assert note == (
        "8 arrays were created, but never written, so that their cells keep the targets: L000/T0001/g_plus, "
        "L000/T0002/g_plus, L000/T0003/g_plus and 5 more"
    )


def test_an_array_that_was_written_in_part_is_refused(measured):
    measured.create_dataset(KEY, (5, 4), "f8", chunks=(2, 4))[:2] = 3.0
    assert refused(measured) == (
        "FILE: tile L000/T0004, g_minus, row 2, column 0 (input 7, output 4 of 'W') was never written, as only a part "
        f"of the array was (and 11 more cells of the array); write all of it, or mark cells that were not measured "
        f"with false in an array '{MASK}'"
    )


@pytest.mark.parametrize("failed_cells", ["target", "measured"])
def test_an_array_that_was_written_in_part_is_taken_with_a_mask_of_what_was_measured(measured, failed_cells):
    measured.create_dataset(KEY, (5, 4), "f8", chunks=(2, 4))[:2] = 3.0
    measured[MASK] = np.arange(20).reshape(5, 4) < 8
    report = read(measured, failed_cells=failed_cells)
    assert report.errors.cells - report.errors.measured == 12
    assert report.errors.failed == 12


@pytest.mark.parametrize(
    ("written", "how"), [(slice(0, 0), "never"), (slice(0, 2), "only in part")], ids=["never", "in part"]
)
def test_a_mask_that_was_not_written_says_nothing_of_the_cells(measured, written, how):
    measured[KEY] = np.full((5, 4), 3.0)
    mask = measured.create_dataset(MASK, (5, 4), bool, chunks=(2, 4))
    if written.stop:
        mask[written] = True
    assert refused(measured) == (
        f"FILE: array '{MASK}' was created, but {how} written; write it, or leave it out if all cells count"
    )


def test_an_array_and_its_mask_that_nothing_was_written_to_are_no_measurement(measured):
    measured.create_dataset(KEY, (5, 4), "f8")
    measured.create_dataset(MASK, (5, 4), bool)
    report = read(measured)
    assert report.errors.failed == 0
    assert report.notes == (f"1 array was created, but never written, so that its cells keep the targets: {KEY}",)


def test_a_mask_that_calls_cells_good_of_an_array_that_nothing_was_written_to(measured):
    measured.create_dataset(KEY, (5, 4), "f8")
    measured[MASK] = np.ones((5, 4), bool)
    assert refused(measured) == f"FILE: '{MASK}' is there, but the array '{KEY}' was never written; write it"


def test_arrays_of_nothing_but_zeros_are_named(measured, chip, tmp_path):
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_layout(h5py.h5d.COMPACT)  # of which HDF5 does not tell whether it was ever written
    space = h5py.h5s.create_simple((5, 4))
    h5py.h5d.create(measured["L000/T0004"].id, b"g_minus", h5py.h5t.NATIVE_FLOAT, space, early)
    report = read(measured)
    assert report.errors.measured == report.errors.cells
    assert report.notes == (
        f"1 array holds nothing but zeros, which count as measured: {KEY}; leave out arrays that were not measured",
    )
    chip.measured |= {KEY: np.zeros((5, 4)), "L000/T0000/g_plus": np.zeros((5, 4), np.float32)}
    chip.write(tmp_path / "zeros.npz")
    again = read_back(tmp_path / "model.gconv.onnx", tmp_path / "zeros.npz", dry_run=True)
    [note] = again.notes
    assert note.startswith("2 arrays hold nothing but zeros, which count as measured: L000/T0000/g_plus, L000/T0004/")


def test_arrays_that_may_be_in_another_unit_are_named(chip, tmp_path):
    mapped, keys = tmp_path / "model.gconv.onnx", ("L000/T0000/g_plus", KEY)
    good = dict(chip.measured)
    for factor in (1e-6, 1e-3):
        chip.measured = {key: factor * array for key, array in good.items()}
        chip.write(tmp_path / "all.npz")
        with pytest.raises(
            BundleError, match=r"give --unit S \(unit='S'\).*; if they are in millisiemens, convert them;"
        ):
            read_back(mapped, tmp_path / "all.npz", dry_run=True)
        chip.measured = good | {key: factor * good[key] for key in keys}
        chip.write(tmp_path / "some.npz")
        assert read_back(mapped, tmp_path / "some.npz", dry_run=True).notes == (
            (
                f"2 arrays read next to nothing, less than three thousandths of their targets: {', '.join(keys)}; "
                "convert what is not in µS"
            ),
        )
    chip.measured = good | {KEY: 0.01 * good[KEY]}  # dead devices
    chip.write(tmp_path / "dead.npz")
    assert read_back(mapped, tmp_path / "dead.npz", dry_run=True).notes == ()


# Arrays that stand in another place


def external_link(file, _):
    file[KEY] = h5py.ExternalLink("other.h5", "/x")
    return f"'{KEY}' is a link to '/x' of the file 'other.h5'"


def link_to_a_group(file, _):
    del file["L000"]
    file["L000"] = h5py.ExternalLink("other.h5", "/y")
    return "'L000' is a link to '/y' of the file 'other.h5'"


def soft_link(file, _):
    file["spare"] = np.ones((5, 4))
    file[KEY] = h5py.SoftLink("/spare")
    return f"'{KEY}' is a soft link to '/spare'"


def virtual(file, folder):
    layout = h5py.VirtualLayout((5, 4), np.float64)
    layout[:] = h5py.VirtualSource(os.fspath(folder / "other.h5"), "x", (5, 4))
    file.create_virtual_dataset(KEY, layout)
    return "it is a virtual dataset, put together from others"


def external_storage(file, folder):
    (folder / "raw").write_bytes(bytes(160))
    file.create_dataset(KEY, (5, 4), "f8", external=[(os.fspath(folder / "raw"), 0, 160)])
    return "its elements stand in another file"


@pytest.mark.parametrize("put", [external_link, link_to_a_group, soft_link, virtual, external_storage])
def test_an_array_that_stands_in_another_place_is_refused_with_the_place(measured, put, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones((5, 4))
    reason = put(measured, tmp_path)
    key = "L000/T0000/g_minus" if put is link_to_a_group else KEY
    assert refused(measured) == (
        f"FILE: array '{key}' cannot be read: {reason}, but only arrays that are stored in this file "
        "under their key are read; copy the array there, e.g. with h5copy"
    )


# Files that are open


def test_a_file_that_a_program_holds_open_is_refused(measured, tmp_path):
    measured.close()
    with (tmp_path / "measured.h5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does
        with pytest.raises(BundleError, match=r"measured.h5' is open in a program that writes to it; close it there f"):
            read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5")


def test_a_file_whose_writer_was_stopped_is_refused(chip, tmp_path):
    with h5py.File(tmp_path / "swmr.h5", "w", libver="latest") as file:
        for key, array in chip.measured.items():
            file[key] = array
        file.swmr_mode = True
        file.flush()
        shutil.copy(tmp_path / "swmr.h5", tmp_path / "measured.h5")
    with pytest.raises(BundleError, match=r"or one was stopped while it did; .* h5clear -s '.*measured.h5' and see"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5")


def test_a_damaged_file_is_measured_anew_and_not_copied_with_the_folder(chip, tmp_path):
    (tmp_path / "measured.h5").write_bytes(b"no HDF5")
    with pytest.raises(BundleError, match=r"; write it again, or copy it again from where it was measured$"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5")


# Other ways of storing the same


def test_arrays_in_the_order_of_fortran_and_of_any_float_type_are_read(chip, tmp_path):
    chip.write(tmp_path / "plain.npz")
    expected = read_back(tmp_path / "model.gconv.onnx", tmp_path / "plain.npz", dry_run=True)
    chip.measured = {key: np.asfortranarray(array.astype(">f8")) for key, array in chip.measured.items()}
    chip.write(tmp_path / "fortran.npz")
    found = read_back(tmp_path / "model.gconv.onnx", tmp_path / "fortran.npz", dry_run=True)
    assert found.errors.to_json() == expected.errors.to_json()
    chip.write(tmp_path / "fortran.h5")
    found = read_back(tmp_path / "model.gconv.onnx", tmp_path / "fortran.h5", dry_run=True)
    assert found.errors.to_json() == expected.errors.to_json()


def as_octave_stores_it(file, key, array):
    """A field of structs as `save -hdf5` writes it; tests/data/octave.h5 is one that Octave wrote."""
    place = file
    for name in key.split("/"):
        place = place.require_group(name)
        place.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
        last, place = place, place.require_group("value") if name != key.rpartition("/")[2] else place
    last["type"] = np.bytes_("matrix")
    last["value"] = array.T


def test_a_file_of_octave_is_read_back(chip, tmp_path):
    chip.write(tmp_path / "plain.h5")
    expected = read_back(tmp_path / "model.gconv.onnx", tmp_path / "plain.h5", dry_run=True)
    with h5py.File(tmp_path / "octave.h5", "w") as file:
        for key, array in chip.measured.items():
            as_octave_stores_it(file, key, array)
    found = read_back(tmp_path / "model.gconv.onnx", tmp_path / "octave.h5", dry_run=True)
    assert found.errors.to_json() == expected.errors.to_json()
    assert found.unused_keys == ()


def test_of_two_read_backs_to_one_output_each_gives_a_whole_one(chip, tmp_path):
    chip.write(tmp_path / "first.h5")
    chip.measured = {key: array + 0.5 for key, array in chip.measured.items()}
    chip.write(tmp_path / "second.h5")
    paths = [
        (tmp_path / "model.gconv.onnx", tmp_path / name, tmp_path / "out.onnx") for name in ("first.h5", "second.h5")
    ]
    others = []

    def second(step, *_):
        if step == "write" and not others:
            others.append(None)
            others[0] = read_back(*paths[1], external_data=True)

    read_back(*paths[0], external_data=True, progress=second)
    found = load_model(tmp_path / "out.onnx").graph.initializers["W.g_plus"].const_value
    alone = read_back(paths[0][0], paths[0][1], tmp_path / "alone.onnx")
    expected = load_model(alone.output).graph.initializers["W.g_plus"].const_value
    np.testing.assert_array_equal(found.numpy(), expected.numpy())  # the last one to be done stands
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# Arrays in another arrangement


def test_square_tiles_that_come_back_transposed_are_named(handed_off, tmp_path):
    chip = programmed(handed_off("Gemm", (6, 6), scheme=SCHEME).path, dropped=0, dtype=np.float32)
    for name in ("g_plus", "g_minus"):
        chip.measured[f"L000/T0000/{name}"] = chip.measured[f"L000/T0000/{name}"].T
    chip.write(tmp_path / "measured.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5")
    [note] = report.notes
    assert note.startswith("tile L000/T0000 of 'W' looks transposed: measured conductances are 1")
    assert note.endswith(" µS from the targets in that arrangement; write arrays as [inputs, outputs]")
    assert " µS (rms) from their targets, but only 0.2" in note


def test_pairs_whose_devices_were_exchanged_are_named(chip, tmp_path):
    chip.measured = {
        key.replace("plus", "MINUS").replace("minus", "plus").replace("MINUS", "minus"): array
        for key, array in chip.measured.items()
    }
    chip.write(tmp_path / "measured.npz")
    [note] = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.npz", dry_run=True).notes
    assert "L000/T0002 and 6 more of 'W' look exchanged with the other device of the pair: " in note
    assert note.endswith("; write each device under its own key")


def test_small_tiles_that_come_back_in_another_order_show_together(handed_off, tmp_path):
    chip = programmed(handed_off("Gemm", (3, 3), scheme=SCHEME).path, dropped=0)
    chip.measured = {key: array[::-1] for key, array in chip.measured.items()}
    chip.write(tmp_path / "measured.h5")
    [note] = read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", dry_run=True).notes
    assert "written from the last input to the first" in note
