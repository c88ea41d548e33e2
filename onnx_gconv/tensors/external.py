"""External data of a model: which files a model may point to, checks of these files, and reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ModelError

__all__ = [
    "ExternalReader",
    "attribute_tensors",
    "check_external_tensor",
    "external_files",
    "external_tensors",
    "is_absent",
]


def is_absent(tensor: ir.TensorProtocol) -> bool:
    """Whether the external data file of a tensor does not exist.

    Tools such as Olive export the matrices of adapters without a file: the caller gives them to the session.
    """
    if not isinstance(tensor, ir.ExternalTensor) or "\0" in os.fspath(tensor.path):  # a path has no null character
        return False
    return not os.path.lexists(tensor.path)


def check_external_tensor(tensor: ir.ExternalTensor, *, may_be_absent: bool = False) -> None:
    """Check that the data of a tensor lies in the model's folder, exists and is long enough.

    The rules are those of onnx-ir, onnx and ONNX Runtime, which refuse files that break them. Here they are checked
    before anything is computed, and the message says what to do.

    Args:
        tensor: The tensor.
        may_be_absent: Whether the file may be missing, because the caller may never read it.

    Raises:
        ModelError: If the data breaks a rule.
    """
    what, (folder, path) = _what(tensor), _path_in_folder(tensor)
    if may_be_absent and is_absent(tensor):
        return
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of symbolic links; a null character
        raise ModelError(f"{what} cannot be read: '{path}': {error}; copy the data file there") from None
    if not real.is_relative_to(folder.resolve()):
        raise ModelError(
            f"{what} is '{path}', a symbolic link out of the model's folder (to '{real}'), as model caches have them; "
            f"copy the model out with its links followed, e.g. `cp -rL '{folder}' COPY`, and use the copy"
        )
    try:
        status = real.stat()
    except OSError as error:
        raise ModelError(f"{what} cannot be read: '{path}': {error.strerror}; copy the data file there") from None
    if not real.is_file():
        raise ModelError(f"{what} is '{path}', which is not a file; put the data file there, or export the model again")
    if status.st_nlink > 1:
        raise ModelError(
            f"{what} is '{path}', a file with {status.st_nlink} hard links, which ONNX Runtime refuses too; "
            f"copy the model out, e.g. `cp -r '{folder}' COPY`, and use the copy"
        )
    offset, length = tensor.offset or 0, tensor.length
    if length is not None and length != tensor.nbytes:
        raise ModelError(
            f"{what} has a length of {length} bytes, but its type and shape {tensor.dtype.name} "
            f"{list(tensor.shape.numpy())} need {tensor.nbytes}; export or copy the model again"
        )
    if offset < 0 or offset + tensor.nbytes > status.st_size:
        raise ModelError(
            f"{what} should be {tensor.nbytes} bytes at offset {offset} of '{path}', but the file has only "
            f"{status.st_size} bytes; it is truncated or belongs to another model, copy both again"
        )


def _path_in_folder(tensor: ir.ExternalTensor) -> tuple[Path, Path]:
    """The folder of the model, and the path of the data of a tensor.

    Raises:
        ModelError: If the path is absolute or leads out of the folder.
    """
    location, what = os.fspath(tensor.location), _what(tensor)
    if not location:
        raise ModelError(f"{what} is in no file, because its location is empty or missing; export the model again")
    if os.path.isabs(location):  # noqa: PTH117 - `location` is text from the model, not yet a path to trust
        raise ModelError(
            f"{what} is at the absolute path '{location}'; move the data file beside the model and save the model with "
            "a relative location"
        )
    folder = Path(tensor.base_dir or ".").absolute()
    path = folder / location
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise ModelError(
            f"{what} is at '{location}', outside the model's folder '{folder}'; move the data file beside the model "
            "and save the model with that location"
        )
    return folder, path


def _what(tensor: ir.ExternalTensor) -> str:
    return f"external data of tensor '{tensor.name}'"


class ExternalReader:
    """Reads the external data of a tensor; the caller has to `close` it.

    The file is read, never memory-mapped, because mapped pages would count as resident memory. Several threads can read
    at once.

    Args:
        tensor: The tensor.

    Raises:
        ModelError: If its data is unsafe, missing or too short.
    """

    def __init__(self, tensor: ir.ExternalTensor) -> None:
        check_external_tensor(tensor)
        self._tensor = tensor
        self._offset = tensor.offset or 0
        self._file: int | None = os.open(tensor.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read_into(self, elements: NDArray[Any], start: int) -> None:
        """Fill an array with elements of the tensor.

        Args:
            elements: A contiguous one-dimensional array whose elements are as wide as those of the tensor; uint8 for
                tensors of less than a byte per element.
            start: Index of the first element to read, in row-major order; for uint8 arrays, the index of a byte.

        Raises:
            ModelError: If the file became shorter.
        """
        assert self._file is not None  # noqa: S101 - not closed
        # bfloat16 and similar types have no buffer format, so the array is read as bytes.
        missing, offset = elements.view(np.uint8).data, self._offset + start * elements.itemsize
        while missing.nbytes:  # one call reads at most 2 GiB
            count = os.preadv(self._file, [missing], offset)
            if not count:
                path, name = self._tensor.path, self._tensor.name
                raise ModelError(f"external data '{path}' of tensor '{name}' became shorter while read")
            missing, offset = missing[count:], offset + count
        if not np.little_endian:  # ONNX stores little-endian data
            elements.byteswap(inplace=True)


def attribute_tensors(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr, ir.TensorProtocol]]:
    """Yield all tensors in attributes of the nodes of a model, its subgraphs and functions, with node and attribute."""
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        for node in root.all_nodes():
            for attribute in node.attributes.values():
                if attribute.is_ref() or attribute.value is None:
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield node, attribute, attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    for tensor in attribute.as_tensors():
                        yield node, attribute, tensor


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield all tensors of a model that lie in external data: initializers of all graphs, and attributes.

    These include the external tensors from which a streamed tensor is computed.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield from _external_sources(value.const_value)
    for _, _, tensor in attribute_tensors(model):
        yield from _external_sources(tensor)


def _external_sources(tensor: ir.TensorProtocol) -> Iterator[ir.ExternalTensor]:
    if isinstance(tensor, ir.ExternalTensor):
        yield tensor
    # Only StreamedTensor has sources. Its module imports this one, so its class cannot be named here.
    for source in getattr(tensor, "sources", ()):
        yield from _external_sources(source)


def external_files(model: ir.Model) -> set[Path]:
    """The existing files in which the external data of a model lies, with symbolic links resolved."""
    return {Path(tensor.path).resolve() for tensor in external_tensors(model) if not is_absent(tensor)}
