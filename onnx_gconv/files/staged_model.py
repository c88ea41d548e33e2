"""Writing a model and its data file so that, whatever stops the program, a whole output stands: old or new."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnx_gconv.files.staging import LOCK, clear_after_dead_runs, new_hidden_folder, remove_hidden_folder
from onnx_gconv.tensors.external import external_tensors

__all__ = ["StagedOutput", "staged_output"]

# The lines of the lock of a hidden folder name data files beside the output which the process that holds it may leave
# behind: its own new one, and the old one that the new output makes superfluous.
_INTENT = "?"  # before the name of a file that may not be ours yet: it is removed only if it is empty
_NOT_OURS = "!"  # before the name of a file that somebody else took


class StagedOutput:
    """A new output in a hidden folder beside its place.

    Attributes:
        model: Where the new model is written to; its data file goes beside it.
    """

    def __init__(self, path: Path, folder: Path, record: TextIO, protected: set[Path]) -> None:
        self.model = folder / path.name
        self._path = path
        self._folder = folder
        self._record = record
        self._protected = protected

    def reserve_data_file(self, taken: Collection[str] = ()) -> str:
        """A name for the data file that no file beside the output has; an empty file of that name holds it.

        Args:
            taken: Names that other files are to have.
        """
        number = 0
        while True:
            name = f"{self._path.name}.{number}.data" if number else f"{self._path.name}.data"
            if name in taken:
                number += 1
                continue
            self._note(f"{_INTENT}{name}")
            try:
                self._path.with_name(name).touch(exist_ok=False)
            except FileExistsError:
                number += 1
                continue
            self._note(name)
            return name

    def commit(self, data_file: str | None) -> list[Path]:
        """Put the new output in its place: the data file first, then the model in one step.

        Args:
            data_file: The reserved name, or None if all tensors are in the model.

        Returns:
            The files of the output.
        """
        for name in sorted(_data_files_of(self._path)):
            if self._path.with_name(name).resolve() not in self._protected:
                self._note(name)
        written = [self._path]
        if data_file is not None and (self._folder / data_file).stat().st_size:
            # An empty one holds nothing: every tensor was so small that onnx-ir left it in the model.
            self._take_name(self._folder / data_file, self._path.with_name(data_file))
            written.append(self._path.with_name(data_file))
        if self._path.exists():
            shutil.copymode(self._path, self.model)
        self.model.replace(self._path)
        return written

    def _take_name(self, new: Path, reserved: Path) -> None:
        """Give a file the name that an empty file holds for it.

        Renaming it over the empty file would do the same, but when a rename replaces a file, ext4 allocates all of the
        new one at once and starts to write it to the disk, which costs as much time as having computed it.

        Raises:
            FileExistsError: If another program took the name in between.
        """
        if reserved.exists() and reserved.stat().st_size:
            self._note(f"{_NOT_OURS}{reserved.name}")
            raise FileExistsError(errno.EEXIST, f"another program wrote '{reserved.name}' meanwhile, run again")
        reserved.unlink(missing_ok=True)
        try:
            reserved.hardlink_to(new)  # unlike a rename, it never replaces
        except FileExistsError:
            self._note(f"{_NOT_OURS}{reserved.name}")
            raise
        except OSError:  # there are file systems without hard links
            new.rename(reserved)
        else:
            new.unlink()  # ONNX Runtime refuses external data with more than one name

    def _note(self, line: str) -> None:
        self._record.write(f"{line}\n")
        self._record.flush()


@contextlib.contextmanager
def staged_output(path: Path, protected: set[Path]) -> Iterator[StagedOutput]:
    """Prepare a new output in a hidden folder, and clear up in the end.

    Until `StagedOutput.commit` has replaced the model, the older output stands complete. What is not needed by the
    output that stands in the end is removed: the hidden folder, a new data file that was not committed, the data file
    that only the older output used. A run that is killed leaves that to the next run for the same path.

    Args:
        path: The model to write.
        protected: Files that are never removed, resolved.
    """
    clear = partial(_clear, path=path, protected=protected)
    clear_after_dead_runs(path, clear)
    folder, record = new_hidden_folder(path)
    with record:
        try:
            yield StagedOutput(path, folder, record, protected)
        finally:
            clear(folder)


def _clear(folder: Path, path: Path, protected: set[Path]) -> None:
    """Remove the data files that the record names and the output does not use, then the folder."""
    with contextlib.suppress(OSError):
        _remove_recorded(folder / LOCK, path, protected)
    with contextlib.suppress(OSError):
        remove_hidden_folder(folder)


def _remove_recorded(record: Path, path: Path, protected: set[Path]) -> None:
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {line.removeprefix(_INTENT) for line in lines}
    candidates = [name for name in names if re.fullmatch(_data_pattern(path), name) and path.with_name(name).exists()]
    if not candidates:
        return
    used = _external_locations(path)
    if used is None:
        return
    for name in candidates:
        file = path.with_name(name)
        is_ours = (name in lines or not file.stat().st_size) and f"{_NOT_OURS}{name}" not in lines
        if is_ours and name not in used and file.resolve() not in protected:
            file.unlink()


def _data_files_of(path: Path) -> set[str]:
    """The data files of an older output at `path` that bear the names which this module gives."""
    candidates = {file.name for file in path.parent.iterdir() if re.fullmatch(_data_pattern(path), file.name)}
    if not candidates:  # then the model, which may be large, need not be read
        return set()
    return candidates & (_external_locations(path) or set())


def _external_locations(path: Path) -> set[str] | None:
    """The locations of external data that the model at `path` names, if it is one; None if it cannot be read."""
    try:
        proto = onnx.load(os.fspath(path), format="protobuf", load_external_data=False)
        return {os.fspath(tensor.location) for tensor in external_tensors(ir.from_proto(proto))}
    except OSError as error:
        return set() if isinstance(error, FileNotFoundError) else None
    except (DecodeError, ir.serde.SerdeError, ValueError, TypeError):  # no model
        return set()


def _data_pattern(path: Path) -> str:
    return re.escape(path.name) + r"(\.\d+)?\.data"
