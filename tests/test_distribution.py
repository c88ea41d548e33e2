"""The wheel and the source distribution work without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import onnx_gconv

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.release, pytest.mark.xdist_group("distribution")]


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the source distribution, and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    # Of a copy: building leaves files beside the sources, which would meet those of another build.
    sources = shutil.copytree(
        ROOT, folder / "sources", symlinks=True, ignore=shutil.ignore_patterns(".*", "*.egg-info")
    )
    run(sys.executable, "-m", "build", "--outdir", folder, sources, cwd=folder)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of an otherwise empty environment that has the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", distributions[0], cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_passes_and_models_as_subpackages_and_nothing_at_the_top(
    distributions: tuple[Path, Path],
) -> None:
    names = zipfile.ZipFile(distributions[0]).namelist()
    assert {name.split("/")[0] for name in names} == {"onnx_gconv", names[-1].split("/")[0]}
    data = ("models/digits_cnn.onnx", "models/digits_test.npz", "integrations/olive_config.json", "py.typed")
    for name in ("passes/map_conductances.py", *data):
        assert f"onnx_gconv/{name}" in names


def test_the_wheel_holds_every_module_of_the_checkout(distributions: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    modules = {
        str(Path("onnx_gconv", "" if folder.name == "onnx_gconv" else folder.name, path.relative_to(folder)))
        for folder in (ROOT / "onnx_gconv", ROOT / "passes", ROOT / "models")
        for path in folder.rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    assert modules <= names


def test_the_wheel_and_the_source_distribution_have_the_version_of_the_package(
    distributions: tuple[Path, Path],
) -> None:
    for distribution in distributions:
        assert distribution.name.startswith(f"onnx_gconv-{onnx_gconv.__version__}")


def test_the_source_distribution_holds_the_licence_and_the_passes_once(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert "LICENSE" in names
    assert "passes/map_conductances.py" in names
    assert "onnx_gconv/passes/map_conductances.py" not in names


def test_the_demo_runs_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    printed = json.loads(run(installed / "onnx-gconv", "demo", "--json", cwd=tmp_path).stdout)
    assert printed["passed"] is printed["verify"]["passed"] is True
    assert len(printed["map"]["mapped"]) == 5
    assert (tmp_path / "onnx-gconv-demo" / "digits_cnn.gconv.onnx").exists()


def test_the_top_level_folder_of_the_passes_is_no_package_of_its_own(installed: Path, tmp_path: Path) -> None:
    found = run(
        installed / "python",
        "-c",
        "import importlib.util as u; print(u.find_spec('passes'), u.find_spec('models'))",
        cwd=tmp_path,
    )
    assert found.stdout.strip() == "None None"


def test_torch_is_not_needed(installed: Path, tmp_path: Path) -> None:
    found = run(installed / "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))", cwd=tmp_path)
    assert found.stdout.strip() == "None"
