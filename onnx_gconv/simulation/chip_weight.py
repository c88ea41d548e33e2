"""One weight on a simulated chip: its conductances, the compensation of drift, and how far from its targets it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.simulation.simulated_tensor import Moment, SimulatedDevices, SimulatedTensor
from onnx_gconv.simulation.streams import ChipStreams
from onnx_gconv.tensors.streamed import element_chunks

__all__ = ["Chip", "DriftCompensation", "WeightErrors", "drift_factor", "simulated_tensors", "weight_errors"]

DriftCompensation = Literal["none", "global"]
"""``global``: one factor for each weight; ``none``: outputs are taken as the chip gives them."""


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

    def devices(self, record: WeightRecord, number: int) -> SimulatedDevices:
        """One of the devices of each element of a weight, by its number."""
        key = record.graph, record.name
        return SimulatedDevices(self.model, self.seconds, partial(self.streams.generator, key, number))


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


def simulated_tensors(mapped: MappedWeight, chip: Chip, moment: Moment = "read") -> tuple[SimulatedTensor, ...]:
    """The conductances of each device of a weight, or their spread, in µS, [shape of the weight]."""
    return tuple(
        SimulatedTensor(targets, chip.devices(mapped.record, number), moment)
        for number, targets in enumerate(mapped.tensors)
    )


def drift_factor(
    record: WeightRecord, programmed: Sequence[ir.TensorProtocol], read: Sequence[ir.TensorProtocol]
) -> float:
    """By what outputs are multiplied so that drift on the whole has no effect: mean|W programmed| / mean|W read|.

    It is what a chip measures when each input is 1 once, before and after: M. Le Gallo et al., Compressed sensing with
    approximate message passing using in-memory computing, IEEE Transactions on Electron Devices 65, 2018; V. Joshi et
    al., 2020. So does aihwkit's GlobalDriftCompensation (version 1.1.0), for each tile and not for each weight.

    Args:
        record: The weight.
        programmed: Its conductances at the end of programming, in µS.
        read: Its conductances at the time, in µS.

    Returns:
        The factor; 1 if nothing can be read.
    """
    before, after = (
        sum(float(np.abs(part).sum()) for part in _differences(record, each)) for each in (programmed, read)
    )
    factor = before / after if before > 0 and after > 0 else 1.0
    return factor if math.isfinite(factor) else 1.0


def weight_errors(mapped: MappedWeight, read: Sequence[ir.TensorProtocol], factor: float) -> WeightErrors:
    """How far a weight is from what its targets give.

    Args:
        mapped: The weight, with the scale of its targets.
        read: The conductances that it has now, in µS.
        factor: By what outputs are multiplied.
    """
    record, grid = mapped.record, mapped.record.grid
    scales = np.asarray(mapped.decoding.scale, np.float64)
    largest = squared_errors = squared_weights = 0.0
    first = 0
    for found, target in zip(_differences(record, read), _differences(record, mapped.tensors), strict=True):
        scale = scales if grid is None else grid.entries(scales, first, first + target.size, np.dtype(np.float64))
        weights = target / scale
        errors = found * factor / scale - weights
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


def _differences(record: WeightRecord, conductances: Sequence[ir.TensorProtocol]) -> Iterator[NDArray[np.float64]]:
    """What is divided by the scale, in µS: the sum of the conductances with their coefficients, less the offset."""
    for parts in zip(*(element_chunks(tensor) for tensor in conductances), strict=True):
        total = np.full(parts[0].size, -record.offset_us)
        for item, part in zip(record.conductances, parts, strict=True):
            total += item.coefficient * part.astype(np.float64)
        yield total
