"""Formats of other tools are part of the bundle: hashed, refused or noted, and there as a whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest

from onnx_gconv import converters
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

FORMATS = ["fusion", "fusion-pair", "csv", "npy"]
FOR_COSTS = ["zigzag", "accelforge"]
SCHEME = MappingScheme(converters.SinglePairConductanceConverter(), Granularity("channel"))


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("op", "formats"), [("Conv", [*FORMATS, *FOR_COSTS]), ("LSTM", FORMATS)])
def test_the_manifest_and_the_report_name_every_file_with_its_checksum(mapped, tmp_path, op, formats):
    source = mapped(op, scheme=SCHEME, external_data=True)
    report = write_bundle(source, tmp_path / "out", (5, 4), formats=formats, csv=True)
    with open_bundle(tmp_path / "out") as bundle:
        named = {file.path: file for file in bundle.manifest.files}
        bundle.verify_hashes()
    assert files_below(tmp_path / "out") == {*named, "manifest.json", "conductances.h5"}
    assert {path.relative_to(tmp_path / "out").as_posix() for path in report.files} == files_below(tmp_path / "out")
    for name, record in named.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["fusion/signs.csv", "csv/L000_g_minus.csv", "npy/L000/T0000/g_plus.npy"])
def test_a_change_of_any_file_is_found(handed_off, name):
    bundle = handed_off("Conv", scheme=SCHEME, formats=FORMATS)
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}' has changed"):
        bundle.verify_hashes()
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}' cannot be read"):
        open_bundle(bundle.path)


def test_equal_bundles_have_equal_files(mapped, tmp_path):
    source = mapped("Conv", scheme=SCHEME)
    for name in ("a", "b"):
        write_bundle(source, tmp_path / name, (5, 4), formats=[*FORMATS, *FOR_COSTS])
    for name in files_below(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_only_what_is_asked_for_is_written(mapped, tmp_path):
    source = mapped("Conv", scheme=SCHEME)
    for formats in ([], *([name] for name in FORMATS)):
        report = write_bundle(source, tmp_path / "out", (5, 4), formats=formats, overwrite=True)
        assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == formats
        assert {note.split(":")[0] for note in report.notes} == set(formats)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["xml"], "there is no format 'xml'; there are fusion, fusion-pair, csv, neurosim, npy, zigzag, accelforge"),
        (["npy", "csv", "npy"], "the format 'npy' is given twice; give it once"),
    ],
)
def test_unknown_and_repeated_formats_are_errors(mapped, tmp_path, formats, message):
    with pytest.raises(ConfigError, match=message):
        write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), formats=formats)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", FORMATS)
def test_a_data_file_in_a_folder_of_a_format_is_an_error(mapped, tmp_path, folder):
    source = mapped("Conv", external_data=True)
    model = onnx.load(source, load_external_data=False)
    (tmp_path / folder).mkdir()
    source.with_name("model.gconv.onnx.data").rename(tmp_path / folder / "weights.bin")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{folder}/weights.bin"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=rf"data file '{folder}/weights.bin' has a name that the bundle needs"):
        write_bundle(source, tmp_path / "out", (5, 4))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_text_fills_is_one_line_and_leaves_nothing(parse, tmp_path, normal):
    """Without text, all files of this bundle are smaller than the limit; the text is larger."""
    model = parse("g (float[2, 100] x) => (float y) { y = MatMul(x, W) }", W=normal(100, 50))
    MapConductances(scheme=SCHEME)(model)
    save_model(model, tmp_path / "mapped.onnx")
    before = sorted(tmp_path.iterdir())
    code = f"""
        import resource, shutil
        from pathlib import Path
        from onnx_gconv.errors import ConfigError
        from onnx_gconv.handoff import write_bundle
        folder = Path({str(tmp_path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        write_bundle(folder / "mapped.onnx", folder / "out", (128, 128))
        shutil.rmtree(folder / "out")
        for name in ("fusion", "fusion-pair", "csv"):
            try:
                write_bundle(folder / "mapped.onnx", folder / "out", (128, 128), formats=[name])
            except ConfigError as error:
                print(error)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"cannot write '{tmp_path / 'out'}': File too large; free some") for line in lines)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", FORMATS)
def test_a_write_that_fails_leaves_the_older_bundle(mapped, tmp_path, monkeypatch, name):
    source = mapped("Conv", scheme=SCHEME)
    write_bundle(source, tmp_path / "out", (5, 4))
    before = files_below(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HashedFile, "write", full)
    with pytest.raises(ConfigError, match=r"cannot write '.*out': No space left on device; free some space"):
        write_bundle(source, tmp_path / "out", (5, 4), formats=[name], overwrite=True)
    assert files_below(tmp_path) == before


NOTED = {
    "Gemm": [
        "biases are not in it; they are added digitally, and the arrays file has them: L000",
        "a factor that multiplies the outputs is not in it",
    ],
    "grouped Conv": ["several matrices (groups, batches, directions) are written one by one: L000"],
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("op", NOTED)
def test_what_a_format_leaves_out_is_in_the_report_and_in_its_readme(handed_off, tmp_path, op, name):
    bundle = handed_off(op, scheme=SCHEME, formats=[name])
    report = write_bundle(tmp_path / "model.gconv.onnx", array=(5, 4), formats=[name], dry_run=True)
    readme = (bundle.path / name / "README.txt").read_text()
    expected = [text for text in NOTED[op] if name != "npy" or text.startswith("a factor")]
    for text in expected:
        assert any(note.startswith(f"{name}: {text}") for note in report.notes), text
    unexpected = {text for texts in NOTED.values() for text in texts} - set(expected)
    assert not any(text in note for note in report.notes for text in unexpected)
    assert len(report.notes) > len(expected)
    for note in report.notes:
        assert f"- {note.removeprefix(f'{name}: ')}\n" in readme
        assert note in str(report)
    assert report.to_json()["notes"] == list(report.notes)


def test_the_readme_has_sizes_devices_scales_factor_and_bias_of_every_layer(handed_off):
    bundle = handed_off("Gemm", formats=["csv"])
    readme = (bundle.path / "csv" / "README.txt").read_text()
    scale = bundle.layers[0].record.scale.value
    assert 'L000: weight "W" of Gemm, 13 inputs x 10 outputs\n' in readme
    assert "devices g_plus (coefficient 1), g_minus (coefficient -1), from 0 to 25 µS, offset 0 µS\n" in readme
    assert f"scale in µS per unit of weight: {np.float32(scale)}, zero 0.0\n" in readme
    assert "the outputs are multiplied by 0.5\n" in readme
    assert 'bias "c", a constant of model.onnx; L000/bias of the arrays file\n' in readme


def test_the_readme_says_that_integer_codes_are_rounded(parse, tmp_path):
    model = parse(
        "g (uint8[2, 13] x) => (int32 y) { y = MatMulInteger(x, W, a, b) }",
        W=np.random.default_rng(0).integers(0, 255, (13, 10)).astype(np.uint8),
        a=np.array(3, np.uint8), b=np.array(120, np.uint8),
    )  # fmt: skip
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    report = write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4), formats=["csv"])
    note = "weights of integer codes: round after dividing by the scale, and add the zero point: L000"
    assert f"csv: {note}" in report.notes
    assert "round, and add the zero point" in (tmp_path / "out" / "csv" / "README.txt").read_text()


def test_progress_counts_the_numbers_that_become_text(mapped, tmp_path):
    seen = []
    source = mapped("Conv", scheme=SCHEME)
    write_bundle(source, tmp_path / "out", (5, 4), formats=FORMATS, progress=lambda *step: seen.append(step))
    counts = [(done, total) for step, done, total in seen if step == "formats"]
    total = 3 * 2 * 7 * 3 * 3 * 2  # text formats, devices, weights
    assert counts[-1] == (total, total)
    assert counts == sorted(counts)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_the_bias_are_in_the_arrays_of_tiles_and_named_where_they_are_left_out(handed_off, tmp_path, name):
    bundle = handed_off("Conv", scheme=SCHEME, formats=[name], bias_rows=2)
    report = write_bundle(tmp_path / "model.gconv.onnx", array=(5, 4), formats=[name], dry_run=True, bias_rows=2)
    text = "the rows of the bias are not in it; add the bias digitally, or take the rows from the arrays file: L000"
    assert (f"{name}: {text}" in report.notes) is (name != "npy")
    assert not any("biases are not in it" in note for note in report.notes)
    bundle.verify_hashes()
    if name == "csv":
        found = np.loadtxt(bundle.path / name / "L000_g_plus.csv", delimiter=",")
        assert found.shape == (3 * 3 * 2, 7)
    if name == "npy":
        tile = bundle.layers[0].tiles[-1]
        found = np.load(bundle.path / name / f"{tile.record.conductances[0].key}.npy", allow_pickle=False)
        np.testing.assert_array_equal(found, bundle.read(tile.record.conductances[0]))
        assert tile.record.inputs[1] > 3 * 3 * 2
