"""Hidden folders of other runs, and files that other programs put in the way in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from onnx_gconv.files import staging
from onnx_gconv.files.staged_folder import staged_folder
from onnx_gconv.files.staged_model import staged_output
from onnx_gconv.files.staging import clear_after_dead_runs, new_hidden_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_another_run_takes_for_a_dead_one_is_left_for_a_new_one(tmp_path, monkeypatch):
    real, taken = staging._lock_file, []

    def taken_once(descriptor):
        if not taken:
            [hidden] = tmp_path.iterdir()
            taken.append(hidden)
            staging.remove_hidden_folder(hidden)
        return real(descriptor)

    monkeypatch.setattr(staging, "_lock_file", taken_once)
    hidden, lock = new_hidden_folder(tmp_path / "out")
    with lock:
        assert hidden not in taken
        assert [hidden.name] == names(tmp_path)
        assert names(hidden) == [staging.LOCK]


def test_a_hidden_folder_whose_lock_cannot_be_opened_is_left_alone(tmp_path):
    (tmp_path / ".out.partial-1" / staging.LOCK).mkdir(parents=True)
    cleared = []
    clear_after_dead_runs(tmp_path / "out", cleared.append)
    assert cleared == []
    assert names(tmp_path) == [".out.partial-1"]


def test_an_error_while_a_new_folder_is_put_in_its_place_brings_the_older_one_back(tmp_path, monkeypatch):
    path = tmp_path / "out"
    path.mkdir()
    (path / "a").write_text("old")
    rename = Path.rename

    def fails(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with staged_folder(path) as staged:
        (staged.folder / "a").write_text("new")
        with pytest.raises(OSError, match="Input/output error"):
            staged.commit()
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_data_file_that_another_program_puts_in_the_way_at_the_last_moment_is_kept(tmp_path, monkeypatch):
    link = Path.hardlink_to

    def late(self, target):
        self.write_text("somebody else's")
        return link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", late)
    with staged_output(tmp_path / "out.onnx", set()) as staged:
        name = staged.reserve_data_file()
        staged.model.write_text("model")
        staged.model.with_name(name).write_text("data")
        with pytest.raises(FileExistsError):
            staged.commit(name)
    assert names(tmp_path) == ["out.onnx.data"]
    assert (tmp_path / "out.onnx.data").read_text() == "somebody else's"


def test_data_files_of_an_output_that_cannot_be_read_are_left_alone(tmp_path):
    (tmp_path / "out.onnx").mkdir()  # in place of the model
    (tmp_path / "out.onnx.data").write_text("whose?")
    hidden = tmp_path / ".out.onnx.partial-1"
    hidden.mkdir()
    (hidden / staging.LOCK).write_text("out.onnx.data\n")
    with staged_output(tmp_path / "out.onnx", set()):
        assert (tmp_path / "out.onnx.data").read_text() == "whose?"
        assert not hidden.exists()
    assert names(tmp_path) == ["out.onnx", "out.onnx.data"]
