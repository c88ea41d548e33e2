"""One weight on a simulated chip: its conductances, and the compensation of its drift."""

from __future__ import annotations

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
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.simulation.chips.simulated_tensor import Moment, SimulatedDevices, SimulatedOfPairs, SimulatedTensor
from onnx_gconv.simulation.chips.streams import ChipStreams
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, element_chunks

__all__ = [
    "SLICE",
    "AbsoluteSums",
    "Chip",
    "DriftCompensation",
    "absolute_differences",
    "absolute_sums",
    "array_parts",
    "check_compensation",
    "check_pairs",
    "difference_us",
    "drift_factor",
    "needs_grid",
    "pair_of",
    "ratios",
    "simulated_tensors",
    "slices",
    "summed",
    "tensor_parts",
]

DriftCompensation = Literal["none", "global", "tile", "column"]
"""How drift is compensated.

``global``: one factor for each weight; a weight that consists of several matrices side by side has one for each matrix.
``tile`` and ``column``: one factor for each tile or output column; each of these needs a scale of its own.
``none``: outputs are not corrected.
"""

SLICE = 1 << 16
"""Elements of a slice: a few arrays of that length stay in the processor's cache. Threads that work on shorter slices
wait for the interpreter lock more often."""

_SCALES_FOR: dict[str, tuple[str, ...]] = {"tile": ("tile",), "column": ("channel", "tile_channel")}
_OPTIONS = {
    "tile": "--granularity tile --tile ROWSxCOLUMNS",
    "channel": "--granularity channel",
    "tile_channel": "--granularity tile-channel --tile ROWSxCOLUMNS",
}


@dataclass(frozen=True)
class Chip:
    """One simulated chip, read at one time.

    Attributes:
        model: The device model.
        seconds: How long after programming the chip is read.
        streams: The random numbers of this chip.
        compensation: How drift is compensated.
    """

    model: DeviceModel
    seconds: float
    streams: ChipStreams
    compensation: DriftCompensation

    def devices(self, record: WeightRecord, targets: Sequence[ir.TensorProtocol], number: int) -> SimulatedDevices:
        """What simulates one device of each element of a weight, such as all G+ of a conductance pair.

        Args:
            record: The weight.
            targets: The target conductances in µS, a tensor for each device of an element.
            number: The index of the device in `targets`.

        Raises:
            ConfigError: If the device model describes pairs, and the weight is not mapped to pairs.
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


def pair_of(record: WeightRecord) -> tuple[int, int]:
    """The indices of G+ and G- among the conductances of a weight ``W = (G+ - G-) / scale``.

    Raises:
        ConfigError: If the weight is not mapped to a single pair.
    """
    coefficients = [item.coefficient for item in record.conductances]
    if sorted(coefficients) != [-1, 1] or record.offset_us or record.zero != 0:
        raise _no_pairs(record)
    return coefficients.index(1), coefficients.index(-1)


def check_pairs(record: WeightRecord) -> None:
    """Raise ConfigError unless a weight is mapped to pairs in which one of the two targets is always 0 µS."""
    pair_of(record)
    rule, few = record.converter.converter(), np.array([-1, -0.5, 0, 0.5, 1], np.float32)
    pair = [np.empty_like(few) for _ in rule.device_names]
    rule.convert_chunk(few, rule.scaling(weight_statistics([few]), few.dtype), pair)
    if np.minimum(*pair).any():
        raise _no_pairs(record)


def _no_pairs(record: WeightRecord) -> ConfigError:
    return ConfigError(
        f"the weight {record.quoted} is mapped with {record.converter.name}, but the device model describes pairs in "
        "which one target is 0 \u00b5S; map with --converter single-pair --g-min 0, or choose another device"
    )


def simulated_tensors(mapped: MappedWeight, chip: Chip, moment: Moment = "read") -> tuple[SimulatedTensor, ...]:
    """The simulated conductances of a weight in µS, or their standard deviation, as `moment` says.

    Returns:
        A tensor for each device of an element, [shape of the weight].
    """
    tensors = mapped.tensors
    return tuple(
        SimulatedTensor(targets, chip.devices(mapped.record, tensors, number), moment)
        for number, targets in enumerate(tensors)
    )


def check_compensation(record: WeightRecord, compensation: DriftCompensation) -> None:
    """Raise ConfigError if drift is compensated for each tile or column, but the weight has no scale for each."""
    needed = _SCALES_FOR.get(compensation)
    if needed is not None and record.granularity not in needed:
        how = " or ".join(_OPTIONS[each] for each in needed)
        raise ConfigError(
            f"the weight {record.quoted} has one scale for each {record.granularity.replace('_', '-')}, so that drift "
            f"cannot be compensated for each {compensation}; map with {how} ('simulate' takes it with a plain "
            "model), or compensate it globally"
        )


class AbsoluteSums:
    """Sums |W| · scale in µS, over the whole weight or over each group of elements that shares a scale.

    Attributes:
        total: The sums so far, [1] or [groups].

    Args:
        record: The weight.
        compensation: ``global`` and ``none`` give one sum for the whole weight, unless it consists of several matrices;
            otherwise each scale has a sum.
    """

    def __init__(self, record: WeightRecord, compensation: DriftCompensation) -> None:
        self._record = record
        self._compensation = compensation
        self._start = 0
        self._memory = np.empty(0)
        grid = _grid_of(record, compensation)
        self.total: NDArray[np.float64] = np.zeros(1 if grid is None else grid.count)

    def add(self, parts: Sequence[NDArray[Any]]) -> None:
        """Add the next elements of the weight.

        Args:
            parts: Their conductances in µS, an array for each device of an element, [elements].
        """
        size = parts[0].size
        if self._memory.size < size:
            self._memory = np.empty(size)
        found = absolute_differences(self._record, parts, self._memory[:size])
        self.total += summed(self._record, found, self._start, self._compensation)
        self._start += size


def absolute_differences(
    record: WeightRecord, parts: Sequence[NDArray[Any]], out: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|W| · scale of some elements of a weight, in µS.

    Args:
        record: The weight.
        parts: Conductances in µS, an array for each device of an element, [elements].
        out: The result is written there, [elements].
    """
    for part in slices(out.size):
        difference = difference_us(record, [each[part] for each in parts], out[part])
        np.abs(difference, out=difference)
    return out


def summed(
    record: WeightRecord, absolute: NDArray[np.float64], start: int, compensation: DriftCompensation
) -> NDArray[np.float64]:
    """What consecutive elements of a weight add to the sums of `AbsoluteSums`, in µS, [1] or [groups].

    Args:
        record: The weight.
        absolute: What `absolute_differences` gives for these elements.
        start: The number of the first of them in the weight, in row-major order.
        compensation: As for `AbsoluteSums`.
    """
    grid = _grid_of(record, compensation)
    if grid is None:
        return np.array([absolute.sum()])
    reduced, groups = grid.reduced(np.add, absolute, start)
    return np.bincount(groups, reduced, grid.count).astype(np.float64, copy=False)


def needs_grid(records: Iterable[WeightRecord], compensation: DriftCompensation) -> bool:
    """Whether `summed` may give several sums for one of these weights: each scale has a sum of its own."""
    return any(_grid_of(record, compensation) is not None for record in records)


def _grid_of(record: WeightRecord, compensation: DriftCompensation) -> ScaleGrid | None:
    """The grid of scales, if each scale has a sum of its own; None if the whole weight has one sum."""
    return record.grid if compensation in _SCALES_FOR or record.parts else None


def absolute_sums(
    record: WeightRecord, parts: Iterable[Sequence[NDArray[Any]]], compensation: DriftCompensation
) -> NDArray[np.float64]:
    """The totals of `AbsoluteSums` for a whole weight, in µS, [1] or [groups].

    Args:
        record: The weight.
        parts: Its conductances in µS, piece by piece, as `array_parts` gives them.
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
    """The factor for outputs that undoes the mean effect of drift: mean|W programmed| / mean|W read|.

    A chip measures this factor by setting each input to 1 in turn, after programming and again later. Sources:
    M. Le Gallo et al., Compressed sensing with approximate message passing using in-memory computing, IEEE Transactions
    on Electron Devices 65, 2018; V. Joshi et al., 2020. aihwkit (version 1.1.0) does the same:
    GlobalDriftCompensation has one factor for each tile, PerColumnDriftCompensation one for each output of a tile.

    Args:
        record: The weight.
        before: What `absolute_sums` gives for the conductances at the end of programming.
        after: What `absolute_sums` gives for the conductances that are read later.
        compensation: ``global`` gives one factor, or one for each matrix of a weight that consists of several; ``tile``
            and ``column`` give one for each scale.

    Returns:
        The factor, or an array of factors of the shape of `ScaleGrid`; 1 where one of the sums is 0.
    """
    grid, parts = _grid_of(record, compensation), record.column_parts
    if grid is not None and parts is not None and compensation not in _SCALES_FOR:
        part_of_piece = np.searchsorted(parts.starts, grid.column_starts, side="right") - 1
        before, after = (_sums_of_parts(sums.reshape(grid.shape), part_of_piece) for sums in (before, after))
    factors = ratios(before, after)
    return float(factors[0]) if grid is None else factors.reshape(grid.shape)


def ratios(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """``before / after`` for each sum; 1 where one of them is 0, or the ratio is not finite."""
    is_known = (before > 0) & (after > 0)
    with np.errstate(over="ignore"):
        found = np.divide(before, after, out=np.ones_like(before), where=is_known)
    found[~np.isfinite(found)] = 1.0
    return found


def _sums_of_parts(sums: NDArray[np.float64], part_of_piece: NDArray[np.intp]) -> NDArray[np.float64]:
    """For each group of a scale, the sum over all groups of the same part (one of several matrices side by side).

    Args:
        sums: The sum of each group, [matrices, pieces of rows, pieces of columns].
        part_of_piece: The number of the part that each piece of columns belongs to, [pieces of columns].

    Returns:
        The sums of the parts, repeated for each group, [groups].
    """
    totals = np.zeros(part_of_piece[-1] + 1)
    np.add.at(totals, part_of_piece, sums.sum(axis=(0, 1)))
    return np.broadcast_to(totals[part_of_piece], sums.shape).reshape(-1)


def tensor_parts(conductances: Sequence[ir.TensorProtocol]) -> Iterator[tuple[NDArray[Any], ...]]:
    """The conductances of a weight, piece by piece: for the same elements an array of each device."""
    return zip(*(element_chunks(tensor) for tensor in conductances), strict=True)


def array_parts(conductances: Sequence[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], ...]]:
    """The same pieces as those of `tensor_parts`, from arrays in memory."""
    flat = [each.reshape(-1) for each in conductances]
    for start in range(0, flat[0].size, CHUNK_ELEMENTS):
        yield tuple(each[start : start + CHUNK_ELEMENTS] for each in flat)


def difference_us(record: WeightRecord, parts: Sequence[NDArray[Any]], out: NDArray[np.float64]) -> NDArray[np.float64]:
    """W · scale = sum_k c_k · G_k - b of some elements, in µS: what decoding divides by the scale.

    Args:
        record: The weight, with the coefficients c_k and the offset b.
        parts: Conductances in µS, an array for each device of an element, [elements].
        out: The result is written to its first elements, since writing to newly allocated memory takes longer.
    """
    total = out[: parts[0].size]
    coefficients = [item.coefficient for item in record.conductances]
    if coefficients == [1, -1]:  # a single pair, which most mappings have: one step in place of three
        np.subtract(parts[0], parts[1], out=total, dtype=np.float64)
    else:
        np.multiply(parts[0], coefficients[0], out=total, dtype=np.float64)
        for coefficient, part in zip(coefficients[1:], parts[1:], strict=True):
            total += np.multiply(part, coefficient, dtype=np.float64)
    if record.offset_us:
        total -= record.offset_us
    return total


def slices(size: int) -> Iterator[slice]:
    """Slices of `SLICE` elements that cover `size` elements."""
    return (slice(first, min(first + SLICE, size)) for first in range(0, size, SLICE))
