"""How the package is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnx_gconv

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["onnx", "onnx_ir", "onnxruntime", "numpy", "torch", "ml_dtypes", "h5py", "pydantic", "rich.table"]


def python(code, cwd, *options):
    """What a fresh interpreter prints as JSON, outside of the checkout."""
    command = [sys.executable, *options, "-c", code]
    found = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


@pytest.mark.parametrize("name", onnx_gconv.__all__)
def test_every_public_name_is_an_attribute_of_the_package(name):
    assert getattr(onnx_gconv, name).__name__ == name


@pytest.mark.parametrize("name", onnx_gconv.__all__)
def test_dir_lists_every_public_name(name):
    assert name in dir(onnx_gconv)


def test_dir_is_sorted_and_lists_no_name_twice():
    names = dir(onnx_gconv)
    assert names == sorted(set(names))


SUBMODULES = sorted(set(dir(onnx_gconv)) - set(onnx_gconv.__all__) - {n for n in dir(onnx_gconv) if n[:2] == "__"})


def test_dir_lists_public_names_and_submodules_and_nothing_that_the_package_imports(tmp_path):
    names, loaded = python(
        "import json, onnx_gconv, sys; print(json.dumps([dir(onnx_gconv), sorted(sys.modules)]))", tmp_path
    )
    assert [name for name in names if name.startswith("_") and not name.startswith("__")] == []
    assert not {"importlib", "TYPE_CHECKING", "annotations", "Any"} & set(names)
    assert {"passes", "converters", "handoff", "mapping"} <= set(names)
    assert [name for name in loaded if name.startswith("onnx_gconv.")] == ["onnx_gconv.version"]


def test_submodules_are_loaded_when_they_are_first_used(tmp_path):
    names = ", ".join(f"onnx_gconv.{name}.__name__" for name in SUBMODULES)
    found = python(f"import json, onnx_gconv; print(json.dumps([{names}]))", tmp_path)
    assert found == [f"onnx_gconv.{name}" for name in SUBMODULES]


PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*onnx_gconv.__all__, *SUBMODULES])
def test_the_page_about_python_has_every_public_name(name):
    assert re.search(rf"\b{name}\b", PAGE)


def test_results_have_the_attributes_that_the_page_names():
    rows = re.findall(r"^\| `gconv\.\w+\(.*?\)` \| `gconv\.(\w+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 13
    for result, described in rows:
        kind = getattr(onnx_gconv, result)
        known = {*dir(kind), *getattr(kind, "__dataclass_fields__", ()), *getattr(kind, "model_fields", ())}
        known |= set(re.findall(r"^\s+(\w+):", kind.__doc__, flags=re.MULTILINE))
        assert set(re.findall(r"`(\w+)(?:\(.*?\))?`", described)) - {"with"} <= known, result


def test_an_unknown_attribute_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'onnx_gconv' has no attribute 'nothing'"):
        _ = onnx_gconv.nothing


def test_star_import_gives_the_public_names(tmp_path):
    names = python(
        "import json\nbefore = set(globals())\nfrom onnx_gconv import *\n"
        "print(json.dumps(sorted(set(globals()) - before - {'before'})))",
        tmp_path,
    )
    assert names == sorted(onnx_gconv.__all__)


@pytest.mark.parametrize("module", ["onnx_gconv", "onnx_gconv.errors", "onnx_gconv.cli"])
def test_importing_the_command_line_imports_nothing_heavy(tmp_path, module):
    loaded = python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_using_the_library_never_imports_torch_and_loads_modules_of_the_top_level_once(tmp_path):
    loaded = python(
        "import json, sys, onnx_gconv\nfor name in onnx_gconv.__all__: getattr(onnx_gconv, name)\n"
        "import onnx_gconv.passes, onnx_gconv.models, onnx_gconv.demo\nprint(json.dumps(sorted(sys.modules)))",
        tmp_path,
    )
    assert {"onnx_gconv.verification", "onnx_gconv.passes", "onnx_gconv.models"} <= set(loaded)
    assert not {"torch", "passes", "models"} & set(loaded)


@pytest.mark.parametrize("name", ["passes", "models"])
def test_a_folder_of_the_top_level_is_a_subpackage(tmp_path, name):
    if not (ROOT / "onnx_gconv").samefile(Path(onnx_gconv.__file__).parent):
        pytest.skip("the installed package is not that of this checkout")
    file = python(f"import json, onnx_gconv.{name} as m; print(json.dumps(m.__file__))", tmp_path)
    assert Path(file).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["passes", "models"])
def test_there_is_no_top_level_module_of_that_name_outside_the_checkout(tmp_path, name):
    spec = f"import importlib.util, json; print(json.dumps(importlib.util.find_spec({name!r}) is None))"
    assert python(spec, tmp_path, "-I") is True  # not even if PYTHONPATH has the checkout


def test_the_package_is_typed():
    assert (Path(onnx_gconv.__file__).parent / "py.typed").exists()


def test_the_module_runs_as_the_command(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "onnx_gconv", "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "Usage: onnx-gconv" in found.stdout


@pytest.mark.parametrize("room", ["operations", "passes"])
def test_rooms_whose_names_are_loaded_when_they_are_first_used_have_all_of_them(room):
    module = getattr(onnx_gconv, room)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match=f"module 'onnx_gconv.{room}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018 - that is the test
