"""The weights of one chip at one time, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.passes.replace_conductances import divided_scale
from onnx_gconv.simulation.chip_weight import DriftCompensation, drift_factor, simulated_tensors
from onnx_gconv.simulation.streams import ChipStreams
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.types import finite_range

__all__ = ["ChipOf", "chip_weights", "ideal_weights"]


@dataclass(frozen=True)
class ChipOf:
    """What one trial is: a chip of a device model at a time.

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


def ideal_weights(weights: Sequence[MappedWeight]) -> list[NDArray[Any]]:
    """What the targets give, one array for each weight, of its shape and type."""
    return [weight.rebuilt.numpy() for weight in weights]


def chip_weights(
    weights: Sequence[MappedWeight], chip: ChipOf, noisy: frozenset[int] | None = None
) -> Iterator[NDArray[Any]]:
    """What a chip gives: the weights of the model that `program_model` writes for it, bit for bit.

    Args:
        weights: The mapped weights.
        chip: The chip.
        noisy: Which of them, by number, are on the chip, while the others are ideal; all if None.

    Yields:
        One array for each weight, of its shape and type.
    """
    for number, weight in enumerate(weights):
        yield _on_chip(weight, chip) if noisy is None or number in noisy else weight.rebuilt.numpy()


def _on_chip(weight: MappedWeight, chip: ChipOf) -> NDArray[Any]:
    record = weight.record
    read = _in_memory(simulated_tensors(weight, chip.model, chip.seconds, chip.streams))
    decoding, compute = weight.decoding, np.dtype(record.ir_compute_dtype.numpy())
    if chip.compensation == "global":
        programmed = simulated_tensors(weight, chip.model, chip.seconds, chip.streams, "programmed")
        factor = drift_factor(record, programmed, read)
        if factor != 1:
            decoding = replace(decoding, scale=divided_scale(decoding.scale, factor, compute))
    is_cast = record.dtype != record.compute_dtype
    rebuilt = RebuiltTensor(
        read,
        decoding,
        dtype=record.ir_dtype,
        name=record.name,
        rounded=record.rounded,
        zero_point=weight.zero_point,
        grid=record.grid,
        limits=finite_range(record.ir_dtype) if is_cast else None,
    )
    return rebuilt.numpy()


def _in_memory(tensors: Sequence[ir.TensorProtocol]) -> tuple[ir.TensorProtocol, ...]:
    """The same tensors, computed once for all who read them."""
    return tuple(ir.Tensor(np.asarray(tensor.numpy()), dtype=tensor.dtype, name=tensor.name) for tensor in tensors)
