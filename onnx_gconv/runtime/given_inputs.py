"""The user's own inputs of a model, from an .npz file or as arrays, and whether the model takes them."""

from __future__ import annotations

import contextlib
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.inputs import MOST_NAMED, InputSpec, check_known
from onnx_gconv.runtime.stored_arrays import ArrayForm, StoredArray, array_form, stored_array
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HELD_IN_MEMORY", "check_inputs", "load_inputs", "read_arrays", "read_or_stored_arrays"]

HELD_IN_MEMORY = 1 << 28
"""Inputs of no more bytes are read whole."""


def load_inputs(path: Path, specs: Sequence[InputSpec], may_lack: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """The user's inputs from an .npz file that holds one array an input, under the input's name.

    Nothing is cast: another type than the model's is an error. bfloat16, which .npz files hold as two raw bytes an
    element, is read as what it was.

    Args:
        path: The file.
        specs: The inputs of the model.
        may_lack: The names of inputs that need not be there.

    Raises:
        ConfigError: The file is no .npz, or its arrays are not what the model needs.
    """
    return check_inputs(read_arrays(path, specs, may_lack), specs, source=str(path), may_lack=may_lack)


def read_arrays(path: Path, specs: Sequence[InputSpec], may_lack: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, of which names, types and shapes are looked at first.

    Args:
        path: The file.
        specs: The inputs of the model.
        may_lack: The names of inputs that need not be there.

    Raises:
        ConfigError: The file is no .npz, or its arrays are not what the model needs.
    """
    with _opened(path, specs) as (loaded, archive):
        _check_names(loaded.files, specs, str(path), may_lack)
        for spec in specs:
            if spec.name in loaded.files:
                _checked_form(archive, spec, str(path))
        return {name: loaded[name] for name in loaded.files}


def read_or_stored_arrays(
    path: Path,
    specs: Sequence[InputSpec],
    *,
    other: str | None,
    check: Callable[[Mapping[str, ArrayForm]], None],
    spool: Path,
    may_lack: Collection[str] = (),
) -> dict[str, NDArray[Any] | StoredArray]:
    """The arrays of an .npz file; its inputs stay on disk if they are large.

    Args:
        path: The file.
        specs: What the inputs of the model are to be, by name.
        other: The name of an array that is no input.
        check: Is called with what the headers of all arrays say, before anything is unpacked.
        spool: A folder for large arrays that are unpacked.
        may_lack: The names of inputs that need not be there.

    Raises:
        ConfigError: The file is no .npz, its arrays are not what the model needs, or the disk has no room for them.
    """
    with _opened(path, specs) as (loaded, archive):
        # Names, types and shapes come first, so that nothing is unpacked in vain: a small file may hold gigabytes.
        if other is not None and other not in loaded.files:
            there = listed(loaded.files, MOST_NAMED) if loaded.files else "nothing"
            raise ConfigError(f"{path}: there is no array '{other}'; there is {there}")
        names = [name for name in loaded.files if name != other]
        try:
            _check_names(names, specs, str(path), may_lack)
        except ConfigError as error:
            if other is not None or {*names} <= {spec.name for spec in specs}:
                raise
            raise ConfigError(f"{error}; if it has the classes of the samples, name it with --labels") from None
        specs = [spec for spec in specs if spec.name in names]
        forms = {spec.name: _checked_form(archive, spec, str(path)) for spec in specs}
        check(forms if other is None else {**forms, other: array_form(archive, other)})
        # Arrays of objects are pickles, which are refused when they are read.
        may_stay = [spec for spec in specs if forms[spec.name].shape and not forms[spec.name].dtype.hasobject]
        if sum(forms[spec.name].nbytes for spec in may_stay) <= HELD_IN_MEMORY:
            may_stay = []
        stored = {
            spec.name: stored_array(
                archive,
                spec.name,
                forms[spec.name],
                path=path,
                spool=spool,
                read_as=partial(_check_dtype, spec=spec, source=str(path)),
            )
            for spec in may_stay
        }
        return {name: stored[name] if name in stored else loaded[name] for name in loaded.files}


@contextlib.contextmanager
def _opened(path: Path, specs: Sequence[InputSpec]) -> Iterator[tuple[np.lib.npyio.NpzFile, zipfile.ZipFile]]:
    """An open .npz file, and the zip file that it is; what is wrong with it is told with its name.

    Raises:
        ConfigError: If it is none, or damaged.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe might never end
        raise ConfigError(f"{path}: is a device, a pipe or a socket; {_how_to_save(specs)}")
    # A zip file is what an .npz is; anything else would be refused by numpy.load as a pickle, which says nothing.
    if not zipfile.is_zipfile(path):
        what = "is not an .npz file" if path.exists() else "does not exist"
        raise ConfigError(f"{path}: {what}; {_how_to_save(specs)}")
    try:
        # NumPy leaves a file open that it opened, if it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            yield loaded, cast("zipfile.ZipFile", loaded.zip)
    except ConfigError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and NumPy's reader of headers raise a dozen types of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}: cannot be read as an .npz file ({reason}); {_how_to_save(specs)}") from error


def check_inputs(
    arrays: Mapping[str, Any], specs: Sequence[InputSpec], *, source: str, may_lack: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """The given arrays in the order of the specs, after a check of names, types and shapes.

    Args:
        arrays: One array an input, by name.
        specs: The inputs of the model.
        source: Where the arrays come from, for messages.
        may_lack: The names of inputs that need not be there.

    Raises:
        ConfigError: An input is missing or unknown, or has a type or shape that the model does not take.
    """
    _check_names(arrays, specs, source, may_lack)
    return {spec.name: _check_array(arrays[spec.name], spec, source) for spec in specs if spec.name in arrays}


def _check_names(names: Iterable[str], specs: Sequence[InputSpec], source: str, may_lack: Collection[str] = ()) -> None:
    """Refuse inputs that are missing and names that are no inputs."""
    names = list(names)
    known = [spec.name for spec in specs]
    try:
        check_known(names, known, "input")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    for spec in specs:
        if spec.name not in names and spec.name not in may_lack:
            there = listed(names, MOST_NAMED) if names else "nothing"
            needed = listed(known, MOST_NAMED)
            raise ConfigError(
                f"{source}: input {spec.name!r} is missing; there is {there}, and the model needs {needed}"
            )


def _checked_form(archive: zipfile.ZipFile, spec: InputSpec, source: str) -> ArrayForm:
    """What the header of an array of an .npz file says, if type and shape are those of an input."""
    form = array_form(archive, spec.name)
    if form.dtype.kind != "O":  # a pickle, which is refused when it is read
        _check_dtype(np.empty(0, form.dtype), spec, source)
        _check_shape(form.shape, spec, source)
    return form


def _check_array(array: object, spec: InputSpec, source: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{source}: input {spec.name!r} is a {type(array).__name__} and must be a NumPy array")
    array = _check_dtype(array, spec, source)
    _check_shape(array.shape, spec, source)
    return array


def _check_shape(shape: tuple[int, ...], spec: InputSpec, source: str) -> None:
    # () may stand for an unknown rank: ONNX Runtime checks that itself.
    fits = not spec.shape or (
        len(spec.shape) == len(shape)
        and all(not isinstance(size, int) or size == there for size, there in zip(spec.shape, shape, strict=True))
    )
    if not fits:
        needed = ", ".join("any" if size is None else str(size) for size in spec.shape)
        there = ", ".join(map(str, shape))
        raise ConfigError(f"{source}: input {spec.name!r} has the shape [{there}] and must have [{needed}]")


def _check_dtype(array: NDArray[Any], spec: InputSpec, source: str) -> NDArray[Any]:
    if isinstance(spec.dtype, str):
        is_text = array.dtype.kind in "US" or (
            array.dtype.kind == "O" and all(isinstance(element, str) for element in array.flat)
        )
        # ONNX Runtime gives text back as objects; one form for all keeps what is reported the same.
        if is_text:
            return array.astype(object) if array.dtype.kind == "U" else array
    elif array.dtype == spec.dtype:
        return array
    elif array.dtype == np.dtype(f"V{spec.dtype.itemsize}") and spec.dtype.kind == "V":
        # .npz files keep the bytes of types that NumPy lacks, but not their names.
        return array.view(spec.dtype)
    raise ConfigError(f"{source}: input {spec.name!r} is {array.dtype} and must be {spec.dtype}; nothing is cast")


def _how_to_save(specs: Sequence[InputSpec]) -> str:
    arguments = ", ".join(f"{spec.name}=..." for spec in specs[:3])
    return f"write one with numpy.savez(path, {arguments})"
