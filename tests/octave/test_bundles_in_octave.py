"""Bundles in GNU Octave and h5dump, which have to be installed: the lines of README.txt, and labels."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest

from onnx_gconv import map_model, open_bundle, write_bundle
from onnx_gconv.models import model_path


def run(*command, folder):
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


def lines_for_octave(text):
    """The lines of each block that Octave runs, by what they read."""
    blocks = re.finditer(r"^(?P<file>\S+) in (?P<language>.+)\n(?P<lines>(?:    .*\n)+)", text, flags=re.MULTILINE)
    return {found["file"]: found["lines"] for found in blocks if "Octave" in found["language"]}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("octave") / "m.gconv.onnx"
    map_model(model_path("digits_cnn.onnx"), path)
    return path


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_the_lines_of_the_readme_read_a_tile(mapped, tmp_path, arrays):
    write_bundle(mapped, tmp_path / "b", (64, 64), arrays=arrays, csv=True, formats=["npy"])
    with open_bundle(tmp_path / "b") as bundle:
        targets = bundle.tile("L000/T0000").conductances()["g_plus"]
        blocks = lines_for_octave((tmp_path / "b" / "README.txt").read_text(encoding="utf-8"))
        assert list(blocks) == [bundle.manifest.arrays.path, "npy", "targets.csv"]
    for lines in blocks.values():
        script = f"{lines}\nprintf('%d %d\\n', size(targets)); printf('%.17g\\n', targets');"
        shape, *numbers = run("octave-cli", "--quiet", "--eval", script, folder=tmp_path / "b").splitlines()
        assert tuple(map(int, shape.split())) == targets.shape
        np.testing.assert_array_equal(np.float32(numbers).reshape(targets.shape), targets)


def test_h5dump_shows_the_labels(mapped, tmp_path):
    write_bundle(mapped, tmp_path / "b", (64, 64))
    shown = run("h5dump", "-A", tmp_path / "b" / "conductances.h5", folder=tmp_path)
    assert {"format", "unit", "array", "layer", "known_as", "devices", "tile", "device", "range"} <= set(
        re.findall(r'ATTRIBUTE "(\w+)"', shown)
    )
    tile = run("h5dump", "-A", "-d", "/L003/T0001/g_minus", tmp_path / "b" / "conductances.h5", folder=tmp_path)
    found = dict(re.findall(r'ATTRIBUTE "(\w+)" \{.*?\(0\): (.*?)\n', tile, flags=re.DOTALL))
    assert found == {
        "device": '"g_minus"', "layer": '"L003"', "tile": '"L003/T0001"', "unit": '"uS"', "range": "0, 25"
    }  # fmt: skip
