"""Every example of every page runs as for a reader: Python, commands and files; its output is what the page shows."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_gconv as gconv
from onnx_gconv.cli import main
from onnx_gconv.converters import registry
from onnx_gconv.converters.registry import ConverterRegistry
from onnx_gconv.devices import registry as device_registry
from onnx_gconv.models import model_path
from onnx_gconv.weights import MVM_OPS
from tests.docs.pages import ROOT, Reader, blocks, headings, links, pages

# Pages whose `model.onnx` has convolutions, and pages whose `model.onnx` is a language model. On all other pages,
# `model.onnx` has only Gemm layers.
OF_CONVOLUTIONS = {
    "docs/bundle/pictures.md", "docs/python.md", "docs/reference/command-line.md", "docs/reference/configuration.md"
}  # fmt: skip
OF_LANGUAGE = {"docs/guide/language-models.md": "mobius_llama_past_fp32.onnx"}
# Pages whose reader has handed off a bundle, and has measured it.
OF_MEASUREMENTS = {"docs/bundle/programming-tables.md"}


def pages_of_other_tests() -> set[str]:
    """Pages that have a test of their own: its file names the file of the page."""
    tests = [
        file.read_text(encoding="utf-8")
        for file in (ROOT / "tests").rglob("test_*.py")
        if file != Path(__file__) and file.name != "test_documentation.py"
    ]
    return {page for page in pages() if any(f'/ "{Path(page).name}"' in test for test in tests)} - {"README.md"}


EXECUTED = {"python", "console", "toml"}
FOLLOWED = [
    page
    for page in pages()
    if any(block.language in EXECUTED for block in blocks(page)) and page not in pages_of_other_tests()
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which a reader starts; `prepare` puts a model and data into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(list))  # pages register converters
    monkeypatch.setattr(device_registry, "_registered", {})
    ops, modules = set(MVM_OPS), set(sys.modules)
    yield tmp_path
    for op in set(MVM_OPS) - ops:
        del MVM_OPS[op]
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def prepare(page):
    with np.load(model_path("digits_test.npz")) as data:
        images, labels = data["images"].astype(np.float32), data["labels"]
    if page in OF_LANGUAGE:
        shutil.copyfile(ROOT / "tests" / "data" / "language_models" / OF_LANGUAGE[page], "model.onnx")
        return
    if page in OF_CONVOLUTIONS:
        shutil.copyfile(model_path("digits_cnn.onnx"), "model.onnx")
        samples = {"image": images}
    else:
        shutil.copyfile(model_path("digits_mlp.onnx"), "model.onnx")
        samples = {"pixels": images.reshape(len(images), 64)}
    np.savez("data.npz", **samples, labels=labels)
    np.savez("inputs.npz", **{name: array[:32] for name, array in samples.items()})
    if page in OF_MEASUREMENTS:
        gconv.map_model("model.onnx")
        gconv.write_bundle("model.gconv.onnx", array=(64, 64))
        with h5py.File("model.gconv/conductances.h5") as targets, h5py.File("measured.h5", "w") as measured:
            targets["L000"].copy("T0000", measured.create_group("L000"))
            for device in measured["L000/T0000"].values():
                device[:] += 0.1
            measured["L000/T0000/g_plus"][:32] += 1


def of_devices(names):
    assert names["read_us"].shape == (1, 3)


def of_readings(names):
    assert not np.isclose(names["first"], names["second"]).all()


def of_many_chips(names):
    assert 0.9 < names["report"].times[0].spread.mean < names["report"].ideal
    assert Path("accuracy.png").exists()


def of_comparisons(names):
    assert len(names["comparison"].candidates) == 6


def of_readers(names):
    assert names["weight"].shape == (64, 64)
    assert names["array"].devices == ("g_plus", "g_minus")


def of_measurements(_):
    errors = gconv.read_back("model.gconv.onnx", "measured.h5").errors
    assert errors.std_us == pytest.approx(0.2, rel=0.05)
    assert 0 < errors.failed == errors.cells - errors.measured


def of_rounds(_):
    lines = [len(Path(f"round{number}.csv").read_text(encoding="utf-8").splitlines()) - 1 for number in (1, 2, 3)]
    assert lines == [12928, 12928 - 64 * 64 - 32 * 64, lines[1]]  # of the measured tile, half of g_plus is off


def of_aihwkit(names):
    assert names["settings"].array == (64, 64)
    assert len(names["report"].mapped) == 2
    by_file, mapped = (onnx.load(name).graph.initializer for name in ("twin.by-file.onnx", "twin.gconv.onnx"))
    assert [numpy_helper.to_array(item).tobytes() for item in by_file] == [
        numpy_helper.to_array(item).tobytes() for item in mapped
    ]


def of_language(names):
    assert [item.argmax_agreement for item in names["logits"].positions] == [1.0] * 5
    assert names["chips"].samples == 6
    assert 0 < names["chips"].times[0].spread.mean <= names["chips"].ideal


# What has to hold after a page was run, by page.
AFTERWARDS = {
    "docs/bundle/measured-conductances.md": of_measurements,
    "docs/bundle/programming-tables.md": of_rounds,
    "docs/bundle/readers.md": of_readers,
    "docs/devices.md": of_devices,
    "docs/devices/comparison-file.md": of_comparisons,
    "docs/devices/many-chips.md": of_many_chips,
    "docs/devices/read-noise.md": of_readings,
    "docs/guide/aihwkit.md": of_aihwkit,
    "docs/guide/language-models.md": of_language,
}


def as_parameter(page):
    """A page as a parameter of a test.

    Pages that use torch's exporter or aihwkit run on one worker of pytest-xdist, and the warnings of both about their
    own code are ignored.
    """
    exports = any(word in (ROOT / page).read_text(encoding="utf-8") for word in ("import torch", "aihwkit.nn"))
    marks = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("torch_integration")] if exports else []
    return pytest.param(page, marks=marks, id=page)


@pytest.mark.parametrize("page", [as_parameter(page) for page in FOLLOWED])
def test_whoever_follows_the_page_gets_what_it_shows(page, folder, monkeypatch, capsys):
    prepare(page)

    def run(arguments):
        monkeypatch.setattr("sys.argv", ["onnx-gconv", *arguments])
        return main()

    def printed():
        captured = capsys.readouterr()
        return captured.out + captured.err

    names = Reader(page, run, printed).follow()
    AFTERWARDS.get(page, lambda _: None)(names)


def test_pages_that_have_a_test_of_their_own_are_few():
    known = {"cluster.md", "continuous-integration.md", "pipelines.md"}
    assert known <= {Path(page).name for page in pages_of_other_tests()}


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page):
    for file, anchor in links(page):
        target = (ROOT / page).parent.joinpath(file) if file else ROOT / page
        assert target.exists(), f"{page}: {file}"
        if anchor and target.suffix == ".md":
            assert anchor in headings(str(target.resolve().relative_to(ROOT))), f"{page}: {file}#{anchor}"


def test_every_page_begins_with_its_only_title():
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.MULTILINE | re.DOTALL).lstrip()
        assert text.startswith("# "), page
        if page.startswith("docs/") or page == "README.md":
            assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1, page
