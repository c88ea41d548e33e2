"""Writes a folder so that, whatever stops the program, the old or the new folder is complete."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from onnx_gconv.files.staging import clear_after_dead_runs, new_hidden_folder, remove_hidden_folder

__all__ = ["StagedFolder", "bring_back", "staged_folder"]

# Names in the hidden folder: of the new folder, and of the old one while it is replaced.
_NEW, _OLD = "new", "old"


class StagedFolder:
    """A new folder that is filled in a hidden folder beside its final place.

    Attributes:
        folder: The path in the hidden folder where it is filled.
    """

    def __init__(self, path: Path, hidden: Path) -> None:
        self.folder: Path = hidden / _NEW
        self.folder.mkdir()
        self._path = path
        self._old = hidden / _OLD

    def commit(self) -> None:
        """Put the new folder in its final place. An older one is removed only when the new one is in place.

        A folder with content cannot be replaced in one step: the old one is moved away first. If the program is killed
        then, the next run for the same path moves the old folder back.

        Raises:
            FileExistsError: If another program put a folder there meanwhile; that folder stays.
            OSError: If the new folder cannot be moved; the older one stays.
        """
        if self._path.exists():
            self._path.rename(self._old)
        try:
            self.folder.rename(self._path)
        except OSError:  # `_clear` moves the older folder back
            if self._path.exists():
                message = f"another program wrote '{self._path.name}' meanwhile, run again"
                raise FileExistsError(errno.EEXIST, message) from None
            raise


def bring_back(path: Path) -> None:
    """Move back an older folder that a killed run had moved away, and remove what killed runs left."""
    with contextlib.suppress(OSError):
        clear_after_dead_runs(path, partial(_clear, path=path))


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[StagedFolder]:
    """Prepare a new folder in a hidden folder beside its final place, and clean up at the end.

    What killed runs left behind is removed first; an older folder that one of them had moved away is moved back.

    Args:
        path: The folder to write.
    """
    clear = partial(_clear, path=path)
    clear_after_dead_runs(path, clear)
    hidden, lock = new_hidden_folder(path)
    with lock:
        try:
            yield StagedFolder(path, hidden)
        finally:
            clear(hidden)


def _clear(hidden: Path, path: Path) -> None:
    with contextlib.suppress(OSError):
        if (hidden / _OLD).exists() and not path.exists():
            (hidden / _OLD).rename(path)
        remove_hidden_folder(hidden)
