"""Hidden folders in which an output is made beside its place, and what killed runs left in theirs.

Each holds a file that is locked as long as the process that made it lives. It is the first thing in a folder and the
last to go: a folder without it, or whose lock is free, is one of a dead run. Small files need no folder.
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
    """A new hidden folder beside an output, and its lock, open for writing and locked."""
    while True:
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        with contextlib.suppress(FileNotFoundError):  # another run may take a folder without a lock for a dead one
            lock = (hidden / LOCK).open("w", encoding="utf-8")
            _lock_file(lock.fileno())
            if (hidden / LOCK).exists():
                return hidden, lock
            lock.close()


def clear_after_dead_runs(path: Path, clear: Callable[[Path], None]) -> None:
    """Clear up the hidden folders that killed runs for the same output left behind.

    Args:
        path: The output.
        clear: Clears up a folder that has a lock. The others hold nothing yet and are simply removed.
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
    """Remove a hidden folder, the lock last.

    Raises:
        OSError: If something cannot be removed; what is in a folder of it may stay without that.
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
    except ImportError:  # pragma: no cover - not on POSIX: leftovers are then left alone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_small_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file that is held in memory.

    Args:
        path: The file.
        content: What is in it.
        replace: Whether an older one is replaced.

    Raises:
        FileExistsError: If there is one that is not to be replaced, or a link that leads nowhere.
        OSError: If it cannot be written; what there was is as it was.
    """
    with _put_in_place(path, replace=replace) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def staged_text(path: Path, *, replace: bool) -> Iterator[TextIO]:
    """A text file in UTF-8 that is put in its place when the with statement ends, unless that raises anything.

    Args:
        path: The file.
        replace: Whether an older one is replaced.

    Raises:
        FileExistsError: As `write_small_file`; if there is one already, before anything is written.
        OSError: As `write_small_file`.
    """
    if not replace and (path.exists() or path.is_symlink()):
        raise FileExistsError(path)
    with _put_in_place(path, replace=replace) as partial, partial.open("w", encoding="utf-8", newline="\n") as text:
        yield text


@contextlib.contextmanager
def _put_in_place(path: Path, *, replace: bool) -> Iterator[Path]:
    """A name beside a file, for what takes its place when the with statement ends, unless that raises anything."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        if replace:
            partial.replace(path)
        else:
            path.hardlink_to(partial)  # unlike a rename, it never replaces
    finally:
        partial.unlink(missing_ok=True)
