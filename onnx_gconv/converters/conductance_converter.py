"""What every converter offers, and what it has to know of a weight before it can convert it piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_gconv.errors import ConfigError, UnmappableWeightError

__all__ = [
    "ConductanceConverter",
    "Decoding",
    "FloatArray",
    "WeightStatistics",
    "compute_dtype",
    "is_half_precision",
    "narrowed_scale",
    "weight_statistics",
]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

DEFAULT_G_MAX_US = 25.0
DEFAULT_G_MIN_US = 0.0

# aihwkit's lower limit of max|W|: an all-zero weight keeps a finite scale.
SMALLEST_MAX_ABS = 1e-7

_HALF_PRECISION = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})

# Types of 16 bits and fewer, whose values are all float32 values.
_NARROW = frozenset(
    np.dtype(dtype)
    for dtype in (
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
)


@dataclass(frozen=True)
class WeightStatistics:
    """What is known of a whole weight after one scan over it.

    Attributes:
        minimum: Smallest element, exact in float64.
        maximum: Largest element, exact in float64.
        count: Number of elements, at least 1.
    """

    minimum: float
    maximum: float
    count: int

    @property
    def max_abs(self) -> float:
        """max|W|, exact in float64."""
        return max(abs(self.minimum), abs(self.maximum))

    def __or__(self, other: WeightStatistics) -> WeightStatistics:
        """The statistics of two parts of a weight together."""
        return WeightStatistics(
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            count=self.count + other.count,
        )


@dataclass(frozen=True)
class Decoding:
    """How conductances become weights again: ``W = (sum_k c_k * G_k - b) / scale + w0``.

    Attributes:
        coefficients: c_k, one for each conductance of the weight, without unit.
        offset_us: b, in µS.
        scale: µS per unit of weight; positive and finite.
        zero: w0, in units of weight.
    """

    coefficients: tuple[float, ...]
    offset_us: float
    scale: float
    zero: float

    def decode(self, conductances: Iterable[FloatArray], dtype: np.dtype[Any]) -> FloatArray:
        """Rebuild weights in the order of operations in which the graph rebuilds them.

        Args:
            conductances: Arrays in µS, all of one shape, one for each coefficient.
            dtype: float32 or float64, the type the graph computes in.

        Returns:
            Weights of that shape and type, bit-identical to what the emitted nodes compute.
        """
        total: FloatArray | None = None
        for coefficient, conductance in zip(self.coefficients, conductances, strict=True):
            if total is None:
                total = conductance if coefficient == 1.0 else conductance * dtype.type(coefficient)
            elif coefficient == -1.0:
                total = total - conductance
            elif coefficient == 1.0:
                total = total + conductance
            else:
                total = total + conductance * dtype.type(coefficient)
        assert total is not None  # noqa: S101 - a converter without devices does not exist
        if self.offset_us:
            total = total - dtype.type(self.offset_us)
        weights: FloatArray = total / dtype.type(self.scale)
        if self.zero:
            weights = weights + dtype.type(self.zero)
        return weights


class ConductanceConverter(Protocol):
    """A rule weight ⇄ conductances that can be applied to a weight chunk by chunk."""

    @property
    def g_max(self) -> float:
        """Upper end of the devices' range, in µS."""
        ...

    @property
    def g_min(self) -> float:
        """Lower end of the devices' range, in µS."""
        ...

    @property
    def device_names(self) -> tuple[str, ...]:
        """One name for each device of a weight, e.g. ``("g_plus", "g_minus")``."""
        ...

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the two devices of each pair of which one is always at `g_min`."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether the rebuilt weights are bit-identical to the weights."""
        ...

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        ...

    def scale(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """The scale in µS per unit of weight, as a value of `dtype`."""
        ...

    def check_chunk(self, weights: FloatArray, scale: float) -> str | None:
        """Why this chunk cannot be converted with this scale, or None. Only asked if `needs_check` says so."""
        ...

    def needs_check(self, scale: float) -> bool:
        """Whether a second scan has to call `check_chunk` before the weight may be converted."""
        ...

    def decoding(self, scale: float) -> Decoding:
        """How the conductances become weights again."""
        ...

    def convert_chunk(self, weights: FloatArray, scale: float, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`.

        Args:
            weights: A part of the weight, float32 or float64, any shape.
            scale: From `scale`.
            out: For each of `device_names` an array of the same shape and type; none may overlap `weights`.
        """
        ...

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance, in µS, that converting to `dtype` can give, roundings included."""
        ...

    def error_bound(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """Largest possible ``|rebuilt - W|`` over the elements of the weight, in units of weight."""
        ...


def compute_dtype(dtype: np.dtype[Any] | type) -> np.dtype[Any]:
    """The type in which a weight is mapped: float64 stays, all others are computed in float32.

    Computing float16 in its own type would overflow the scale for max|W| below 3.8e-4, and siemens would be subnormal.

    Raises:
        UnmappableWeightError: If `dtype` is not a real number.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        dtype = dtype.newbyteorder("=")
    if dtype in _NARROW or dtype.kind in "iub":
        return np.dtype(np.float32)
    if dtype in {np.dtype(np.float32), np.dtype(np.float64)}:
        return dtype
    raise UnmappableWeightError(f"weights of type {dtype} cannot be mapped; float16, bfloat16, float32 and float64 can")


def is_half_precision(dtype: np.dtype[Any]) -> bool:
    """Whether conductances of this type are computed in float32 and rounded to it: float16 and bfloat16."""
    return dtype in _HALF_PRECISION


def narrowed_scale(scale: float, dtype: np.dtype[Any]) -> float | None:
    """The largest number of a type of half precision that is not above a scale, so that no conductance is clipped.

    Args:
        scale: µS per unit of weight.
        dtype: float16 or bfloat16.

    Returns:
        The number, or None if the scale is too large for the type, or so small that it is a subnormal number.
    """
    finfo = ml_dtypes.finfo(dtype)
    if not float(finfo.smallest_normal) <= scale <= float(finfo.max):
        return None
    narrowed = np.asarray(scale).astype(dtype)
    if float(narrowed) > scale:
        narrowed = np.nextafter(narrowed, np.asarray(0).astype(dtype))
    return float(narrowed)


def weight_statistics(chunks: Iterable[FloatArray], *, first_index: int = 0) -> WeightStatistics:
    """Scan a weight, or a part of it.

    Args:
        chunks: The elements in arrays of any shape, float32 or float64.
        first_index: Index in the flattened weight of the first element, for messages.

    Raises:
        UnmappableWeightError: If there is no element, or one is NaN or infinite; the message gives the value and, for
            the first such element, its index in the flattened weight.
    """
    minimum, maximum, count = math.inf, -math.inf, 0
    for chunk in chunks:
        if not chunk.size:
            continue
        # max and min propagate NaN and show infinities, so finiteness costs no scan of its own.
        low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            flat = chunk.reshape(-1)
            first = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise UnmappableWeightError(
                f"has the value {float(flat[first])} at flat index {first_index + count + first}; "
                "no conductance can hold it"
            )
        minimum, maximum, count = min(minimum, low), max(maximum, high), count + chunk.size
    if not count:
        raise UnmappableWeightError("has no elements")
    return WeightStatistics(minimum=minimum, maximum=maximum, count=count)


def scale_of_params(params: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever number type the caller keeps
    """The entry ``scale_ratio`` of a converter's params.

    Raises:
        ValueError: If there is none.
    """
    if "scale_ratio" not in params:
        raise ValueError("params do not contain scale_ratio")
    return params["scale_ratio"]


def converted(converter: ConductanceConverter, weights: ArrayLike) -> tuple[list[FloatArray], Any]:
    """The conductances of a whole weight in µS, one array for each device, and the scale as a scalar of their type.

    Raises:
        UnmappableWeightError: If `weights` is empty, has NaN or infinite elements or no real type, or if the converter
            cannot hold it.
    """
    array = np.asarray(weights)
    dtype = compute_dtype(array.dtype)
    array = np.ascontiguousarray(array, dtype).reshape(array.shape)
    try:
        scale = converter.scale(weight_statistics([array]), dtype)
    except UnmappableWeightError as error:
        raise UnmappableWeightError(f"the weight {error}") from None
    if converter.needs_check(scale) and (reason := converter.check_chunk(array, scale)):
        raise UnmappableWeightError(f"the weight {reason}")
    conductances: list[FloatArray] = [np.empty_like(array) for _ in converter.device_names]
    converter.convert_chunk(array, scale, conductances)
    return conductances, dtype.type(scale)


def two_roundings_scale(
    converter: ConductanceConverter, range_us: float, statistics: WeightStatistics, dtype: np.dtype[Any]
) -> float:
    """``(1 / max(max|W|, 1e-7)) * range_us`` as a value of `dtype`.

    aihwkit divides a Python number by a tensor, which torch evaluates as reciprocal, then product. The two roundings
    are kept: with one division a third of all scales differ by an ulp.

    Raises:
        UnmappableWeightError: If it is zero or infinite in `dtype`.
    """
    number = dtype.type
    with np.errstate(over="ignore", under="ignore"):
        scale = (number(1) / np.maximum(number(statistics.max_abs), number(SMALLEST_MAX_ABS))) * number(range_us)
    if not (np.isfinite(scale) and scale > 0):
        raise UnmappableWeightError(
            f"has max|W| = {statistics.max_abs:g}, for which the scale is {float(scale)} in {dtype.name}; "
            f"g_max = {converter.g_max:g} and g_min = {converter.g_min:g} µS are too far from it"
        )
    return float(scale)


def checked_range(g_max: float, g_min: float) -> tuple[float, float]:
    """The two ends of a conductance range, in µS.

    Raises:
        ConfigError: If one is negative or not finite, or the range is empty.
    """
    high, low = _conductance("g_max", g_max), _conductance("g_min", g_min)
    if low >= high:
        raise ConfigError(f"g_min should be smaller than g_max, but g_min={low} and g_max={high} µS")
    return high, low


def positive_number(name: str, value: float) -> float:
    """A number that has to be positive and finite.

    Raises:
        ConfigError: If it is not.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} should be a number, but it is {value!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{name} should be positive and finite, but it is {number}")
    return number


def _conductance(name: str, value: float) -> float:
    """Check one end of a conductance range, in µS."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} should be a number in µS, but it is {value!r}") from None
    if not math.isfinite(number):
        raise ConfigError(f"{name} should be finite, but it is {number} µS")
    if number < 0:
        raise ConfigError(f"{name} should be a positive value, but it is {number} µS")
    return number
