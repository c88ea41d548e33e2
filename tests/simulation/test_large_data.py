"""Samples that are not held in memory: the same figures, little memory, and what can go wrong while they are read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.runtime import given_inputs, stored_arrays
from onnx_gconv.simulation import compare, outputs, samples, simulate
from onnx_gconv.simulation.metric_figures import PairwiseSum

SAVERS = {"stored": np.savez, "compressed": np.savez_compressed}
METRICS = ("accuracy", "top3", "sqnr", "cosine", "agreement", "all_at_once:largest")


@pytest.fixture
def nothing_in_memory(monkeypatch):
    """All inputs stay in their file, and all outputs of the ideal model go to one."""
    monkeypatch.setattr(given_inputs, "HELD_IN_MEMORY", 0)
    monkeypatch.setattr(outputs, "_IN_MEMORY", 0)
    monkeypatch.setattr(samples, "_BATCH_OF_STORED", 64 * 4 * 100)  # of 100 images


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the mapped digits MLP, its test images with labels in several forms, and a metric."""
    folder = tmp_path_factory.mktemp("digits")
    gconv.map_model(model_path("digits_mlp.onnx"), folder / "mapped.onnx")
    with np.load(model_path("digits_test.npz")) as data:
        pixels, labels = data["images"].reshape(450, 64).astype(np.float32), data["labels"]
    for name, save in SAVERS.items():
        save(folder / f"{name}.npz", pixels=pixels, labels=labels)
        save(folder / f"{name}-fortran.npz", pixels=np.asfortranarray(pixels), labels=labels)
    (folder / "all_at_once.py").write_text(
        "def largest(outputs, labels):\n    assert len(labels) == 450\n    return outputs['logits'].max()\n"
    )
    return folder


def simulated(folder, data="stored.npz", model="mapped.onnx", **options):
    options = {"times": ("0s", "1d"), "repeats": 2, "seed": 5, **options}
    return simulate(folder / model, inputs=folder / data, labels="labels", **options)


def figures(report):
    return report.ideal, [time.values for time in report.times]


@pytest.mark.parametrize("data", [f"{form}{order}.npz" for form in SAVERS for order in ("", "-fortran")])
def test_figures_are_those_of_samples_in_memory(digits, monkeypatch, nothing_in_memory, data):
    monkeypatch.syspath_prepend(digits)
    for metric in METRICS:
        with monkeypatch.context() as patch:
            patch.setattr(given_inputs, "HELD_IN_MEMORY", 1 << 28)
            expected = simulated(digits, metric=metric)
        assert expected.notes == ()
        found = simulated(digits, data, metric=metric)
        assert figures(found) == figures(expected)
        assert found.notes == ("the samples are 0 MiB: a run takes 100 of them; --batch chooses another number",)
        for options in ({"batch": 7}, {"batch": 450}, {"workers": 3, "batch": 60}):
            found = simulated(digits, data, metric=metric, **options)
            assert figures(found) == figures(expected)
            assert found.notes == ()


def test_candidates_are_compared_with_outputs_in_a_file(digits, monkeypatch, nothing_in_memory, tmp_path):
    candidates = {"repeats": 2, "times": ["1d"], "grid": {"mapping": {"levels": [4, 16]}}}
    found = {}
    for metric in ("sqnr", "accuracy"):
        options = {"inputs": digits / "compressed.npz", "labels": "labels", "metric": metric}
        found[metric] = compare(model_path("digits_mlp.onnx"), candidates, **options)
        with monkeypatch.context() as patch:
            patch.setattr(given_inputs, "HELD_IN_MEMORY", 1 << 28)
            expected = compare(model_path("digits_mlp.onnx"), candidates, **options)
        assert [figures(each.simulation) for each in found[metric].candidates] == [
            figures(each.simulation) for each in expected.candidates
        ]
        assert found[metric].unmapped == expected.unmapped


def test_a_journal_goes_on_with_samples_in_a_file(digits, monkeypatch, nothing_in_memory, tmp_path):
    first = simulated(digits, journal=tmp_path / "journal", batch=90)
    notes = (tmp_path / "journal").read_bytes()
    monkeypatch.setattr(given_inputs, "HELD_IN_MEMORY", 1 << 28)
    assert figures(simulated(digits, journal=tmp_path / "journal")) == figures(first)
    assert (tmp_path / "journal").read_bytes() == notes


def test_models_with_a_fixed_batch_other_types_and_inputs_for_all(parse, normal, tmp_path, nothing_in_memory):
    model = parse(
        "g (bfloat16[2,8] x, float[8] shared, int64[2,1] picked) => (float[2,3] y) "
        "{ f = Cast <to = 1> (x) a = Add(f, shared) h = MatMul(a, W) p = Cast <to = 1> (picked) y = Add(h, p) }",
        W=normal(8, 3),
    )
    MapConductances()(model)
    ir.save(model, tmp_path / "mapped.onnx")
    x, shared, picked = normal(6, 8).astype(ml_dtypes.bfloat16), normal(8, seed=1), np.arange(6).reshape(6, 1)
    np.savez(tmp_path / "in.npz", x=x, shared=shared, picked=picked)
    whole = simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "in.npz", repeats=2, times="1d")
    given_inputs.HELD_IN_MEMORY = 1 << 28
    expected = simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "in.npz", repeats=2, times="1d")
    assert figures(whole) == figures(expected)
    assert whole.notes == expected.notes == ()
    np.savez(tmp_path / "odd.npz", x=x[:5], shared=shared, picked=picked[:5])
    given_inputs.HELD_IN_MEMORY = 0
    with pytest.raises(gconv.ConfigError, match=r"5 samples cannot be cut into batches of 2, .*; leave out 1 of them"):
        simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "odd.npz")


def test_outputs_of_one_number_a_sample_are_one_vector(parse, normal, tmp_path, nothing_in_memory):
    model = parse("g (float[n,8] x) => (float[n] y) { y = MatMul(x, W) }", W=normal(8))
    MapConductances()(model)
    ir.save(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(9, 8))
    for metric in ("sqnr", "cosine", "agreement"):
        found = [
            figures(simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "in.npz", metric=metric, batch=batch))
            for batch in (9, 4)
        ]
        assert found[0] == found[1]


@pytest.mark.parametrize(("count", "batch"), [(9, 3), (8, 4), (7, 2), (5, 3)])
def test_no_sample_is_alone_in_its_batch_unless_it_has_to_be(parse, normal, tmp_path, monkeypatch, count, batch):
    monkeypatch.setattr(given_inputs, "HELD_IN_MEMORY", 0)
    monkeypatch.setattr(samples, "_BATCH_OF_STORED", 8 * 4 * (batch + 1))
    ir.save(parse("g (float[n,8] x) => (float[n,3] y) { y = MatMul(x, W) }", W=normal(8, 3)), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=normal(count, 8))
    [note] = [
        note
        for note in simulate(tmp_path / "m.onnx", inputs=tmp_path / "in.npz", repeats=1, times="1d").notes
        if note.startswith("the samples are")
    ]
    size = int(note.split("a run takes ")[1].split()[0])
    assert size <= batch + 1
    assert count % size != 1 or size == 2


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_sum_of_pieces_is_that_of_all(sizes, seed):
    rng = np.random.default_rng(seed)
    pieces = [rng.normal(size=size) * 10.0 ** rng.integers(-6, 6) for size in sizes]
    found = PairwiseSum(sum(sizes))
    for piece in pieces:
        found.add(piece)
    assert found.value() == float(np.concatenate(pieces).sum())


def test_a_damaged_array_is_found_before_anything_is_computed(digits, tmp_path, nothing_in_memory):
    for form in SAVERS:
        content = bytearray((digits / f"{form}.npz").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / f"{form}.npz").write_bytes(content)
        with pytest.raises(gconv.ConfigError, match=rf"{form}\.npz: cannot be read as an \.npz file \("):
            simulate(digits / "mapped.onnx", inputs=tmp_path / f"{form}.npz", labels="labels")


def test_an_array_that_is_shorter_than_its_shape_is_refused(digits, tmp_path, nothing_in_memory):
    with zipfile.ZipFile(digits / "stored.npz") as there, zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        for name in there.namelist():
            content = there.read(name)
            archive.writestr(name, content[:-4] if name == "pixels.npy" else content)
    message = r"the array 'pixels' has 115,196 bytes, but 115,200 by its shape \[450, 64\]"
    with pytest.raises(gconv.ConfigError, match=message):
        simulate(digits / "mapped.onnx", inputs=tmp_path / "short.npz", labels="labels")


def test_nothing_is_unpacked_that_the_disk_has_no_room_for(digits, monkeypatch, nothing_in_memory):
    monkeypatch.setattr(
        stored_arrays.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(200_000, 100_000, 100_000)
    )
    simulated(digits)  # which is not unpacked
    with pytest.raises(gconv.ConfigError) as found:
        simulated(digits, "compressed.npz")
    assert "compressed.npz: the array 'pixels' is unpacked to 115,200 bytes, but '" in str(found.value)
    assert str(found.value).endswith(
        "' has 100,000 left; save it with numpy.savez, which does not compress, in C order, or let TMPDIR name a "
        "folder on a larger disk"
    )


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros(450, np.complex64)], ids=["length", "type"])
def test_labels_are_looked_at_before_samples_are_unpacked(digits, tmp_path, monkeypatch, nothing_in_memory, labels):
    with np.load(digits / "stored.npz") as data:
        np.savez(tmp_path / "in.npz", pixels=data["pixels"], labels=labels)
    monkeypatch.setattr(given_inputs, "stored_array", None)
    with pytest.raises(gconv.ConfigError, match=r"there are 3 labels 'labels' for|the labels 'labels' are complex64"):
        simulate(digits / "mapped.onnx", inputs=tmp_path / "in.npz", labels="labels")


@pytest.mark.parametrize("data", ["stored.npz", "compressed.npz"])
@pytest.mark.parametrize("how", ["written", "shortened", "removed"])
def test_a_file_that_changes_while_it_is_read_is_noticed(digits, tmp_path, nothing_in_memory, data, how):
    shutil.copy(digits / data, tmp_path / data)

    def change(*_):
        path = tmp_path / data
        if how == "removed":
            path.unlink(missing_ok=True)
        elif how == "shortened":
            os.truncate(path, 5000)
        else:
            path.write_bytes(path.read_bytes())

    with pytest.raises(gconv.ConfigError, match=rf"'.*{data}' changed while it was read: .*; let what writes it"):
        simulate(
            digits / "mapped.onnx", inputs=tmp_path / data, labels="labels", repeats=3, times="1d", progress=change
        )


def test_nothing_that_was_unpacked_is_left(digits, tmp_path, monkeypatch, nothing_in_memory):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    simulated(digits, "compressed-fortran.npz", metric="sqnr")
    assert list(tmp_path.iterdir()) == []


PEAK = """
import resource, sys
import onnx_gconv as gconv
gconv.simulate(sys.argv[1], inputs=sys.argv[2], times="1d", repeats=2, workers=2, batch=2000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_is_flat(parse, normal, tmp_path):
    """Two chips at once, on 313 MiB of samples with 78 MiB of outputs, take no more memory than on a hundredth."""
    model = parse("g (float[n,128] x) => (float[n,32] y) { y = MatMul(x, W) }", W=normal(128, 32))
    ir.save(model, tmp_path / "model.onnx")
    block = normal(6400, 128)
    peaks = []
    for blocks in (1, 100):
        header = {"descr": "<f4", "fortran_order": False, "shape": (6400 * blocks, 128)}
        with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive, archive.open("x.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(blocks):
                file.write(block.data)
        command = [sys.executable, "-c", PEAK, tmp_path / "model.onnx", tmp_path / "in.npz"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < peaks[0] + (48 << 20)
