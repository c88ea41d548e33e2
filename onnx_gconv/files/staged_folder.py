"""Writing a folder so that, whatever stops the program, a whole one stands: old, new, or none if there was none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from onnx_gconv.files.staging import lock_file

__all__ = ["StagedFolder", "staged_folder"]

# In the hidden folder: the lock of the process that owns it, the new folder, and the old one while it is replaced.
_LOCK, _NEW, _OLD = "lock", "new", "old"


class StagedFolder:
    """A new folder that is filled in a hidden folder beside its place.

    Attributes:
        folder: Where it is filled.
    """

    def __init__(self, path: Path, hidden: Path) -> None:
        self.folder = hidden / _NEW
        self.folder.mkdir()
        self._path = path
        self._old = hidden / _OLD

    def commit(self) -> None:
        """Put the new folder in its place. An older one vanishes only when the new one stands.

        A folder with content cannot be replaced in one step: if the program is killed between both, the next run for
        the same path brings the older one back.

        Raises:
            OSError: If it cannot be moved; the older one stands then.
        """
        if self._path.exists():
            self._path.rename(self._old)
            try:
                self.folder.rename(self._path)
            except BaseException:
                self._old.rename(self._path)
                raise
        else:
            self.folder.rename(self._path)


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[StagedFolder]:
    """Prepare a new folder in a hidden one beside its place, and clear up in the end.

    What runs that were killed left behind is cleared up first.

    Args:
        path: The folder to write.
    """
    clear_after_dead_runs(path)
    hidden, lock = _new_hidden_folder(path)
    with lock:
        try:
            yield StagedFolder(path, hidden)
        finally:
            _clear(hidden, path)


def clear_after_dead_runs(path: Path) -> None:
    """Remove what killed runs for that path left behind; bring back an older folder that one had moved away."""
    for hidden in path.parent.iterdir():
        if not hidden.name.startswith(_prefix(path)) or not hidden.is_dir():
            continue
        try:
            descriptor = os.open(hidden / _LOCK, os.O_RDWR)
        except FileNotFoundError:  # the lock is the first thing in a folder and the last to go
            shutil.rmtree(hidden, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            if lock_file(descriptor):
                _clear(hidden, path)
        finally:
            os.close(descriptor)


def _new_hidden_folder(path: Path) -> tuple[Path, TextIO]:
    """A new hidden folder and its lock, locked. Another run may take a folder without a lock for a dead one."""
    while True:
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        with contextlib.suppress(FileNotFoundError):
            lock = (hidden / _LOCK).open("w", encoding="utf-8")
            lock_file(lock.fileno())
            if (hidden / _LOCK).exists():
                return hidden, lock
            lock.close()


def _clear(hidden: Path, path: Path) -> None:
    with contextlib.suppress(OSError):
        if (hidden / _OLD).exists() and not path.exists():
            (hidden / _OLD).rename(path)
        for name in (_NEW, _OLD):
            shutil.rmtree(hidden / name, ignore_errors=True)
        (hidden / _LOCK).unlink()
        hidden.rmdir()


def _prefix(path: Path) -> str:
    return f".{path.name}.partial-"
