"""Tries many inputs in a process of its own, which may hang, die, or take too much memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

from tests.fuzz.attempts import LONGEST_SECONDS, attempt, peak_bytes
from tests.fuzz.place import Place

__all__ = ["MOST_BYTES", "Finding", "Findings", "run"]

MOST_BYTES = 1 << 30
"""How much memory an input may take beyond what the process has."""

# Threads reserve addresses, which they do not use.
_RESERVED_BYTES = 2 << 30

# What does not come back after the alarm is in code that Python cannot interrupt.
_GRACE_SECONDS = 5.0

# A file system in memory, where there is one.
_IN_MEMORY = Path("/dev/shm")  # noqa: S108

_KINDS = ("accepted", "unjudged", "refused", "fault")
_NUMBER, _BEGIN, _SLOWEST, _SLOWEST_NUMBER, _PEAK = range(len(_KINDS), len(_KINDS) + 5)


@dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        reader: The reader.
        number: The number of the input.
        place: Its kind.
        detail: What is wrong.
    """

    reader: str
    number: int
    place: str
    detail: str


@dataclass
class Findings:
    """What many inputs of a reader showed.

    Attributes:
        reader: The reader.
        counts: How many were accepted, unjudged, refused, and faults.
        faults: The faults.
        seconds: How long it took.
        slowest: The longest time of an input, in seconds, and its number.
        peak: The most memory that the process had, in bytes.
    """

    reader: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)
    peak: int = 0

    @property
    def inputs(self) -> int:
        """How many there were."""
        return sum(self.counts.values())


def run(reader: str, seed: int, first: int, count: int, *, most_faults: int = 1000) -> Findings:
    """Let a reader read many damaged inputs.

    Args:
        reader: Its name.
        seed: The seed of the run.
        first: The number of the first input.
        count: How many.
        most_faults: Stop after so many faults.
    """
    findings, start, number = Findings(reader), time.perf_counter(), first
    while number < first + count and len(findings.faults) < most_faults:
        number = _run_in_a_process(reader, seed, range(number, first + count), findings)
    findings.seconds = time.perf_counter() - start
    return findings


def _run_in_a_process(reader: str, seed: int, numbers: range, findings: Findings) -> int:
    """Run as far as a process lives; the number that comes next."""
    context = multiprocessing.get_context("fork")
    shared = RawArray("d", _PEAK + 1)
    shared[_NUMBER] = numbers.start
    receiving, sending = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))
    process = context.Process(target=_work, args=(reader, seed, numbers, shared, sending, folder), daemon=True)
    process.start()
    sending.close()
    hung = False
    while True:
        if receiving.poll(0.5):
            try:
                findings.faults.append(Finding(reader, *receiving.recv()))
            except EOFError:
                break
        elif not process.is_alive():
            break
        elif shared[_BEGIN] and time.monotonic() - shared[_BEGIN] > LONGEST_SECONDS + _GRACE_SECONDS:
            hung = True
            os.kill(process.pid or 0, signal.SIGKILL)
            break
    process.join()
    shutil.rmtree(folder, ignore_errors=True)
    for place, kind in enumerate(_KINDS):
        findings.counts[kind] += int(shared[place])
    findings.slowest = max(findings.slowest, (shared[_SLOWEST], int(shared[_SLOWEST_NUMBER])))
    findings.peak = max(findings.peak, int(shared[_PEAK]))
    number = int(shared[_NUMBER])
    if number < numbers.stop and (hung or process.exitcode != 0):
        how = "hangs" if hung else f"ends the process ({process.exitcode})"
        findings.faults.append(Finding(reader, number, how, how))
        findings.counts["fault"] += 1
        return number + 1
    return number


def _work(
    reader: str, seed: int, numbers: range, shared: Any, sending: Connection, folder: Path
) -> None:  # pragma: no cover - in a process of its own
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)
    used, begin = peak_bytes(), _address_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (begin + _RESERVED_BYTES, begin + _RESERVED_BYTES))
    place = Place(folder)
    for number in numbers:
        start = time.monotonic()
        shared[_NUMBER], shared[_BEGIN] = number, start
        outcome = attempt(reader, seed, number, place)
        seconds = time.monotonic() - start
        shared[_KINDS.index(outcome.kind)] += 1
        if outcome.kind == "fault":
            sending.send((number, outcome.place, outcome.detail))
        if seconds > shared[_SLOWEST]:
            shared[_SLOWEST], shared[_SLOWEST_NUMBER] = seconds, number
        shared[_PEAK] = peak_bytes()
        if shared[_PEAK] - used > MOST_BYTES:
            sending.send((number, "memory", f"{(shared[_PEAK] - used) / 2**20:.0f} MiB"))
            shared[_NUMBER] = number + 1
            break
        shared[_NUMBER] = number + 1
    sending.close()


def _address_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
