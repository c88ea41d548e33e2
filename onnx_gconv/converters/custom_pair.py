"""Several conductance pairs per weight, with the conductances given by tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_gconv.converters.base_converter import SMALLEST_MAX_ABS, BaseConductanceConverter, scale_of_params
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, is_half_precision, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.interpolation import EvenInterpolation
from onnx_gconv.converters.parameters import checked_factors
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics
from onnx_gconv.errors import ConfigError

__all__ = ["CustomPairConductanceConverter"]

# With at most this many points, neighbouring points of the grid stay far apart compared with the resolution of float32.
_FEWEST_POINTS, _MOST_POINTS = 2, 1 << 14

_TEST_WEIGHTS = np.linspace(-1, 1, 5, dtype=np.float32)
_TEST_TOLERANCE = 1e-4


class CustomPairConductanceConverter(BaseConductanceConverter):
    """Maps a weight to N conductance pairs with factors f_1, f_2, ... by tables of conductances.

    Every device has a table of P conductances, for P equally spaced weights from -max|W| to max|W|. Between them,
    conductances are interpolated linearly. With the weighted difference ``u = sum_k f_k * (G+_k - G-_k)`` of the
    tables, its largest magnitude U, and ``scale = U / max(max|W|, 1e-7)``, all roundings in the type of the weight::

        x   = linspace(-U, U, P) / scale
        G_j = interpolation of table j on x at W
        W   = sum_k f_k * (G+_k - G-_k) / scale

    If u rises linearly from -U to U, the rebuilt W has rounding errors only. Otherwise its error is up to the largest
    deviation of u from that line, divided by the scale; `error_bound` includes this deviation.

    float32 results are bit-identical to aihwkit's converter of the same name (aihwkit 1.1.0,
    ``inference/converter/conductance.py``). Deliberate differences: the grid of float64 weights is computed in float64,
    not in float32; a result of the interpolation that is an ulp of float64 outside of the range of its table is
    clipped; tables must have equal lengths and values in the range of the devices; factors must be positive and finite;
    factors and tables may be any sequences; tables that are not invertible raise a `ConfigError`, not an
    ArithmeticError; float16, bfloat16 and integer weights are computed and returned in float32; NaN, infinite and empty
    weights, and ranges that are not finite, are refused.

    Args:
        f_lst: The factors of the pairs; at least one.
        g_lst: The tables, in µS: for each pair the table of G+, then the table of G-. All have the same number of
            values, from 2 to 16384.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.
        invertibility_test: Whether to refuse tables with which one of the weights -1, -0.5, 0, 0.5 and 1 is rebuilt
            with an error above 1e-4.

    Raises:
        ConfigError: (a ValueError) If a factor is not positive and finite, the range is negative, empty or not finite,
            the tables do not fit the factors, the range or each other, all weights would get the same conductances, or
            the test fails.
    """

    name = "custom-pair"
    settings: ClassVar[Mapping[str, str]] = {
        "factors": "f_lst",
        "table": "g_lst",
        "invertibility_test": "invertibility_test",
    }

    def __init__(
        self,
        f_lst: Sequence[float],
        g_lst: Sequence[Sequence[float]],
        g_max: float | None = None,
        g_min: float | None = None,
        invertibility_test: bool = True,  # noqa: FBT001, FBT002 - aihwkit's signature
    ) -> None:
        self._factors = checked_factors(f_lst)
        super().__init__(g_max, g_min)
        self._tables = _checked_tables(g_lst, len(self._factors), self._g_max, self._g_min)
        self._is_tested = bool(invertibility_test)
        self._interpolations = {
            dtype: EvenInterpolation(self._grid_of(dtype), self._tables)
            for dtype in (np.dtype(np.float32), np.dtype(np.float64))
        }
        if self._is_tested:
            self.invertibility_test()

    @property
    def f_lst(self) -> list[float]:
        """The factors of the pairs."""
        return list(self._factors)

    @property
    def g_lst(self) -> list[list[float]]:
        """The tables, in µS: for each pair the table of G+, then the table of G-."""
        tables: list[list[float]] = self._tables.tolist()
        return tables

    @property
    def device_names(self) -> tuple[str, ...]:
        """``g_plus_1``, ``g_minus_1``, ``g_plus_2``, ..."""
        return tuple(f"g_{sign}_{number}" for number in range(1, len(self._factors) + 1) for sign in ("plus", "minus"))

    def invertibility_test(self) -> None:
        """Check that the weights -1, -0.5, 0, 0.5 and 1 are rebuilt correctly.

        Raises:
            ConfigError: If the error of one is above 1e-4.
        """
        back = self.convert_back_to_weights(*self.convert_to_conductances(_TEST_WEIGHTS))
        wrong = np.flatnonzero(~np.isclose(_TEST_WEIGHTS, back, atol=_TEST_TOLERANCE))
        if wrong.size:
            weight, found = float(_TEST_WEIGHTS[wrong[0]]), float(back[wrong[0]])
            raise ConfigError(
                f"g_lst is not invertible: the weight {weight:g} of -1 to 1 comes back as {found:g}; make the weighted "
                "difference of the pairs linear, or switch invertibility_test off"
            )

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {
            "f_lst": self.f_lst,
            "g_lst": self.g_lst,
            "g_max": self._g_max,
            "g_min": self._g_min,
            "invertibility_test": self._is_tested,
        }

    def convert_back_to_weights(self, conductances: Sequence[ArrayLike], params: Mapping[str, Any]) -> FloatArray:
        """Convert conductances back: ``sum_k f_k * (G+_k - G-_k) / scale``, as aihwkit does.

        Args:
            conductances: ``[G+_1, G-_1, G+_2, ...]`` in µS, of one shape.
            params: ``{"scale_ratio": scale, "f_lst": factors}`` from `convert_to_conductances`.

        Returns:
            Weights of that shape, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there are not two conductances for each factor, or `params` lacks an entry.
        """
        if "f_lst" not in params:
            raise ValueError("params does not contain f_lst")
        factors = checked_factors(params["f_lst"])
        if 2 * len(factors) != len(conductances):
            raise ValueError("must have one value in f_lst for every pair of conductances")
        arrays = self._checked_conductances(conductances)
        dtype = arrays[0].dtype
        total: FloatArray = np.zeros(arrays[0].shape, dtype)
        for factor, plus, minus in zip(factors, arrays[::2], arrays[1::2], strict=True):
            total = total + dtype.type(factor) * (plus - minus)
        return np.asarray(total / dtype.type(scale_of_params(params)))

    def _params(self, scaling: Scaling, dtype: np.dtype[Any]) -> dict[str, Any]:
        return {**super()._params(scaling, dtype), "f_lst": self.f_lst}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = U / max(max|W|, 1e-7)``.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        number = dtype.type
        with np.errstate(over="ignore", under="ignore"):
            scale = number(self._reach_us(dtype)) / np.maximum(
                operand(statistics.max_abs, dtype), number(SMALLEST_MAX_ABS)
            )
        return Scaling(self._checked_scale(scale, "max|W|", statistics.max_abs, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±U / scale``."""
        limit = self._reach_us(np.dtype(np.float64)) / scaling.scale
        return -limit, limit

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (f_1 * G+_1 - f_1 * G-_1 + f_2 * G+_2 - ...) / scale``."""
        coefficients = tuple(sign * factor for factor in self._factors for sign in (1.0, -1.0))
        return Decoding(coefficients=coefficients, offset_us=0.0, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`, in the order of the tables."""
        self._interpolations[weights.dtype](weights, scaling.scale, out)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: those of the tables."""
        return float(dtype.type(self._tables.min())), float(dtype.type(self._tables.max()))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1 in the type of the computation, and v half an ulp of 1 in float64, the type of the
        interpolation. The roundings of slope, distance, product and sum move an interpolated conductance by up to v
        times three differences of conductances plus g_max; rounding the result moves it by up to u * g_max.
        `rebuilding_error` bounds the error of rebuilding.

        Between exact points of the grid, the weighted difference u(W) deviates from the line ``W * scale`` by no more
        than at the points. The points themselves are off by the roundings of step, sum and quotient, at most
        4u * U / scale, or are cut off at the largest number of the type. An interpolated linear function is off by no
        more than its points are. Weights beyond the grid get the conductances of its ends.
        """
        computed = np.dtype(np.float32) if is_half_precision(dtype) else dtype
        unit, unit64 = rounding_unit(dtype), rounding_unit(np.dtype(np.float64))
        reach_us, highest_us = self._reach_us(computed), float(self._tables.max())
        error_us = (4 * unit64 + unit) * (1 + 8 * unit) * highest_us + storing_error_us(highest_us, dtype)
        deviation_us = float(
            np.abs(self._differences_us() - np.linspace(-reach_us, reach_us, self._tables.shape[1])).max()
        )
        limit = reach_us / scaling.scale
        clipped = clipping_error(statistics.max_abs, plain(limit))
        count = len(self._tables)
        rebuilt = rebuilding_error(
            self.decoding(scaling), [error_us] * count, [highest_us] * count, plain(limit), dtype
        )
        finfo = ml_dtypes.finfo(computed)
        beyond = np.maximum(limit - float(finfo.max), 0.0)
        off_grid = 5 * unit * limit + 4 * float(finfo.smallest_subnormal) + beyond
        return plain(rebuilt + deviation_us * (1 + 8 * unit64) / scaling.scale + off_grid + clipped)

    def _differences_us(self) -> NDArray[np.float64]:
        """The weighted differences u of the tables, in µS."""
        differences: NDArray[np.float64] = np.asarray(self._factors) @ (self._tables[::2] - self._tables[1::2])
        return differences

    def _reach_us(self, dtype: np.dtype[Any]) -> float:
        """The largest weighted difference U in the type of a weight, in µS."""
        return float(self._interpolations[dtype].grid[-1])

    def _grid_of(self, dtype: np.dtype[Any]) -> FloatArray:
        """The grid ``linspace(-U, U, P)`` in µS, bit-identical to torch's.

        Raises:
            ConfigError: If U is 0 or not finite.
        """
        number = dtype.type
        differences = np.zeros(self._tables.shape[1], dtype)
        for factor, plus, minus in zip(self._factors, self._tables[::2], self._tables[1::2], strict=True):
            differences += number(factor) * (plus.astype(dtype) - minus.astype(dtype))
        reach = np.abs(differences).max()
        if not (np.isfinite(reach) and reach > 0):
            raise ConfigError(
                f"the weighted differences of the pairs in g_lst should reach some conductance, but they reach "
                f"{float(reach)} µS: no weight could be told from another"
            )
        return _linspace(reach, self._tables.shape[1])


def _linspace(reach: Any, count: int) -> FloatArray:  # noqa: ANN401 - a scalar of a floating type
    """``linspace(-reach, reach, count)`` in the type of `reach`, bit-identical to torch's for float32.

    torch adds a multiple of the step to the nearer end by a fused multiply-add, which rounds once. Here, product and
    sum of float32 numbers are exact in float64, so that the cast to float32 is the only rounding.
    """
    dtype = reach.dtype
    step = (reach + reach) / dtype.type(count - 1)
    multiples = np.float64(step) * np.minimum(np.arange(count), np.arange(count)[::-1])
    ends = np.where(np.arange(count) < count // 2, -1.0, 1.0)
    grid: FloatArray = (ends * (np.float64(reach) - multiples)).astype(dtype)
    return grid


def _checked_tables(g_lst: Sequence[Sequence[float]], factors: int, g_max: float, g_min: float) -> NDArray[np.float64]:
    """Check the tables and return them as the rows of an array, in µS.

    Raises:
        ConfigError: If the tables do not fit the factors, the range or each other.
    """
    try:
        tables = [[float(conductance) for conductance in table] for table in g_lst]
    except (TypeError, ValueError):
        raise ConfigError(f"g_lst should be a list of lists of conductances in µS, but it is {g_lst!r}") from None
    if len(tables) != 2 * factors:
        raise ConfigError(
            f"g_lst should have two lists for every factor of f_lst, for {factors} of them {2 * factors}, but it has "
            f"{len(tables)}"
        )
    count = len(tables[0])
    if not _FEWEST_POINTS <= count <= _MOST_POINTS:
        raise ConfigError(
            f"the lists of g_lst should have {_FEWEST_POINTS} to {_MOST_POINTS} conductances, but the first has {count}"
        )
    for number, table in enumerate(tables, 1):
        if len(table) != count:
            raise ConfigError(
                f"list {number} of g_lst should have as many conductances as the first one, {count}, but it has "
                f"{len(table)}"
            )
        for position, conductance in enumerate(table, 1):
            if not g_min <= conductance <= g_max:
                raise ConfigError(
                    f"conductance {position} of list {number} of g_lst should lie between g_min = {g_min} and "
                    f"g_max = {g_max} µS, but it is {conductance}"
                )
    return np.array(tables) + 0.0  # negative zeros become zeros
