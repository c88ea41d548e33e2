"""The base class of converters: the range of the devices, methods for whole arrays, and common defaults."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, compute_dtype, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.parameters import checked_range
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics, weight_statistics
from onnx_gconv.errors import UnmappableWeightError

__all__ = ["DEFAULT_G_MAX_US", "DEFAULT_G_MIN_US", "SMALLEST_MAX_ABS", "BaseConductanceConverter", "scale_of_params"]

DEFAULT_G_MAX_US = 25.0
DEFAULT_G_MIN_US = 0.0

# aihwkit's lower limit of max|W|: an all-zero weight keeps a finite scale.
SMALLEST_MAX_ABS = 1e-7


class BaseConductanceConverter(abc.ABC):
    """A `ConductanceConverter` for devices of one range, with aihwkit's methods for whole arrays.

    A subclass defines the devices, how weights are scaled, converted and rebuilt, and a bound of the error. Two
    converters are equal if they have the same class and the same parameters.

    Args:
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.

    Attributes:
        name: The name by which users choose the converter, such as ``single-pair``; it is unique to the class.
        settings: The parameters of the constructor that users may set besides the range, by the names that users
            write. In a class without this attribute, all parameters by their own names.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]

    def __init__(self, g_max: float | None = None, g_min: float | None = None) -> None:
        self._g_max, self._g_min = checked_range(
            DEFAULT_G_MAX_US if g_max is None else g_max, DEFAULT_G_MIN_US if g_min is None else g_min
        )

    @property
    def g_max(self) -> float:
        """Upper end of the devices' range, in µS."""
        return self._g_max

    @property
    def g_min(self) -> float:
        """Lower end of the devices' range, in µS."""
        return self._g_min

    @property
    def is_exact(self) -> bool:
        """False: rebuilt weights may differ from the weights by some ulps."""
        return False

    @property
    def natural_levels(self) -> int | None:
        """None: conductances take any value of the range."""
        return None

    @property
    def largest_integer(self) -> int | None:
        """None: weights are not rounded to codes."""
        return None

    def for_levels(self, count: int) -> BaseConductanceConverter:  # noqa: ARG002 - the signature of all converters
        """This converter: its formulas do not depend on the number of levels."""
        return self

    @property
    @abc.abstractmethod
    def device_names(self) -> tuple[str, ...]:
        """One name for each device of a weight."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Empty: there are no pairs of which one device is always at `g_min`."""
        return ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, BaseConductanceConverter)  # noqa: S101 - its type is that of self
        return self.manifest_parameters() == other.manifest_parameters()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.manifest_parameters())))

    def __str__(self) -> str:
        return f"{type(self).__name__}(g_max={self._g_max:1.2f}, g_min={self._g_min:1.2f})"

    def __repr__(self) -> str:
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.manifest_parameters().items())
        return f"{type(self).__name__}({parameters})"

    # Whole arrays, with the names and the calls of aihwkit

    def convert_to_conductances(self, weights: ArrayLike) -> tuple[list[FloatArray], dict[str, Any]]:
        """Convert a weight.

        Args:
            weights: Array of any shape with at least one element.

        Returns:
            For each of `device_names` an array in µS of the shape of `weights`, float64 for float64 weights and float32
            for all others; and the parameters for `convert_back_to_weights`, ``{"scale_ratio": scale, ...}`` with the
            scale in µS per unit of weight as a scalar of that type.

        Raises:
            UnmappableWeightError: If `weights` is empty, has NaN or infinite elements or no real type, if the scale is
                not a positive finite number of the compute type, or if a rebuilt weight would overflow.
        """
        array = np.asarray(weights)
        dtype = compute_dtype(array.dtype)
        array = np.ascontiguousarray(array, dtype).reshape(array.shape)
        try:
            scaling = self.scaling(weight_statistics([array]), dtype)
        except UnmappableWeightError as error:
            raise UnmappableWeightError(f"the weight {error}") from None
        if self.needs_check(scaling) and (reason := self.check_chunk(array, scaling)):
            raise UnmappableWeightError(f"the weight {reason}")
        conductances: list[FloatArray] = [np.empty_like(array) for _ in self.device_names]
        self.convert_chunk(array, scaling, conductances)
        params = self._params(scaling, dtype)
        self._check_overflow(array, conductances, params)
        return conductances, params

    def _check_overflow(
        self, weights: FloatArray, conductances: Sequence[FloatArray], params: Mapping[str, Any]
    ) -> None:
        """Refuse a weight whose largest elements would be rebuilt as infinity.

        Rounding makes a rebuilt weight up to about 1e-7 (relative) larger than the weight, and keeps the order of
        numbers. So only the smallest and the largest element have to be checked.

        Raises:
            UnmappableWeightError: If one overflows; the message names the element.
        """
        flat = weights.reshape(-1)
        for place in (int(flat.argmin()), int(flat.argmax())):
            if abs(flat[place]) < np.finfo(flat.dtype).max / 2:
                continue
            with np.errstate(over="ignore"):
                ends = [each.reshape(-1)[place : place + 1] for each in conductances]
                rebuilt = self.convert_back_to_weights(ends, params)
            if not np.isfinite(rebuilt).all():
                remedy = "scale it down" if flat.dtype == np.float64 else "give it in float64, or scale it down"
                raise UnmappableWeightError(
                    f"the weight has the value {float(flat[place]):g} at flat index {place}, which overflows when it "
                    f"is rebuilt in {flat.dtype.name}; {remedy}"
                )

    def convert_back_to_weights(self, conductances: Sequence[ArrayLike], params: Mapping[str, Any]) -> FloatArray:
        """Convert conductances back.

        Args:
            conductances: For each of `device_names` an array in µS, all of one shape.
            params: ``{"scale_ratio": scale, ...}`` from `convert_to_conductances`.

        Returns:
            Weights of that shape, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there is not one conductance for each device, or `params` lacks an entry.
        """
        arrays = self._checked_conductances(conductances)
        dtype = arrays[0].dtype
        scaling = Scaling(float(dtype.type(scale_of_params(params))))
        return np.asarray(self.decoding(scaling).decode(arrays, dtype))

    def _params(self, scaling: Scaling, dtype: np.dtype[Any]) -> dict[str, Any]:
        """The `params` that `convert_back_to_weights` needs for this scaling."""
        return {"scale_ratio": dtype.type(scaling.scale)}

    def _checked_conductances(self, conductances: Sequence[ArrayLike]) -> list[FloatArray]:
        """The conductances as arrays of their compute type.

        Raises:
            ValueError: If there is not one conductance for each device.
        """
        count = len(self.device_names)
        if len(conductances) != count:
            raise ValueError(f"conductances must contain exactly {count} element{'s' if count > 1 else ''}")
        arrays = [np.asarray(conductance) for conductance in conductances]
        dtype = compute_dtype(arrays[0].dtype)
        return [np.asarray(array, dtype) for array in arrays]

    # Chunk by chunk

    @abc.abstractmethod
    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""

    @abc.abstractmethod
    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """The scale in µS per unit of weight, and the zero in units of weight, as values of `dtype`.

        Both are arrays with one entry for each group if `statistics` has groups.

        Raises:
            UnmappableWeightError: If a scale is zero or infinite in `dtype`.
        """

    @abc.abstractmethod
    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """The smallest and the largest weight that the devices hold with that scaling."""

    def needs_check(self, scaling: Scaling) -> bool:  # noqa: ARG002 - the signature of all converters
        """False: every weight with a valid scale can be converted."""
        return False

    def check_chunk(self, weights: FloatArray, scaling: Scaling) -> str | None:  # noqa: ARG002 - see `needs_check`
        """None: every weight with a valid scale can be converted."""
        return None

    @abc.abstractmethod
    def decoding(self, scaling: Scaling) -> Decoding:
        """The formula that rebuilds weights from the conductances."""

    @abc.abstractmethod
    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`."""

    @abc.abstractmethod
    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance, in µS, that converting to `dtype` can give, roundings included."""

    @abc.abstractmethod
    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|`` over the elements of the weight, in units of weight."""

    # What several converters compute alike

    def _scale_of_largest(self, range_us: float, statistics: WeightStatistics, dtype: np.dtype[Any]) -> FloatOrArray:
        """``(1 / max(max|W|, 1e-7)) * range_us`` as a value of `dtype`.

        aihwkit divides a Python number by a tensor. torch computes that as a reciprocal and a product, with two
        roundings, which are repeated here: with a single division, a third of all scales would differ by an ulp.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        number = dtype.type
        with np.errstate(over="ignore", under="ignore"):
            scale = (number(1) / np.maximum(operand(statistics.max_abs, dtype), number(SMALLEST_MAX_ABS))) * number(
                range_us
            )
        return self._checked_scale(scale, "max|W|", statistics.max_abs, dtype)

    def _checked_scale(
        self,
        scale: Any,  # noqa: ANN401 - a scalar or an array of `dtype`
        what: str,
        size: FloatOrArray,
        dtype: np.dtype[Any],
    ) -> FloatOrArray:
        """Check that a scale is positive and finite.

        Args:
            scale: The scale, or an array with one for each group.
            what: The quantity that the scale was computed from, for messages, such as ``max|W|``.
            size: The value of that quantity; for each group if there are groups.
            dtype: The type of the scale.

        Raises:
            UnmappableWeightError: If a scale is zero, infinite or NaN.
        """
        wrong = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
        if wrong.size:
            first = int(wrong[0])
            raise UnmappableWeightError(
                f"has {what} = {np.reshape(size, -1)[first]:g}, for which the scale is "
                f"{float(np.reshape(scale, -1)[first])} in {dtype.name}; "
                f"rescale the weight, or choose another range than g_max = {self.g_max:g} and g_min = {self.g_min:g} µS"
            )
        return plain(scale)


def scale_of_params(params: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever number type the caller keeps
    """The entry ``scale_ratio`` of a converter's params, in µS per unit of weight.

    Raises:
        ValueError: If the entry is missing.
    """
    if "scale_ratio" not in params:
        raise ValueError("params do not contain scale_ratio")
    return params["scale_ratio"]
