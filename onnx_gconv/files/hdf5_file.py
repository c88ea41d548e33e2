"""A file that HDF5 writes through Python, so that a full disk is an error and not the end of the process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FileForHdf5"]

# Headers that are held back are at most this large, and so many.
_LARGEST_HEADER_BYTES = 4096
_MOST_HEADERS = 2048


class FileForHdf5:
    """A new file in which HDF5 writes. That a write fails is taken down, but not told.

    HDF5 ends the process if it cannot write what it still holds when a file is closed, e.g. when the disk is full.

    It writes some headers of a few hundred bytes for each dataset, most of them twice. They are held back for a while:
    each call of the system gives other threads the interpreter lock, for which this one then has to wait.

    Attributes:
        failure: The first failure, or None.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        # By offset and size, in the order in which they have to be written, and where the last of them ends.
        self._held: dict[tuple[int, int], bytes] = {}
        self._held_end = 0
        self.failure: OSError | None = None

    def close(self) -> None:
        """Write what is held back, and close it."""
        self.flush()
        os.close(self._file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Only taken down: there is no need to call the system."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += max(os.fstat(self._file).st_size, self._held_end)
        self._position = offset
        return offset

    def tell(self) -> int:
        """Where HDF5 is at work."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """By which h5py tells files from names; it reads with `readinto`."""
        self.flush()
        content = os.pread(self._file, os.fstat(self._file).st_size if size < 0 else size, self._position)
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:
        """Read as many bytes as the buffer has, or as there are; how many they were."""
        self.flush()
        size = os.preadv(self._file, [buffer], self._position)
        self._position += size
        return size

    def write(self, content: memoryview) -> int:
        """Write bytes; their number, even if that failed."""
        size = len(content)
        if size <= _LARGEST_HEADER_BYTES:
            self._hold(content)
        else:
            self.write_at(self._position, content)
        self._position += size
        return size

    def write_at(self, offset: int, content: memoryview) -> None:
        """Write bytes somewhere else than where HDF5 is at work."""
        if offset < self._held_end:  # nothing older may come later to the same place
            self.flush()
        try:
            while content:
                count = os.pwrite(self._file, content, offset)
                offset, content = offset + count, content[count:]
        except OSError as error:
            self.failure = self.failure or error

    def truncate(self, size: int) -> int:
        """Make the file longer or shorter."""
        self.flush()
        try:
            os.truncate(self._file, size)
        except OSError as error:
            self.failure = self.failure or error
        return size

    def flush(self) -> None:
        """Write what is held back, headers that follow each other at once: three of four do."""
        held, self._held, self._held_end = self._held, {}, 0
        first, end = 0, 0
        run: list[bytes] = []
        for (offset, size), content in held.items():
            if offset != end:
                self.write_at(first, memoryview(b"".join(run)))
                first, run = offset, []
            run.append(content)
            end = offset + size
        self.write_at(first, memoryview(b"".join(run)))

    def _hold(self, content: memoryview) -> None:
        key = self._position, len(content)
        self._held.pop(key, None)
        self._held[key] = bytes(content)
        self._held_end = max(self._held_end, sum(key))
        if len(self._held) == _MOST_HEADERS:
            self.flush()
