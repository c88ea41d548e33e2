"""A file that HDF5 writes through Python, so that a full disk raises an error and does not end the process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FileForHdf5"]

# Headers up to this size are held back, and at most this many.
_LARGEST_HEADER_BYTES = 4096
_MOST_HEADERS = 2048


class FileForHdf5:
    """A new file for HDF5. A failed write is recorded in `failure`, but not reported to HDF5.

    HDF5 ends the process if it cannot write its buffers when a file is closed, e.g. because the disk is full.

    HDF5 writes several headers of a few hundred bytes for each dataset, most of them twice. This class holds them back
    and writes them together: each system call releases the interpreter lock, and this thread has to wait for it again.

    Attributes:
        failure: The first error of a write; None if there was none.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        # Headers that are held back, by offset and size, in the order of writing; and the end of the last one.
        self._held: dict[tuple[int, int], bytes] = {}
        self._held_end = 0
        self.failure: OSError | None = None

    def close(self) -> None:
        """Write what is held back, and close the file."""
        self.flush()
        os.close(self._file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position for the next access, without a system call."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += max(os.fstat(self._file).st_size, self._held_end)
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position for the next access."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read bytes. h5py only checks that this method exists, to tell a file from a name; it uses `readinto`."""
        self.flush()
        content = os.pread(self._file, os.fstat(self._file).st_size if size < 0 else size, self._position)
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, or read up to the end of the file; return the number of bytes."""
        self.flush()
        size = os.preadv(self._file, [buffer], self._position)
        self._position += size
        return size

    def write(self, content: memoryview) -> int:
        """Write bytes at the current position; return their number, even if that failed."""
        size = len(content)
        if size <= _LARGEST_HEADER_BYTES:
            self._hold(content)
        else:
            self.write_at(self._position, content)
        self._position += size
        return size

    def write_at(self, offset: int, content: memoryview) -> None:
        """Write bytes at an offset, without moving the position."""
        if offset < self._held_end:  # headers held back for the same place have to be written before
            self.flush()
        try:
            while content:
                count = os.pwrite(self._file, content, offset)
                offset, content = offset + count, content[count:]
        except OSError as error:
            self.failure = self.failure or error

    def truncate(self, size: int) -> int:
        """Set the size of the file in bytes."""
        self.flush()
        try:
            os.truncate(self._file, size)
        except OSError as error:
            self.failure = self.failure or error
        return size

    def flush(self) -> None:
        """Write what is held back; adjacent headers, about three of four, in one call."""
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
