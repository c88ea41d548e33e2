"""Finds device models by name: those of this package, presets, registered classes, and those of installed packages.

A package provides a device model by an entry point of the group ``onnx_gconv.devices``; the name of the entry point is
that of the model. Only the entry point of the requested name is loaded, so a broken package does not affect others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from onnx_gconv.devices.base_device import DeviceModel, is_pair_model
from onnx_gconv.devices.gaussian import GaussianDevice, LogNormalDevice, StuckDevices, StuckPairs
from onnx_gconv.devices.hermes import HermesOneDevice, HermesTwoDevices
from onnx_gconv.devices.measured_device import MeasuredDevice
from onnx_gconv.devices.pcm import CustomDriftPcmDevice, PcmDevice
from onnx_gconv.devices.pcm_pairs import AfmPcmPairs
from onnx_gconv.devices.presets import presets
from onnx_gconv.devices.reram import CmoReramDevice, WanReramDevice
from onnx_gconv.devices.state_independent import StateIndependentDevice
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

__all__ = [
    "DEVICE_MODELS",
    "ENTRY_POINT_GROUP",
    "DeviceModelKind",
    "device_model",
    "device_model_kinds",
    "device_model_names",
    "is_of_this_package",
    "register_device_model",
]

ENTRY_POINT_GROUP = "onnx_gconv.devices"

DEVICE_MODELS: dict[str, Callable[..., DeviceModel]] = {
    each.name: each
    for each in (
        PcmDevice,
        CustomDriftPcmDevice,
        StateIndependentDevice,
        HermesOneDevice,
        HermesTwoDevices,
        AfmPcmPairs,
        WanReramDevice,
        CmoReramDevice,
        GaussianDevice,
        LogNormalDevice,
        MeasuredDevice,
    )
}
"""The device models of this package by name."""


def is_of_this_package(model: DeviceModel) -> bool:
    """Whether the class of a device model is one of this package; these draw one normal number a device, no others."""
    return type(model) in DEVICE_MODELS.values()


_READERS: dict[str, Callable[[str], DeviceModel]] = {
    ".csv": MeasuredDevice.from_csv,
    ".toml": MeasuredDevice.from_toml,
}

_OF_ANY_NAME = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

_STUCK = ("stuck_low", "stuck_high")

_NANOSIEMENS_US = 1e-3

_registered: dict[str, Callable[..., DeviceModel]] = {}

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class DeviceModelKind:
    """A class of device models that users can choose by name.

    Attributes:
        name: The name by which users choose it.
        model: The class.
        package: Name and version of the installed package that provides it, such as ``lab-devices 1.2``; None for a
            model of onnx_gconv, or one that the program has registered.
    """

    name: str
    model: Callable[..., DeviceModel]
    package: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The defaults of the settings that users may give, by name; `inspect.Parameter.empty` for those needed."""
        known = _parameters(self.model).values()
        return {each.name: each.default for each in known if each.kind not in _OF_ANY_NAME}


def register_device_model(model: _Class) -> _Class:
    """Register a device model class under its name; can be used as a decorator.

    Args:
        model: A class with the members of `DeviceModel` and a ``name``. The parameters of its constructor are its
            settings.

    Returns:
        The class.

    Raises:
        ConfigError: If the class lacks a name or method, or its name is that of a model of this package.
    """
    if not isinstance(model, type):
        raise ConfigError(f"a device model is a class, but {model!r} is none; give the class itself")
    name = getattr(model, "name", None)
    if not (isinstance(name, str) and name):
        raise ConfigError(f'{model.__name__} is no device model: it has no name; add name = "..." to the class')
    _require_methods(model, model.__name__)
    if name in DEVICE_MODELS and DEVICE_MODELS[name] is not model:
        raise ConfigError(f"onnx_gconv has a device model '{name}'; choose another name for {model.__name__}")
    _registered[name] = model
    return model


def device_model_names() -> tuple[str, ...]:
    """The names of all device models, including those of installed packages, which are not loaded for that."""
    of_presets = (item.name for item in presets() if item.model is not None)
    return tuple(dict.fromkeys((*DEVICE_MODELS, *of_presets, *_registered, *(each.name for each in _points()))))


def device_model_kinds() -> tuple[tuple[DeviceModelKind, ...], tuple[str, ...]]:
    """All device models but presets, with those of installed packages, which are loaded for that.

    Returns:
        The device models; and a message for each of an installed package that cannot be used.
    """
    found = [DeviceModelKind(name, model) for name, model in {**DEVICE_MODELS, **_registered}.items()]
    taken, problems = {each.name for each in found}, []
    for point in _points():
        if point.name in DEVICE_MODELS:
            problems.append(
                f"the device model '{point.name}' of the package {_package(point)} cannot be used: onnx_gconv has a "
                "device model of that name; give it another one"
            )
        elif point.name not in taken:
            try:
                found.append(DeviceModelKind(point.name, _loaded(point), _package(point, with_version=True)))
            except ConfigError as error:
                problems.append(str(error))
            taken.add(point.name)
    return tuple(found), tuple(problems)


def device_model(name: str, **settings: Any) -> DeviceModel:  # noqa: ANN401 - what its constructor takes
    """Make the device model of a name.

    Args:
        name: The name of a device model; the name of a preset that has one, which also sets the range g_min to g_max;
            or a ``.csv`` or ``.toml`` file of measurements for `MeasuredDevice.from_csv` or `MeasuredDevice.from_toml`.
        settings: Parameters of the model's constructor, such as ``g_max`` in µS; they override those of a preset. Each
            model also has the settings ``stuck_low`` and ``stuck_high`` of `StuckDevices`.

    Raises:
        ConfigError: If there is no such model (the message suggests names), the preset has no model, a setting
            is unknown or wrong, or the model of a package cannot be loaded.
    """
    stuck = {key: settings.pop(key) for key in _STUCK if key in settings}
    model = _healthy(name, settings)
    if not stuck:
        return model
    made = partial(StuckPairs, model) if is_pair_model(model) else partial(StuckDevices, model)
    return _made(name, made, stuck)


def _healthy(name: str, settings: dict[str, Any]) -> DeviceModel:
    """Make the device model of a name, without stuck devices."""
    suffix = Path(name).suffix.lower()
    if suffix in _READERS:
        if settings:
            raise ConfigError(f"a device of measurements has no setting '{next(iter(settings))}'; leave it out")
        return _in_microsiemens(name, _READERS[suffix](name))
    for item in presets():
        if item.name == name and name not in DEVICE_MODELS:
            if item.model is None:
                with_model = ", ".join(other.name for other in presets() if other.model is not None)
                raise ConfigError(f"the preset '{name}' has a range, but no device model; these have one: {with_model}")
            return _made(item.model, DEVICE_MODELS[item.model], {"g_max": item.g_max, "g_min": item.g_min} | settings)
    return _made(name, _class_of(name), settings)


def _in_microsiemens(name: str, model: DeviceModel) -> DeviceModel:
    """A model of measurements; ConfigError if they seem to be in siemens: devices of weights conduct more."""
    if model.g_max >= _NANOSIEMENS_US:
        return model
    raise ConfigError(
        f"'{name}': the targets end at {model.g_max:g} \u00b5S, below a nanosiemens; is that siemens? Then give "
        "targets, means and spreads in \u00b5S; if it is \u00b5S, make a MeasuredDevice in Python"
    )


def _class_of(name: str) -> Callable[..., DeviceModel]:
    found = DEVICE_MODELS.get(name) or _registered.get(name)
    if found is not None:
        return found
    for point in _points():
        if point.name == name:
            return _loaded(point)
    raise ConfigError(f"there is no device model '{name}'; {suggestion(name, device_model_names())}")


def _made(name: str, model: Callable[..., DeviceModel], settings: dict[str, Any]) -> DeviceModel:
    known = _parameters(model)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    names = [each.name for each in known.values() if each.kind not in _OF_ANY_NAME]
    unknown = [each for each in settings if each not in names and not takes_any]
    missing = [each for each in names if known[each].default is inspect.Parameter.empty and each not in settings]
    if unknown:
        there = suggestion(unknown[0], names) or "it has none"
        raise ConfigError(f"the device model '{name}' has no setting '{unknown[0]}'; {there}")
    if missing:
        raise ConfigError(f"the device model '{name}' needs the setting '{missing[0]}'")
    try:
        return model(**settings)
    except ConfigError as error:
        raise ConfigError(f"the device model '{name}' cannot be made: {error}") from error
    except (Exception, SystemExit) as error:  # a class of another package may raise any
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "none"
        raise ConfigError(
            f"the device model '{name}' cannot be made: {reason}; the settings that it was given are {given}"
        ) from error


def _parameters(model: Callable[..., DeviceModel]) -> dict[str, inspect.Parameter]:
    """The parameters of a model's constructor; where it takes any, also those of the classes that it derives from."""
    try:
        known = dict(inspect.signature(model).parameters)
    except (TypeError, ValueError):  # a class without a signature, such as one written in C
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}
    further = model.__mro__[1:-1] if isinstance(model, type) else ()
    for each in further:
        if "__init__" not in vars(each):
            continue
        rest = [name for name, one in known.items() if one.kind is inspect.Parameter.VAR_KEYWORD]
        if not rest:
            break
        del known[rest[0]]
        known = {**inspect.signature(each).parameters, **known}
    return known


def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _package(point: EntryPoint, *, with_version: bool = False) -> str:
    """The name for pip of the package of an entry point."""
    if point.dist is None:
        return point.module.partition(".")[0]
    return f"{point.dist.name} {point.dist.version}" if with_version else point.dist.name


def _loaded(point: EntryPoint) -> Callable[..., DeviceModel]:
    package = _package(point)
    what = f"the device model '{point.name}' of the package {package}"
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{what} cannot be loaded: {type(error).__name__}: {reason}; update the package (pip install --upgrade "
            f"{package}), or uninstall it"
        ) from error
    _require_methods(found, what)
    model: Callable[..., DeviceModel] = found
    return model


def _require_methods(model: Any, what: str) -> None:  # noqa: ANN401 - is checked
    missing = [name for name in ("program", "drift", "read") if not callable(getattr(model, name, None))]
    if not isinstance(model, type) or missing:
        raise ConfigError(f"{what} is no device model: it has no method '{(missing or ['program'])[0]}'")
