"""Describes a converter class: its name and settings, and whether it has everything that a converter needs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_gconv.converters.conductance_converter import ConductanceConverter
from onnx_gconv.errors import ConfigError

__all__ = ["ConverterKind", "ConverterPackage", "ConverterSetting", "checked_parameters"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RANGE = ("g_max", "g_min")
_OFFERED = tuple(name for name in vars(ConductanceConverter) if not name.startswith("_"))
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class ConverterPackage:
    """The installed package that provides a converter.

    Attributes:
        name: Name of the package for pip.
        version: Version of the package.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class ConverterSetting:
    """A setting of a converter, besides the conductance range.

    Attributes:
        name: The name that users write.
        parameter: The parameter of the constructor that the setting sets.
        default: The default of that parameter.
        annotation: The type annotation of that parameter.
    """

    name: str
    parameter: str
    default: Any = _REQUIRED
    annotation: Any = _REQUIRED

    @property
    def is_needed(self) -> bool:
        """Whether the setting has no default, so that users must give it."""
        return self.default is _REQUIRED

    def __str__(self) -> str:
        if self.is_needed or self.default is None:
            return f"{self.name} ({'needed' if self.is_needed else 'optional'})"
        return f"{self.name} = {_written(self.default)}"


@dataclass(frozen=True)
class ConverterKind:
    """A converter class that users can choose by name.

    Attributes:
        name: The name by which users choose the converter.
        converter: The class.
        settings: The settings of the converter besides the conductance range, by name.
        package: The installed package that provides the class; None for a converter of onnx_gconv, or one that the
            program has registered.
    """

    name: str
    converter: Callable[..., ConductanceConverter]
    settings: Mapping[str, ConverterSetting]
    package: ConverterPackage | None = None

    @classmethod
    def of(cls, converter: Any, package: ConverterPackage | None = None) -> ConverterKind:  # noqa: ANN401 - is checked
        """Check and describe a converter class.

        Args:
            converter: A class with the members of `ConductanceConverter` and a ``name``. Its settings are the
                parameters of its constructor besides ``g_max`` and ``g_min``, unless its attribute ``settings`` maps
                names to parameters.
            package: The installed package that provides the class.

        Raises:
            ConfigError: If `converter` is no class, or lacks something; the message says what.
        """
        if not isinstance(converter, type):
            raise ConfigError(f"a converter is a class, but {converter!r} is none; give the class itself")
        problem = next(_problems(converter), None)
        if problem is not None:
            raise ConfigError(f"{converter.__name__} cannot be used as a converter: {problem}")
        rule: Callable[..., ConductanceConverter] = converter
        return cls(vars(converter)["name"], rule, _settings(converter), package)

    @property
    def class_name(self) -> str:
        """The name of the class, by which manifests identify the converter."""
        return self.converter.__name__

    @property
    def needs(self) -> tuple[str, ...]:
        """The settings without a default."""
        return tuple(name for name, setting in self.settings.items() if setting.is_needed)

    def is_class(self, other: type) -> bool:
        """Whether a class is this one, or its new version after its module was reloaded or its notebook cell rerun."""
        own = self.converter
        return own is other or (own.__module__, own.__qualname__) == (other.__module__, other.__qualname__)

    def build(self, settings: Mapping[str, Any], *, g_max: float | None, g_min: float | None) -> ConductanceConverter:
        """Make the converter.

        Args:
            settings: Values of settings, by name.
            g_max: Upper end of the devices' range, in µS; None for the default of the converter.
            g_min: Lower end of the devices' range, in µS; None for the default of the converter.

        Raises:
            ConfigError: If a value is wrong.
        """
        given = {name: value for name, value in (("g_max", g_max), ("g_min", g_min)) if value is not None}
        given |= {self.settings[name].parameter: value for name, value in settings.items()}
        try:
            return self.converter(**given)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:  # classes of other packages need not raise ConfigError
            raise ConfigError(f"the converter {self.name} refuses its settings: {error}") from error


def checked_parameters(converter: ConductanceConverter) -> dict[str, Any]:
    """The parameters of a converter as JSON values, after checking that they make an equal converter again.

    Raises:
        ConfigError: If they do not; a model that was mapped with such a converter could not be read again.
    """
    name, parameters = type(converter).__name__, converter.manifest_parameters()
    where = f"manifest_parameters() of the converter '{name}'"
    try:
        written: dict[str, Any] = json.loads(json.dumps(parameters, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} should be JSON values, but they are {parameters!r} ({error})") from None
    for end in _RANGE:  # readers of manifests take the range of the devices from these two
        if not isinstance(written, dict) or not isinstance(written.get(end), (int, float)):
            raise ConfigError(f"{where} should have {end} in µS, but they are {parameters!r}")
    try:
        again = type(converter)(**written).manifest_parameters()
    except (Exception, SystemExit) as error:  # a constructor of another package may raise anything
        raise ConfigError(
            f"{where} should be what its constructor takes, but {name}(**{written!r}) fails: {error}"
        ) from error
    if json.dumps(again, sort_keys=True) != json.dumps(written, sort_keys=True):
        raise ConfigError(f"{where} should make an equal converter, but {written!r} make one with {again!r}")
    return written


def _problems(converter: type) -> Iterator[str]:
    """Yield what a class lacks to be a converter."""
    declared = {name for base in converter.__mro__ for name in inspect.get_annotations(base)}
    abstract: frozenset[str] = getattr(converter, "__abstractmethods__", frozenset())
    lacking = [name for name in _OFFERED if name in abstract or not (hasattr(converter, name) or name in declared)]
    if lacking:
        yield f"it lacks {', '.join(lacking)}; onnx_gconv.converters.ConductanceConverter says what each is"
    own = vars(converter).get("name")
    if not (isinstance(own, str) and _NAME.fullmatch(own)):
        found = "" if own is None else f", not {own!r}"
        yield f'it should have a name of its own{found}: name = "my-pair" in the class'
    chosen = getattr(converter, "settings", None)
    if chosen is None or isinstance(chosen, Mapping):
        yield from _problems_of_settings(_parameters(converter), chosen)
    else:
        yield f"its settings should map names to parameters of the constructor, but they are {chosen!r}"


def _problems_of_settings(
    parameters: Mapping[str, inspect.Parameter], chosen: Mapping[str, str] | None
) -> Iterator[str]:
    """Yield what is wrong with a constructor and with the attribute `settings` of its class (None without one)."""
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for end in _RANGE:
        if not takes_any and (end not in parameters or parameters[end].default is _REQUIRED):
            yield f"its constructor should take {end}, in µS, with a default"
    for name, parameter in (chosen or {}).items():
        if parameter not in parameters and not takes_any:
            yield f"its setting '{name}' should be a parameter of the constructor, which has no '{parameter}'"
    given = parameters if chosen is None else {*_RANGE, *chosen.values()}
    for each in parameters.values():
        if each.kind is each.POSITIONAL_ONLY:
            yield f"its constructor should take {each.name} by keyword, too"
        is_variadic = each.kind in {each.VAR_KEYWORD, each.VAR_POSITIONAL}
        if each.default is _REQUIRED and each.name not in given and not is_variadic:
            yield f"its constructor needs {each.name}, which its settings leave out"
    if "name" in (parameters if chosen is None else chosen):
        yield 'its setting "name" is what chooses the converter; give it another name, with settings in the class'


def _parameters(converter: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(converter).parameters
    except (TypeError, ValueError):  # a class without a signature, such as one written in C
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}


def _settings(converter: type) -> dict[str, ConverterSetting]:
    parameters = _parameters(converter)
    chosen: Mapping[str, str] | None = getattr(converter, "settings", None)
    if chosen is None:
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        chosen = {name: name for name, each in parameters.items() if each.kind not in variadic and name not in _RANGE}
    found = {}
    for name, parameter in chosen.items():
        each = parameters.get(parameter)
        # A parameter that the signature does not list goes to **kwargs, so it is optional.
        known = (None, _REQUIRED) if each is None else (each.default, each.annotation)
        found[name] = ConverterSetting(name, parameter, *known)
    return found


def _written(value: object) -> str:
    """A value in TOML syntax; its `repr` if TOML has no such value."""
    if isinstance(value, (bool, int, float, str, list)):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(list(value), ensure_ascii=False, default=str) if isinstance(value, tuple) else repr(value)
