"""Measures one command: its time and its memory, from start to exit."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["JobFailedError", "Measurement", "measure"]

# The time between two samples of memory. Buffers that live for a shorter time may be missed; the peak of the resident
# memory, which the kernel itself records, is an upper bound.
_SAMPLE_MILLISECONDS = 2

_ANONYMOUS = re.compile(rb"^RssAnon:\s*(\d+) kB", re.MULTILINE)
_RESIDENT_PEAK = re.compile(rb"^VmHWM:\s*(\d+) kB", re.MULTILINE)
_STATUS_BYTES = 8192


class JobFailedError(RuntimeError):
    """A measured command failed; the message is the last line of its standard error."""


@dataclass(frozen=True)
class Measurement:
    """One run of one command.

    Attributes:
        seconds: The time from just before the process starts until it has ended and returned its memory.
        work_seconds: The time that the command itself reports, without the start of Python and imports; `seconds` if
            the command reports none.
        cpu_seconds: Processor time of all threads, in user mode and in the kernel.
        anonymous_bytes: The largest anonymous memory (heap, buffers, stacks; no file pages) of all samples.
        resident_bytes: The largest resident memory, with file pages: an upper bound of the anonymous memory.
        samples: How many samples of memory were taken.
        output_bytes: The size of the files that the command wrote.
        told: The JSON object in the last line of the command's standard output; empty if there is none.
    """

    seconds: float
    work_seconds: float
    cpu_seconds: float
    anonymous_bytes: int
    resident_bytes: int
    samples: int
    output_bytes: int
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Memory:
    anonymous_bytes: int = 0
    resident_bytes: int = 0
    samples: int = 0


def measure(command: Sequence[str | Path], *, folder: Path, output: Path) -> Measurement:
    """Run a command in a process of its own, and measure it.

    Args:
        command: Program and arguments. The last line of its standard output may be a JSON object with `work_seconds`,
            which goes into the measurement.
        folder: The current folder of the command.
        output: The folder that the command writes to.

    Raises:
        JobFailedError: If the exit code of the command is not 0.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        before = _cpu_seconds_of_children()
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr)
        try:
            memory = _watch(process.pid)
            seconds = time.perf_counter() - start
        finally:
            process.kill()  # the process has ended already, unless `_watch` has failed
            process.wait()
        if process.returncode:
            raise JobFailedError(_last_line(stderr.fileno()) or f"exit code {process.returncode}")
        told = _json_object(_last_line(stdout.fileno()))
        return Measurement(
            seconds=seconds,
            work_seconds=float(told.get("work_seconds", seconds)),
            cpu_seconds=_cpu_seconds_of_children() - before,
            anonymous_bytes=memory.anonymous_bytes,
            resident_bytes=memory.resident_bytes,
            samples=memory.samples,
            output_bytes=sum(file.stat().st_size for file in output.rglob("*") if file.is_file()),
            told=told,
        )


def _watch(pid: int) -> _Memory:
    """Sample the memory of a process, and return as soon as the process ends."""
    memory = _Memory()
    ended = select.poll()
    process = os.pidfd_open(pid)
    status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    try:
        ended.register(process, select.POLLIN)
        while not ended.poll(_SAMPLE_MILLISECONDS):
            memory = _larger(memory, os.pread(status, _STATUS_BYTES, 0))
    finally:
        os.close(status)
        os.close(process)
    return memory


def _larger(memory: _Memory, status: bytes) -> _Memory:
    anonymous, resident = _ANONYMOUS.search(status), _RESIDENT_PEAK.search(status)
    if anonymous is None or resident is None:  # the process has returned its memory already, and is about to end
        return memory
    return _Memory(
        anonymous_bytes=max(memory.anonymous_bytes, int(anonymous[1]) << 10),
        resident_bytes=max(memory.resident_bytes, int(resident[1]) << 10),
        samples=memory.samples + 1,
    )


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, _STATUS_BYTES, max(size - _STATUS_BYTES, 0)).decode("utf-8", "replace")
    return text.rstrip().rpartition("\n")[2]


def _json_object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
