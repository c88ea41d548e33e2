"""Sources that change while they are read: nothing is put in its place, nothing is left behind, and it is said."""

from __future__ import annotations

import os
import re
import shutil

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import (
    inspect_model,
    map_model,
    program_model,
    read_back,
    restore_model,
    simulate,
    verify,
    write_bundle,
)
from onnx_gconv.errors import BundleError, ConfigError, GconvError, ModelError
from onnx_gconv.files.models import save_model
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, all_elements, element_chunks
from tests.handoff.chip import programmed

OLD_TIME_NS = 1_500_000_000_000_000_000


@pytest.fixture(scope="module")
def template(tmp_path_factory, parse, normal):
    """A folder with a model, the mapped one, its bundle, and what a chip measured."""
    folder = tmp_path_factory.mktemp("sources")
    weights = {f"w{number}": normal(64, 64, seed=number) for number in range(2)}
    model = parse("g (float[1,64] x) => (float y) { t = MatMul(x, w0) y = MatMul(t, w1) }", **weights)
    save_model(model, folder / "m.onnx", external_data=True)
    map_model(folder / "m.onnx", folder / "m.gconv.onnx", external_data=True)
    write_bundle(folder / "m.gconv.onnx", folder / "m.gconv", (48, 48))
    programmed(folder / "m.gconv", dropped=0).write(folder / "measured.h5")
    np.savez(folder / "inputs.npz", x=normal(1, 64))
    for file in folder.iterdir():  # so that what is written later has another time, be the clock ever so coarse
        os.utime(file, ns=(OLD_TIME_NS, OLD_TIME_NS))
    return folder


@pytest.fixture
def folder(template, tmp_path):
    """A copy of the template."""
    return shutil.copytree(template, tmp_path / "folder")


OPERATIONS = {
    "program": (
        "m.gconv.onnx.data",
        "write",
        lambda at, progress: program_model(at / "m.gconv.onnx", at / "out", progress=progress),
    ),
    "program while it simulates": (
        "m.gconv.onnx.data",
        "simulate",
        lambda at, progress: program_model(at / "m.gconv.onnx", at / "out", progress=progress),
    ),
    "simulate": (
        "m.gconv.onnx.data",
        "simulate",
        lambda at, progress: simulate(at / "m.gconv.onnx", repeats=2, times="0s", progress=progress),
    ),
    "map": ("m.onnx.data", "write", lambda at, progress: map_model(at / "m.onnx", at / "out", progress=progress)),
    "map while it scans": (
        "m.onnx.data",
        "scan",
        lambda at, progress: map_model(at / "m.onnx", at / "out", progress=progress),
    ),
    "map of another model": (
        "m.onnx",
        "scan",
        lambda at, progress: map_model(at / "m.onnx", at / "o", progress=progress),
    ),
    "inspect": ("m.onnx.data", "scan", lambda at, progress: inspect_model(at / "m.onnx", progress=progress)),
    "verify": (
        "m.gconv.onnx.data",
        "weights",
        lambda at, progress: verify(at / "m.onnx", at / "m.gconv.onnx", progress=progress),
    ),
    "verify of another original": (
        "m.onnx",
        "weights",
        lambda at, progress: verify(at / "m.onnx", at / "m.gconv.onnx", progress=progress),
    ),
    "verify while it runs": (
        "m.onnx.data",
        "running the mapped model",
        lambda at, progress: verify(at / "m.onnx", at / "m.gconv.onnx", progress=progress),
    ),
    "verify with other inputs": (
        "inputs.npz",
        "weights",
        lambda at, progress: verify(at / "m.onnx", at / "m.gconv.onnx", inputs=at / "inputs.npz", progress=progress),
    ),
    "restore": (
        "m.gconv.onnx.data",
        "write",
        lambda at, progress: restore_model(at / "m.gconv.onnx", at / "out", progress=progress),
    ),
    "hand-off": (
        "m.gconv.onnx.data",
        "conductances",
        lambda at, progress: write_bundle(
            at / "m.gconv.onnx",
            at / "out",
            (48, 48),
            csv=True,
            formats=["npy", "fusion", "csv"],
            progress=progress,
        ),
    ),
    "hand-off while other formats are written": (
        "m.gconv.onnx.data",
        "formats",
        lambda at, progress: write_bundle(
            at / "m.gconv.onnx", at / "out", (48, 48), formats=["fusion"], arrays="npz", progress=progress
        ),
    ),
    "read-back of another model": (
        "m.gconv.onnx.data",
        "write",
        lambda at, progress: read_back(at / "m.gconv.onnx", at / "measured.h5", at / "out", progress=progress),
    ),
    "read-back": (
        "measured.h5",
        "compare",
        lambda at, progress: read_back(at / "m.gconv.onnx", at / "measured.h5", at / "out", progress=progress),
    ),
    "read-back while it writes": (
        "measured.h5",
        "write",
        lambda at, progress: read_back(at / "m.gconv.onnx", at / "measured.h5", at / "out", progress=progress),
    ),
    "read-back while it draws": (
        "measured.h5",
        "pictures",
        lambda at, progress: read_back(
            at / "m.gconv.onnx", at / "measured.h5", at / "out", pictures=at / "pictures", progress=progress
        ),
    ),
    "read-back of another bundle": (
        "m.gconv/manifest.json",
        "compare",
        lambda at, progress: read_back(at / "m.gconv.onnx", at / "measured.h5", at / "out", progress=progress),
    ),
}


def write_over(file):
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(64))


def write_over_and_set_the_time_back(file):
    write_over(file)
    os.utime(file, ns=(OLD_TIME_NS, OLD_TIME_NS))


def cut_off(file):
    os.truncate(file, file.stat().st_size // 3)


def replace(file):
    new = file.with_name("new")
    new.write_bytes(bytes(file.stat().st_size))
    os.utime(new, ns=(OLD_TIME_NS, OLD_TIME_NS))
    new.replace(file)


def remove(file):
    file.unlink()


CHANGES = {
    write_over: "it was written, or replaced, meanwhile",
    write_over_and_set_the_time_back: "its properties changed, as when it is written and its time set back",
    cut_off: r"it had [\d,]+ bytes, and has [\d,]+ now",
    replace: "its properties changed, as when it is written and its time set back",
    remove: "it is gone",
}


def refused(folder, operation, change):
    """Changes a source at the first report of a step, and gives the error."""
    file, step, run = OPERATIONS[operation]
    before = {path for path in folder.rglob("*") if path != folder / file}
    done = []

    def at_step(now, *_):
        if now.startswith(step) and not done:
            done.append(change(folder / file))

    with pytest.raises(GconvError) as found:
        run(folder, at_step)
    assert done
    assert {path for path in folder.rglob("*") if path != folder / file} == before
    text = str(found.value)
    assert "\n" not in text
    place = os.fspath(folder / file)
    return found.type, text[text.index(f"'{place}' changed") :].replace(place, "FILE")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_refuses_a_source_that_was_written_meanwhile(folder, operation):
    kind, text = refused(folder, operation, write_over)
    by_file = {"measured.h5": BundleError, "m.gconv/manifest.json": BundleError, "inputs.npz": ConfigError}
    assert kind is by_file.get(OPERATIONS[operation][0], ModelError)
    assert text == (
        "'FILE' changed while it was read: it was written, or replaced, meanwhile; let what writes it come to its end, "
        "and run again"
    )


@pytest.mark.parametrize("change", [change for change in CHANGES if change is not write_over])
@pytest.mark.parametrize(
    "operation", ["map", "verify", "restore", "hand-off", "read-back", "read-back while it writes"]
)
def test_every_change_is_seen_and_named(folder, operation, change):
    _, text = refused(folder, operation, change)
    assert re.match(f"'FILE' changed while it was read: {CHANGES[change]}; let what writes it", text)


def test_a_hand_off_compares_checksums_where_times_say_nothing(folder, monkeypatch):
    monkeypatch.setattr(WatchedFiles, "check", lambda _: None)
    kind, text = refused(folder, "hand-off", write_over)
    assert kind is ModelError
    assert "FILE' changed while it was read: its SHA-256 was " in text


def test_an_older_output_stays_when_a_source_changes(folder):
    (folder / "out").write_bytes(b"older")
    with pytest.raises(ModelError, match="changed while it was read"):
        map_model(
            folder / "m.onnx",
            folder / "out",
            external_data=True,
            progress=lambda *_: write_over(folder / "m.onnx.data"),
        )
    assert (folder / "out").read_bytes() == b"older"


def test_a_source_that_is_only_read_by_others_has_not_changed(folder):
    watched = WatchedFiles()
    watched.add(folder / "m.onnx")
    (folder / "m.onnx").read_bytes()
    watched.check()
    write_over(folder / "m.onnx")
    watched.add(folder / "m.onnx")  # what was known first counts
    with pytest.raises(ModelError, match="changed"):
        watched.check()


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn"])
def test_elements_of_less_than_a_byte_are_read_and_not_mapped(folder, dtype):
    size = CHUNK_ELEMENTS + 3
    values = np.random.default_rng(0).integers(-8, 8, size).astype(np.float32).astype(getattr(ml_dtypes, dtype))
    expected = ir.tensor(values)
    (folder / "data").write_bytes(b"123" + expected.tobytes())
    tensor = ir.ExternalTensor(
        "data", 3, expected.nbytes, expected.dtype, shape=ir.Shape([size]), name="w", base_dir=folder
    )
    assert (all_elements(tensor) == values).all()
    for start, stop in [(0, size), (1, 8), (CHUNK_ELEMENTS - 3, size), (5, 6)]:
        found = np.concatenate([chunk.copy() for chunk in element_chunks(tensor, start, stop)])
        assert found.dtype == values.dtype
        assert (found == values[start:stop]).all()
    os.truncate(folder / "data", 100)
    with pytest.raises(ModelError, match="has only 100 bytes"):
        all_elements(tensor)
