"""Files that a run reads: whether they still are, at its end, what they were when it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.errors import GconvError, ModelError

__all__ = ["WatchedFiles"]


@dataclass(frozen=True)
class _State:
    """What a file system says of a file. Whatever writes to it, or puts another one in its place, changes that.

    The number of the inode is left out: some network file systems give a file another one when they look again. The
    time of the last change of the inode says more, since programs that set the other time to an older one set it, too.
    """

    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> _State:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class WatchedFiles:
    """Files as they were when they were first read.

    A run reads large files more than once, e.g. to find the largest weight and to convert the weights. If a program
    writes to them meanwhile, the output is a mixture that nothing else tells from a right one. So whoever writes an
    output asks, before it is put in its place.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_State, type[GconvError]]] = {}

    def add(self, path: Path, error: type[GconvError] = ModelError) -> None:
        """Remember a file as it is now, before it is read; one that is known stays as it was. There may be none.

        Args:
            path: The file.
            error: What is raised if it changes.
        """
        if path not in self._known:
            try:
                self._known[path] = _State.of(path), error
            except OSError:  # whoever reads it says more
                return

    def check(self) -> None:
        """Check that no file has changed.

        Raises:
            GconvError: If one has; of the class that was given with it.
        """
        for path, (before, error) in self._known.items():
            if (problem := _problem(path, before)) is not None:
                raise error(
                    f"'{path}' changed while it was read: {problem}; let what writes it come to its end, and run again"
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What goes wrong because a file changes is told as that, and not as what is wrong in the new content."""
        try:
            yield
        except Exception:
            self.check()
            raise


def _problem(path: Path, before: _State) -> str | None:
    """What is different, in words; None if nothing is."""
    try:
        now = _State.of(path)
    except OSError:
        return "it is gone"
    if now.size != before.size:
        return f"it had {before.size:,} bytes, and has {now.size:,} now"
    if now.written_ns != before.written_ns:
        return "it was written, or replaced, meanwhile"
    return None if now == before else "its properties changed, as when it is written and its time set back"
