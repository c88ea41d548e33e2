"""Fixtures that run the command line in this process, or as a program of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from onnx_gconv.cli import main


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        """The JSON document on stdout."""
        return json.loads(self.stdout)


@pytest.fixture
def gconv(monkeypatch, capsys):
    """Runs a command in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnx-gconv", *map(str, arguments)])
        capsys.readouterr()
        return Ended(main(), *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_program(*arguments, cwd, **options):
    command = [sys.executable, "-m", "onnx_gconv", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    found = subprocess.run(command, cwd=cwd, text=True, timeout=120, check=False, **options)
    return Ended(found.returncode, found.stdout, found.stderr)


@pytest.fixture(scope="session")
def program():
    """Runs the program in a folder."""
    return run_program
