"""A journal: a file of finished trials, from which a simulation that was stopped goes on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.special_files import no_file_but
from onnx_gconv.simulation.chips.streams import DRAWS
from onnx_gconv.version import __version__

__all__ = ["Journal", "opened_journal"]

_FORMAT = "onnx_gconv.simulation 1"

_SECONDS_TO_DISK = 1.0


class Journal:
    """The figures of finished trials. Without a file they are held in memory only.

    Args:
        done: The figures of finished trials, by their keys.
        file: The file to which new figures are written; None for none.
        prefix: A text in front of each key, which tells simulations in one file apart.
    """

    def __init__(self, done: dict[str, float], file: _JournalFile | None, prefix: str = "") -> None:
        self._done = done
        self._file = file
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._done)

    def part(self, of: Mapping[str, Any]) -> Journal:
        """The journal of one of several simulations in the same file.

        Args:
            of: JSON values that identify the simulation. Simulations with equal values share their trials.
        """
        digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
        return Journal(self._done, self._file, f"{digest[:16]} ")

    def known(self, key: str) -> float | None:
        """The figure of a finished trial; None if the trial is not finished."""
        return self._done.get(f"{self._prefix}{key}")

    def add(self, key: str, value: float) -> None:
        """Record the figure of a finished trial. The file has it when this returns; see `_JournalFile.write`.

        Raises:
            ConfigError: If the file cannot be written, such as on a full disk.
        """
        key = f"{self._prefix}{key}"
        self._done[key] = value
        if self._file is not None:
            self._file.write(json.dumps([key, value]) + "\n")


class _JournalFile:
    """The open file of a journal, which no other process writes to. Leaving the ``with`` block closes it.

    Args:
        path: The file.

    Attributes:
        content: What is in the file when it is opened.

    Raises:
        ConfigError: If the file cannot be opened, or another process has it open as a journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if (place := no_file_but(path)) is not None:
            raise ConfigError(f"the journal '{path}' cannot be used: it is {place}; choose another one")
        self._is_new = not path.exists()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _lock(path, self._descriptor)
            self.content = path.read_bytes()
        except OSError as error:
            os.close(self._descriptor)
            raise _unusable(path, error) from error
        except ConfigError:
            os.close(self._descriptor)
            raise
        self._end = len(self.content)
        self._on_disk = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if kind is None:
                raise _unusable(self._path, error) from error
        finally:
            os.close(self._descriptor)
            if self._is_new and not self._end:  # nothing could be written
                self._path.unlink(missing_ok=True)

    def cut(self, end: int) -> None:
        """Remove what follows the first `end` bytes, such as an incomplete last line, which a killed run leaves.

        Raises:
            ConfigError: If the file cannot be written.
        """
        try:
            os.ftruncate(self._descriptor, end)
        except OSError as error:
            raise _unusable(self._path, error) from error
        self._end = end

    def write(self, line: str) -> None:
        """Write a line. Afterwards it outlasts the end of this process, and a second later a power cut, too.

        Raises:
            ConfigError: If the line cannot be written as a whole; the file then ends with the line before.
        """
        content = line.encode()
        try:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            left = content
            while left:
                left = left[os.write(self._descriptor, left) :]
            if time.monotonic() > self._on_disk + _SECONDS_TO_DISK:
                os.fsync(self._descriptor)
                self._on_disk = time.monotonic()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise _unusable(self._path, error) from error
        self._end += len(content)


def _lock(path: Path, descriptor: int) -> None:
    """Lock the file of a journal until it is closed, where the system and the file system can do that.

    Raises:
        ConfigError: If another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on POSIX
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            raise ConfigError(
                f"the journal '{path}' is in use by another run; wait for its end, or choose another journal"
            ) from error


@contextlib.contextmanager
def opened_journal(path: Path | None, of: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of a simulation. The trials of an existing file of the same simulation count as finished.

    Args:
        path: The file, which need not exist; None for no journal.
        of: JSON values that identify the simulation. The journal of another simulation, or of a version that may give
            other figures, is refused.

    Raises:
        ConfigError: If the file cannot be read or written, is not a journal, belongs to another simulation, or another
            run uses it.
    """
    if path is None:
        yield Journal({}, None)
        return
    made_by = {"version of onnx_gconv": __version__, "version of its random numbers": DRAWS}
    head = json.dumps({"format": _FORMAT, **made_by, **of}, sort_keys=True)
    with _JournalFile(path) as file:
        try:
            done, end = _entries(path, file.content, head)
        except UnicodeDecodeError as error:
            raise _unusable(path, error) from error
        if end != len(file.content):
            file.cut(end)
        if not end:
            file.write(head + "\n")
        file.content = b""
        yield Journal(done, file)


def _entries(path: Path, content: bytes, head: str) -> tuple[dict[str, float], int]:
    """The finished trials of a journal, and the length in bytes of its complete lines."""
    end = content.rfind(b"\n") + 1
    whole = content[:end].decode("utf-8").splitlines()
    if not whole:
        if content and not head.encode().startswith(content):
            raise _no_journal(path)
        return {}, 0
    try:
        found = json.loads(whole[0])
        is_journal = isinstance(found, dict) and found.get("format") == _FORMAT
    except ValueError:
        is_journal = False
    if not is_journal:
        raise _no_journal(path)
    if found != json.loads(head):
        wanted = json.loads(head)
        key = next(key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key))
        raise ConfigError(
            f"the journal '{path}' is that of another simulation: its {key} is {found.get(key)}, not "
            f"{wanted.get(key)}; remove it, or choose another one"
        )
    done = {}
    for number, line in enumerate(whole[1:], start=2):
        try:
            key, value = _entry(line)
        except (ValueError, TypeError):
            raise ConfigError(
                f"the journal '{path}', line {number}, is damaged; remove that line, or the file"
            ) from None
        done[key] = value
    return done, end


def _entry(line: str) -> tuple[str, float]:
    """The key and the figure of a line; raises ValueError or TypeError for a line that `Journal.add` does not write."""
    key, value = json.loads(line)
    if type(key) is not str or type(value) not in (int, float) or math.isnan(value):
        raise ValueError(line)
    return key, float(value)


def _no_journal(path: Path) -> ConfigError:
    return ConfigError(f"'{path}' is no journal of a simulation; choose another name")


def _unusable(path: Path, error: OSError | UnicodeDecodeError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
    return ConfigError(f"the journal '{path}' cannot be used: {reason}; choose another one")
