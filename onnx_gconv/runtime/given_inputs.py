"""The user's own inputs of a model, from an .npz file or as arrays, and whether the model takes them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.inputs import MOST_NAMED, InputSpec, check_known
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["check_inputs", "load_inputs", "read_arrays"]

_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
    arrays = read_arrays(path, specs, specs, may_lack=may_lack)
    return check_inputs(arrays, specs, source=str(path), may_lack=may_lack)


def read_arrays(
    path: Path,
    specs: Sequence[InputSpec],
    forms: Sequence[InputSpec],
    others: Sequence[str] = (),
    may_lack: Collection[str] = (),
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, of which names, types and shapes are looked at first.

    Args:
        path: The file.
        specs: The inputs of the model.
        forms: What their arrays are to be, by name; those that are not among them may be of any shape.
        others: The names of arrays that are no inputs.
        may_lack: The names of inputs that need not be there.

    Raises:
        ConfigError: The file is no .npz, or its arrays are not what the model needs.
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
            # Names, types and shapes come first, so that nothing is unpacked in vain: a small file may hold gigabytes.
            _check_others(others, loaded.files, str(path))
            _check_names([name for name in loaded.files if name not in others], specs, str(path), may_lack)
            for spec in forms:
                if spec.name in loaded.files:
                    _check_form(loaded.zip, spec, str(path))
            return {name: loaded[name] for name in loaded.files}
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


def _check_others(others: Sequence[str], names: Sequence[str], source: str) -> None:
    """Refuse a file that lacks an array that is no input."""
    if missing := [name for name in others if name not in names]:
        there = listed(names, MOST_NAMED) if names else "nothing"
        raise ConfigError(f"{source}: there is no array '{missing[0]}'; there is {there}")


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


def _check_form(archive: zipfile.ZipFile, spec: InputSpec, source: str) -> None:
    """Refuse an array of an .npz file for its type and shape, of which only the header is read."""
    name = f"{spec.name}.npy"
    with archive.open(name if name in archive.namelist() else spec.name) as member:
        version = np.lib.format.read_magic(member)
        if version not in _NPY_HEADERS:
            raise ValueError(f"input {spec.name!r} has the npy version {'.'.join(map(str, version))}")
        shape, _, dtype = _NPY_HEADERS[version](member)
    if dtype.kind != "O":  # a pickle, which is refused when it is read
        _check_dtype(np.empty(0, dtype), spec, source)
        _check_shape(shape, spec, source)


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
