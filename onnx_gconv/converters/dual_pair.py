"""Two conductance pairs per weight, each with a factor."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_gconv.converters.n_pair import NPairConductanceConverter
from onnx_gconv.errors import ConfigError

__all__ = ["DualPairConductanceConverter"]

_PAIRS = 2


class DualPairConductanceConverter(NPairConductanceConverter):
    """`NPairConductanceConverter` with exactly two factors, like aihwkit's class of this name.

    Args:
        f_lst: The two factors, in the order in which the pairs are filled.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, and conductance of a zero weight, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If there are not two factors, one is not positive and finite, or the range is
            negative, empty or not finite.
    """

    name = "dual-pair"

    def __init__(self, f_lst: Sequence[float], g_max: float | None = None, g_min: float | None = None) -> None:
        super().__init__(f_lst, g_max, g_min)
        if len(self._factors) != _PAIRS:
            raise ConfigError(f"f_lst should have two factors, but it has {len(self._factors)}")
