"""Reads the user's inputs of a model from an .npz file or arrays, and checks that the model takes them."""

from __future__ import annotations

import contextlib
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.inputs import MOST_NAMED, InputSpec, check_known
from onnx_gconv.runtime.stored_arrays import ArrayForm, StoredArray, array_form, stored_array
from onnx_gconv.suggestions import suggestion
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HELD_IN_MEMORY", "check_inputs", "load_inputs", "not_finite", "read_arrays", "read_or_stored_arrays"]

HELD_IN_MEMORY = 1 << 28
"""Inputs are read into memory as a whole if all of them together have no more bytes than this."""

_LOOKED_AT_ONCE = 1 << 26  # bytes


def load_inputs(path: Path, specs: Sequence[InputSpec], may_lack: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the user's inputs from an .npz file with one array for each input, under the input's name.

    Nothing is cast: another type than the model's is an error. bfloat16, which .npz files store as two raw bytes for
    each element, is read as bfloat16.

    Args:
        path: The file.
        specs: The inputs of the model.
        may_lack: The names of inputs that may be missing.

    Raises:
        ConfigError: The file is no .npz, or its arrays are not what the model needs.
    """
    return check_inputs(read_arrays(path, specs, may_lack), specs, source=str(path), may_lack=may_lack)


def read_arrays(path: Path, specs: Sequence[InputSpec], may_lack: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file; names, types and shapes are checked before any elements are read.

    Args:
        path: The file.
        specs: The inputs of the model.
        may_lack: The names of inputs that may be missing.

    Raises:
        ConfigError: The file is no .npz, or its arrays are not what the model needs.
    """
    with _opened(path, specs) as (loaded, archive):
        try:
            _check_names(loaded.files, specs, str(path), may_lack)
        except ConfigError as error:
            if {*loaded.files} <= {spec.name for spec in specs}:
                raise
            raise ConfigError(f"{error}; leave out arrays that are no inputs, such as labels") from None
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
    """Read the arrays of an .npz file; inputs stay on disk if they have more than `HELD_IN_MEMORY` bytes together.

    Args:
        path: The file.
        specs: The expected inputs of the model.
        other: The name of a further array that is no input of the model; None if there is none.
        check: Called with the headers of all arrays before anything is unpacked.
        spool: A folder for large arrays that are unpacked.
        may_lack: The names of inputs that may be missing.

    Raises:
        ConfigError: The file is no .npz, its arrays are not what the model needs, or the disk has no room for them.
    """
    with _opened(path, specs) as (loaded, archive):
        # Names, types and shapes are checked before anything is unpacked: a small file may hold gigabytes.
        if other is not None and other not in loaded.files:
            there = suggestion(other, loaded.files, of_model=True) or "there are none"
            raise ConfigError(f"{path}: there is no array '{other}'; {there}")
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
        # Arrays of objects are pickles. They are not stored on disk, but read, which refuses them.
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
    """Open an .npz file, as an NpzFile and as a zip file; errors in the with statement get the file's name.

    Raises:
        ConfigError: If it is no .npz file, or is damaged.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe might never end
        raise ConfigError(f"{path}: is a device, a pipe or a socket; {_how_to_save(specs)}")
    # An .npz file is a zip file. numpy.load would report anything else as a pickle, which helps nobody.
    if not zipfile.is_zipfile(path):
        what = "is not an .npz file" if path.exists() else "does not exist"
        raise ConfigError(f"{path}: {what}; {_how_to_save(specs)}")
    try:
        # The file is opened here, because NumPy does not close a damaged file that it has opened.
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
    """Check names, types and shapes of given arrays, and return them in the order of the specs.

    Args:
        arrays: One array for each input, by name.
        specs: The inputs of the model.
        source: Where the arrays come from, for messages.
        may_lack: The names of inputs that may be missing.

    Raises:
        ConfigError: An input is missing or unknown, or has a type or shape that the model does not take.
    """
    _check_names(arrays, specs, source, may_lack)
    return {spec.name: _check_array(arrays[spec.name], spec, source) for spec in specs if spec.name in arrays}


def not_finite(arrays: Mapping[str, NDArray[Any] | StoredArray]) -> str | None:
    """Say where arrays hold NaN or infinity: the first place in the first of them that does; None if nowhere.

    They are no errors by themselves: masks of attention are infinite, and a model may look for NaN.
    """
    for name, array in arrays.items():
        rows = max(1, _LOOKED_AT_ONCE // max(1, array.nbytes // max(1, len(array) if array.ndim else 1)))
        for start in range(0, len(array), rows) if array.ndim else (0,):
            part = np.asarray(array[start : start + rows] if array.ndim else array)
            if part.dtype.kind not in "fV":
                break
            # NumPy cannot test types of ml_dtypes.
            numbers = part if part.dtype.kind == "f" else part.astype(np.float32)
            if len(places := np.argwhere(~np.isfinite(numbers))):
                first = tuple(map(int, places[0]))
                place = [first[0] + start, *first[1:]] if first else []
                return f"the input {name!r} is {numbers[first]} at {place}; replace it by a number"
    return None


def _check_names(names: Iterable[str], specs: Sequence[InputSpec], source: str, may_lack: Collection[str] = ()) -> None:
    """Refuse missing inputs, and names that are no inputs of the model."""
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
    """Return the header of an array of an .npz file, after a check of type and shape."""
    form = array_form(archive, spec.name)
    if form.dtype.kind != "O":  # an array of objects is a pickle, which is refused when it is read
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
    # () may mean an unknown rank, which only ONNX Runtime can check.
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
        # ONNX Runtime returns text as objects, so given text has the same type in reports.
        if is_text:
            return array.astype(object) if array.dtype.kind == "U" else array
    elif array.dtype == spec.dtype:
        return array
    elif array.dtype == np.dtype(f"V{spec.dtype.itemsize}") and spec.dtype.kind == "V":
        # .npz files store the bytes of types that NumPy lacks, but not the name of the type.
        return array.view(spec.dtype)
    raise ConfigError(f"{source}: input {spec.name!r} is {array.dtype} and must be {spec.dtype}; nothing is cast")


def _how_to_save(specs: Sequence[InputSpec]) -> str:
    arguments = ", ".join(f"{spec.name}=..." for spec in specs[:3])
    return f"write one with numpy.savez(path, {arguments})"
