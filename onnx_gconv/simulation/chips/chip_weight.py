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
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.simulation.chips.simulated_tensor import Moment, SimulatedDevices, SimulatedOfPairs, SimulatedTensor
from onnx_gconv.simulation.chips.streams import ChipStreams
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, element_chunks

__all__ = [
    "AbsoluteSums",
    "Chip",
    "DriftCompensation",
    "WeightErrors",
    "absolute_differences",
    "absolute_sums",
    "array_parts",
    "check_compensation",
    "check_pairs",
    "drift_factor",
    "pair_of",
    "ratios",
    "simulated_tensors",
    "summed",
    "tensor_parts",
    "weight_errors",
]

DriftCompensation = Literal["none", "global", "tile", "column"]
"""``global``: one factor for each weight, or for each part of one that is several matrices side by side; ``tile`` and
``column``: one for each tile or output column, where each has a scale of its own; ``none``: outputs are taken as the
chip gives them."""

_SLICE = 1 << 14

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


class AbsoluteSums:
    """The sum of |W| · scale, in µS: of the whole weight, or of each group that shares a scale.

    Args:
        record: The weight.
        compensation: ``global`` for one sum, if the weight is not in parts; else there is one for each scale.
    """

    def __init__(self, record: WeightRecord, compensation: DriftCompensation) -> None:
        self._record = record
        self._compensation = compensation
        self._start = 0
        self._memory = np.empty((2, 0))
        self.total = np.zeros(1 if (grid := _grid_of(record, compensation)) is None else grid.count)

    def add(self, parts: Sequence[NDArray[Any]]) -> None:
        """Add the next elements of the weight, of which the conductances of each device are given, in µS."""
        size = parts[0].size
        if self._memory.shape[1] < size:
            self._memory = np.empty((2, size))
        found = absolute_differences(self._record, parts, self._memory[:, :size])
        self.total += summed(self._record, found, self._start, self._compensation)
        self._start += size


def absolute_differences(
    record: WeightRecord, parts: Sequence[NDArray[Any]], memory: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|W| · scale of some elements of a weight, in µS.

    Args:
        record: The weight.
        parts: Conductances of each device, in µS.
        memory: Is overwritten, [2, as many]; the first row has the result.
    """
    found: NDArray[np.float64]
    other: NDArray[np.float64]
    found, other = memory
    for part in _slices(found.size):
        difference = _difference(record, [each[part] for each in parts], found[part], other[part])
        np.abs(difference, out=difference)
    return found


def summed(
    record: WeightRecord, absolute: NDArray[np.float64], start: int, compensation: DriftCompensation
) -> NDArray[np.float64]:
    """The sum of what `absolute_differences` gives for elements from `start` on, as `AbsoluteSums` has it."""
    grid = _grid_of(record, compensation)
    if grid is None:
        return np.array([absolute.sum()])
    reduced, groups = grid.reduced(np.add, absolute, start)
    return np.bincount(groups, reduced, grid.count).astype(np.float64, copy=False)


def _grid_of(record: WeightRecord, compensation: DriftCompensation) -> ScaleGrid | None:
    """Which elements share a sum, and a factor or what it is computed from; None if all do."""
    return record.grid if compensation in _SCALES_FOR or record.parts else None


def absolute_sums(
    record: WeightRecord, parts: Iterable[Sequence[NDArray[Any]]], compensation: DriftCompensation
) -> NDArray[np.float64]:
    """What `AbsoluteSums` gives for a whole weight.

    Args:
        record: The weight.
        parts: Its conductances in µS, stretch by stretch, as `array_parts` gives them.
        compensation: As for `AbsoluteSums`.
    """
    sums = AbsoluteSums(record, compensation)
    for part in parts:
        sums.add(part)
    return sums.total


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
        compensation: ``global`` for one factor, or one for each part; ``tile`` or ``column`` for one for each scale.

    Returns:
        The factor, or an array of them of the shape of `ScaleGrid`; 1 where nothing can be read.
    """
    grid, parts = _grid_of(record, compensation), record.column_parts
    if grid is not None and parts is not None and compensation not in _SCALES_FOR:
        part_of_piece = np.searchsorted(parts.starts, grid.column_starts, side="right") - 1
        before, after = (_sums_of_parts(sums.reshape(grid.shape), part_of_piece) for sums in (before, after))
    factors = ratios(before, after)
    return float(factors[0]) if grid is None else factors.reshape(grid.shape)


def ratios(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """What was there before for each unit of what is there after; 1 where there is nothing, or too little."""
    is_known = (before > 0) & (after > 0)
    with np.errstate(over="ignore"):
        found = np.divide(before, after, out=np.ones_like(before), where=is_known)
    found[~np.isfinite(found)] = 1.0
    return found


def _sums_of_parts(sums: NDArray[np.float64], part_of_piece: NDArray[np.intp]) -> NDArray[np.float64]:
    """For each group the sum over the part that it is in, in the order of the groups.

    Args:
        sums: Those of the groups, [matrices, pieces of rows, pieces of columns].
        part_of_piece: The part that each piece of columns is in.
    """
    totals = np.zeros(part_of_piece[-1] + 1)
    np.add.at(totals, part_of_piece, sums.sum(axis=(0, 1)))
    return np.broadcast_to(totals[part_of_piece], sums.shape).reshape(-1)


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
    memory = np.empty((3, _SLICE))
    largest = squared_errors = squared_weights = 0.0
    first = 0
    for found, target in zip(tensor_parts(read), tensor_parts(mapped.tensors), strict=True):
        stop = first + target[0].size
        scale = None if grid is None else grid.expanded(scales, first, stop)
        by = factors if grid is None or not factors.ndim else grid.expanded(factors, first, stop)
        for part in _slices(target[0].size):
            weights = _difference(record, [each[part] for each in target], memory[0], memory[2])
            errors = _difference(record, [each[part] for each in found], memory[1], memory[2])
            if by.ndim or by != 1:
                errors *= by[part] if by.ndim else by
            errors -= weights
            if scale is not None:
                weights /= scale[part]
                errors /= scale[part]
            largest = max(largest, float(np.abs(errors, out=errors).max(initial=0)))
            squared_errors += float(np.einsum("i,i->", errors, errors))
            squared_weights += float(np.einsum("i,i->", weights, weights))
        first = stop
    if grid is None:  # all have been in µS until now
        scale_of_all = float(scales.reshape(-1)[0])
        largest /= scale_of_all
        squared_errors /= scale_of_all**2
        squared_weights /= scale_of_all**2
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


def _difference(
    record: WeightRecord, parts: Sequence[NDArray[Any]], out: NDArray[np.float64], memory: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The sum of the conductances with their coefficients, less the offset: what is divided by the scale, in µS.

    Args:
        record: The weight.
        parts: Conductances of each device, in µS.
        out: The result goes to its beginning.
        memory: As large, for what is computed on the way. Memory that is new takes longer to write to than this.
    """
    total, term = out[: parts[0].size], memory[: parts[0].size]
    for number, (item, part) in enumerate(zip(record.conductances, parts, strict=True)):
        into = term if number else total
        np.copyto(into, part)
        if item.coefficient != 1:
            into *= item.coefficient
        if number:
            total += term
    if record.offset_us:
        total -= record.offset_us
    return total


def _slices(size: int) -> Iterator[slice]:
    """Slices of some elements, of which several arrays in double precision stay in the cache."""
    return (slice(first, min(first + _SLICE, size)) for first in range(0, size, _SLICE))
