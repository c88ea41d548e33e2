"""A model as a caller gave it: its name in messages, and how it is read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnx_gconv.errors import ConfigError, GconvError, ModelError
from onnx_gconv.files.given.kinds import TAKEN, ModelLike, is_program, why_no_model
from onnx_gconv.files.given.own_copy import own_copy, own_tensors
from onnx_gconv.files.model_checks import first_cause, first_problem
from onnx_gconv.files.models import check_model_path, load_model, save_model
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.tensors.external import check_external_tensor, external_files, external_tensors

__all__ = ["GivenModel", "named_as_given", "renamed"]

_NAME_ON_DISK = "model.onnx"


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A model as a caller gave it, in a file or in memory.

    Attributes:
        label: Its name in messages and reports: its path; for a model in memory, its class in angle brackets, such as
            ``<ONNXProgram>``.
        file: Its file; None if it is in memory.
    """

    label: Path
    file: Path | None
    _object: ir.Model | onnx.ModelProto | None = field(default=None, repr=False)

    @classmethod
    def of(cls, model: ModelLike, function: str) -> GivenModel:
        """Return the model that a caller gave.

        Args:
            model: The argument of the caller.
            function: The name of the called function, for messages.

        Raises:
            ModelError: If the argument is no model; the message says what to give instead.
        """
        if isinstance(model, (str, os.PathLike)):
            path = check_model_path(model)
            return cls(path, path)
        if isinstance(model, ir.Model):
            return cls(Path("<onnx_ir.Model>"), None, model)
        if isinstance(model, onnx.ModelProto):
            return cls(Path("<onnx.ModelProto>"), None, model)
        if is_program(model):
            return cls(Path(f"<{type(model).__name__}>"), None, model.model)
        raise ModelError(f"{why_no_model(model)}; {function} takes {TAKEN}")

    @property
    def files(self) -> list[Path]:
        """The file of the model, if there is one; it must not be overwritten."""
        return [] if self.file is None else [self.file]

    def output(
        self, given: str | os.PathLike[str] | None, default: Callable[[Path], Path], *, is_written: bool = True
    ) -> Path:
        """Return the path of an output that is made from the model.

        Args:
            given: The path that the caller gave; None for the default.
            default: Gives the default path, beside a model's file.
            is_written: Whether anything will be written at all.

        Raises:
            ConfigError: If the caller gave no path and the model is in memory, so that there is no default.
        """
        if given is not None:
            return Path(given)
        if self.file is None and is_written:
            raise ConfigError(f"'{self.label}' is in memory and has no folder to write to; give an output, too")
        return default(self.label)

    def load(self, watched: WatchedFiles | None = None, *, may_lack_data: bool = False) -> ir.Model:
        """Return the model for the callee to change; the caller's model stays unchanged. Tensor data is not copied.

        Args:
            watched: The files from which the model is read are added to these.
            may_lack_data: Whether files of external data may be missing, see `load_model`.

        Raises:
            ModelError: If the model cannot be read, or weights have no values.
        """
        if self.file is not None:
            return load_model(self.file, watched, may_lack_data=may_lack_data)
        watched = WatchedFiles() if watched is None else watched
        try:
            model = _of_proto(self._object) if isinstance(self._object, onnx.ModelProto) else _of_model(self._object)
            for tensor in external_tensors(model):
                check_external_tensor(tensor, may_be_absent=may_lack_data)
                watched.add(Path(tensor.path))
        except ModelError as error:
            raise ModelError(f"'{self.label}': {error}") from error.__cause__
        return model

    def identity(self, model: ir.Model) -> dict[str, Any]:
        """Return what identifies the model, as JSON values: the hash of its file; sizes and times of its data files.

        A model in memory is identified by hashes only, which are the same for another export of the same weights.

        Args:
            model: The model that `load` gave.
        """
        if self.file is not None:
            found = [(file.name, file.stat()) for file in sorted(external_files(model))]
            data = [[name, status.st_size, status.st_mtime_ns] for name, status in found]
            return {"model": _sha256(self.file), "data": data}
        with self.on_disk() as path:
            files = sorted(external_files(load_model(path)))
            return {"model": _sha256(path), "data": [[file.name, file.stat().st_size, _sha256(file)] for file in files]}

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give the path of the model as a file, for tools that only read files, such as ONNX Runtime.

        A model in memory is streamed to a temporary folder, which is removed at the end; its weights are not copied in
        memory.

        Raises:
            ModelError: If the model cannot be read.
            ConfigError: If the folder cannot be written.
        """
        if self.file is not None:
            yield self.file
            return
        with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
            path = Path(folder) / _NAME_ON_DISK
            watched = WatchedFiles()
            save_model(self.load(watched), path, watched=watched)
            yield path


@contextmanager
def named_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Replace names of models in error messages by the names that callers know.

    Args:
        names: The known name of each model, by the path of its temporary file, which messages would name.
    """
    try:
        yield
    except GconvError as error:
        error.args = tuple(renamed(str(part), names) for part in error.args)
        raise


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text in which names of models are replaced."""
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def _of_model(model: ir.Model | None) -> ir.Model:
    assert model is not None  # noqa: S101 - `GivenModel.of` has seen it
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is None:
                raise ModelError(f"its initializer '{value.name}' has no values; give the model with its weights")
            raw = getattr(value.const_value, "raw", None)
            if hasattr(raw, "fake_mode") or getattr(raw, "is_meta", False):
                raise ModelError(
                    f"its weight '{value.name}' is a fake tensor without values; "
                    "ONNXProgram.apply_weights(module.state_dict()) gives the program its weights"
                )
    return own_copy(model)


def _of_proto(proto: onnx.ModelProto) -> ir.Model:
    if (problem := first_problem(proto)) is not None:
        raise ModelError(f"it {problem}")
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        reason = " ".join(str(first_cause(error)).split())
        raise ModelError(f"it is not a valid ONNX model: {reason}; export it again") from error
    tensor = next(external_tensors(model), None)
    if tensor is not None:
        raise ModelError(
            f"its tensor '{tensor.name}' is in the file '{tensor.location}', and an onnx.ModelProto does not say in "
            "which folder; give the path of the model, or load it with its external data"
        )
    own_tensors(model)
    return model
