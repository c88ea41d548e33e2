"""One weight on a simulated chip: its conductances, the compensation of drift, and how far from its targets it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.converters.weight_statistics import weight_statistics
from onnx_gconv.devices.base_device import DeviceModel, is_pair_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.simulation.simulated_tensor import Moment, SimulatedDevices, SimulatedOfPairs, SimulatedTensor
from onnx_gconv.simulation.streams import ChipStreams
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, element_chunks

__all__ = [
    "Chip",
    "DriftCompensation",
    "WeightErrors",
    "absolute_sums",
    "array_parts",
    "check_compensation",
    "check_pairs",
    "drift_factor",
    "pair_of",
    "simulated_tensors",
    "tensor_parts",
    "weight_errors",
]

DriftCompensation = Literal["none", "global", "tile", "column"]
"""``global``: one factor for each weight; ``tile`` and ``column``: one for each tile or output column, where each has a
scale of its own; ``none``: outputs are taken as the chip gives them."""

_SCALES_FOR: dict[str, tuple[str, ...]] = {"tile": ("tile",), "column": ("channel", "tile_channel")}


@dataclass(frozen=True)
class Chip:
    """A chip of a device model at a time.

    Attributes:
        model: The device model.
        seconds: How long after programming it is read.
        streams: The random numbers.
        compensation: Whether drift is compensated.
    """

    model: DeviceModel
    seconds: float
    streams: ChipStreams
    compensation: DriftCompensation

    def devices(self, record: WeightRecord, targets: Sequence[ir.TensorProtocol], number: int) -> SimulatedDevices:
        """One of the devices of each element of a weight, by its number.

        Args:
            record: The weight.
            targets: The targets of all of its devices, in µS.
            number: Which one.

        Raises:
            ConfigError: If the device model is one of pairs, and the weight has none.
        """
        of_device = partial(self.streams.generator, (record.graph, record.name))
        streams = partial(of_device, number)
        if not is_pair_model(self.model):
            return SimulatedDevices(self.model, self.seconds, streams)
        plus, minus = pair_of(record)
        return SimulatedOfPairs(
            self.model,
            self.seconds,
            streams,
            partners=targets[minus if number == plus else plus],
            is_plus=number == plus,
            streams_of_pairs=partial(of_device, plus),
        )


@dataclass(frozen=True)
class WeightErrors:
    """How far a weight on a chip is from what the targets give, before it is rounded to integer codes or cast.

    Attributes:
        max_abs: The largest distance, in units of weight.
        rms: The root mean square of the distances.
        sqnr_db: Ratio of the power of the weight to that of the distances, in dB; None if one of them is 0.
    """

    max_abs: float
    rms: float
    sqnr_db: float | None


def pair_of(record: WeightRecord) -> tuple[int, int]:
    """The numbers of the two devices of a weight ``W = (G+ - G-) / scale``, the positive one first.

    Raises:
        ConfigError: If it has other devices.
    """
    coefficients = [item.coefficient for item in record.conductances]
    if sorted(coefficients) != [-1, 1] or record.offset_us or record.zero != 0:
        raise _no_pairs(record)
    return coefficients.index(1), coefficients.index(-1)


def check_pairs(record: WeightRecord) -> None:
    """Raise ConfigError unless a weight has pairs of devices of which one is told 0."""
    pair_of(record)
    rule, few = record.converter.converter(), np.array([-1, -0.5, 0, 0.5, 1], np.float32)
    pair = [np.empty_like(few) for _ in rule.device_names]
    rule.convert_chunk(few, rule.scaling(weight_statistics([few]), few.dtype), pair)
    if np.minimum(*pair).any():
        raise _no_pairs(record)


def _no_pairs(record: WeightRecord) -> ConfigError:
    return ConfigError(
        f"the weight {record.quoted} is mapped with {record.converter.name}, but the device is a model of pairs, of "
        "which one device is told 0 \u00b5S; map with --converter single-pair --g-min 0, or choose another device"
    )


def simulated_tensors(mapped: MappedWeight, chip: Chip, moment: Moment = "read") -> tuple[SimulatedTensor, ...]:
    """The conductances of each device of a weight, or their spread, in µS, [shape of the weight]."""
    tensors = mapped.tensors
    return tuple(
        SimulatedTensor(targets, chip.devices(mapped.record, tensors, number), moment)
        for number, targets in enumerate(tensors)
    )


def check_compensation(record: WeightRecord, compensation: DriftCompensation) -> None:
    """Raise ConfigError if a weight has not the scales that factors of its tiles or columns would go into."""
    needed = _SCALES_FOR.get(compensation)
    if needed is not None and record.granularity not in needed:
        how = " or ".join(each.replace("_", "-") for each in needed)
        raise ConfigError(
            f"the weight {record.quoted} has one scale for each {record.granularity.replace('_', '-')}, so that drift "
            f"cannot be compensated for each {compensation}; map with --granularity {how}, or compensate it globally"
        )


def absolute_sums(
    record: WeightRecord, parts: Iterable[Sequence[NDArray[Any]]], compensation: DriftCompensation
) -> NDArray[np.float64]:
    """The sum of |W| · scale, in µS: of the whole weight, or of each group that shares a scale.

    Args:
        record: The weight.
        parts: Its conductances in µS, stretch by stretch, as `tensor_parts` or `array_parts` gives them.
        compensation: ``global`` for one sum, ``tile`` or ``column`` for one for each scale.
    """
    grid = record.grid if compensation in _SCALES_FOR else None
    total, start = np.zeros(1 if grid is None else grid.count), 0
    for part in _differences(record, parts):
        if grid is None:
            total += np.abs(part).sum()
        else:
            reduced, groups = grid.reduced(np.add, np.abs(part), start)
            total += np.bincount(groups, reduced, grid.count)
        start += part.size
    return total


def drift_factor(
    record: WeightRecord,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    compensation: DriftCompensation = "global",
) -> FloatOrArray:
    """By what outputs are multiplied so that drift on the whole has no effect: mean|W programmed| / mean|W read|.

    It is what a chip measures when each input is 1 once, before and after: M. Le Gallo et al., Compressed sensing with
    approximate message passing using in-memory computing, IEEE Transactions on Electron Devices 65, 2018; V. Joshi et
    al., 2020. So does aihwkit (version 1.1.0): GlobalDriftCompensation for each tile, PerColumnDriftCompensation for
    each output of a tile.

    Args:
        record: The weight.
        before: What `absolute_sums` gives for its conductances at the end of programming.
        after: The same for its conductances at the time.
        compensation: ``global`` for one factor, ``tile`` or ``column`` for one for each scale.

    Returns:
        The factor, or an array of them of the shape of `ScaleGrid`; 1 where nothing can be read.
    """
    grid = record.grid if compensation in _SCALES_FOR else None
    is_known = (before > 0) & (after > 0)
    with np.errstate(over="ignore"):
        factors = np.divide(before, after, out=np.ones_like(before), where=is_known)
    factors[~np.isfinite(factors)] = 1.0
    return float(factors[0]) if grid is None else factors.reshape(grid.shape)


def weight_errors(mapped: MappedWeight, read: Sequence[ir.TensorProtocol], factor: FloatOrArray) -> WeightErrors:
    """How far a weight is from what its targets give.

    Args:
        mapped: The weight, with the scale of its targets.
        read: The conductances that it has now, in µS.
        factor: By what outputs are multiplied, as `drift_factor` gives it.
    """
    record, grid = mapped.record, mapped.record.grid
    scales = np.asarray(mapped.decoding.scale, np.float64)
    factors = np.asarray(factor, np.float64)
    largest = squared_errors = squared_weights = 0.0
    first = 0
    for found, target in zip(
        _differences(record, tensor_parts(read)), _differences(record, tensor_parts(mapped.tensors)), strict=True
    ):
        scale = scales if grid is None else grid.entries(scales, first, first + target.size, np.dtype(np.float64))
        by = factors if grid is None or not factors.ndim else grid.expanded(factors, first, first + target.size)
        weights = target / scale
        errors = found * by / scale - weights
        largest = max(largest, float(np.abs(errors).max(initial=0)))
        squared_errors += float(np.square(errors).sum())
        squared_weights += float(np.square(weights).sum())
        first += weights.size
    ratio = squared_weights / squared_errors if squared_errors else 0.0
    return WeightErrors(
        max_abs=largest,
        rms=math.sqrt(squared_errors / max(first, 1)),
        sqnr_db=10 * math.log10(ratio) if ratio > 0 else None,
    )


def tensor_parts(conductances: Sequence[ir.TensorProtocol]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Stretches of the conductances of all devices, side by side."""
    return zip(*(element_chunks(tensor) for tensor in conductances), strict=True)


def array_parts(conductances: Sequence[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], ...]]:
    """As `tensor_parts`, of arrays in memory."""
    flat = [each.reshape(-1) for each in conductances]
    for start in range(0, flat[0].size, CHUNK_ELEMENTS):
        yield tuple(each[start : start + CHUNK_ELEMENTS] for each in flat)


def _differences(record: WeightRecord, parts: Iterable[Sequence[NDArray[Any]]]) -> Iterator[NDArray[np.float64]]:
    """What is divided by the scale, in µS: the sum of the conductances with their coefficients, less the offset."""
    for stretch in parts:
        total: NDArray[np.float64] | None = None
        for item, part in zip(record.conductances, stretch, strict=True):
            term = part.astype(np.float64)
            if item.coefficient != 1:
                term *= item.coefficient
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None  # noqa: S101 - a weight has devices
        if record.offset_us:
            total -= record.offset_us
        yield total
