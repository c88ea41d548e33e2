"""Reading and writing models: safely, in flat memory, and so that an output appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.data_file import write_data_file
from onnx_gconv.files.model_checks import first_cause, first_problem, unwritable
from onnx_gconv.files.special_files import no_file_but
from onnx_gconv.files.staged_model import staged_output
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.tensors.external import (
    attribute_tensors,
    check_external_tensor,
    external_files,
    external_tensors,
    is_absent,
)
from onnx_gconv.tensors.streamed import all_elements

__all__ = [
    "EXTERNAL_DATA_THRESHOLD_BYTES",
    "check_model_path",
    "check_output_path",
    "collection_suspended",
    "load_into_memory",
    "load_model",
    "save_model",
]

# A model above this size is written with external data even if its source was not: a protobuf of that size has to be
# held in memory twice by everyone who reads it.
EXTERNAL_DATA_THRESHOLD_BYTES = 256 << 20

# The largest protobuf message, less what the graph around the tensors may need.
_LARGEST_INLINE_BYTES = (1 << 31) - (16 << 20)

# Initializers up to this size stay in the model, as onnx-ir and onnx have it by default or nearly so.
_LARGEST_INTERNAL_BYTES = 256

_OF_ONNX_RUNTIME = (
    "is in ONNX Runtime's own format (.ort), which holds a model that is optimized for it, and is no ONNX model; map "
    "the .onnx file before it is converted"
)

_Replace: TypeAlias = Callable[[Callable[[], None], Callable[[], None]], None]


def load_model(
    path: str | os.PathLike[str], watched: WatchedFiles | None = None, *, may_lack_data: bool = False
) -> ir.Model:
    """Read an ONNX model; data outside the file is checked, but not read.

    Args:
        path: The ``.onnx`` file.
        watched: The file and those of its external data are added to them.
        may_lack_data: Whether files of external data need not be there; reading a tensor in such a file is an error.

    Raises:
        ModelError: If the file cannot be read, is not an ONNX model or is truncated; if it holds something that would
            be lost (sparse initializers, training information) or is ambiguous (duplicate initializers); or if its
            external data is unsafe, missing or too short.
    """
    path = check_model_path(path)
    watched = WatchedFiles() if watched is None else watched
    watched.add(path)
    try:
        proto = onnx.load(os.fspath(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"cannot read the model '{path}': {error.strerror}; give an ONNX file that is there") from None
    except DecodeError:
        problem: str | None = "is not an ONNX model, or it is truncated; export or copy it again"
    else:
        problem = first_problem(proto)
    if problem is not None:
        raise ModelError(f"'{path}' {_OF_ONNX_RUNTIME if _is_of_onnx_runtime(path) else problem}")
    try:
        with collection_suspended():
            model = ir.from_proto(proto)
            _have_metadata_once(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        reason = " ".join(str(first_cause(error)).split())
        raise ModelError(f"'{path}' is not a valid ONNX model: {reason}; export it again") from error
    for tensor in external_tensors(model):
        tensor.base_dir = os.fspath(path.parent)
        try:
            check_external_tensor(tensor, may_be_absent=may_lack_data)
        except ModelError as error:
            raise ModelError(f"'{path}': {error}") from None
        watched.add(Path(tensor.path))
    return model


def _have_metadata_once(model: ir.Model) -> None:
    """Keep onnx-ir (1.1) from writing the metadata of each tensor twice: those it has read, and those of the file."""
    initializers = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    for tensor in (*initializers, *(tensor for _, _, tensor in attribute_tensors(model))):
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            del tensor.raw.metadata_props[:]


def _is_of_onnx_runtime(path: Path) -> bool:
    """Whether a file has ONNX Runtime's own format: FlatBuffers, with their identifier after the first offset."""
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ORTM"


@contextlib.contextmanager
def collection_suspended() -> Iterator[None]:
    """Keep Python from looking for garbage while a graph, or another large thing, is made.

    A graph of thousands of nodes is hundreds of thousands of objects, and none of them is garbage: looking at all of
    them again and again takes a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def save_model(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    inputs: Iterable[str | os.PathLike[str]] = (),
    watched: WatchedFiles | None = None,
    accept: Callable[[Path], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write an ONNX model so that it appears whole or not at all.

    Everything is written to a hidden folder beside `path` first. Then the data file is moved beside `path`, under a
    name that no file has yet, and last the ``.onnx`` file replaces the old one in one step. Until then, an older output
    stands complete; the data file that only it used is removed afterwards. What a killed run left behind is removed by
    the next run that writes to the same path.

    Tensors whose external data is not there keep the location that they have.

    Args:
        model: The model; it is not changed. Streamed tensors are computed while they are written.
        path: The ``.onnx`` file. Its folder must exist.
        external_data: Whether initializers go to a data file beside the model, named ``NAME.onnx.data``. If None, they
            do if a tensor of the model is in external data already, or if the output would exceed 256 MiB.
        inputs: Models that may not be overwritten, with their external data.
        watched: What the tensors are computed from; nothing is put in its place if that has changed meanwhile.
        accept: Is called with the whole model in the hidden folder, and says whether to put it in its place.
        progress: Called with the bytes written so far and in all.

    Returns:
        The files that were written: the model and, if there is one, its data file; none if it was not accepted.

    Raises:
        ConfigError: If the output cannot be written there, or cannot be written without external data; or if a file
            stands there that a tensor without data would take for its own.
        ModelError: If external data that is to be copied cannot be read, or a watched file has changed.
    """
    path = Path(path)
    sources = [Path(item) for item in inputs]
    check_output_path(path, sources)
    tensors = [
        v.const_value for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None
    ]
    total = sum(tensor.nbytes for tensor in tensors if not is_absent(tensor))
    if external_data is None:
        is_external = any(not is_absent(tensor) for tensor in external_tensors(model))
        external_data = total > EXTERNAL_DATA_THRESHOLD_BYTES or is_external
    if not external_data and total > _LARGEST_INLINE_BYTES:
        raise ConfigError(
            f"'{path}' would hold {total / 2**30:.2f} GiB of tensors, but a single ONNX file ends at 2 GiB; "
            "write it with external data"
        )
    _check_absent(model, path)
    data_files = external_files(model)
    if path.resolve() in data_files:
        raise ConfigError(f"the output '{path}' is the data file of the input; choose another name")
    protected = {item.resolve() for item in sources} | data_files
    watched = WatchedFiles() if watched is None else watched

    def accepted(staged: Path) -> bool:
        is_accepted = accept is None or accept(staged)
        watched.check()
        return is_accepted

    try:
        return _write(
            model, path, accepted, external_data=external_data, total=total, protected=protected, progress=progress
        )
    except OSError as error:
        raise ConfigError(_write_failure(path, error, total)) from error
    except EncodeError as error:
        raise ConfigError(f"cannot write '{path}': {error}; write it with external data") from error
    except ir.serde.SerdeError as error:
        # onnx-ir wraps what happens while a streamed tensor is computed.
        cause = first_cause(error)
        if isinstance(cause, OSError):
            raise ConfigError(_write_failure(path, cause, total)) from error
        reason = unwritable(error)
        raise reason from (None if reason is error else error)


def _check_absent(model: ir.Model, path: Path) -> None:
    """Check that no file beside the output is taken for the data of a tensor that has none."""
    for tensor in external_tensors(model):
        if is_absent(tensor) and os.path.lexists(path.parent / tensor.location):
            raise ConfigError(
                f"the data of the tensor '{tensor.name}' is not there, but would be read from the file "
                f"'{path.parent / tensor.location}' beside the output; choose another folder for it"
            )


def load_into_memory(model: ir.Model) -> None:
    """Read all external data of a model, so that nothing of it is left on disk.

    Raises:
        ModelError: If it cannot be read.
    """
    _take_into_memory(model, None, lambda new, _old: new())


def check_output_path(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check, before any work is done, that an output can be written.

    Args:
        path: The file.
        inputs: Files that are read, which it may not be, under whatever name; and folders, in which it may not be.

    Raises:
        ConfigError: If the folder does not exist or cannot be written to; if `path` is a folder, a symbolic link (which
            would be replaced by the output), or anything else that is no file; or if it is one of `inputs`.
    """
    try:
        problem = _place_problem(path)
    except OSError as error:
        problem = f"{error.strerror}; choose another name"
    if problem is None and path.suffix.lower() == ".ort":
        problem = "ONNX Runtime takes files of that suffix for its own format; give a name that ends in .onnx"
    if problem is not None:
        raise ConfigError(f"cannot write '{path}': {problem}")
    for item in inputs:
        if not os.path.exists(item):  # noqa: PTH110 - and no error for what can be no name of a file
            continue
        if item.is_dir():
            if path.resolve().is_relative_to(item.resolve()):
                raise ConfigError(f"the output '{path}' is in the folder '{item}', which is read; choose another place")
        elif path.exists() and path.samefile(item):
            other = "" if item == path else f" '{item}'"
            raise ConfigError(
                f"the output '{path}' is the input{other}; inputs are never overwritten, choose another name"
            )


def _place_problem(path: Path) -> str | None:
    """Why no file can be written there, and what to do; None if one can."""
    folder = path.parent
    if not path.name or path.is_dir():
        return "it is a folder; give the name of a file in it"
    if not folder.is_dir():
        return f"the folder '{folder}' does not exist; create it first"
    if path.is_symlink():
        return f"it is a symbolic link to '{path.readlink()}', which would be replaced; give that path, or another name"
    if path.exists() and not path.is_file():
        return "it is a device, a pipe or a socket; give the name of a file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write to the folder '{folder}'"
    return None


def check_model_path(path: str | os.PathLike[str]) -> Path:
    """The path of a model that is to be read.

    Raises:
        ModelError: If it is empty, or a folder, or anything else that is no file, where reading might never end.
    """
    if not os.fspath(path):
        raise ModelError("the path of the model is empty; give the .onnx file")
    found = Path(path)
    if (place := no_file_but(found)) is not None:
        remedy = "give the .onnx file in it" if found.is_dir() else "give a file"
        raise ModelError(f"cannot read the model '{found}': it is {place}; {remedy}")
    return found


def _write(
    model: ir.Model,
    path: Path,
    accepted: Callable[[Path], bool],
    *,
    external_data: bool,
    total: int,
    protected: set[Path],
    progress: Callable[[int, int], None] | None,
) -> list[Path]:
    with staged_output(path, protected) as output, _replaced_tensors() as replace:
        absent = {os.path.normpath(tensor.location) for tensor in external_tensors(model) if is_absent(tensor)}
        data_file = output.reserve_data_file(absent) if external_data else None
        if data_file is not None:
            _externalize(model, output.model.with_name(data_file), replace, partial(_report, progress, total))
        _take_into_memory(model, output.model.parent, replace)
        ir.save(model, output.model, format="protobuf")
        if not accepted(output.model):
            return []
        written = output.commit(data_file)
    if progress is not None:
        progress(total, total)
    return written


@contextlib.contextmanager
def _replaced_tensors() -> Iterator[_Replace]:
    """Gives a function that replaces something of the model, and undoes all replacements in the end."""
    with contextlib.ExitStack() as undo:

        def replace(new: Callable[[], None], old: Callable[[], None]) -> None:
            undo.callback(old)
            new()

        yield replace


def _report(progress: Callable[[int, int], None] | None, total: int, done: int) -> None:
    """Report what is written; all of it is only when the output stands in its place."""
    if progress is not None and done < total:
        progress(done, total)


def _externalize(model: ir.Model, data_file: Path, replace: _Replace, progress: Callable[[int], None]) -> None:
    """Write all initializers but the small ones to a data file, and let them point to it."""
    values = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.nbytes > _LARGEST_INTERNAL_BYTES
        and not is_absent(value.const_value)
    ]
    tensors = [_tensor(value) for value in values]
    for value, tensor, offset in zip(values, tensors, write_data_file(data_file, tensors, progress), strict=True):
        external = ir.ExternalTensor(
            data_file.name,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=data_file.parent,
        )
        replace(partial(setattr, value, "const_value", external), partial(setattr, value, "const_value", tensor))


def _take_into_memory(model: ir.Model, folder: Path | None, replace: _Replace) -> None:
    """Hold all tensors in memory that are in external data outside of the folder, if any, in attributes, too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            is_elsewhere = isinstance(tensor, ir.ExternalTensor) and Path(tensor.base_dir) != folder
            if isinstance(tensor, ir.ExternalTensor) and is_elsewhere and not is_absent(tensor):
                loaded = _loaded(tensor)
                replace(partial(setattr, value, "const_value", loaded), partial(setattr, value, "const_value", tensor))
    external = [item for item in attribute_tensors(model) if isinstance(item[2], ir.ExternalTensor)]
    for (node, _), attribute in {(node, attribute.name): attribute for node, attribute, _ in external}.items():
        add = node.attributes.add
        replace(partial(add, _attribute_in_memory(attribute)), partial(add, attribute))


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # noqa: S101 - only those with data are asked for
    return value.const_value


def _loaded(tensor: ir.ExternalTensor) -> ir.Tensor[Any]:
    return ir.Tensor(
        all_elements(tensor),
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _attribute_in_memory(attribute: ir.Attr) -> ir.Attr:
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, _in_memory_tensor(attribute.as_tensor()), attribute.doc_string)
    tensors = [_in_memory_tensor(tensor) for tensor in attribute.as_tensors()]
    return ir.AttrTensors(attribute.name, tensors, attribute.doc_string)


def _in_memory_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return _loaded(tensor) if isinstance(tensor, ir.ExternalTensor) and not is_absent(tensor) else tensor


def _write_failure(path: Path, error: OSError, total: int) -> str:
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"cannot write '{path}': {reason}; it needs {total / 2**20:.1f} MiB, free some or choose another disk"
    if error.errno == errno.EFBIG:
        return f"cannot write '{path}': {reason}; it needs {total / 2**20:.1f} MiB, raise the limit of the file size"
    return f"cannot write '{path}': {reason}"
