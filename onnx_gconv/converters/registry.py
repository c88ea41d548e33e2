"""The converters by the names that people write, and which settings each of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from onnx_gconv.converters import CONVERTERS, ConductanceConverter
from onnx_gconv.errors import ConfigError

__all__ = ["CONVERTER_KINDS", "ConverterKind", "ConverterName", "kinds_taking"]

ConverterName: TypeAlias = Literal[
    "single-pair",
    "dual-pair",
    "n-pair",
    "custom-pair",
    "single-device",
    "two-sided-pair",
    "offset",
    "bit-sliced-pair",
    "bit-sliced-offset",
]


@dataclass(frozen=True)
class ConverterKind:
    """A converter that can be named.

    Attributes:
        name: What people write.
        class_name: Its name in `CONVERTERS`.
        takes: Its settings besides the conductance range, and the parameters of the class that they are.
        needs: Those without a default.
    """

    name: ConverterName
    class_name: str
    takes: Mapping[str, str]
    needs: tuple[str, ...] = ()

    def build(self, settings: Mapping[str, Any], *, g_max: float | None, g_min: float | None) -> ConductanceConverter:
        """The converter.

        Args:
            settings: The settings that are given.
            g_max: Upper end of the devices' range, in µS; that of the converter if None.
            g_min: Lower end of the devices' range, in µS; that of the converter if None.

        Raises:
            ConfigError: If a value is wrong, or this version has no such converter.
        """
        if self.class_name not in CONVERTERS:
            raise ConfigError(f"this version has no converter '{self.name}'")
        conductances = {"g_max": g_max, "g_min": g_min}
        given = {name: value for name, value in conductances.items() if value is not None}
        return CONVERTERS[self.class_name](**{self.takes[name]: value for name, value in settings.items()}, **given)


_FACTORS = {"factors": "f_lst"}
_TABLE = {"table": "g_lst", "invertibility_test": "invertibility_test"}
_SLICES = {"bits": "bits", "slice_bits": "slice_bits"}

CONVERTER_KINDS: dict[str, ConverterKind] = {
    kind.name: kind
    for kind in (
        ConverterKind("single-pair", "SinglePairConductanceConverter", {"exact": "exact"}),
        ConverterKind("dual-pair", "DualPairConductanceConverter", _FACTORS, needs=("factors",)),
        ConverterKind("n-pair", "NPairConductanceConverter", _FACTORS, needs=("factors",)),
        ConverterKind("custom-pair", "CustomPairConductanceConverter", _FACTORS | _TABLE, needs=("factors", "table")),
        ConverterKind("single-device", "SingleDeviceConductanceConverter", {}),
        ConverterKind("two-sided-pair", "TwoSidedPairConductanceConverter", {}),
        ConverterKind("offset", "OffsetConductanceConverter", {}),
        ConverterKind("bit-sliced-pair", "BitSlicedPairConductanceConverter", _SLICES),
        ConverterKind("bit-sliced-offset", "BitSlicedOffsetConductanceConverter", _SLICES),
    )
}


def kinds_taking(setting: str) -> str:
    """The names of the converters that take a setting, in words."""
    names = [kind.name for kind in CONVERTER_KINDS.values() if setting in kind.takes]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
