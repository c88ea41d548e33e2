"""Writing a folder so that, whatever stops the program, a whole one stands: old, new, or none if there was none."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from onnx_gconv.files.staging import clear_after_dead_runs, new_hidden_folder, remove_hidden_folder

__all__ = ["StagedFolder", "bring_back", "staged_folder"]

# In the hidden folder: the new folder, and the old one while it is replaced.
_NEW, _OLD = "new", "old"


class StagedFolder:
    """A new folder that is filled in a hidden folder beside its place.

    Attributes:
        folder: Where it is filled.
    """

    def __init__(self, path: Path, hidden: Path) -> None:
        self.folder: Path = hidden / _NEW
        self.folder.mkdir()
        self._path = path
        self._old = hidden / _OLD

    def commit(self) -> None:
        """Put the new folder in its place. An older one vanishes only when the new one stands.

        A folder with content cannot be replaced in one step: if the program is killed between both, the next run for
        the same path brings the older one back.

        Raises:
            FileExistsError: If another program put a folder there meanwhile, which stands then.
            OSError: If it cannot be moved; the older one stands then.
        """
        if self._path.exists():
            self._path.rename(self._old)
        try:
            self.folder.rename(self._path)
        except OSError:  # the older one comes back when the hidden folder is cleared up
            if self._path.exists():
                message = f"another program wrote '{self._path.name}' meanwhile, run again"
                raise FileExistsError(errno.EEXIST, message) from None
            raise


def bring_back(path: Path) -> None:
    """Bring back an older folder that a run moved away which was killed then, and clear up what dead runs left."""
    with contextlib.suppress(OSError):
        clear_after_dead_runs(path, partial(_clear, path=path))


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[StagedFolder]:
    """Prepare a new folder in a hidden one beside its place, and clear up in the end.

    What runs that were killed left behind is cleared up first; an older folder that one had moved away comes back.

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
