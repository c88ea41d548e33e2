"""Hidden folders in which outputs are made, beside their final place, and the removal of those of killed runs.

Each hidden folder contains a lock file, which is locked as long as its process lives. The lock file is created first
and removed last: a folder without it, or with a free lock, belongs to a dead run. Small files need no folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

__all__ = [
    "LOCK",
    "clear_after_dead_runs",
    "new_hidden_folder",
    "remove_hidden_folder",
    "staged_text",
    "write_small_file",
]

LOCK = "lock"


def new_hidden_folder(path: Path) -> tuple[Path, TextIO]:
    """Make a hidden folder beside an output; return it and its lock file, open for writing and locked."""
    while True:
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        with contextlib.suppress(FileNotFoundError):  # another run may have removed the folder before it had a lock
            lock = (hidden / LOCK).open("w", encoding="utf-8")
            _lock_file(lock.fileno())
            if (hidden / LOCK).exists():
                return hidden, lock
            lock.close()


def clear_after_dead_runs(path: Path, clear: Callable[[Path], None]) -> None:
    """Remove the hidden folders that killed runs for the same output left behind.

    Args:
        path: The output.
        clear: Removes a folder with a lock file, and what belongs to it. A folder without one is empty.
    """
    for hidden in path.parent.iterdir():
        if not hidden.name.startswith(_prefix(path)) or not hidden.is_dir():
            continue
        try:
            descriptor = os.open(hidden / LOCK, os.O_RDWR)
        except FileNotFoundError:
            shutil.rmtree(hidden, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            if _lock_file(descriptor):
                clear(hidden)
        finally:
            os.close(descriptor)


def remove_hidden_folder(hidden: Path) -> None:
    """Remove a hidden folder, its lock file last.

    Raises:
        OSError: If something in it cannot be removed; content of its subfolders may stay without an error.
    """
    for item in hidden.iterdir():
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name != LOCK:
            item.unlink()
    (hidden / LOCK).unlink()
    hidden.rmdir()


def _prefix(path: Path) -> str:
    return f".{path.name}.partial-"


def _lock_file(descriptor: int) -> bool:
    """Lock a file for the life of this process; False if another process holds it."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on POSIX: leftovers of killed runs stay there
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_small_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Write bytes to a file, so that it appears whole or not at all.

    Args:
        path: The file.
        content: Its content.
        replace: Whether an existing file is replaced.

    Raises:
        FileExistsError: If the file exists and is not to be replaced, or `path` is a broken link.
        OSError: If it cannot be written; an existing file is then unchanged.
    """
    with _put_in_place(path, replace=replace) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def staged_text(path: Path, *, replace: bool) -> Iterator[TextIO]:
    """Open a UTF-8 text file that is put in its place when the with statement ends without an error.

    Args:
        path: The file.
        replace: Whether an existing file is replaced.

    Raises:
        FileExistsError: If the file exists and is not to be replaced; checked before anything is written.
        OSError: If it cannot be written; an existing file is then unchanged.
    """
    if not replace and (path.exists() or path.is_symlink()):
        raise FileExistsError(path)
    with _put_in_place(path, replace=replace) as partial, partial.open("w", encoding="utf-8", newline="\n") as text:
        yield text


@contextlib.contextmanager
def _put_in_place(path: Path, *, replace: bool) -> Iterator[Path]:
    """Give a temporary path beside a file; it becomes the file when the with statement ends without an error."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        if replace:
            partial.replace(path)
        else:
            path.hardlink_to(partial)  # unlike a rename, it never replaces
    finally:
        partial.unlink(missing_ok=True)
