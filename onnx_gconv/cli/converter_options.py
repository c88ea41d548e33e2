"""Makes the converter that the options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_gconv.converters import ConductanceConverter

__all__ = ["converter_of"]


def converter_of(*, g_max: float, g_min: float, exact: bool) -> ConductanceConverter:
    """The converter for --g-max, --g-min and --exact.

    Raises:
        ConfigError: If they contradict each other.
    """
    from onnx_gconv.converters import SinglePairConductanceConverter

    return SinglePairConductanceConverter(g_max=g_max, g_min=g_min, exact=exact)
