"""Pipes and devices where a file is asked for: refused in one line, where reading them might never end."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest

from onnx_gconv import map_model, write_bundle
from tests import graphs

WHAT = "a device, a pipe or a socket"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a model, the mapped one and its bundle."""
    folder = tmp_path_factory.mktemp("special")
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")
    node = onnx.helper.make_node("MatMul", ["x", "W"], ["y"])
    model = graphs.model([node], [graphs.value("x", shape=[1, 4])], [graphs.value("y", shape=[1, 4])], [weight])
    onnx.save(model, folder / "m.onnx")
    map_model(folder / "m.onnx", folder / "g.onnx")
    write_bundle(folder / "g.onnx", folder / "b", (4, 4))
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch):
    """A copy of the template, with a pipe and a device."""
    copy = shutil.copytree(template, tmp_path / "folder")
    for name in ("pipe", "pipe.h5", "pipe.npz"):
        os.mkfifo(copy / name)
    (copy / "zeros").symlink_to("/dev/zero")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("verify m.onnx pipe", "cannot read the model 'pipe': it is {}; give a file"),
        ("verify pipe g.onnx", "cannot read the model 'pipe': it is {}; give a file"),
        ("verify m.onnx g.onnx --inputs pipe", "pipe: is {}; write one with numpy.savez(path, x=...)"),
        ("verify m.onnx g.onnx --inputs zeros", "zeros: is {}; write one with numpy.savez(path, x=...)"),
        ("map m.onnx --config pipe", "'pipe' cannot be read: it is {}; give the path of a TOML file"),
        ("map m.onnx --config zeros", "'zeros' cannot be read: it is {}; give the path of a TOML file"),
        ("config check pipe", "'pipe' cannot be read: it is {}; give the path of a TOML file"),
        (
            "handoff g.onnx --array 4x4 -o out --defects pipe",
            "cannot read the defect map 'pipe': it is {}; give a file",
        ),
        ("handoff g.onnx --array 4x4 -o out --defects zeros", "the defect map 'zeros': it is {}; give a file"),
        ("readback g.onnx pipe.h5 --bundle b", "'pipe.h5' cannot be read: it is {}; write it again, or copy it again"),
        ("readback g.onnx pipe.npz --bundle b", "'pipe.npz' cannot be read: it is {}; write it again, or copy it"),
        ("readback pipe b", "cannot read the model 'pipe': it is {}; give a file"),
    ],
)
def test_a_pipe_and_a_device_are_refused(gconv, folder, arguments, message):
    before = sorted(folder.rglob("*"))
    found = gconv(*arguments.split())
    assert found.code == 2
    assert message.format(WHAT) in found.stderr
    assert found.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("manifest.json", "'b/manifest.json' cannot be read: it is {}; copy the bundle again"),
        ("measured.h5", "'b/measured.h5' cannot be read: it is {}; write it again"),
        ("conductances.h5", "'b/conductances.h5' cannot be read: it is {}; write it again"),
    ],
)
def test_a_bundle_of_pipes_is_refused(gconv, folder, name, message):
    (folder / "b" / name).unlink(missing_ok=True)
    os.mkfifo(folder / "b" / name)
    found = gconv("readback", "g.onnx", "b")
    assert (found.code, found.stdout) == (2, "")
    assert message.format(WHAT) in found.stderr
