"""Reads and writes models: safely, in constant memory, and so that an output appears whole or not at all."""

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

# A model above this size is written with external data even if its source has none: whoever reads a protobuf of that
# size holds it in memory twice.
EXTERNAL_DATA_THRESHOLD_BYTES = 256 << 20

# The size limit of a protobuf message, less room for the graph around the tensors.
_LARGEST_INLINE_BYTES = (1 << 31) - (16 << 20)

# Initializers up to this size stay in the model file; the defaults of onnx-ir and onnx are the same or similar.
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
        watched: The model file and the files of its external data are added to these.
        may_lack_data: Whether files of external data may be missing; reading a tensor of a missing file is an error.

    Raises:
        ModelError: If the file cannot be read, is not an ONNX model or is truncated; if it has parts that would be lost
            (sparse initializers, training information) or are ambiguous (duplicate initializers); or if its external
            data is unsafe, missing or too short.
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
    """Keep onnx-ir (1.1) from writing the metadata of each tensor twice: from its own field and from the protobuf."""
    initializers = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    for tensor in (*initializers, *(tensor for _, _, tensor in attribute_tensors(model))):
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            del tensor.raw.metadata_props[:]


def _is_of_onnx_runtime(path: Path) -> bool:
    """Whether a file has ONNX Runtime's own format: FlatBuffers, with the identifier after the first offset."""
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ORTM"


@contextlib.contextmanager
def collection_suspended() -> Iterator[None]:
    """Suspend Python's garbage collection while a graph or another large structure is built.

    A graph of thousands of nodes consists of hundreds of thousands of objects, none of them garbage. Collections that
    search all of them again and again take a third of the time.
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
    new name, and last the ``.onnx`` file replaces the old one in one step. Until then, an older output stays complete;
    its data file is removed afterwards. The next run that writes to the same path removes what a killed run left.

    Tensors whose external data is missing keep their location.

    Args:
        model: The model; it is not changed. Streamed tensors are computed while they are written.
        path: The ``.onnx`` file. Its folder must exist.
        external_data: Whether initializers go to a data file beside the model, named ``NAME.onnx.data``. If None, they
            do if the model already has external data, or if the output would exceed 256 MiB.
        inputs: Models that must not be overwritten, including their external data.
        watched: The files that the tensors are computed from. If one of them has changed, no output is put in place.
        accept: Called with the path of the finished model in the hidden folder; says whether to put it in place.
        progress: Called with the bytes written so far and the total.

    Returns:
        The files that were written: the model and, if there is one, its data file; none if `accept` said no.

    Raises:
        ConfigError: If the output cannot be written there, or not without external data; or if there is a file beside
            it that would be taken for the missing data of a tensor.
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
        # onnx-ir wraps the errors that are raised while a streamed tensor is computed.
        cause = first_cause(error)
        if isinstance(cause, OSError):
            raise ConfigError(_write_failure(path, cause, total)) from error
        reason = unwritable(error)
        raise reason from (None if reason is error else error)


def _check_absent(model: ir.Model, path: Path) -> None:
    """Check that no file beside the output would be taken for the missing external data of a tensor."""
    for tensor in external_tensors(model):
        if is_absent(tensor) and os.path.lexists(path.parent / tensor.location):
            raise ConfigError(
                f"the data of the tensor '{tensor.name}' is not there, but would be read from the file "
                f"'{path.parent / tensor.location}' beside the output; choose another folder for it"
            )


def load_into_memory(model: ir.Model) -> None:
    """Read all external data of a model into memory.

    Raises:
        ModelError: If it cannot be read.
    """
    _take_into_memory(model, None, lambda new, _old: new())


def check_output_path(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check, before any work is done, that an output can be written.

    Args:
        path: The file.
        inputs: Files and folders that are read. The output must be none of these files, also under another name, and
            must not be in these folders.

    Raises:
        ConfigError: If the folder does not exist or cannot be written to; if `path` is a folder, a symbolic link (which
            would be replaced by the output), or anything else that is no file; or if it collides with `inputs`.
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
        if not os.path.exists(item):  # noqa: PTH110 - unlike Path.exists, it raises no error for an invalid file name
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
    """Return why no file can be written at a path, and what to do; None if one can."""
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
    """Return the path of a model that is to be read.

    Raises:
        ModelError: If the path is empty, or names a folder, a pipe or a device, from which reading might never end.
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
    """Yield a function that makes a temporary replacement in the model; undo all replacements at the end."""
    with contextlib.ExitStack() as undo:

        def replace(new: Callable[[], None], old: Callable[[], None]) -> None:
            undo.callback(old)
            new()

        yield replace


def _report(progress: Callable[[int, int], None] | None, total: int, done: int) -> None:
    """Report the bytes written so far; the total is reported only when the output is in place."""
    if progress is not None and done < total:
        progress(done, total)


def _externalize(model: ir.Model, data_file: Path, replace: _Replace, progress: Callable[[int], None]) -> None:
    """Write all initializers except small ones to a data file, and replace them by references to it."""
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
    """Read all tensors into memory whose external data is outside of a folder, also those in attributes."""
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
    assert value.const_value is not None  # noqa: S101 - callers pass initializers with data only
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
