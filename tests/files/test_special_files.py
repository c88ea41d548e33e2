"""What stands at a path in place of a file."""

from __future__ import annotations

import os

from onnx_gconv.files.special_files import no_file_but


def test_folders_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert no_file_but(tmp_path) == "a folder"
    assert no_file_but(tmp_path / "pipe") == "a device, a pipe or a socket"
    assert no_file_but(tmp_path / "file") is None


def test_nothing_is_said_of_what_is_not_there_or_cannot_be_asked_for(tmp_path):
    assert no_file_but(tmp_path / "none") is None
    assert no_file_but(tmp_path / ("a" * 5000)) is None
