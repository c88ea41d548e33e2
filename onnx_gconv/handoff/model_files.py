"""The models of a bundle: the mapped one, byte by byte, and the restored one, each with its data file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.tensors.external import external_tensors, is_absent

__all__ = [
    "MODEL_FILE",
    "PLAIN_FILE",
    "Comparison",
    "check_copied",
    "compared",
    "copied",
    "files_to_copy",
    "hashed",
    "write_plain",
]

MODEL_FILE, PLAIN_FILE = "model.onnx", "plain.onnx"

# The size in which cp writes. The kernel caches larger writes in larger blocks of memory, which can be slow to get.
_COPY_BYTES = 1 << 20

# What one thread compares, and how much of it at once: both stay in the cache of the processor, which takes half the
# time.
_PART_BYTES = 64 << 20
_COMPARED_BYTES = 1 << 18


def files_to_copy(source: Path, model: ir.Model, own_files: Container[str]) -> dict[str, Path]:
    """The files of the mapped model, under the names that it knows them by; the model itself comes first.

    Args:
        source: The mapped model.
        model: The same, loaded.
        own_files: The names that the bundle needs for other files and folders.

    Raises:
        ConfigError: If a data file has one of these names.
    """
    files = {MODEL_FILE: source}
    for tensor in external_tensors(model):
        if is_absent(tensor):  # whoever runs the model has it
            continue
        name = os.path.normpath(tensor.location)
        if Path(name).parts[0] in own_files:
            raise ConfigError(f"its data file '{name}' has a name that the bundle needs; map the model to another name")
        files[name] = Path(tensor.path)
    return files


def copied(source: Path, folder: Path, name: str, stopped: threading.Event) -> FileRecord:
    """Copy a file byte by byte and hash it, until nobody wants the copy any more."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256, count = hashlib.sha256(), 0
    buffer = bytearray(_COPY_BYTES)
    with source.open("rb", buffering=0) as original, target.open("xb", buffering=0) as copy:
        while not stopped.is_set() and (size := original.readinto(buffer)):
            part = memoryview(buffer)[:size]
            sha256.update(part)
            while part:
                part = part[copy.write(part) :]
            count += size
    return FileRecord(path=name, bytes=count, sha256=sha256.hexdigest())


@dataclass(frozen=True)
class Comparison:
    """A part of a file beside that of its copy.

    Attributes:
        file: The file.
        copy: Its copy in the bundle.
        is_same: Whether the two are the same.
    """

    file: Path
    copy: Path
    is_same: Future[bool]


def compared(
    files: Mapping[str, Path], folder: Path, copies: Sequence[FileRecord], executor: Executor
) -> list[Comparison]:
    """Begin to compare files with what was copied of them, in case a file system keeps no exact time of writing.

    Byte by byte: that takes a third of the time that hashing them again would take.

    Args:
        files: The files, by their names in the bundle.
        folder: The bundle, which has the copies.
        copies: What the manifest says of the copies, in the same order.
        executor: Compares parts side by side.
    """
    return [
        Comparison(file, folder / name, executor.submit(_is_same, file, folder / name, start))
        for (name, file), copy in zip(files.items(), copies, strict=True)
        for start in range(0, copy.bytes + 1, _PART_BYTES)  # the last one looks beyond the end
    ]


def check_copied(comparisons: Iterable[Comparison]) -> None:
    """Check that files still are what was copied of them.

    Raises:
        ModelError: If one is not.
    """
    for item in comparisons:
        if not item.is_same.result():
            before, now = hashed(item.copy), hashed(item.file)
            raise ModelError(
                f"'{item.file}' changed while it was read: its SHA-256 was {before.sha256}, and is {now.sha256} now; "
                "let what writes it come to its end, and run again"
            )


def _is_same(file: Path, copy: Path, start: int) -> bool:
    """Whether a part of two files is the same, and ends at the same place."""
    with file.open("rb") as one, copy.open("rb") as other:
        one.seek(start)
        other.seek(start)
        mine, others = bytearray(_COMPARED_BYTES), bytearray(_COMPARED_BYTES)
        for _ in range(0, _PART_BYTES, _COMPARED_BYTES):
            size = one.readinto(mine)
            if size != other.readinto(others):
                return False
            if size < _COMPARED_BYTES:
                return mine[:size] == others[:size]
            if mine != others:
                return False
    return True


class _StoppedError(Exception):
    """Nobody wants the bundle any more."""


def write_plain(
    model: ir.Model, folder: Path, source: Path, stopped: threading.Event, executor: Executor
) -> list[Future[FileRecord]]:
    """Write the restored model, until nobody wants it any more.

    Args:
        model: The restored model.
        folder: The new bundle.
        source: The mapped model, which may not be overwritten.
        stopped: Set if nobody wants the model any more.
        executor: Hashes its files.

    Returns:
        For each file, what the manifest says of it.
    """

    def go_on(_done: int, _total: int) -> None:
        if stopped.is_set():
            raise _StoppedError

    files = save_model(model, folder / PLAIN_FILE, inputs=[source], progress=go_on)
    return [executor.submit(hashed, file) for file in files]


def hashed(file: Path) -> FileRecord:
    """What the manifest says of a file that stands in the bundle itself."""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return FileRecord(path=file.name, bytes=file.stat().st_size, sha256=sha256)
