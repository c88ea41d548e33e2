"""Checks of a release on each Python that is installed: ``make environments`` runs them, ``nox --list`` lists them.

The sessions test the built wheel, not the checkout: tests run in a copy of the repository without the package.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
OLDEST_PYTHON = "3.11"
PYTHONS = (OLDEST_PYTHON, "3.12", "3.13", "3.14")
EXTRAS = "notebook,report,dask,fast"

# What tests import besides the package and its extras. Tests with torch, aihwkit and the optimizers of other projects
# are left to `make test`: these packages have no wheels for some interpreters, and onnx_gconv works without them.
TEST_TOOLS = (
    *("pytest>=8.3,<9.2", "pytest-xdist>=3.6", "hypothesis>=6.100", "scipy>=1.11", "pyyaml>=6", "junitparser>=3.2"),
    *("nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"),
)
ABSENT = {
    *("torch", "aihwkit", "aihwkit_lightning", "onnxscript", "onnxsim", "onnxslim", "onnxoptimizer"),
    *("onnx_graphsurgeon", "sklearn", "olive"),
}

# These tests need the checkout: its sources, its benchmarks, or its pages and the packages of all examples.
OF_THE_CHECKOUT = (
    "tests/benchmarks",
    "tests/docs",
    "tests/examples",
    "tests/fuzz",
    "tests/test_extras.py",
    "tests/test_contributing.py",
)
NAMES_OF_THE_CHECKOUT = "a_folder_of_the_top_level_is_a_subpackage"

# Tests that the oldest ONNX Runtime cannot run, by expressions of `pytest -k`; each line says the release that can.
BEYOND_THE_OLDEST_RUNTIME = (
    "FusedConv and branch]",  # 1.27: before, its own form of the convolution refuses the tensor that is added
    "CausalConv and compute",  # 1.26, with a dilation 1.30, of packed sequences 1.32
    "tiles_of_ops_that_cannot_be_run and (RouterGateUpProj or MatMulBlockQuantizedFp8Weight)",  # 1.32
    # 1.28, for attributes of QMoE
    *("test_packed_layers and tiles_of_experts_compute", "experts_are_a_matrix_each"),
    # 1.28: MatMulNBits of two bits with float zero points or in float16
    "packed_codes_comes_back_bit_by_bit[2- and float-",
    "computes_what_the_packed_one_does and 2bits and (float- or float16)",
    "comes_through_a_sequence_or_an_optional and OptionalGetElement",  # 1.27
    "rebuild_the_same_weights_at_every_opset and (27] or 28])",  # 1.32
    # 1.29, for an attribute of sliding windows
    *("gemma2_sliding", "a_cache_that_the_model_does_not_fill", "an_error_in_what_the_model_does_fill"),
    "simulation_does_not_count_it_either",
    "gives_what_onnxruntime_gives[QuantizeLinear]",  # 1.32 from opset 23 on, else 1.30: float16 is cut off before
)

# The oldest onnx computes OneHot and ScatterElements wrongly, which is refused, and lacks an attribute of
# DequantizeLinear.
BEYOND_THE_OLDEST_ONNX = tuple(
    f"gives_what_onnxruntime_gives[{op_type}]" for op_type in ("OneHot", "ScatterElements", "DequantizeLinear")
)

# NumPy 1 adds numbers in another order.
BEYOND_THE_OLDEST_NUMPY = ("a_sum_of_pieces_is_that_of_all",)

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["package", "types", "tests", "oldest"]


@nox.session(python=OLDEST_PYTHON)
def package(session: nox.Session) -> None:
    """Write the wheel and the source distribution to dist/, and check their content and their description."""
    session.install("build>=1.2", "twine>=6", "check-wheel-contents>=0.6")
    files = _built(session)
    session.run("twine", "check", "--strict", *map(str, files))
    session.run("check-wheel-contents", str(_wheel(files)))
    DIST.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, DIST)


@nox.session(python=OLDEST_PYTHON)
def types(session: nox.Session) -> None:
    """Check that every public name has a complete type. torch is installed because the aihwkit integration uses it."""
    session.install("build>=1.2", "pyright>=1.1.400")
    # The pinned version of torch: the newest one may be a build of gigabytes for graphics cards.
    session.install("--constraint", str(ROOT / "constraints.txt"), f"{_wheel(_built(session))}[{EXTRAS},torch]")
    session.chdir(session.create_tmp())  # in the checkout, pyright would check its sources in place of the wheel
    session.run("pyright", "--verifytypes", "onnx_gconv", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the fast tests on the newest versions of all packages."""
    session.install("build>=1.2")
    wheel = _wheel(_built(session))
    _uninstall(session)
    session.install(f"{wheel}[{EXTRAS}]", *TEST_TOOLS)
    _run_fast_tests(session)


@nox.session(python=OLDEST_PYTHON)
def oldest(session: nox.Session) -> None:
    """Run the fast tests on the oldest versions that pyproject.toml allows.

    Deprecation warnings are not errors here: old packages warn about newer packages that they import.
    """
    session.install("build>=1.2")
    wheel = _wheel(_built(session))
    _uninstall(session)
    session.install("--constraint", str(ROOT / "constraints-oldest.txt"), f"{wheel}[{EXTRAS}]", *TEST_TOOLS)
    warnings = ["-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning"]
    but = (NAMES_OF_THE_CHECKOUT, *BEYOND_THE_OLDEST_RUNTIME, *BEYOND_THE_OLDEST_ONNX, *BEYOND_THE_OLDEST_NUMPY)
    _run_fast_tests(session, *warnings, but=but)


@nox.session(python=OLDEST_PYTHON)
def sbom(session: nox.Session) -> None:
    """Write dist/onnx_gconv.cdx.json: a list of all packages of an installation, in the CycloneDX format."""
    session.install("build>=1.2", "cyclonedx-bom>=7")
    wheel = _wheel(_built(session))
    environment = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    session.run("python", "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    session.run("python", "-m", "pip", "--quiet", "--python", python, "install", str(wheel))
    target = DIST / "onnx_gconv.cdx.json"
    target.parent.mkdir(exist_ok=True)
    # It looks for the version in the table itself, where a dynamic one is not.
    project = Path(session.create_tmp()) / "pyproject.toml"
    version = f'version = "{wheel.name.split("-")[1]}"'
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project.write_text(text.replace('dynamic = ["version"]', version), encoding="utf-8")
    options = ["--pyproject", str(project), "--mc-type", "library", "--output-reproducible"]
    session.run("cyclonedx-py", "environment", *options, "--output-file", str(target), python)


@nox.session(python=OLDEST_PYTHON)
def lock(session: nox.Session) -> None:
    """Write requirements-locked.txt: the newest versions of packages that tests need, and the hashes of their files.

    It leaves out torch, whose builds for CPUs alone have other versions and hashes than those on the Python Package
    Index, and the packages that are installed without their requirements.
    """
    session.install("uv>=0.9")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    source = Path(session.create_tmp()) / "requirements.in"
    source.write_text("\n".join(line for line in wanted if not re.match(r"torch\b", line)) + "\n", encoding="utf-8")
    options = ["--generate-hashes", "--universal", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
    options += ["--python-version", OLDEST_PYTHON, "--constraint", str(ROOT / "constraints.txt")]
    command = "--custom-compile-command=make lock"
    target = ROOT / "requirements-locked.txt"
    session.run("uv", "pip", "compile", "--upgrade", "--quiet", *options, command, "-o", str(target), str(source))


@nox.session(python=OLDEST_PYTHON)
def locked(session: nox.Session) -> None:
    """Run the fast tests on the packages of requirements-locked.txt, whose hashes are checked."""
    session.install("build>=1.2")
    wheel = _wheel(_built(session))
    _uninstall(session)
    session.install("--require-hashes", "--requirement", str(ROOT / "requirements-locked.txt"))
    session.install("--no-deps", str(wheel))
    _run_fast_tests(session)


def _built(session: nox.Session) -> list[Path]:
    """The source distribution, and the wheel that is built from it. A build leaves files behind, so a copy is built."""
    folder = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    sources = shutil.copytree(
        ROOT, folder / "sources", symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info")
    )
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"), str(sources), silent=True)
    return sorted((folder / "dist").iterdir())


def _uninstall(session: nox.Session) -> None:
    """Remove the package of an environment that is used again: pip would keep it, as its version is the same."""
    session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "onnx_gconv")


def _wheel(files: list[Path]) -> Path:
    [wheel] = (file for file in files if file.suffix == ".whl")
    return wheel


def _run_fast_tests(session: nox.Session, *options: str, but: tuple[str, ...] = (NAMES_OF_THE_CHECKOUT,)) -> None:
    """Run the tests that are not slow, except those that need the checkout or packages that are not installed.

    The files that are left out are logged.
    """
    folder = Path(tempfile.mkdtemp(dir=session.create_tmp())).resolve()  # not relative to a folder that is left
    copy = shutil.copytree(ROOT, folder / "copy", ignore=_left_behind)
    session.chdir(copy)
    left_out = [*OF_THE_CHECKOUT, *(str(path.relative_to(copy)) for path in _tests_of_absent_packages(copy))]
    session.log("left out: %s", ", ".join(left_out))
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not release", *options]
    command += ["-k", f"not ({' or '.join(but)})"]
    # Trained models of other packages are not copied. Tests of them are skipped unless `make test` has installed them.
    models = os.environ.get("ONNX_GCONV_REAL_MODELS", str(ROOT / ".cache" / "real-models"))
    environment: dict[str, str | None] = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ONNX_GCONV_REAL_MODELS": models,
        "CI": None,  # with it, tests without their package would fail, in place of being skipped
    }
    chosen = session.posargs or ["tests", "--numprocesses=2", "--dist=loadgroup"]  # as `make test` runs them
    session.run(*command, *chosen, *(f"--ignore={path}" for path in left_out), env=environment)


def _left_behind(folder: str, names: list[str]) -> set[str]:
    """What is not copied: at the top, the package and what it was built into; tests/passes goes with the tests."""
    packages = {"onnx_gconv", "passes", "build", "dist"} if Path(folder) == ROOT else set()
    return {name for name in names if name.startswith(".") or name == "__pycache__" or name in packages}


def _tests_of_absent_packages(copy: Path) -> Iterator[Path]:
    """The test files that cannot be loaded, as they or what they import needs a package of `ABSENT`."""
    for path in sorted((copy / "tests").rglob("test_*.py")):
        if ABSENT & _imported(path, copy, seen=set()):
            yield path


def _imported(path: Path, copy: Path, *, seen: set[Path]) -> set[str]:
    """The packages that are imported when a file is loaded, with those of imported modules of the tests.

    What only a function imports is left out: its tests are skipped if the package is not there.
    """
    seen.add(path)
    found: set[str] = set()
    for node in _loaded(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found.add(name.partition(".")[0])
            module = copy.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and module.exists() and module not in seen:
                found |= _imported(module, copy, seen=seen)
    return found


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that do not stand in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _loaded(child)
