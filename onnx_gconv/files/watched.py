"""Detects whether files that a run reads have changed between the beginning and the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.errors import GconvError, ModelError

__all__ = ["WatchedFiles"]


@dataclass(frozen=True)
class _State:
    """The properties of a file in its file system, which change if the file is written or replaced.

    The inode number is left out, because some network file systems report another one at each look. The time of the
    last change of the inode (ctime) is included, because a program that sets the modification time back changes it.
    """

    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> _State:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class WatchedFiles:
    """The properties of files when they were first read.

    A run reads large files more than once, e.g. to find the largest weight and to convert the weights. If a program
    writes to them meanwhile, the output is a mixture of old and new values, which nothing else would notice. So every
    output calls `check` before it is put in place.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_State, type[GconvError]]] = {}

    def add(self, path: Path, error: type[GconvError] = ModelError) -> None:
        """Remember the properties of a file before it is read, unless they are known already. It may be missing.

        Args:
            path: The file.
            error: The class of the error that `check` raises if the file has changed.
        """
        if path not in self._known:
            try:
                self._known[path] = _State.of(path), error
            except OSError:  # the code that reads the file reports that
                return

    def check(self) -> None:
        """Check that no file has changed.

        Raises:
            GconvError: If one has changed; of the class that was given with it.
        """
        for path, (before, error) in self._known.items():
            if (problem := _problem(path, before)) is not None:
                raise error(
                    f"'{path}' changed while it was read: {problem}; let what writes it come to its end, and run again"
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Replace an error by that of `check` if a file has changed: the change is then the cause."""
        try:
            yield
        except Exception:
            self.check()
            raise


def _problem(path: Path, before: _State) -> str | None:
    """Return how a file has changed, in words; None if it has not."""
    try:
        now = _State.of(path)
    except OSError:
        return "it is gone"
    if now.size != before.size:
        return f"it had {before.size:,} bytes, and has {now.size:,} now"
    if now.written_ns != before.written_ns:
        return "it was written, or replaced, meanwhile"
    return None if now == before else "its properties changed, as when it is written and its time set back"
