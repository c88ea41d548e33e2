"""The jobs that `benchmarks.map` compares, and the rounds in which they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import available_memory_bytes
from benchmarks.measurement import JobFailedError, Measurement, measure
from benchmarks.page_cache import level_conditions
from benchmarks.synthetic_model import SyntheticModel

__all__ = ["JOBS", "OUTPUT_FACTOR", "Job", "Rounds", "copy_command", "too_large"]

# Every weight becomes two conductances.
OUTPUT_FACTOR = 2

_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """A job that is measured.

    Attributes:
        name: The name of the job.
        copies: Whether the job reads the files that ``map`` wrote; other jobs read the model.
        optional: Whether the job may be skipped, or fail without ending the benchmark.
        memory_factor: The measured memory of the job, in units of the model's size; 0 if memory does not grow with it.
    """

    name: str
    copies: bool = False
    optional: bool = True
    memory_factor: float = 0.0


# In the order of a round: ``map`` is first, since the jobs with ``copies`` need its files.
JOBS = (
    Job("map", optional=False),
    Job("copy", copies=True, optional=False),
    Job("read_write", copies=True),
    Job("program", copies=True),
    Job("program_day", copies=True),
    Job("naive", memory_factor=4.0),
    Job("quantize", memory_factor=4.0),
)


def too_large(job: Job, size_bytes: int) -> str | None:
    """The reason why this machine has too little memory for a job with a model of this size; None if it has enough."""
    needed, available = job.memory_factor * size_bytes, available_memory_bytes()
    if needed <= available:
        return None
    return f"needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available"


class Rounds:
    """Runs rounds of all jobs on one model, each job in a process of its own.

    Args:
        model: The model.
        folder: A folder for all files that jobs write. A round removes its files at the end.
        level_memory: Whether to free memory for the output just before each job; see `benchmarks.page_cache`.
    """

    def __init__(self, model: SyntheticModel, folder: Path, *, level_memory: bool = True) -> None:
        self._model = model
        self._ballast = folder / "ballast"
        self._ballast_bytes = OUTPUT_FACTOR * model.weight_bytes if level_memory else 0
        self._folder = folder
        self._mapped = folder / "map"
        self.copy_command = copy_command(folder)

    def run(self, skipped: dict[str, str]) -> dict[str, Measurement]:
        """Run one round.

        Args:
            skipped: The reason for every job that does not run. Optional jobs that fail are added to it.

        Raises:
            JobFailedError: If a job that is not optional fails.
        """
        measured = {}
        try:
            for job in JOBS:
                if job.name in skipped:
                    continue
                try:
                    measured[job.name] = self._run(job)
                except JobFailedError as error:
                    if not job.optional:
                        raise
                    skipped[job.name] = f"failed: {error}"
        finally:
            _remove(self._mapped)
        return measured

    def _run(self, job: Job) -> Measurement:
        output = self._folder / job.name
        inputs = sorted(self._mapped.iterdir()) if job.copies else [self._model.path, self._model.data]
        output.mkdir()
        try:
            level_conditions(inputs, ballast=self._ballast, ballast_bytes=self._ballast_bytes)
            command = self._command(job, inputs, output)
            if job.name == "copy":  # the other jobs remove the ballast themselves, after their imports
                self._ballast.unlink()
            return measure(command, folder=_REPOSITORY, output=output)
        finally:
            self._ballast.unlink(missing_ok=True)
            if output != self._mapped:
                _remove(output)

    def _command(self, job: Job, inputs: Sequence[Path], output: Path) -> list[str | Path]:
        if job.name == "copy":
            return [*self.copy_command, *inputs, output]
        python = [sys.executable, "-m", "benchmarks.job", job.name]
        if job.copies:
            return [*python, self._mapped, output, self._ballast]
        return [*python, self._model.path, output / "output.onnx", self._ballast]


def copy_command(folder: Path) -> tuple[str, ...]:
    """The ``cp`` command that really copies bytes: some file systems would let a copy share those of the original."""
    return ("cp", "--reflink=never") if _shares_extents(folder) else ("cp",)


def _shares_extents(folder: Path) -> bool:
    """Whether the file system can let a copy share the bytes of the original."""
    source, target = folder / "shared", folder / "sharing"
    source.write_bytes(bytes(1 << 16))
    command: list[str | Path] = ["cp", "--reflink=always", source, target]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    finally:
        source.unlink()
        target.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove a folder and its files, if it exists."""
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
