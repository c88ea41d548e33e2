"""The conditions of a measurement: the machine, and the versions of packages."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Machine", "available_memory_bytes", "describe_machine", "versions"]

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnx_gconv")


@dataclass(frozen=True)
class Machine:
    """A machine, with what the speed of files and arithmetic depends on.

    Attributes:
        cores: How many processors this process may use.
        processor: Model of the processor.
        memory_bytes: Size of the memory.
        kernel: Name and release of the operating system.
        file_system: Type of the file system that holds the files.
    """

    cores: int
    processor: str
    memory_bytes: int
    kernel: str
    file_system: str


def describe_machine(folder: Path) -> Machine:
    """This machine, with the file system of `folder`."""
    stat = subprocess.run(
        ["stat", "--file-system", "--format=%T", folder],  # noqa: S607 - coreutils, wherever they are
        capture_output=True,
        text=True,
        check=True,
    )
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        memory_bytes=_memory_bytes("MemTotal"),
        kernel=f"{platform.system()} {platform.release()}",
        file_system=stat.stdout.strip(),
    )


def available_memory_bytes() -> int:
    """Memory that can be used without swapping."""
    return _memory_bytes("MemAvailable")


def versions(*others: str) -> dict[str, str]:
    """The versions of Python, of the packages that every benchmark uses, and of the `others`."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *others):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "(not installed)"
    return found


def _memory_bytes(name: str) -> int:
    return int(_field(Path("/proc/meminfo"), name).split()[0]) << 10


def _field(path: Path, name: str) -> str:
    """The value of the first line ``name : value`` of a file under /proc; empty if there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
