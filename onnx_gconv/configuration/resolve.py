"""Makes the mapping scheme of a weight from its settings; settings that contradict each other are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from onnx_gconv.configuration.setting_tables import ConverterSetting, in_microsiemens
from onnx_gconv.configuration.settings import (
    ClippingSettings,
    ConverterSettings,
    DeviceSettings,
    GranularitySettings,
    LevelsSetting,
)
from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.converters.converter_kind import ConverterKind
from onnx_gconv.converters.registry import CONVERTER_KINDS, converter_registry
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.parts import PartsChoice
from onnx_gconv.schemes.scheme import LEVELS_OF_WEIGHT, LevelStorage, MappingScheme, SchemeLevels

if TYPE_CHECKING:
    from onnx_gconv.devices.presets import DevicePreset

__all__ = ["EffectiveSettings", "Given", "scheme_of"]

_T = TypeVar("_T")

_SLICE_BITS = "slice_bits"
_MOST_SLICE_BITS = 8  # the largest slice_bits of the bit-sliced converters

# A nanosiemens, in µS: devices that hold weights conduct more, and a range below it may be in siemens by mistake.
_LOWEST_WITHOUT_UNIT_US = 1e-3


@dataclass(frozen=True)
class Given(Generic[_T]):
    """A setting that was given.

    Attributes:
        value: Its value.
        origin: Its name in messages, such as ``'gconv.toml', line 3: defaults.levels``.
        rank: Its position in the order of settings; later settings have a higher rank.
    """

    value: _T
    origin: str
    rank: int = 0

    def refuse(self, why: str) -> NoReturn:
        """Raise an error that names the setting.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.origin}: {why}")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of the setting in front of messages of a `ConfigError`."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self.origin}: {error}") from None


@dataclass(frozen=True)
class EffectiveSettings:
    """The settings of a weight, each None if it was not given."""

    device: Given[DeviceSettings] | None = None
    converter: Given[ConverterSetting] | None = None
    granularity: Given[GranularitySettings] | None = None
    clipping: Given[ClippingSettings] | None = None
    levels: Given[LevelsSetting] | None = None
    storage: Given[LevelStorage] | None = None
    parts: Given[PartsChoice] | None = None


@dataclass(frozen=True)
class _Device:
    """The requested devices: range in µS, and preset; each None if it was not given."""

    g_min: float | None = None
    g_max: float | None = None
    preset: DevicePreset | None = None

    @classmethod
    def of(cls, settings: DeviceSettings) -> _Device:
        g_min, g_max = settings.range_us
        if settings.preset is None:
            return cls(g_min, g_max)
        from onnx_gconv.devices.presets import preset

        known = preset(settings.preset)
        return cls(known.g_min if g_min is None else g_min, known.g_max if g_max is None else g_max, known)

    def differs(self, g_min: float, g_max: float) -> bool:
        """Whether a requested end of the range differs from the given one."""
        return self.g_min not in {None, g_min} or self.g_max not in {None, g_max}

    def __str__(self) -> str:
        ends = {"g_min": self.g_min, "g_max": self.g_max}
        return ", ".join(f"{name} = {end:g} µS" for name, end in ends.items() if end is not None)


def scheme_of(settings: EffectiveSettings, conductance_dtype: Given[str]) -> MappingScheme:
    """Return the mapping scheme of a weight.

    Args:
        settings: The settings of the weight.
        conductance_dtype: The model's setting of that name.

    Raises:
        ConfigError: If settings contradict each other, or one has a wrong value; the message names it.
    """
    device = _Device() if settings.device is None else _Device.of(settings.device.value)
    converter = _converter(settings, device)
    _check_unit(settings, converter)
    levels = _levels(settings.levels, device, converter)
    _check_exact(settings, converter, levels)
    _check_storage(settings.storage, converter, levels)
    clipping = ClippingSettings() if settings.clipping is None else settings.clipping.value
    storage: LevelStorage = "float" if settings.storage is None else settings.storage.value
    parts: PartsChoice = "auto" if settings.parts is None else settings.parts.value
    scheme = MappingScheme(converter, _granularity(settings, device), clipping.clipping(), levels, storage, parts)
    if scheme.levels is not None and conductance_dtype.value == "weight":
        conductance_dtype.refuse("conductances of the weight's type cannot hold levels; choose float32, or no levels")
    return scheme


def _converter(settings: EffectiveSettings, device: _Device) -> ConductanceConverter:
    given = settings.converter
    if given is None:
        return _named_converter(settings, _default_converter(device), device)
    if isinstance(given.value, ConverterSettings):
        with given.named():
            chosen = given.value.with_name(_default_converter(device).name or "")
        return _named_converter(settings, chosen, device)
    _check_range_of_object(given.value, given.rank, settings.device, device)
    return given.value


def _named_converter(settings: EffectiveSettings, chosen: ConverterSettings, device: _Device) -> ConductanceConverter:
    g_min, g_max = device.g_min, device.g_max
    table = settings.levels
    if table is not None and isinstance(table.value, tuple):
        g_min, g_max = min(table.value), max(table.value)
        if device.differs(g_min, g_max):
            table.refuse(
                f"the levels go from {g_min:g} to {g_max:g} µS, but the device has {device}; give both the same range"
            )
    origin: Given[Any] | None = settings.converter or settings.device or settings.levels
    with nullcontext() if origin is None else origin.named():
        kind = converter_registry().kind(chosen.name or "")
        given = {**_slices_of_preset(kind, chosen.given, device), **chosen.given}
        converter = kind.build(given, g_max=g_max, g_min=g_min)
        if _SLICE_BITS in kind.settings:
            _check_slices(converter, device)
        return converter


def _slices_of_preset(kind: ConverterKind, given: Mapping[str, Any], device: _Device) -> dict[str, int]:
    """Return the setting slice_bits for the cells of a preset; no setting for converters without slices."""
    levels = None if device.preset is None else device.preset.levels
    if levels is None or _SLICE_BITS not in kind.settings or kind.name not in CONVERTER_KINDS:
        return {}
    bits = given.get("bits", kind.settings["bits"].default)
    return {_SLICE_BITS: min(levels.bit_length() - 1, _MOST_SLICE_BITS, bits)}


def _check_slices(converter: ConductanceConverter, device: _Device) -> None:
    """Refuse slices that need more levels than the cells of a preset have."""
    needed, preset = converter.natural_levels, device.preset
    if preset is None or preset.levels is None or needed is None or needed <= preset.levels:
        return
    raise ConfigError(
        f"slices of {needed.bit_length() - 1} bits need {needed} levels, but cells of preset '{preset.name}' have "
        f"{preset.levels}; take slice_bits = {preset.levels.bit_length() - 1}, or give the range without the preset "
        f"(g_min = {preset.g_min:g}, g_max = {preset.g_max:g})"
    )


def _default_converter(device: _Device) -> ConverterSettings:
    name = None if device.preset is None else device.preset.converter
    return ConverterSettings(name="single-pair" if name is None else name)


def _check_range_of_object(
    converter: ConductanceConverter, rank: int, given: Given[DeviceSettings] | None, device: _Device
) -> None:
    """Refuse a device that is given after a converter object and has another range than that object."""
    if given is not None and given.rank >= rank and device.differs(converter.g_min, converter.g_max):
        given.refuse(
            f"the device has {device}, but the converter is an object with the range {converter.g_min:g} to "
            f"{converter.g_max:g} µS of its own; name the converter, or give the range to the object"
        )


def _levels(
    given: Given[LevelsSetting] | None, device: _Device, converter: ConductanceConverter
) -> SchemeLevels | None:
    if given is None or given.value == "none":
        return None
    if given.value == LEVELS_OF_WEIGHT:
        if converter.natural_levels is not None:
            given.refuse(f"the conductances of {converter} are levels already; leave it out")
        return LEVELS_OF_WEIGHT
    from onnx_gconv.devices.levels import ConductanceLevels

    with given.named():
        if isinstance(given.value, ConductanceLevels):
            found = given.value
        elif isinstance(given.value, tuple):
            found = ConductanceLevels.of_table(given.value)
        else:
            count = _levels_of_preset(device) if isinstance(given.value, str) else given.value
            found = ConductanceLevels.uniform(count, converter.g_min, converter.g_max)
    if (found.g_min, found.g_max) != (converter.g_min, converter.g_max):
        given.refuse(
            f"the levels go from {found.g_min:g} to {found.g_max:g} µS, but the range of the converter from "
            f"{converter.g_min:g} to {converter.g_max:g} µS; give both the same range"
        )
    return found


def _levels_of_preset(device: _Device) -> int:
    if device.preset is None:
        raise ConfigError("there is no preset whose levels could be used; name one as device, or a number of levels")
    if device.preset.levels is None:
        raise ConfigError("the preset has no levels; give a number of them, or none")
    return device.preset.levels


def _granularity(settings: EffectiveSettings, device: _Device) -> Granularity:
    given = settings.granularity
    if given is None:
        return Granularity()
    array = None if device.preset is None else device.preset.array
    if given.value.has_tiles and given.value.tile is None and array is None:
        given.refuse(
            f'the granularity {given.value.kind} needs the size of a tile: give tile = "256x256" (rows by columns; '
            "--tile 256x256 on the command line) or a device preset with an array"
        )
    with given.named():
        return given.value.granularity(array)


def _check_unit(settings: EffectiveSettings, converter: ConductanceConverter) -> None:
    """Refuse a range below a nanosiemens without a unit: it may be given in siemens by mistake."""
    given, g_max = settings.device, converter.g_max
    if g_max >= _LOWEST_WITHOUT_UNIT_US or (given is not None and given.value.unit is not None):
        return
    in_us = in_microsiemens(g_max)
    question = (
        f"conductances up to {g_max:g} µS are below a nanosiemens; is that siemens? Then give {in_us:g}, in µS, or "
        'unit = "S" (--unit S); if it is µS, say so: unit = "uS" (--unit uS)'
    )
    origin: Given[Any] | None = given or settings.converter or settings.levels
    if origin is None:
        raise ConfigError(question)
    origin.refuse(question)


def _check_exact(settings: EffectiveSettings, converter: ConductanceConverter, levels: SchemeLevels | None) -> None:
    if not converter.is_exact:
        return
    remedy = "leave it out, or take a converter that is not exact"
    if settings.clipping is not None and not settings.clipping.value.clipping().is_at_maximum:
        settings.clipping.refuse(f"clipped weights do not come back exactly; {remedy}")
    if settings.levels is not None and levels == LEVELS_OF_WEIGHT:
        settings.levels.refuse(
            "integers on levels of their own come back exactly with a converter that is not exact: leave out exact"
        )
    if settings.levels is not None and levels is not None:
        settings.levels.refuse(f"rounded weights do not come back exactly; {remedy}")


def _check_storage(
    given: Given[LevelStorage] | None, converter: ConductanceConverter, levels: SchemeLevels | None
) -> None:
    if given is None or given.value != "codes" or levels is not None:
        return
    if converter.natural_levels is None:
        given.refuse(
            "codes need levels; say how many levels the devices have, e.g. 256 (levels, --levels), or store floats"
        )
