"""The converters that can be named: those of this package, of installed packages, and those that a program registers.

A package brings a converter with an entry point of the group ``onnx_gconv.converters``, whose name is that of the
converter. Entry points are read when a name is none of this package, or all are listed; what is wrong with one of them
concerns nobody who does not ask for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from onnx_gconv.converters.bit_sliced_offset import BitSlicedOffsetConductanceConverter
from onnx_gconv.converters.bit_sliced_pair import BitSlicedPairConductanceConverter
from onnx_gconv.converters.conductance_converter import ConductanceConverter
from onnx_gconv.converters.converter_kind import ConverterKind, ConverterPackage
from onnx_gconv.converters.custom_pair import CustomPairConductanceConverter
from onnx_gconv.converters.dual_pair import DualPairConductanceConverter
from onnx_gconv.converters.n_pair import NPairConductanceConverter
from onnx_gconv.converters.offset import OffsetConductanceConverter
from onnx_gconv.converters.single_device import SingleDeviceConductanceConverter
from onnx_gconv.converters.single_pair import SinglePairConductanceConverter
from onnx_gconv.converters.two_sided_pair import TwoSidedPairConductanceConverter
from onnx_gconv.errors import ConfigError

__all__ = [
    "CONVERTERS",
    "CONVERTER_KINDS",
    "ENTRY_POINT_GROUP",
    "ConverterOrigin",
    "ConverterRegistry",
    "converter_registry",
    "kinds_taking",
    "register_converter",
]

ENTRY_POINT_GROUP = "onnx_gconv.converters"

_BUILT_IN = (
    SinglePairConductanceConverter,
    DualPairConductanceConverter,
    NPairConductanceConverter,
    CustomPairConductanceConverter,
    SingleDeviceConductanceConverter,
    TwoSidedPairConductanceConverter,
    OffsetConductanceConverter,
    BitSlicedPairConductanceConverter,
    BitSlicedOffsetConductanceConverter,
)

CONVERTER_KINDS: dict[str, ConverterKind] = {kind.name: kind for kind in map(ConverterKind.of, _BUILT_IN)}
"""The converters of this package, by the names that people write."""

CONVERTERS: dict[str, Callable[..., ConductanceConverter]] = {
    kind.class_name: kind.converter for kind in CONVERTER_KINDS.values()
}
"""The converters of this package, by the names that manifests give them."""

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class ConverterOrigin:
    """Where a converter is from that is none of this package.

    Attributes:
        package: The installed package that brings it; None if the program has it.
        module: The module of its class.
    """

    package: ConverterPackage | None
    module: str


class ConverterRegistry:
    """All converters that can be named.

    Args:
        installed: Gives the entry points of installed packages.
    """

    def __init__(self, installed: Callable[[], Iterable[EntryPoint]]) -> None:
        self._installed = installed
        self._registered: dict[str, ConverterKind] = {}
        self._loaded: dict[EntryPoint, ConverterKind | ConfigError] = {}

    def register(self, converter: Any) -> None:  # noqa: ANN401 - is checked
        """Let a converter of the program be found by its name.

        Raises:
            ConfigError: If it does not offer what a converter has to, or its name or that of its class is taken.
        """
        kind = ConverterKind.of(converter)
        others = [*CONVERTER_KINDS.values(), *self._registered.values()]
        for other in others:
            if other.name == kind.name and not other.is_class(converter):
                raise ConfigError(
                    f"the name '{kind.name}' of {kind.class_name} is that of {other.class_name}; choose another one"
                )
            if other.class_name == kind.class_name and not other.is_class(converter):
                raise ConfigError(
                    f"the class name {kind.class_name}, which manifests have, is that of the converter {other.name}; "
                    "rename the class"
                )
        for point in self._points:
            if kind.name == point.name and not _is_of(point, converter):
                raise ConfigError(
                    f"the name '{kind.name}' of {kind.class_name} is that of a converter of the package "
                    f"{_package(point)}; choose another one"
                )
        self._registered[kind.name] = kind

    def names(self) -> tuple[str, ...]:
        """The names of all converters. What installed packages bring is not loaded."""
        return tuple(dict.fromkeys((*CONVERTER_KINDS, *self._registered, *(point.name for point in self._points))))

    def kind(self, name: str) -> ConverterKind:
        """The converter of a name.

        Raises:
            ConfigError: If there is none, or the package that brings it has something wrong.
        """
        if (found := CONVERTER_KINDS.get(name) or self._registered.get(name)) is not None:
            return found
        points = [point for point in self._points if point.name == name]
        if points:
            return self._kind_at(points[0])
        names = self.names()
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        there = f"the nearest one that there is: {nearest[0]}" if nearest else f"there are {', '.join(names)}"
        raise ConfigError(
            f"there is no converter '{name}'; {there} (that of a package has to be installed, one of your own "
            "registered with onnx_gconv.converters.register_converter)"
        )

    def kind_of_class(self, class_name: str) -> ConverterKind | None:
        """The converter with that name of its class, which manifests have; None if there is none.

        Raises:
            ConfigError: If an installed package brings it, but has something wrong.
        """
        for kind in (*CONVERTER_KINDS.values(), *self._registered.values()):
            if kind.class_name == class_name:
                return kind
        named = [self._load(point) for point in self._points if _class_name(point) == class_name]
        for found in (*named, *self._working()):
            if isinstance(found, ConverterKind) and found.class_name == class_name:
                return found
        if named and isinstance(named[0], ConfigError):
            raise named[0]
        return None

    def installed(self) -> tuple[ConverterKind, ...]:
        """The converters besides those of this package that can be used."""
        registered = self._registered.values()
        return (*registered, *(kind for kind in self._working() if kind.name not in self._registered))

    def problems(self) -> tuple[str, ...]:
        """What is wrong with converters of installed packages, a line for each."""
        found = (self._load(point) for point in self._points)
        return tuple(dict.fromkeys(str(each) for each in found if isinstance(each, ConfigError)))

    def origin(self, converter: ConductanceConverter) -> ConverterOrigin | None:
        """Where a converter is from; None if it is one of this package.

        Raises:
            ConfigError: If another converter has a class of that name, so that nobody could tell them apart.
        """
        own = type(converter)
        if own in _BUILT_IN:
            return None
        known = self.kind_of_class(own.__name__)
        if known is not None and not known.is_class(own):
            whose = "of onnx_gconv" if known.class_name in CONVERTERS else f"'{known.name}' of another module"
            raise ConfigError(
                f"the class name {own.__name__} of your converter is that of the converter {whose}; rename the class, "
                "so that the manifest can tell them apart"
            )
        brought = (self._load(point) for point in self._points if _is_of(point, own))
        packages = (kind.package for kind in brought if isinstance(kind, ConverterKind))
        return ConverterOrigin(next(packages, None), own.__module__)

    @cached_property
    def _points(self) -> tuple[EntryPoint, ...]:
        return tuple(self._installed())

    def _working(self) -> Iterator[ConverterKind]:
        for point in self._points:
            if isinstance(kind := self._load(point), ConverterKind):
                yield kind

    def _kind_at(self, point: EntryPoint) -> ConverterKind:
        found = self._load(point)
        if isinstance(found, ConfigError):
            raise found
        return found

    def _load(self, point: EntryPoint) -> ConverterKind | ConfigError:
        """The converter of an entry point, or what is wrong with it."""
        if point not in self._loaded:
            problem = self._clash(point)
            self._loaded[point] = _loaded(point) if problem is None else ConfigError(problem)
        return self._loaded[point]

    def _clash(self, point: EntryPoint) -> str | None:
        """With what other converter the one of an entry point is confused, if with any."""
        package = _package(point)
        what = f"the converter '{point.name}' of the package {package} cannot be used: "
        remedy = f"; uninstall the package (pip uninstall {package.name}), or ask its authors for another name"
        if point.name in CONVERTER_KINDS:
            return f"{what}onnx_gconv has a converter of that name{remedy}"
        if _class_name(point) in CONVERTERS:
            return f"{what}onnx_gconv has a class {_class_name(point)}, too{remedy}"
        for other in self._points:
            if other == point:
                continue
            if other.name == point.name:
                return f"{what}the package {_package(other)} brings one of that name, too; uninstall one of them"
            if _class_name(other) == _class_name(point) and other.value != point.value:
                return (
                    f"{what}the package {_package(other)} brings a class {_class_name(point)}, too; uninstall one of "
                    "them"
                )
        return None


def _loaded(point: EntryPoint) -> ConverterKind | ConfigError:
    package = _package(point)
    what = f"the converter '{point.name}' of the package {package} cannot be loaded: "
    remedy = f"; update the package (pip install --upgrade {package.name}), or uninstall it"
    try:
        kind = ConverterKind.of(point.load(), package)
    except ConfigError as error:
        return ConfigError(f"{what}{error}{remedy}")
    except Exception as error:  # noqa: BLE001 - whatever the module of somebody else raises
        return ConfigError(f"{what}{type(error).__name__}: {' '.join(str(error).split())}{remedy}")
    if kind.name != point.name:
        return ConfigError(f"{what}its class {kind.class_name} has another name, '{kind.name}'{remedy}")
    if kind.class_name in CONVERTERS:
        return ConfigError(f"{what}onnx_gconv has a class {kind.class_name}, too{remedy}")
    return kind


def _package(point: EntryPoint) -> ConverterPackage:
    distribution = point.dist
    if distribution is None:  # an entry point that was made by hand
        return ConverterPackage(point.module.partition(".")[0], "of unknown version")
    return ConverterPackage(distribution.name, distribution.version)


def _class_name(point: EntryPoint) -> str:
    return point.attr.rpartition(".")[2]


def _is_of(point: EntryPoint, converter: type) -> bool:
    """Whether an entry point brings a class, also where it names a module that only passes the class on."""
    if (point.module, point.attr) == (converter.__module__, converter.__qualname__):
        return True
    same_package = point.module.partition(".")[0] == converter.__module__.partition(".")[0]
    return same_package and _class_name(point) == converter.__name__


_REGISTRY = ConverterRegistry(lambda: entry_points(group=ENTRY_POINT_GROUP))


def converter_registry() -> ConverterRegistry:
    """The converters of this program."""
    return _REGISTRY


def register_converter(converter: _Class) -> _Class:
    """Let a converter of the program be named, verified and read back like those of this package.

    Needed in each program that reads what was mapped with it, before it does. A package saves its users that with an
    entry point of the group ``onnx_gconv.converters``::

        @register_converter
        class MyPair(BaseConductanceConverter):
            name = "my-pair"
            ...

    Args:
        converter: A class with all of `ConductanceConverter` and a ``name``. The parameters of its constructor besides
            ``g_max`` and ``g_min`` are its settings; ``settings``, a mapping of names to parameters, gives them other
            names, or leaves some out.

    Returns:
        The class, so that this can be a decorator.

    Raises:
        ConfigError: If it lacks something, or its name or that of its class is taken; the message says which.
    """
    _REGISTRY.register(converter)
    return converter


def kinds_taking(setting: str) -> str:
    """The names of the converters of this package that take a setting, in words."""
    names = [kind.name for kind in CONVERTER_KINDS.values() if setting in kind.settings]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
