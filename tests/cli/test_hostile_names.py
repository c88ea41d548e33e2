"""Names, texts and files that anyone may have written: no command gives their control characters to the terminal."""

from __future__ import annotations

import csv
import json
import logging
import shutil

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper

from tests import graphs

ESCAPE = "a\x1b[31mred\x1b]0;title\x07\x9b2J\u202e\x7f"
LINES = "W\nPASSED: everything holds.\nx"
FORMULA = "=cmd|'/c calc'!A0"
MARKUP = "[red]W[/red]:smile:"
NAMES = [ESCAPE, LINES, FORMULA, MARKUP]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A model of four weights with such names everywhere, in a folder with such a name."""
    folder = tmp_path_factory.mktemp("hostile") / "f\x1b[1m"
    folder.mkdir()
    weights = {name: np.eye(4, dtype=np.float32) * (number + 1) for number, name in enumerate(NAMES)}
    nodes = graphs.chain(NAMES, first="x", last=ESCAPE + "y")
    for node in nodes:
        node.doc_string = ESCAPE
        node.metadata_props.add(key=ESCAPE, value=ESCAPE)
    nodes.append(helper.make_node(ESCAPE, ["x", "table"], ["unused"], domain="custom"))
    ends = [graphs.value("x", shape=["b\x1b[1m", 4])], [graphs.value(ESCAPE + "y")]
    model = graphs.model(nodes, *ends, graphs.tensors({**weights, "table": np.ones((3, 3), np.float32)}))
    model.opset_import.add(domain="custom", version=1)
    model.doc_string = model.producer_name = ESCAPE
    onnx.save(model, folder / "m.onnx")
    plain = onnx.ModelProto()  # which ONNX Runtime runs
    plain.CopyFrom(model)
    del plain.graph.node[-1]
    onnx.save(plain, folder / "p.onnx")
    (folder / "c.toml").write_text(f"[[overrides]]\nweight = {json.dumps(ESCAPE)}\nlevels = 4\n")
    (folder / "no.toml").write_text('[[overrides]]\nweight = "\\u001b[31mnone"\nlevels = 4\n')
    return folder


@pytest.fixture
def folder(sources, tmp_path):
    return shutil.copytree(sources, tmp_path / sources.name)


def commands(folder):
    """Every command that has something to say of the model, in an order in which each finds its files."""
    model, mapped, bundle = folder / "p.onnx", folder / "g.onnx", folder / "b"
    formats = [
        "--csv",
        "--format",
        "fusion",
        "--format",
        "fusion-pair",
        "--format",
        "csv",
        "--format",
        "neurosim",
        "--format",
        "npy",
        "--format",
        "zigzag",
        "--format",
        "accelforge",
        "--pictures",
    ]
    yield "inspect", folder / "m.onnx"
    yield "map", model, "-o", mapped
    yield "map", model, "-o", folder / "levels.onnx", "--config", folder / "c.toml"
    yield "map", model, "--include", "\x1b[31mnothing*", "--dry-run"
    yield "map", model, "--config", folder / "no.toml", "--dry-run"
    yield "map", folder / "\x1b[31mmissing.onnx"
    yield "map", model, "--\x1b[31moption"
    yield "inspect", mapped
    yield "verify", model, mapped, "--junit", folder / "verify.xml"
    yield "check", mapped, "--junit", folder / "check.xml"
    yield "check", model, folder / "\x1b[31mmissing.onnx", mapped
    yield "verify", model, folder / "levels.onnx", "--value", "\x1b[1m=0..1"
    yield "verify", folder / "m.onnx", folder / "levels.onnx"
    yield "handoff", mapped, "-o", bundle, "--array", "4x4", *formats
    measured = folder / "measured.h5", "--as-if-measured"
    yield "readback", mapped, *measured, "--bundle", bundle, "-o", folder / "q.onnx", "--original", model
    yield "restore", mapped, "-o", folder / "r.onnx"
    yield "config", "init", model, "-o", "-"
    yield "config", "init", model, "-o", folder / "first\x1b[1m.toml"
    yield "config", "check", folder / "c.toml", model
    yield "map", model, "-o", folder / "d.onnx", "--debug"


def measure(folder):
    """What a lab with a hostile mind measured."""
    with h5py.File(folder / "b" / "conductances.h5") as targets, h5py.File(folder / "measured.h5", "w") as file:
        targets.copy("L000", file)
        file["L\x1b[31m"] = np.zeros(1)


def is_shown(text):
    return all(line.isprintable() for line in text.split("\n"))


def test_no_control_character_reaches_the_terminal(gconv, folder):
    codes = []
    for command in commands(folder):
        if command[0] == "readback":
            measure(folder)
        found = gconv(*command)
        assert is_shown(found.stdout), command
        assert is_shown(found.stderr), command
        assert "\nPASSED: everything" not in found.stdout, command
        if command[-1] != "--debug":
            assert "internal error" not in found.stderr, command
            assert found.stderr.count("\n") <= 1, command
        codes.append(found.code)
    assert codes == [0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    for name in ("verify.xml", "check.xml"):
        assert is_shown((folder / name).read_text(encoding="utf-8"))


def test_warnings_of_libraries_are_printable(gconv, folder, capsys):
    """Which handler writes them is Python's choice: here that of last resort, as where nobody has set up logging."""
    gconv("converters")
    record = logging.LogRecord("onnx_ir", logging.WARNING, "", 0, "the name '%s' is taken", (ESCAPE,), None)
    assert is_shown(logging.lastResort.format(record))
    assert "a\\x1b[31mred" in logging.lastResort.format(record)


def test_names_are_shown_as_they_are_and_json_has_them(gconv, folder):
    text = gconv("inspect", folder / "p.onnx").stdout
    for shown in ("[red]W[/red]:smile:", FORMULA):
        assert shown in text.replace("\n", "")
    found = gconv("inspect", folder / "p.onnx", "--json")
    assert is_shown(found.stdout)
    assert [weight["name"] for weight in found.json["mapped"]] == NAMES


def test_no_csv_file_has_a_formula_or_a_control_character(gconv, folder):
    gconv("map", folder / "p.onnx", "-o", folder / "g.onnx")
    report = gconv(*next(item for item in commands(folder) if item[0] == "handoff"))
    assert "the name of a layer is written so that no spreadsheet runs it" in " ".join(report.stdout.split())
    files = sorted((folder / "b").rglob("*.csv"))
    assert len(files) == 28
    texts = [*(folder / "b").rglob("*.yaml"), *(folder / "b").rglob("*.py"), *(folder / "b").rglob("*.txt")]
    assert len(texts) == 19
    assert all(is_shown(file.read_text()) for file in texts)
    for file in files:
        text = file.read_bytes().decode().replace("\r\n", "\n")
        assert is_shown(text)
        for row in csv.reader(text.split("\n")):
            assert not any(cell.startswith(("=", "@", "+")) for cell in row)
    names = next(csv.reader((folder / "b" / "fusion" / "conductances.csv").read_text().splitlines()[5:6]))
    assert names[1:3] == [r"W\nPASSED: everything holds.\nx", f"'{FORMULA}"]
    with (folder / "b" / "fusion" / "scales.csv").open(newline="") as file:
        assert list(dict.fromkeys(line["name"] for line in csv.DictReader(file))) == names


def test_a_hostile_manifest_of_a_bundle_is_one_printable_line(gconv, folder):
    gconv("map", folder / "p.onnx", "-o", folder / "g.onnx")
    gconv("handoff", folder / "g.onnx", "-o", folder / "b", "--array", "4x4")
    path = folder / "b" / "manifest.json"
    document = json.loads(path.read_text())
    for change in ({"format": ESCAPE}, {"format_version": ESCAPE}, {"tool": 3, ESCAPE: 1}, {"layers": ESCAPE}):
        path.write_text(json.dumps({**document, **change}))
        found = gconv("readback", folder / "g.onnx", folder / "b", "--dry-run")
        assert found.code == 2
        assert is_shown(found.stderr)
        assert found.stderr.count("\n") == 1
        assert "Input should" not in found.stderr


def test_a_hostile_manifest_of_a_model_is_one_printable_line(gconv, folder):
    gconv("map", folder / "p.onnx", "-o", folder / "g.onnx")
    model = onnx.load(folder / "g.onnx")
    [entry] = [item for item in model.metadata_props if item.key == "onnx_gconv"]
    document = json.loads(entry.value)
    for change in ({"format_version": ESCAPE}, {"weights": ESCAPE}, {"weights": [{"name": ESCAPE}]}, {"notes": 3}):
        entry.value = json.dumps({**document, **change})
        onnx.save(model, folder / "h.onnx")
        found = gconv("inspect", folder / "h.onnx")
        assert (found.code, found.stdout) == (2, "")
        assert is_shown(found.stderr)
        assert found.stderr.count("\n") == 1
        assert "Input should" not in found.stderr
