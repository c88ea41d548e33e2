"""The state of a device model of any package as JSON values, to tell models of one class with other settings apart."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["state_of"]

_LISTS = (list, tuple)
_SETS = (set, frozenset)


def state_of(value: object, *, within: tuple[int, ...] = ()) -> Any:  # noqa: ANN401 - any JSON value
    """A value and all that it holds, as JSON values that are the same in each process.

    Arrays become lists, functions their code, and all other objects their attributes; what has none becomes its text,
    or the name of its type where that text holds an address in memory.

    Args:
        value: The value.
        within: The identities of the objects that hold it, since objects may hold each other.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in within:
        return "<itself>"
    inner = functools.partial(state_of, within=(*within, id(value)))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: inner(item) for key, item in value.items()}
    if isinstance(value, _LISTS):
        return [inner(item) for item in value]
    if isinstance(value, (Mapping, *_SETS)):
        items = value.items() if isinstance(value, Mapping) else value
        return sorted((inner(item) for item in items), key=functools.partial(json.dumps, sort_keys=True))
    return _of_object(value, inner)


def _of_object(value: object, inner: Callable[[object], Any]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    kind, held = f"<{type(value).__qualname__}>", _held(value)
    if held:
        return {kind: inner(held)}
    text = repr(value)
    return kind if " at 0x" in text else text


def _held(value: object) -> Sequence[object] | Mapping[str, object]:
    """What an object holds; empty if it shows nothing."""
    if isinstance(value, types.FunctionType):
        return value.__code__, value.__defaults__, value.__kwdefaults__, _from_outside(value)
    if isinstance(value, types.CodeType):
        return value.co_code.hex(), value.co_consts, value.co_names
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    return _attributes(value)


def _from_outside(function: types.FunctionType) -> list[object]:
    """The values of the variables that a function has from the function around it."""
    found: list[object] = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # the variable has no value yet
            found.append(cell.cell_contents)
    return found


def _attributes(value: object) -> dict[str, Any]:
    names = [*getattr(value, "__dict__", ())]
    for each in type(value).__mro__:
        slots = vars(each).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return {name: getattr(value, name) for name in names if name[:2] != "__" and hasattr(value, name)}
