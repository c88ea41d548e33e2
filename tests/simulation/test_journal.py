"""The file of a journal: what is in it, who may use it, and what a disk that is full leaves of it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.experiments import journal as journals
from onnx_gconv.simulation.experiments.journal import opened_journal

OF = {"model": "m"}


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_figures_are_known_again_and_in_the_file_at_once(tmp_path):
    path = tmp_path / "j"
    figures = {"0 1.0 all": 0.5, "1 1.0 all": float("inf"), "2 1.0 all": -3.0}
    with opened_journal(path, OF) as journal:
        for number, (key, value) in enumerate(figures.items(), start=1):
            journal.add(key, value)
            assert len(entries(path)) == number
    with opened_journal(path, OF) as journal:
        assert {key: journal.known(key) for key in figures} == figures
        assert journal.known("3 1.0 all") is None


def test_a_journal_that_is_in_use_is_refused_until_it_is_closed(tmp_path):
    path = tmp_path / "j"
    with opened_journal(path, OF) as journal:
        journal.add("0", 1.0)
        message = rf"the journal '{path}' is in use by another run; wait for its end, or choose another journal"
        with pytest.raises(ConfigError, match=message), opened_journal(path, OF):
            pass
        journal.add("1", 2.0)
    with opened_journal(path, OF) as journal:
        assert len(journal) == 2


@pytest.mark.parametrize("place", ["/dev/full", "/dev/zero", "pipe", "."])
def test_what_is_no_file_is_refused_without_reading_it(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    what = "a folder" if place == "." else "a device, a pipe or a socket"
    message = rf"the journal '{place}' cannot be used: it is {what}; choose another one"
    with pytest.raises(ConfigError, match=message), opened_journal(Path(place), OF):
        pass


@pytest.mark.parametrize(
    "line", ['["k", NaN]', '["k", true]', '["k", "1"]', "[1, 1.0]", '["k", 1.0, 2]', '{"k": 1}', "1", ""]
)
def test_a_line_that_no_run_writes_is_damaged(tmp_path, line):
    path = tmp_path / "j"
    with opened_journal(path, OF) as journal:
        journal.add("0", 1.0)
    with path.open("a") as file:
        file.write(f"{line}\n")
    before = path.read_bytes()
    message = r"line 3, is damaged; remove that line, or the file"
    with pytest.raises(ConfigError, match=message), opened_journal(path, OF):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("__version__", "9.9", r"its version of onnx_gconv is \S+, not 9\.9; remove it"),
        ("DRAWS", 99, r"its version of its random numbers is \d+, not 99; remove it"),
    ],
)
def test_a_journal_of_a_version_that_may_give_other_figures_is_refused(tmp_path, monkeypatch, name, value, message):
    with opened_journal(tmp_path / "j", OF):
        pass
    monkeypatch.setattr(journals, name, value)
    with pytest.raises(ConfigError, match=message), opened_journal(tmp_path / "j", OF):
        pass


def full_after(monkeypatch, count):
    """Let the disk be full after some more bytes."""
    left, write = count, os.write

    def partly(descriptor, content):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(content[:left]))
        left -= written
        return written

    monkeypatch.setattr(journals.os, "write", partly)


def test_a_full_disk_leaves_whole_lines_from_which_a_run_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "j"
    with pytest.raises(ConfigError, match=r"j' cannot be used: No space left on device; choose another one"):  # noqa: PT012, SIM117
        with opened_journal(path, OF) as journal:
            journal.add("0", 1.0)
            full_after(monkeypatch, 5)
            journal.add("1", 2.0)
    monkeypatch.undo()
    assert entries(path) == [["0", 1.0]]
    with opened_journal(path, OF) as journal:
        assert len(journal) == 1


def test_a_disk_that_is_full_from_the_start_leaves_no_file(tmp_path, monkeypatch):
    full_after(monkeypatch, 5)
    with pytest.raises(ConfigError, match="No space left on device"), opened_journal(tmp_path / "j", OF):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_at_the_end_is_told_but_does_not_hide_another_error(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journals.os, "fsync", fails)
    with pytest.raises(ConfigError, match="Input/output error"), opened_journal(tmp_path / "j", OF):
        pass
    with pytest.raises(KeyError), opened_journal(tmp_path / "j", OF):
        raise KeyError
