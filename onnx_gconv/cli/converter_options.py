"""Makes the converter that the options ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    from onnx_gconv.converters import ConductanceConverter

__all__ = ["converter_of"]


def converter_of(
    kind: str = "single-pair", *, g_max: float, g_min: float, exact: bool, factors: Sequence[float] | None = None
) -> ConductanceConverter:
    """The converter for --converter, --g-max, --g-min, --exact and --factor.

    Raises:
        ConfigError: If they contradict each other.
    """
    from onnx_gconv.converters import (
        DualPairConductanceConverter,
        NPairConductanceConverter,
        SinglePairConductanceConverter,
    )

    if kind == "single-pair":
        if factors:
            raise ConfigError("--factor is for several pairs; choose --converter n-pair or dual-pair, or leave it out")
        return SinglePairConductanceConverter(g_max=g_max, g_min=g_min, exact=exact)
    if exact:
        raise ConfigError(f"--exact needs --converter single-pair, not {kind}; leave one of them out")
    if not factors:
        raise ConfigError(f"--converter {kind} needs factors, one for each pair: e.g. --factor 1 --factor 3")
    if kind == "dual-pair":
        return DualPairConductanceConverter(factors, g_max=g_max, g_min=g_min)
    return NPairConductanceConverter(factors, g_max=g_max, g_min=g_min)
