"""Writes the models of a bundle: a byte-for-byte copy of the mapped model, and the restored one, with data files."""

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

# Bytes of one write, as many as cp writes at once. The kernel caches larger writes in larger blocks of memory, which
# can be slow to allocate.
_COPY_BYTES = 1 << 20

# Bytes of a file that one job compares, and how many of them at once. Two buffers of that size stay in the cache of the
# processor, which halves the time.
_PART_BYTES = 64 << 20
_COMPARED_BYTES = 1 << 18


def files_to_copy(source: Path, model: ir.Model, own_files: Container[str]) -> dict[str, Path]:
    """The files of the mapped model by their names in the bundle; the .onnx file comes first.

    Data files keep their names, because the .onnx file refers to them.

    Args:
        source: The mapped model's .onnx file.
        model: The same model, loaded.
        own_files: The names that the bundle needs for its other files and folders.

    Raises:
        ConfigError: If a data file has one of these names.
    """
    files = {MODEL_FILE: source}
    for tensor in external_tensors(model):
        if is_absent(tensor):  # the data file need not be here; whoever runs the model has it
            continue
        name = os.path.normpath(tensor.location)
        if Path(name).parts[0] in own_files:
            raise ConfigError(f"its data file '{name}' has a name that the bundle needs; map the model to another name")
        files[name] = Path(tensor.path)
    return files


def copied(source: Path, folder: Path, name: str, stopped: threading.Event) -> FileRecord:
    """Copy a file byte by byte and hash it on the way; stop early when `stopped` is set.

    Args:
        source: The file.
        folder: The bundle.
        name: Name of the copy in the bundle.
        stopped: Set by another thread when the bundle is given up.

    Returns:
        The manifest's record of the copy.
    """
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
    """A running comparison of a part of a file with the same part of its copy.

    Attributes:
        file: The file.
        copy: Its copy in the bundle.
        is_same: Whether the two parts are the same, once that is known.
    """

    file: Path
    copy: Path
    is_same: Future[bool]


def compared(
    files: Mapping[str, Path], folder: Path, copies: Sequence[FileRecord], executor: Executor
) -> list[Comparison]:
    """Start comparing files with their copies, to detect files that changed while they were copied.

    Times of modification do not suffice: not every file system keeps exact ones. Comparing byte by byte takes a third
    of the time of hashing the files again.

    Args:
        files: The files by their names in the bundle.
        folder: The bundle with the copies.
        copies: The manifest's records of the copies, in the same order.
        executor: Compares parts of the files in parallel.
    """
    return [
        Comparison(file, folder / name, executor.submit(_is_same, file, folder / name, start))
        for (name, file), copy in zip(files.items(), copies, strict=True)
        for start in range(0, copy.bytes + 1, _PART_BYTES)  # the last part detects that the file has grown
    ]


def check_copied(comparisons: Iterable[Comparison]) -> None:
    """Wait for the comparisons, and check that no file changed while it was copied.

    Raises:
        ModelError: If a file changed.
    """
    for item in comparisons:
        if not item.is_same.result():
            before, now = hashed(item.copy), hashed(item.file)
            raise ModelError(
                f"'{item.file}' changed while it was read: its SHA-256 was {before.sha256}, and is {now.sha256} now; "
                "let what writes it come to its end, and run again"
            )


def _is_same(file: Path, copy: Path, start: int) -> bool:
    """Whether two files have the same bytes from `start` to the end of the part, and both or neither end there."""
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
    """The bundle was given up while the model was written."""


def write_plain(
    model: ir.Model, folder: Path, source: Path, stopped: threading.Event, executor: Executor
) -> list[Future[FileRecord]]:
    """Write the restored model; stop early when `stopped` is set.

    Args:
        model: The restored model.
        folder: The new bundle.
        source: The mapped model, which must not be overwritten.
        stopped: Set by another thread when the bundle is given up.
        executor: Hashes the files.

    Returns:
        The manifest's record of each file, once its hash is known.
    """

    def go_on(_done: int, _total: int) -> None:
        if stopped.is_set():
            raise _StoppedError

    files = save_model(model, folder / PLAIN_FILE, inputs=[source], progress=go_on)
    return [executor.submit(hashed, file) for file in files]


def hashed(file: Path) -> FileRecord:
    """The manifest's record of a file in the top folder of the bundle: its name, size in bytes and SHA-256."""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return FileRecord(path=file.name, bytes=file.stat().st_size, sha256=sha256)
