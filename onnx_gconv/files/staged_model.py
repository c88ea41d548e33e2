"""Writes a model and its data file so that, whatever stops the program, the old or the new output is complete."""

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

# The lock file of a hidden folder lists data files beside the output, one a line, that a killed process may leave
# behind: its new data file, and the old one, which the new output does not need.
_INTENT = "?"  # marks a name that is about to be reserved; such a file is removed only if it is empty
_NOT_OURS = "!"  # marks a name that another program took


class StagedOutput:
    """A new output in a hidden folder beside its final place.

    Attributes:
        model: The path in the hidden folder to which the new model is written; its data file goes beside it.
    """

    def __init__(self, path: Path, folder: Path, record: TextIO, protected: set[Path]) -> None:
        self.model: Path = folder / path.name
        self._path = path
        self._folder = folder
        self._record = record
        self._protected = protected

    def reserve_data_file(self, taken: Collection[str] = ()) -> str:
        """Return an unused name for the data file beside the output; an empty file of that name reserves it.

        Args:
            taken: Further names that must not be used.
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
        """Put the new output in its final place: the data file first, then the model in one step.

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
            # An empty data file is not needed: all tensors were so small that onnx-ir kept them in the model.
            self._take_name(self._folder / data_file, self._path.with_name(data_file))
            written.append(self._path.with_name(data_file))
        if self._path.exists():
            shutil.copymode(self._path, self.model)
        self.model.replace(self._path)
        return written

    def _take_name(self, new: Path, reserved: Path) -> None:
        """Give a file the name that an empty file reserves.

        A rename over the empty file is avoided: when a rename replaces a file, ext4 allocates the whole new file at
        once and starts to write it to the disk, which takes as long as computing it.

        Raises:
            FileExistsError: If another program took the name meanwhile.
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
        except OSError:  # some file systems have no hard links
            new.rename(reserved)
        else:
            new.unlink()  # ONNX Runtime refuses external data with more than one name

    def _note(self, line: str) -> None:
        self._record.write(f"{line}\n")
        self._record.flush()


@contextlib.contextmanager
def staged_output(path: Path, protected: set[Path]) -> Iterator[StagedOutput]:
    """Prepare a new output in a hidden folder, and clean up at the end.

    Until `StagedOutput.commit` has replaced the model, the older output stays complete. At the end, everything that the
    remaining output does not need is removed: the hidden folder, a new data file that was not committed, the data file
    of the older output. If a run is killed, the next run for the same path does that.

    Args:
        path: The model to write.
        protected: Resolved paths of files that are never removed.
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
    """Remove the data files that the lock file names and the output does not use, then the hidden folder."""
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
    """Return the data files of an older output at `path`, if their names are of the form that this module gives."""
    candidates = {file.name for file in path.parent.iterdir() if re.fullmatch(_data_pattern(path), file.name)}
    if not candidates:  # saves reading the model, which may be large
        return set()
    return candidates & (_external_locations(path) or set())


def _external_locations(path: Path) -> set[str] | None:
    """Return the locations of external data in the model at `path`; None if there is no readable model."""
    try:
        proto = onnx.load(os.fspath(path), format="protobuf", load_external_data=False)
        return {os.fspath(tensor.location) for tensor in external_tensors(ir.from_proto(proto))}
    except OSError as error:
        return set() if isinstance(error, FileNotFoundError) else None
    except (DecodeError, ir.serde.SerdeError, ValueError, TypeError):  # not a model
        return set()


def _data_pattern(path: Path) -> str:
    return re.escape(path.name) + r"(\.\d+)?\.data"
