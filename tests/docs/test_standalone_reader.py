"""The reader on the page about bundles needs only the packages that the page names: NumPy, and h5py for HDF5."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.docs.pages import ROOT, blocks

READER = next(block.text for block in blocks("docs/bundle/readers.md") if block.language == "python")

# The program is started with -I -S, so that sys.path has only the standard library until the program adds `packages`.
PROGRAM = """
import sys

packages, folder, output, missing = sys.argv[1:]
sys.path.append(packages)
for name in missing.split(","):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name == name, error
    else:
        sys.exit(f"{name} should not be found")

with open("reader.py", encoding="utf-8") as file:
    exec(compile(file.read(), "reader.py", "exec"))
np.savez(output, **{name: weight for (_, name), weight in read_weights(folder).items()})
files = [file for module in sys.modules.values() if (file := getattr(module, "__file__", None))]
assert all(file.startswith(tuple(sys.path)) for file in files), files
print(*sorted({file[len(packages) + 1:].partition("/")[0] for file in files if file.startswith(packages)}))
"""

OTHERS = ["onnx_gconv", "onnx", "onnx_ir", "onnxruntime", "ml_dtypes", "pydantic", "google"]


def onnx_gconv(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onnx_gconv", *map(str, arguments)]
    subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.fixture
def read_alone(tmp_path):
    """Runs the reader in a process that finds only the given packages."""

    def read(folder, packages):
        only = tmp_path / "packages"
        only.mkdir()
        for name in packages:
            place = Path(find_spec(name).submodule_search_locations[0])
            (only / name).symlink_to(place)
            if (libraries := place.with_name(f"{name}.libs")).is_dir():
                (only / libraries.name).symlink_to(libraries)
        (tmp_path / "reader.py").write_text(READER, encoding="utf-8")
        missing = [*OTHERS, *({"h5py"} - set(packages))]
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, only, folder, tmp_path / "read.npz", ",".join(missing)]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout.split() == packages  # these were imported
        with np.load(tmp_path / "read.npz") as weights:
            return dict(weights)

    return read


@pytest.mark.parametrize(("arrays", "packages"), [("hdf5", ["h5py", "numpy"]), ("npz", ["numpy"])])
def test_the_weights_of_the_digits_are_read_without_other_packages(tmp_path, read_alone, arrays, packages):
    mapped = tmp_path / "digits_cnn.gconv.onnx"
    onnx_gconv("map", ROOT / "models" / "digits_cnn.onnx", "-o", mapped)
    onnx_gconv("handoff", mapped, "--array", "64x64", "--arrays", arrays)
    folder = tmp_path / "digits_cnn.gconv"
    found = read_alone(folder, packages)
    plain = {item.name: numpy_helper.to_array(item) for item in onnx.load(folder / "plain.onnx").graph.initializer}
    assert len(found) == 5
    for name, weight in found.items():
        assert (weight.dtype, weight.shape) == (plain[name].dtype, plain[name].shape)
        assert weight.tobytes() == plain[name].tobytes()
