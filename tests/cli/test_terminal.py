"""How the command line ends: interrupted, terminated, with a check that does not hold, and without a reader."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import onnx_gconv
from onnx_gconv.cli import options
from onnx_gconv.cli.output import progress_bar, tolerated_loss_of_reader
from onnx_gconv.errors import ConfigError, VerificationError

INTERRUPTED = "onnx-gconv: interrupted; nothing was left behind\n"


@pytest.fixture
def demo(gconv, monkeypatch):
    """Runs the command `demo`, which does something else."""

    def run(act, *arguments):
        monkeypatch.setattr("onnx_gconv.demo.run_demo", lambda _folder: act())
        return gconv("demo", *arguments)

    return run


def raising(error):
    def act():
        raise error

    return act


def send(number):
    """Send this process a signal, and wait until it has come."""
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass


def test_an_interrupt_ends_a_command_in_a_line(demo):
    assert demo(lambda: send(signal.SIGINT)) == (130, "", INTERRUPTED)


def test_further_signals_do_not_disturb_what_is_cleared_up(demo):
    done = []

    def act():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            done.append("cleared up")

    assert demo(act) == (130, "", INTERRUPTED)
    assert done == ["cleared up"]
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # while the interpreter ends


def test_a_terminated_command_says_nothing(demo):
    with pytest.raises(SystemExit) as found:
        demo(lambda: send(signal.SIGTERM))
    assert found.value.code == 143


def test_a_check_that_does_not_hold_is_told_in_a_line(demo):
    assert demo(raising(VerificationError("it does not\nhold"))) == (1, "", "onnx-gconv: it does not hold\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("give another folder"), "onnx-gconv: give another folder\n"),
        (ZeroDivisionError("0"), "onnx-gconv: internal error, ZeroDivisionError: 0; run again with --debug\n"),
    ],
    ids=["of the user", "of ours"],
)
def test_where_an_error_is_from_is_told_if_that_is_asked_for(demo, monkeypatch, error, line):
    monkeypatch.setattr(options, "_debug", False)  # which also brings it back in the end
    assert demo(raising(error)) == (2, "", line)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    found = demo(raising(error), "--debug")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr.startswith("Traceback (most recent call last):\n")
    assert found.stderr.endswith(line)
    [handler] = root.handlers
    record = logging.LogRecord("onnx", logging.INFO, "file", 1, "a name: \x1b[31m", None, None)
    assert handler.format(record) == "onnx: a name: \\x1b[31m"


class FailedDemo:
    passed = False

    def to_json(self):
        return {"passed": False}


def test_a_demo_that_does_not_hold_ends_with_1(demo):
    assert demo(FailedDemo, "--quiet") == (1, "", "")
    found = demo(FailedDemo, "--json")
    assert (found.code, found.json) == (1, {"passed": False})


def test_a_thread_may_run_a_command_but_takes_no_signals(gconv):
    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(gconv, "--version").result()
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.startswith("onnx-gconv ")


def test_the_command_line_without_a_command_is_the_help(gconv):
    found = gconv()
    assert found.code == 2
    assert "Usage: onnx-gconv" in found.stdout
    assert found.stderr == ""


@pytest.mark.parametrize("arguments", [("--version",), ("presets",)])
def test_the_module_is_the_program(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["onnx_gconv", *arguments])
    with pytest.raises(SystemExit) as found:
        runpy.run_module("onnx_gconv", run_name="__main__")
    assert found.value.code == 0
    assert capsys.readouterr().out


def test_the_module_does_nothing_if_it_is_only_imported(capsys):
    runpy.run_module("onnx_gconv.__main__", run_name="imported")
    assert capsys.readouterr() == ("", "")


def test_submodules_and_names_of_the_package_are_there_when_they_are_asked_for():
    assert onnx_gconv.__getattr__("schemes") is sys.modules["onnx_gconv.schemes"]
    assert onnx_gconv.__getattr__("map_model") is onnx_gconv.map_model
    with pytest.raises(AttributeError, match=r"^module 'onnx_gconv' has no attribute 'nothing'$"):
        onnx_gconv.__getattr__("nothing")


# Files that come in between


def test_a_file_that_another_program_writes_meanwhile_is_kept(gconv, tmp_path, monkeypatch):
    link = Path.hardlink_to

    def late(self, target):
        self.write_text("somebody else's")
        return link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", late)
    found = gconv("config", "schema", "-o", tmp_path / "out.json")
    assert found == (
        2,
        "",
        f"onnx-gconv: '{tmp_path / 'out.json'}' exists; choose another file with -o, or overwrite it with --force\n",
    )
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.json", "somebody else's")]


def test_a_link_that_leads_nowhere_is_a_file_that_exists(gconv, tmp_path):
    (tmp_path / "out.json").symlink_to(tmp_path / "nowhere")
    found = gconv("config", "schema", "-o", tmp_path / "out.json")
    assert (found.code, found.stdout) == (2, "")
    assert "out.json' exists; choose another file with -o" in found.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


# Output


class Pipe:
    """Standard output into a file of which the reader has gone, as far as it is asked for."""

    def __init__(self, file, error=None):
        self.file, self.error = file, error

    def fileno(self):
        return self.file.fileno()

    def flush(self):
        if self.error is not None:
            raise self.error


def write_as_rich():
    """Make an exit of a lost reader."""
    try:
        raising(BrokenPipeError())()
    except BrokenPipeError:
        raise SystemExit(1)  # noqa: B904 - as rich does


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_loss_of_the_reader_ends_output_and_nothing_else(tmp_path, monkeypatch, wrapped):
    with (tmp_path / "file").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", Pipe(file, None if wrapped else BrokenPipeError()))
        with tolerated_loss_of_reader():
            if wrapped:
                write_as_rich()
        os.write(file.fileno(), b"lost")
    assert (tmp_path / "file").read_bytes() == b""


def test_an_exit_for_another_reason_stays_one(tmp_path, monkeypatch):
    with (tmp_path / "file").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", Pipe(file))
        with pytest.raises(SystemExit), tolerated_loss_of_reader():
            raise SystemExit(3)


def test_a_full_disk_behind_standard_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "onnx_gconv", "converters"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    reason = "cannot print the result: No space left on device; free some space, or print to another place"
    assert (ended.returncode, ended.stderr) == (2, f"onnx-gconv: {reason}\n")


class Terminal:
    """Standard error as a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_terminal_shows_each_step_by_its_label(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar({"scan": "reading"}, quiet=False) as show:
        show("scan", 5, 10)
        show("scan", 10, 10)
        show("wri\x1bte", 0, 0)
    assert "reading" in terminal.text
    assert "wri\\x1bte" in terminal.text


def test_no_bar_is_shown_to_files_or_if_none_is_wanted(monkeypatch):
    with progress_bar({}, quiet=False) as show:
        assert show is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar({}, quiet=True) as show:
        assert show is None
    assert sys.stderr.text == ""
