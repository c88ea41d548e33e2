"""Reading and writing models: safely, in flat memory, and so that an output appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.external_data import (
    attribute_tensors,
    check_external_tensor,
    external_files,
    external_tensors,
)
from onnx_gconv.streamed_tensor import worker_count

if TYPE_CHECKING:
    from typing import Any

__all__ = ["EXTERNAL_DATA_THRESHOLD_BYTES", "check_output_path", "load_model", "save_model"]

# A model above this size is written with external data even if its source was not: a protobuf of that size has to be
# held in memory twice by everyone who reads it.
EXTERNAL_DATA_THRESHOLD_BYTES = 256 << 20

# The largest protobuf message, less what the graph around the tensors may need.
_LARGEST_INLINE_BYTES = (1 << 31) - (16 << 20)

_LOCK_FILE = "lock"


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX model; data outside the file is checked, but not read.

    Args:
        path: The ``.onnx`` file.

    Raises:
        ModelError: If the file cannot be read, is not an ONNX model or is truncated; if it holds something that would
            be lost (sparse initializers, training information) or is ambiguous (duplicate initializers); or if its
            external data is unsafe, missing or too short.
    """
    path = Path(path)
    try:
        proto = onnx.load(os.fspath(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"cannot read the model '{path}': {error.strerror}") from None
    except DecodeError:
        raise ModelError(f"'{path}' is not an ONNX model, or it is truncated; export or copy it again") from None
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        raise ModelError(
            f"'{path}' is not an ONNX model, or it is truncated (it has no graph, IR version or opset); "
            "export or copy it again"
        )
    _refuse_what_would_be_lost(proto, path)
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(f"'{path}' is not a valid ONNX model: {_innermost(error)}") from error
    for tensor in external_tensors(model):
        tensor.base_dir = os.fspath(path.parent)
        try:
            check_external_tensor(tensor)
        except ModelError as error:
            raise ModelError(f"'{path}': {error}") from None
    return model


def save_model(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    inputs: Iterable[str | os.PathLike[str]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write an ONNX model so that it appears whole or not at all.

    Everything is written to a hidden folder beside `path` first. Then the data file is moved beside `path`, under a
    name that no file has yet, and last the ``.onnx`` file replaces the old one in one step. Until then, an older output
    stands complete; the data file that only it used is removed afterwards. What a killed run left behind is removed by
    the next run that writes to the same path.

    Args:
        model: The model; it is not changed. Streamed tensors are computed while they are written.
        path: The ``.onnx`` file. Its folder must exist.
        external_data: Whether initializers go to a data file beside the model, named ``NAME.onnx.data``. If None, they
            do if a tensor of the model is in external data already, or if the output would exceed 256 MiB.
        inputs: Models that may not be overwritten, with their external data.
        progress: Called with the bytes written so far and in all.

    Returns:
        The files that were written: the model and, if there is one, its data file.

    Raises:
        ConfigError: If the output cannot be written there, or cannot be written without external data.
        ModelError: If external data that is to be copied cannot be read.
    """
    path = Path(path)
    sources = [Path(item) for item in inputs]
    check_output_path(path, sources)
    tensors = [
        v.const_value for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None
    ]
    total = sum(tensor.nbytes for tensor in tensors)
    if external_data is None:
        external_data = total > EXTERNAL_DATA_THRESHOLD_BYTES or any(True for _ in external_tensors(model))
    if not external_data and total > _LARGEST_INLINE_BYTES:
        raise ConfigError(
            f"'{path}' would hold {total / 2**30:.2f} GiB of tensors, but a single ONNX file ends at 2 GiB; "
            "write it with external data"
        )
    protected = {item.resolve() for item in sources} | external_files(model)
    try:
        return _write(model, path, external_data=external_data, total=total, protected=protected, progress=progress)
    except OSError as error:
        raise ConfigError(_write_failure(path, error, total)) from error
    except (EncodeError, ValueError) as error:
        raise ConfigError(f"cannot write '{path}': {error}; write it with external data") from error


def check_output_path(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check, before any work is done, that an output can be written.

    Raises:
        ConfigError: If the folder does not exist or cannot be written to, or `path` is a folder or one of `inputs`.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write '{path}': the folder '{folder}' does not exist; create it first")
    if path.is_dir():
        raise ConfigError(f"cannot write '{path}': it is a folder; give the name of a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write '{path}': no permission to write to the folder '{folder}'")
    for item in inputs:
        if path.exists() and item.exists() and path.samefile(item):
            raise ConfigError(f"the output '{path}' is the input; inputs are never overwritten, choose another name")


def _write(
    model: ir.Model,
    path: Path,
    *,
    external_data: bool,
    total: int,
    protected: set[Path],
    progress: Callable[[int, int], None] | None,
) -> list[Path]:
    _remove_leftovers(path)
    done = 0

    def count(tensor: ir.TensorProtocol, _: Any) -> None:  # noqa: ANN401 - onnx-ir's record of the file position
        nonlocal done
        if progress is not None:
            progress(done, total)
        done += tensor.nbytes

    with _staging_folder(path) as staging:
        staged = staging / path.name
        written = [path]
        if not external_data:
            with _in_memory(model, initializers=True):
                ir.save(model, staged, format="protobuf")
            _replace(path, staged, protected)
        else:
            with _reserved_data_file(path, staging) as data:
                with _in_memory(model, initializers=False):
                    ir.save(
                        model,
                        staged,
                        format="protobuf",
                        external_data=data.name,
                        callback=count,
                        max_workers=worker_count(),
                        # The budget is for tensors that are materialized; ours are streamed or already in memory.
                        max_in_flight_bytes=max(total, 1),
                    )
                if (staging / data.name).stat().st_size:
                    (staging / data.name).replace(data)
                    written.append(data)
                else:  # every tensor was so small that onnx-ir left it in the model
                    data.unlink()
                _replace(path, staged, protected)
    if progress is not None:
        progress(total, total)
    return written


def _replace(path: Path, staged: Path, protected: set[Path]) -> None:
    """Let the new model take the place of the old one, and remove the data file that only the old one used."""
    superseded = _data_files_of(path) - protected
    if path.exists():
        shutil.copymode(path, staged)
    staged.replace(path)
    for old in superseded - _data_files_of(path):
        with contextlib.suppress(OSError):  # the new output stands; a file too many is no failure
            old.unlink()


@contextlib.contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, locked while this process lives, removed in the end."""
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=_staging_prefix(path)))
    try:
        with (staging / _LOCK_FILE).open("w", encoding="utf-8") as lock:
            _lock(lock.fileno())
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _reserved_data_file(path: Path, staging: Path) -> Iterator[Path]:
    """A new empty file beside `path` that holds the name of the data file; removed if the block fails."""
    number = 0
    while True:
        data = path.with_name(f"{path.name}.{number}.data" if number else f"{path.name}.data")
        try:
            # Recorded first, so that a run killed right after the next line leaves nothing that cannot be found.
            (staging / _LOCK_FILE).write_text(data.name, encoding="utf-8")
            data.touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    try:
        yield data
    except BaseException:
        if data.name not in _external_locations(path):
            data.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what killed runs left behind that wrote to the same path."""
    for staging in path.parent.glob(f"{_glob_escape(_staging_prefix(path))}*"):
        try:
            descriptor = os.open(staging / _LOCK_FILE, os.O_RDWR)
        except OSError:
            with contextlib.suppress(OSError):
                staging.rmdir()  # a folder killed before it had its lock is empty
            continue
        try:
            if not _lock(descriptor):
                continue  # its process is alive
            name = os.read(descriptor, 4096).decode("utf-8", "replace")
            if re.fullmatch(_data_pattern(path), name) and name not in _external_locations(path):
                path.with_name(name).unlink(missing_ok=True)
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
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


def _staging_prefix(path: Path) -> str:
    return f".{path.name}.partial-"


def _data_pattern(path: Path) -> str:
    return re.escape(path.name) + r"(\.\d+)?\.data"


def _glob_escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _external_locations(path: Path) -> set[str]:
    """The locations of external data that the model at `path` names; empty if there is none that can be read."""
    try:
        proto = onnx.load(os.fspath(path), format="protobuf", load_external_data=False)
        return {os.fspath(tensor.location) for tensor in external_tensors(ir.from_proto(proto))}
    except (OSError, DecodeError, ir.serde.SerdeError, ValueError, TypeError):
        return set()


def _data_files_of(path: Path) -> set[Path]:
    """The data files of an older output at `path` that bear the names which this module gives."""
    candidates = [file for file in path.parent.iterdir() if re.fullmatch(_data_pattern(path), file.name)]
    if not candidates:  # then the model, which may be large, need not be read
        return set()
    used = _external_locations(path)
    return {file.resolve() for file in candidates if file.name in used}


@contextlib.contextmanager
def _in_memory(model: ir.Model, *, initializers: bool) -> Iterator[None]:
    """Hold external tensors in memory where ``ir.save`` would keep their old location: in attributes, and inline."""
    undo: list[Callable[[], None]] = []
    try:
        if initializers:
            for graph in model.graphs():
                for value in graph.initializers.values():
                    if isinstance(tensor := value.const_value, ir.ExternalTensor):
                        value.const_value = _loaded(tensor)
                        undo.append(lambda value=value, tensor=tensor: setattr(value, "const_value", tensor))  # type: ignore[misc]
        for node, attribute, tensor in list(attribute_tensors(model)):
            if isinstance(tensor, ir.ExternalTensor) and attribute.type == ir.AttributeType.TENSOR:
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _loaded(tensor))
                undo.append(lambda node=node, attribute=attribute: node.attributes.add(attribute))  # type: ignore[misc]
        yield
    finally:
        for action in undo:
            action()


def _loaded(tensor: ir.ExternalTensor) -> ir.Tensor[Any]:
    check_external_tensor(tensor)
    try:
        return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)
    finally:
        tensor.release()


def _refuse_what_would_be_lost(proto: onnx.ModelProto, path: Path) -> None:
    if proto.training_info:
        raise ModelError(f"'{path}' has training information, which would be lost; export the model for inference")
    for graph in _graph_protos(proto.graph):
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise ModelError(f"'{path}' has the sparse initializer '{name}', which would be lost; make it dense first")
        names: set[str] = set()
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in names:
                raise ModelError(
                    f"'{path}' has an initializer without a name"
                    if not tensor.name
                    else f"'{path}' has two initializers named '{tensor.name}' in graph '{graph.name}'; rename one"
                )
            names.add(tensor.name)


def _graph_protos(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph_protos(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for subgraph in attribute.graphs:
                    yield from _graph_protos(subgraph)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _write_failure(path: Path, error: OSError, total: int) -> str:
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"cannot write '{path}': {reason}; it needs {total / 2**20:.1f} MiB, free some or choose another disk"
    if error.errno == errno.EFBIG:
        return f"cannot write '{path}': {reason}; it needs {total / 2**20:.1f} MiB, raise the limit of the file size"
    return f"cannot write '{path}': {reason}"
