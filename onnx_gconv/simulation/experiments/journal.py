"""A journal: a file of finished trials, from which a simulation that was stopped goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from onnx_gconv.errors import ConfigError

__all__ = ["Journal", "opened_journal"]

_FORMAT = "onnx_gconv.simulation 1"


class Journal:
    """The figures of finished trials. Without a file they are held in memory only.

    Args:
        done: The figures of finished trials, by their keys.
        file: The file to which new figures are written; None for none.
        prefix: A text in front of each key, which tells simulations in one file apart.
    """

    def __init__(self, done: dict[str, float], file: TextIO | None, prefix: str = "") -> None:
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
        """Record the figure of a finished trial. It is on disk when this returns.

        Raises:
            ConfigError: If the file cannot be written, such as on a full disk.
        """
        key = f"{self._prefix}{key}"
        self._done[key] = value
        if self._file is None:
            return
        try:
            self._file.write(json.dumps([key, value]) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unusable(Path(self._file.name), error) from error


@contextlib.contextmanager
def opened_journal(path: Path | None, of: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of a simulation. The trials of an existing file of the same simulation count as finished.

    Args:
        path: The file, which need not exist; None for no journal.
        of: JSON values that identify the simulation. The journal of another simulation is refused.

    Raises:
        ConfigError: If the file cannot be read or written, is not a journal, or belongs to another simulation.
    """
    if path is None:
        yield Journal({}, None)
        return
    head = json.dumps({"format": _FORMAT, **of}, sort_keys=True)
    try:
        content = path.read_bytes() if path.exists() else b""
        done, end = _entries(path, content, head)
        file = path.open("r+" if content else "w", encoding="utf-8", newline="\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error
    with file:
        try:
            file.seek(end)
            file.truncate()  # remove an incomplete last line, which a killed run leaves
            if not end:
                file.write(head + "\n")
                file.flush()
        except OSError as error:
            raise _unusable(path, error) from error
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
            key, value = json.loads(line)
            done[str(key)] = float(value)
        except (ValueError, TypeError):
            raise ConfigError(
                f"the journal '{path}', line {number}, is damaged; remove that line, or the file"
            ) from None
    return done, end


def _no_journal(path: Path) -> ConfigError:
    return ConfigError(f"'{path}' is no journal of a simulation; choose another name")


def _unusable(path: Path, error: OSError | UnicodeDecodeError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
    return ConfigError(f"the journal '{path}' cannot be used: {reason}; choose another one")
