"""Runs of the command line that need not import anything: a process that has imported it all forks for each of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx_gconv.operations  # noqa: F401 - what `map` would import
from onnx_gconv.cli import main

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([__name__])


def run_main(folder, printed, arguments):
    """The program, in the forked process."""
    os.chdir(folder)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT), descriptor)
    # A program that is started in the background may have been told to ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["onnx-gconv", *arguments]
    sys.exit(main())


class ForkedProgram:
    """A run, with what `subprocess.Popen` has."""

    def __init__(self, folder, *arguments):
        self._printed = tempfile.TemporaryDirectory()
        self._process = FORKING.Process(target=run_main, args=(folder, Path(self._printed.name), arguments))
        self._process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.join()
        self._printed.cleanup()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(["onnx-gconv"], timeout)

    def communicate(self, timeout):
        self.wait(timeout)
        return tuple(self._text(name) for name in ("stdout", "stderr"))

    def _text(self, name):
        file = Path(self._printed.name, name)
        return file.read_text(encoding="utf-8") if file.exists() else ""  # it was killed before it had made it
