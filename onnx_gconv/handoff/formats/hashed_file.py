"""A new file whose checksum is known as soon as it is written."""

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
        name: Name of the file in it; folders on the way are made. There must be none of that name.
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
        """What the manifest says of the file."""
        return FileRecord(path=self._name, bytes=self._bytes, sha256=self._sha256.hexdigest())
