"""A new file of a bundle that is hashed while it is written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["HashedFile"]

_BUFFER_BYTES = 1 << 18


class HashedFile:
    """A new file of a bundle, hashed while it is written, so that it need not be read again.

    Args:
        folder: The bundle.
        name: Path of the file in the bundle. Missing folders are made; the file must not exist.

    Raises:
        FileExistsError: If the file exists.
    """

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._file = path.open("xb", _BUFFER_BYTES)
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, content: str | bytes | memoryview) -> None:
        """Add bytes, or text in UTF-8."""
        part = content.encode() if isinstance(content, str) else content
        self._sha256.update(part)
        self._bytes += self._file.write(part)

    @property
    def record(self) -> FileRecord:
        """The manifest's record of the file: its path, size in bytes and SHA-256."""
        return FileRecord(path=self._name, bytes=self._bytes, sha256=self._sha256.hexdigest())
