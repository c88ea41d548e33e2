"""The wheel and the source distribution work without the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
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
    """The folder with the programs of an otherwise empty environment, in which the recipe of a container has run."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    shutil.copy(distributions[0], folder)
    [line] = recipe("RUN")
    here = line.replace("/tmp/", f"{folder}/")  # noqa: S108 - where a container has it
    run("sh", "-c", f'PATH="{folder}/bin:$PATH"; {here}', cwd=folder)
    assert not list(folder.glob("*.whl"))
    return folder / "bin"


def recipe(instruction: str) -> list[str]:
    """What the recipe of a container in the guide has for an instruction."""
    page = (ROOT / "docs" / "guide" / "continuous-integration.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```dockerfile\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{instruction} (.*)$", block, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def mapped(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mapped model; not to be changed."""
    folder = tmp_path_factory.mktemp("mapped")
    shutil.copy(ROOT / "models" / "digits_mlp.onnx", folder / "mlp.onnx")
    run(installed / "onnx-gconv", "map", "mlp.onnx", cwd=folder)
    return folder / "mlp.gconv.onnx"


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


def test_the_source_distribution_holds_the_licence_and_the_passes_once_and_no_tests(
    distributions: tuple[Path, Path],
) -> None:
    with tarfile.open(distributions[1]) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert "LICENSE" in names
    assert "passes/map_conductances.py" in names
    assert "onnx_gconv/passes/map_conductances.py" not in names
    assert not any(name.startswith("tests") for name in names)


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


def test_the_recipe_of_a_container_runs_the_command_line_with_a_python_that_the_wheel_takes(
    installed: Path, mapped: Path
) -> None:
    [entry] = recipe("ENTRYPOINT")
    [program] = json.loads(entry)
    page = (ROOT / "docs" / "guide" / "continuous-integration.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^    docker run .* onnx-gconv (check .*)$", page, flags=re.MULTILINE)
    shutil.copy(mapped, mapped.with_name("model.gconv.onnx"))
    assert run(installed / program, *shlex.split(command), cwd=mapped.parent).stdout.startswith("PASSED: ")
    [version] = re.findall(r"python:3\.(\d+)-slim", recipe("FROM")[0])
    assert f"Programming Language :: Python :: 3.{version}" in PROJECT["classifiers"]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What an extra is for, tried in an environment that has nothing else.
PROGRAMS = {
    "report": """
import onnx_gconv as gconv
assert gconv.write_bundle("mlp.gconv.onnx", "bundle", (64, 64), pictures=True).pictures.files
gconv.simulate("mlp.gconv.onnx", "pcm", times="1s", repeats=1).plot().savefig("plot.png")
""",
    "notebook": """
import onnx_gconv as gconv
report = gconv.inspect_model("mlp.gconv.onnx")
assert list(report.to_frame()["weight"]) == [item.name for item in report.mapped]
assert report._repr_html_().startswith("<pre")
assert gconv.simulate("mlp.gconv.onnx", "pcm", times="1s", repeats=1).plot()._repr_png_()[1:4] == b"PNG"
""",
    "fast": """
import os
import subprocess
import sys
program = [sys.executable, "-m", "onnx_gconv", "simulate", "mlp.gconv.onnx", "--device", "pcm", "--json"]
program += ["--times", "1s,1d", "--repeats", "2"]
kinds = ["numba", "numpy"]
found = [subprocess.check_output(program, env={**os.environ, "ONNX_GCONV_KERNELS": kind}) for kind in kinds]
assert found[0] == found[1]
""",
    "dask": """
from distributed import LocalCluster
import onnx_gconv as gconv
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
    report = gconv.simulate("mlp.gconv.onnx", "pcm", times="1s", repeats=2, dask=cluster.scheduler_address)
assert report.times[0].values == gconv.simulate("mlp.gconv.onnx", "pcm", times="1s", repeats=2).times[0].values
""",
}


@pytest.mark.parametrize("extra", PROGRAMS)
def test_an_extra_alone_is_enough_for_what_it_is_for(
    distributions: tuple[Path, Path], mapped: Path, tmp_path: Path, extra: str
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    wheel = f"{distributions[0]}[{extra}]"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=tmp_path)
    shutil.copy(mapped, tmp_path)
    run(python, "-c", PROGRAMS[extra], cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "needed", "extra"),
    [
        (["handoff", "mlp.gconv.onnx", "-o", "bundle", "--array", "64x64", "--pictures"], "matplotlib", "report"),
        (["simulate", "mlp.gconv.onnx", "--repeats", "1", "--plot", "plot.png"], "matplotlib", "report"),
        (["simulate", "mlp.gconv.onnx", "--repeats", "1", "--dask", "tcp://127.0.0.1:1"], "distributed", "dask"),
    ],
)
def test_without_an_extra_a_command_says_what_to_install(
    installed: Path, mapped: Path, arguments: list[str], needed: str, extra: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [str(installed / "onnx-gconv"), *arguments]
    found = subprocess.run(
        command, check=False, cwd=mapped.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2
    assert found.stderr.endswith(f", which is missing; pip install {needed}\n")
    assert any(re.match(rf"{needed}\W", requirement) for requirement in PROJECT["optional-dependencies"][extra])


def test_without_an_extra_a_function_says_what_to_install(installed: Path, mapped: Path) -> None:
    program = """
import onnx_gconv as gconv
try:
    gconv.inspect_model("mlp.gconv.onnx").to_frame()
except gconv.ConfigError as error:
    print(error)
"""
    found = run(installed / "python", "-c", program, cwd=mapped.parent).stdout
    assert found == "data frames need pandas, which is missing; pip install pandas\n"
    assert any(item.startswith("pandas") for item in PROJECT["optional-dependencies"]["notebook"])
