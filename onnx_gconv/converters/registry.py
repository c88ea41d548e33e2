"""Finds converters by name: those of this package, those of installed packages, and those that a program registers.

A package provides a converter by an entry point of the group ``onnx_gconv.converters``; the name of the entry point is
that of the converter. Entry points are loaded only if a name is not one of this package, or if all converters are
listed. A broken package affects only those who ask for its converter.
"""

from __future__ import annotations

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
from onnx_gconv.suggestions import suggestion

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
"""The converters of this package, by the names that users write."""

CONVERTERS: dict[str, Callable[..., ConductanceConverter]] = {
    kind.class_name: kind.converter for kind in CONVERTER_KINDS.values()
}
"""The converters of this package, by the names in manifests, which are those of the classes."""

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class ConverterOrigin:
    """Where a converter that is not part of onnx_gconv comes from.

    Attributes:
        package: The installed package that provides it; None if the program defines it.
        module: The module of its class.
    """

    package: ConverterPackage | None
    module: str


class ConverterRegistry:
    """All converters that can be found by name.

    Args:
        installed: Returns the entry points of installed packages.
    """

    def __init__(self, installed: Callable[[], Iterable[EntryPoint]]) -> None:
        self._installed = installed
        self._registered: dict[str, ConverterKind] = {}
        self._loaded: dict[EntryPoint, ConverterKind | ConfigError] = {}

    def register(self, converter: Any) -> None:  # noqa: ANN401 - is checked
        """Register a converter class of the program under its name.

        Raises:
            ConfigError: If the class lacks something that a converter needs, or its name or class name is taken.
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
        """The names of all converters, including those of installed packages, which are not loaded for that."""
        return tuple(dict.fromkeys((*CONVERTER_KINDS, *self._registered, *(point.name for point in self._points))))

    def kind(self, name: str) -> ConverterKind:
        """The converter of a name.

        Raises:
            ConfigError: If there is none, or the converter of an installed package cannot be loaded.
        """
        if (found := CONVERTER_KINDS.get(name) or self._registered.get(name)) is not None:
            return found
        points = [point for point in self._points if point.name == name]
        if points:
            return self._kind_at(points[0])
        raise ConfigError(
            f"there is no converter '{name}'; {suggestion(name, self.names())} (that of a package has to be "
            "installed, one of your own registered with onnx_gconv.converters.register_converter)"
        )

    def kind_of_class(self, class_name: str) -> ConverterKind | None:
        """The converter with that class name, as manifests have it; None if there is none.

        Raises:
            ConfigError: If the converter of an installed package has that class name, but cannot be loaded.
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
        """The usable converters that are not part of onnx_gconv: registered ones and those of installed packages."""
        registered = self._registered.values()
        return (*registered, *(kind for kind in self._working() if kind.name not in self._registered))

    def problems(self) -> tuple[str, ...]:
        """What is wrong with converters of installed packages, a line for each."""
        found = (self._load(point) for point in self._points)
        return tuple(dict.fromkeys(str(each) for each in found if isinstance(each, ConfigError)))

    def origin(self, converter: ConductanceConverter) -> ConverterOrigin | None:
        """Where a converter comes from; None if it is part of onnx_gconv.

        Raises:
            ConfigError: If another converter has the same class name, so that manifests could not tell them apart.
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
        """Load the converter of an entry point once; an error is returned, not raised."""
        if point not in self._loaded:
            problem = self._clash(point)
            self._loaded[point] = _loaded(point) if problem is None else ConfigError(problem)
        return self._loaded[point]

    def _clash(self, point: EntryPoint) -> str | None:
        """Why the converter of an entry point cannot be told from another converter; None if it can."""
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
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module of another package may raise anything at import
        return ConfigError(f"{what}{type(error).__name__}: {' '.join(str(error).split())}{remedy}")
    if kind.name != point.name:
        return ConfigError(f"{what}its class {kind.class_name} has another name, '{kind.name}'{remedy}")
    if kind.class_name in CONVERTERS:
        return ConfigError(f"{what}onnx_gconv has a class {kind.class_name}, too{remedy}")
    return kind


def _package(point: EntryPoint) -> ConverterPackage:
    distribution = point.dist
    if distribution is None:  # the entry point was constructed by a program, not found in an installed package
        return ConverterPackage(point.module.partition(".")[0], "of unknown version")
    return ConverterPackage(distribution.name, distribution.version)


def _class_name(point: EntryPoint) -> str:
    return point.attr.rpartition(".")[2]


def _is_of(point: EntryPoint, converter: type) -> bool:
    """Whether an entry point stands for a class, directly or by a module of the same package that re-exports it."""
    if (point.module, point.attr) == (converter.__module__, converter.__qualname__):
        return True
    same_package = point.module.partition(".")[0] == converter.__module__.partition(".")[0]
    return same_package and _class_name(point) == converter.__name__


_REGISTRY = ConverterRegistry(lambda: entry_points(group=ENTRY_POINT_GROUP))


def converter_registry() -> ConverterRegistry:
    """The registry of all converters in this process."""
    return _REGISTRY


def register_converter(converter: _Class) -> _Class:
    """Register a converter class, so that it can be used, verified and read back like those of this package.

    Every program has to register the class before it reads a model that was mapped with it. A package can spare its
    users that by an entry point of the group ``onnx_gconv.converters``::

        @register_converter
        class MyPair(BaseConductanceConverter):
            name = "my-pair"
            ...

    Args:
        converter: A class with the members of `ConductanceConverter` and a ``name``. The parameters of its constructor
            besides ``g_max`` and ``g_min`` are its settings. An attribute ``settings``, a mapping of names to
            parameters, can give them other names or leave some out.

    Returns:
        The class, so that this function can be used as a decorator.

    Raises:
        ConfigError: If the class lacks something, or its name or class name is taken; the message says which.
    """
    _REGISTRY.register(converter)
    return converter


def kinds_taking(setting: str) -> str:
    """The names of the converters of this package that have a setting, as words of a sentence."""
    names = [kind.name for kind in CONVERTER_KINDS.values() if setting in kind.settings]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
