"""A converter that an installed package brings does all that those of onnx_gconv do; without it, messages name it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.converter_packages import install

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.xdist_group("converters_of_packages")  # one worker takes all steps

# Runs steps in one process: command lines as lists, and statements of Python, whose `found` is kept.
DRIVER = """
import contextlib, io, json, sys
from onnx_gconv.cli import main
ended = []
for step in json.load(sys.stdin):
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        if isinstance(step, list):
            sys.argv = ["onnx-gconv", *step]
            code = main()
        else:
            names = {}
            try:
                exec(step, names)
                out.write(json.dumps(names.get("found")))
            except Exception as error:
                code = type(error).__name__
                errors.write(str(error))
    ended.append([code, out.getvalue(), errors.getvalue()])
print(json.dumps(ended))
"""

CONFIGURATION = """
[defaults]
converter = { name = "reference-pair", midpoint = 8.0 }
device = { g_max = 20.0 }
"""

MISSING = (
    "was mapped with the converter 'ReferencePair' of the package lab-converters 1.2; install it (pip install "
    "lab-converters)"
)


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


def run(steps, cwd, *sites):
    paths = [*map(str, sites), str(ROOT)]
    found = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(steps), cwd=cwd, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return [Ended(*each) for each in json.loads(found.stdout)]


@pytest.fixture(scope="module")
def folder(parse, normal, tmp_path_factory):
    """A folder with a model, a configuration, and the package in a place of its own."""
    found = tmp_path_factory.mktemp("packages")
    text = "g (float[2,5] x) => (float[2,4] y) { [one] a = MatMul(x, W) y = Gemm(a, V, c) }"
    ir.save(parse(text, W=normal(5, 4), V=normal(4, 4, seed=1), c=normal(4, seed=2)), found / "in.onnx")
    (found / "gconv.toml").write_text(CONFIGURATION)
    install(found / "site")
    return found


OPTIONS = ["--converter", "reference-pair", "--converter-option", "midpoint=8.0", "--g-max", "20"]


@pytest.fixture(scope="module")
def with_package(folder):
    """What each step gives where the package is installed."""
    steps = {
        "map": ["map", "in.onnx", "-o", "out.onnx", *OPTIONS, "--json"],
        "verify": ["verify", "in.onnx", "out.onnx", "--json"],
        "inspect": ["inspect", "out.onnx"],
        "restore": ["restore", "out.onnx", "-o", "plain.onnx"],
        "handoff": ["handoff", "out.onnx", "-o", "bundle", "--array", "4x4", "--bias-rows", "1", "--json"],
        "program": "from pathlib import Path; from tests.handoff.chip import programmed; "
        "programmed(Path('bundle'), sigma=0.01, dropped=0.0).write(Path('measured.h5'))",
        "readback": [
            "readback", "out.onnx", "measured.h5", "--bundle", "bundle", "-o", "m.onnx", "--original", "in.onnx",
        ],
        "verify measured": ["verify", "in.onnx", "m.onnx", "--json"],
        "open": "from onnx_gconv.handoff import open_bundle; found = len(open_bundle('bundle').layers)",
        "file": ["map", "in.onnx", "-o", "of-file.onnx", "--config", "gconv.toml"],
        "keywords": "import onnx_gconv as g; g.map_model('in.onnx', 'of-keywords.onnx', "
        "{'name': 'reference-pair', 'midpoint': 8.0}, g_max=20.0)",
        "check": "import onnx_ir; from onnx_gconv.passes import CheckMapping; CheckMapping()(onnx_ir.load('out.onnx'))",
        "bytes": "from pathlib import Path; found = len({Path(f).read_bytes() for f in ('out.onnx', 'of-file.onnx', "
        "'of-keywords.onnx')})",
        "what it would do": ["inspect", "in.onnx", "--converter", "reference-pair", "--json"],
        "schema": ["config", "schema"],
        "list": ["converters", "--json"],
        "table": ["converters"],
        "help": ["map", "--help"],
        "wrong setting": ["map", "in.onnx", *OPTIONS[:2], "--converter-option", "midpiont=8.0"],
        "wrong value": ["map", "in.onnx", *OPTIONS[:2], "--converter-option", "midpoint=80"],
        "no number": ["map", "in.onnx", *OPTIONS[:2], "--converter-option", "midpoint=high"],
        "no TOML": ["map", "in.onnx", *OPTIONS[:2], "--converter-option", "midpoint=1,5"],
        "wrong setting in a file": "from onnx_gconv import Configuration as C\n"
        "C.of({'defaults': {'converter': {'name': 'reference-pair', 'midpiont': 1.0}}})",
        "setting of another": ["map", "in.onnx", *OPTIONS[:2], "--exact"],
    }  # fmt: skip
    return dict(zip(steps, run(list(steps.values()), folder, folder / "site"), strict=True))


@pytest.fixture(scope="module")
def without_package(folder, with_package):
    """What each step gives with the same files where the package is missing."""
    steps = {
        "verify": ["verify", "in.onnx", "out.onnx"],
        "handoff": ["handoff", "out.onnx", "-o", "again", "--array", "4x4"],
        "readback": ["readback", "out.onnx", "measured.h5", "--bundle", "bundle", "-o", "again.onnx"],
        "check": "import onnx_ir; from onnx_gconv.passes import CheckMapping; CheckMapping()(onnx_ir.load('out.onnx'))",
        "inspect": ["inspect", "out.onnx"],
        "inspect json": ["inspect", "out.onnx", "--json"],
        "explain": ["explain", "out.onnx", "W"],
        "restore": ["restore", "out.onnx", "-o", "plain-without.onnx"],
        "open": "from onnx_gconv.handoff import open_bundle; found = len(open_bundle('bundle').layers)",
        "map": ["map", "in.onnx", *OPTIONS],
        "file": ["map", "in.onnx", "--config", "gconv.toml"],
        "check of the file": ["config", "check", "gconv.toml"],
    }
    return dict(zip(steps, run(list(steps.values()), folder), strict=True))


# With the package


@pytest.mark.parametrize(
    "step",
    [
        "map",
        "verify",
        "restore",
        "handoff",
        "program",
        "readback",
        "verify measured",
        "open",
        "file",
        "keywords",
        "check",
    ],
)
def test_every_step_works(with_package, step):
    found = with_package[step]
    assert found.code == 0, found


def test_the_mapped_model_says_where_the_converter_is_from(folder, with_package):
    [document] = [entry.value for entry in onnx.load(folder / "out.onnx").metadata_props if entry.key == "onnx_gconv"]
    for weight in json.loads(document)["weights"]:
        assert weight["converter"] == {
            "name": "ReferencePair",
            "parameters": {"g_max": 20.0, "g_min": 0.0, "midpoint": 8.0},
            "origin": {"package": "lab-converters", "version": "1.2", "module": "lab_converters"},
        }
    bundle = json.loads((folder / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert {layer["converter"]["origin"]["package"] for layer in bundle["layers"]} == {"lab-converters"}


def test_the_rule_is_that_of_the_package(folder, with_package):
    tensors = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(folder / "out.onnx").graph.initializer}
    weight = onnx.numpy_helper.to_array(onnx.load(folder / "in.onnx").graph.initializer[0])
    scale = np.float32(1) / np.abs(weight).max() * np.float32(8)
    np.testing.assert_allclose(tensors["W.g"], 8 + weight * scale, rtol=1e-6)
    assert set(tensors["W.g_reference"].ravel()) == {8.0}


def test_what_was_mapped_comes_back(folder, with_package):
    one, other = (
        {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(folder / name).graph.initializer}
        for name in ("in.onnx", "plain.onnx")
    )
    for name in ("W", "V"):
        np.testing.assert_allclose(other[name], one[name], atol=2e-6)
    assert with_package["verify"].json["passed"]
    assert with_package["verify measured"].json["passed"]


def test_options_file_and_keywords_write_the_same_bytes(with_package):
    assert with_package["bytes"].json == 1


def test_inspect_shows_its_name(with_package):
    shown = " ".join(with_package["inspect"].stdout.split())
    assert "ReferencePair, 0 to 20 µS, midpoint = 8.0, of the package lab-converters 1.2" in shown
    assert {item["converter"] for item in with_package["what it would do"].json["mapped"]} == {"ReferencePair"}


def test_the_schema_has_its_name_and_its_settings(with_package):
    table = with_package["schema"].json["$defs"]["ConverterSettings"]["properties"]
    assert table["name"]["enum"][-1] == "reference-pair"
    assert table["midpoint"]["description"] == "For reference-pair: midpoint (optional)."


def test_it_is_listed_with_its_package(with_package):
    [entry] = [each for each in with_package["list"].json["converters"] if each["package"] is not None]
    assert (entry["name"], entry["class"]) == ("reference-pair", "ReferencePair")
    assert entry["package"] == {"name": "lab-converters", "version": "1.2"}
    assert entry["settings"] == [{"name": "midpoint", "needed": False, "default": None}]
    assert "lab-converters 1.2" in with_package["table"].stdout
    assert "reference-pair" in with_package["help"].stdout


@pytest.mark.parametrize(
    ("step", "message"),
    {
        "wrong setting": "--converter-option: the converter reference-pair has no setting 'midpiont'; did you "
        "mean midpoint?",
        "wrong value": "--converter: midpoint should lie between g_min = 0 and g_max = 25 µS, but it is 80",
        "no number": "--converter: the converter reference-pair refuses its settings: could not convert string to "
        "float: 'high'",
        "no TOML": "--converter-option: the value of midpoint should be in TOML syntax, such as 5.0, true, [1, 3] or a "
        "word, but it is '1,5'",
        "wrong setting in a file": "defaults.converter.midpiont: the converter reference-pair has no such setting; "
        "did you mean midpoint?",
        "setting of another": "--exact needs --converter single-pair, not reference-pair; leave one of them out",
    }.items(),
)
def test_what_is_wrong_with_its_settings_is_said_in_one_line(with_package, step, message):
    found = with_package[step]
    assert found.code in {2, "ConfigError"}
    assert found.stderr.removeprefix("onnx-gconv: ").rstrip("\n") == message


# Without the package


@pytest.mark.parametrize(
    ("step", "code", "message"),
    [
        ("verify", 1, f"'W': it {MISSING}"),
        ("handoff", 2, f"onnx-gconv: 'out.onnx': the weight 'W' {MISSING}"),
        ("explain", 2, f"onnx-gconv: 'out.onnx': the weight 'W' {MISSING}"),
        ("readback", 2, f"the weight 'W' {MISSING}"),
        ("check", "VerificationError", f"it {MISSING}"),
    ],
)
def test_without_the_package_each_command_says_what_to_install(without_package, step, code, message):
    found = without_package[step]
    assert found.code == code
    assert message in " ".join((found.stdout + found.stderr).split())


def test_inspecting_and_restoring_need_no_package(folder, without_package):
    assert without_package["inspect"].code == 0
    assert f"it {MISSING}" in " ".join(without_package["inspect"].stdout.split())
    assert {item["converter"] for item in without_package["inspect json"].json["mapped"]} == {"ReferencePair"}
    assert without_package["restore"].code == 0
    assert (folder / "plain.onnx").read_bytes() == (folder / "plain-without.onnx").read_bytes()
    assert without_package["open"].json == 2


@pytest.mark.parametrize(
    ("step", "place"),
    [
        ("map", "--converter: "),
        ("file", "'gconv.toml', line 3: defaults.converter.name: "),
        ("check of the file", "'gconv.toml', line 3: defaults.converter.name: "),
    ],
)
def test_without_the_package_its_name_is_unknown(without_package, step, place):
    found = without_package[step]
    assert found.code == 2
    assert f"{place}there is no converter 'reference-pair'; " in found.stderr
    assert "that of a package has to be installed" in found.stderr
    assert len(found.stderr.splitlines()) == 1


# Packages that are wrong


@pytest.fixture(scope="module")
def with_wrong_packages(folder):
    """A package that cannot be loaded, two that bring the same name, one with a name of our own, and the right one."""
    wrong = folder / "wrong"
    install(wrong, name="broken-converters", version="0.1", points={"broken": "no_such_module:Broken"})
    install(wrong, name="other-converters", version="2.0", points={"double": "other_module:Double"})
    install(wrong, name="third-converters", version="3.0", points={"double": "third_module:Double"})
    install(wrong, name="vain-converters", version="4.0", points={"single-pair": "lab_converters:ReferencePair"})
    steps = {
        "built in": ["map", "in.onnx", "-o", "b.onnx", "--converter", "single-pair", "--json"],
        "broken": ["map", "in.onnx", "--converter", "broken"],
        "double": ["map", "in.onnx", "--converter", "double"],
        "good": ["map", "in.onnx", "-o", "g.onnx", "--converter", "reference-pair"],
        "list": ["converters", "--json"],
        "schema": ["config", "schema"],
    }
    return dict(zip(steps, run(list(steps.values()), folder, wrong, folder / "site"), strict=True))


def test_wrong_packages_concern_nobody_who_does_not_ask_for_them(with_wrong_packages):
    assert with_wrong_packages["built in"].code == 0
    assert {item["converter"] for item in with_wrong_packages["built in"].json["mapped"]} == {
        "SinglePairConductanceConverter"
    }
    assert with_wrong_packages["good"].code == 0
    names = [each["name"] for each in with_wrong_packages["list"].json["converters"]]
    assert names[-1] == "reference-pair"
    assert names.count("single-pair") == 1
    assert with_wrong_packages["schema"].code == 0


def test_a_converter_that_cannot_be_loaded_is_one_line_that_names_the_package(with_wrong_packages):
    assert with_wrong_packages["broken"].stderr == (
        "onnx-gconv: --converter: the converter 'broken' of the package broken-converters 0.1 cannot be loaded: "
        "ModuleNotFoundError: No module named 'no_such_module'; update the package (pip install --upgrade "
        "broken-converters), or uninstall it\n"
    )


def test_a_name_that_two_packages_bring_is_refused(with_wrong_packages):
    assert "onnx-gconv: --converter: the converter 'double' of the package " in with_wrong_packages["double"].stderr
    assert " brings one of that name, too; uninstall one of them\n" in with_wrong_packages["double"].stderr


def test_all_that_is_wrong_is_listed(with_wrong_packages):
    problems = with_wrong_packages["list"].json["problems"]
    assert len(problems) == 4
    assert (
        "the converter 'single-pair' of the package vain-converters 4.0 cannot be used: onnx_gconv has a converter of "
        "that name; uninstall the package (pip uninstall vain-converters), or ask its authors for another name"
    ) in problems
