"""Every function takes a model in memory as it takes a file, gives the same, and leaves the model as it is."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.operations import survey_model

KINDS = {
    "onnx_ir.Model": ir.load,
    "onnx.ModelProto": onnx.load,
    "PassResult": lambda path: ir.passes.PassResult(ir.load(path), modified=False),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A plain model, the mapped one, and test data."""
    folder = tmp_path_factory.mktemp("files")
    plain, mapped = model_path("digits_mlp.onnx"), folder / "digits_mlp.gconv.onnx"
    gconv.map_model(plain, mapped)
    with np.load(model_path("digits_test.npz")) as data:
        pixels = data["images"].reshape(450, 64).astype(np.float32)
        np.savez(folder / "data.npz", pixels=pixels[:100], labels=data["labels"][:100])
    return plain, mapped, folder / "data.npz"


@pytest.fixture(params=KINDS)
def in_memory(request):
    """Loads a file as one kind of model; in the end, every one is what it was."""
    loaded = []

    def load(path):
        model = KINDS[request.param](path)
        loaded.append((model, content(model)))
        return model

    yield load
    assert loaded
    for model, before in loaded:
        assert content(model) == before


@pytest.fixture(autouse=True)
def no_temporary_files(tmp_path_factory, monkeypatch):
    """Whatever is written beside the output is gone in the end."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


def content(model):
    found = model if isinstance(model, onnx.ModelProto) else ir.to_proto(getattr(model, "model", model))
    return found.SerializeToString(deterministic=True)


def test_map_model(files, in_memory, tmp_path):
    plain, _, _ = files
    expected = gconv.map_model(plain, tmp_path / "a.onnx", granularity="channel")
    report = gconv.map_model(in_memory(plain), tmp_path / "b.onnx", granularity="channel")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert report.manifest == expected.manifest
    assert report.output == tmp_path / "b.onnx"
    assert str(report.model).startswith("<")


def test_map_model_writes_nothing_without_an_output(files, in_memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = in_memory(files[0])
    with pytest.raises(gconv.ConfigError, match="is in memory and has no folder to write to; give an output, too"):
        gconv.map_model(model)
    assert gconv.map_model(model, dry_run=True).mvm_share == 1
    assert not list(tmp_path.iterdir())


def test_inspect_model_and_survey_model(files, in_memory):
    plain, mapped, _ = files
    for path in (plain, mapped):
        report = gconv.inspect_model(in_memory(path))
        assert report.manifest == gconv.inspect_model(path).manifest
        assert report.is_mapped == (path == mapped)
    found = survey_model(in_memory(plain))
    assert [item.name for item in found.weights] == [item.name for item in survey_model(plain).weights]


def test_restore_model(files, in_memory, tmp_path):
    _, mapped, _ = files
    gconv.restore_model(mapped, tmp_path / "a.onnx")
    report = gconv.restore_model(in_memory(mapped), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert report.output == tmp_path / "b.onnx"


def test_verify(files, in_memory):
    plain, mapped, _ = files
    expected = gconv.verify(plain, mapped).to_json()
    for original, other in (
        (in_memory(plain), mapped),
        (plain, in_memory(mapped)),
        (in_memory(plain), in_memory(mapped)),
    ):
        report = gconv.verify(original, other)
        report.raise_if_failed()
        assert {**report.to_json(), "original": "", "mapped": ""} == {**expected, "original": "", "mapped": ""}
        assert str(report.original).startswith("<") == (original is not plain)
        assert str(report.mapped).startswith("<") == (other is not mapped)


def test_verify_names_models_in_memory_by_their_kinds(files, in_memory):
    plain, mapped, _ = files
    with pytest.raises(
        gconv.ConfigError, match=r"^'<.*>' is a mapped model, and '<.*>' is none; give the original first"
    ):
        gconv.verify(in_memory(mapped), in_memory(plain))
    broken = ir.load(mapped)
    broken.graph.outputs[0].producer().attributes["axis"] = ir.AttrInt64("axis", 77)
    broken.graph.outputs[0].producer().op_type = "Softmax"
    report = gconv.verify(in_memory(plain), broken)
    assert not report.passed
    assert "onnx-gconv-" not in " ".join(report.problems)
    assert tempfile.gettempdir() not in " ".join(report.problems)


def test_simulate(files, in_memory):
    plain, mapped, data = files
    options = {"device": "pcm", "times": "1d", "repeats": 2, "inputs": data, "labels": "labels"}
    for path in (plain, mapped):
        expected, report = gconv.simulate(path, **options), gconv.simulate(in_memory(path), **options)
        assert report.times == expected.times
        assert report.ideal == expected.ideal
        assert str(report.mapped).startswith("<")


def test_a_simulation_goes_on_where_that_of_an_equal_model_stopped(files, in_memory, tmp_path):
    plain, mapped, data = files
    options = {"device": "pcm", "times": "1d", "inputs": data, "labels": "labels", "journal": tmp_path / "j"}
    gconv.simulate(in_memory(mapped), repeats=2, **options)
    noted = options["journal"].read_text().splitlines()
    gconv.simulate(in_memory(mapped), repeats=3, **options)
    again = options["journal"].read_text().splitlines()
    assert again[: len(noted)] == noted
    assert len(again) == len(noted) + 1
    with pytest.raises(gconv.ConfigError, match="another simulation"):
        gconv.simulate(in_memory(plain), repeats=3, **options)


def test_compare(files, in_memory, tmp_path):
    plain, mapped, data = files
    options = {"times": "1d", "repeats": 2, "inputs": data, "labels": "labels"}
    candidates = {"candidates": [{"name": "a"}, {"name": "b", "drift_compensation": "global"}]}
    for path in (plain, mapped):
        expected = gconv.compare(path, candidates, **options)
        report = gconv.compare(in_memory(path), candidates, journal=tmp_path / f"{path.stem}.journal", **options)
        left, right = ([item.simulation.times for item in found.candidates] for found in (report, expected))
        assert left == right
        assert report.unmapped == expected.unmapped


def test_program_model(files, in_memory, tmp_path):
    _, mapped, _ = files
    gconv.program_model(mapped, tmp_path / "a.onnx", "pcm", time="1d", seed=3)
    report = gconv.program_model(in_memory(mapped), tmp_path / "b.onnx", "pcm", time="1d", seed=3)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert str(report.mapped).startswith("<")
    with pytest.raises(gconv.ConfigError, match="give an output, too"):
        gconv.program_model(in_memory(mapped))


def test_hand_off_and_read_back(files, in_memory, tmp_path):
    _, mapped, _ = files
    gconv.write_bundle(mapped, tmp_path / "a", (32, 32))
    model = in_memory(mapped)
    with pytest.raises(gconv.ConfigError, match="give an output, too"):
        gconv.write_bundle(model, array=(32, 32))
    counted = gconv.write_bundle(model, array=(32, 32), dry_run=True)
    report = gconv.write_bundle(model, tmp_path / "b", (32, 32))
    assert counted.arrays == report.arrays
    with gconv.open_bundle(tmp_path / "a") as expected, gconv.open_bundle(tmp_path / "b") as bundle:
        bundle.verify_hashes()
        assert bundle.manifest.layers == expected.manifest.layers
        assert bundle.manifest.source.name.startswith("<")
        g_plus = bundle.layers[0].tiles[0].conductances()["g_plus"]
        np.testing.assert_array_equal(g_plus, expected.layers[0].tiles[0].conductances()["g_plus"])
    np.savez(tmp_path / "b" / "measured.npz", **{"L000/T0000/g_plus": g_plus + 0.5})
    gconv.read_back(mapped, tmp_path / "b", tmp_path / "a.onnx")
    read = gconv.read_back(model, tmp_path / "b", tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert read.errors.largest_us == pytest.approx(0.5, abs=1e-5)
    np.savez(tmp_path / "measured.npz", **{"L000/T0000/g_plus": g_plus})
    with pytest.raises(gconv.BundleError, match=r"is not found beside it; name it with --bundle"):
        gconv.read_back(model, tmp_path / "measured.npz", tmp_path / "c.onnx")


PLAIN = model_path("digits_mlp.onnx")
CALLS = {
    "map_model": lambda: gconv.map_model(None, "x"),
    "inspect_model": lambda: gconv.inspect_model(None),
    "survey_model": lambda: survey_model(None),
    "restore_model": lambda: gconv.restore_model(None, "x"),
    "verify": lambda: gconv.verify(None, PLAIN),
    "verify, mapped": lambda: gconv.verify(PLAIN, None),
    "simulate": lambda: gconv.simulate(None),
    "compare": lambda: gconv.compare(None, {}),
    "program_model": lambda: gconv.program_model(None, "x"),
    "write_bundle": lambda: gconv.write_bundle(None, "x", (8, 8)),
    "read_back": lambda: gconv.read_back(None, "x", "y"),
}


@pytest.mark.parametrize("function", CALLS)
def test_what_is_no_model_is_refused_in_one_line(function):
    with pytest.raises(gconv.ModelError, match=r"^None is no model: .*") as caught:
        CALLS[function]()
    assert f"; {function.split(',')[0]} takes the path of an ONNX model, what torch" in str(caught.value)
