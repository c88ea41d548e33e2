"""The numbered examples print what they say, and are as short as they are meant to be."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import pytest

from onnx_gconv.converters import registry
from onnx_gconv.converters.registry import ConverterRegistry
from onnx_gconv.devices import registry as device_registry

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(file.name for file in FOLDER.glob("[0-9][0-9]_*.py"))

# A cluster of processes and an export take seconds; pages show the same, and are run each time. Olive has an
# environment of its own, in which tests/olive runs its example.
IN_RELEASES = {"13_torch.py", "16_dask.py"}
WITH_OLIVE = {"14_olive.py"}


def as_parameter(name):
    return pytest.param(name, marks=[pytest.mark.release] if name in IN_RELEASES else [], id=name)


@pytest.mark.parametrize("name", [as_parameter(name) for name in EXAMPLES if name not in WITH_OLIVE])
def test_an_example_prints_what_it_shows(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(list))  # for the converter that one registers
    monkeypatch.setattr(device_registry, "_registered", {})
    with warnings.catch_warnings():
        if name == "13_torch.py":
            warnings.simplefilter("ignore")  # torch's exporter warns of its own parts
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    shown = (FOLDER / name).read_text(encoding="utf-8").split("# Output:\n")[1]
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines() if not line.startswith("[torch.onnx]")]
    assert printed == [line.removeprefix("#").removeprefix(" ") for line in shown.splitlines()]


def test_examples_are_numbered_short_and_listed():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [int(name[:2]) for name in EXAMPLES] == list(range(1, 17))
    for name in EXAMPLES:
        assert f"]({name})" in listed
        assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) < 60
