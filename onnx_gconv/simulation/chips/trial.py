"""Weights on one chip at one time, in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.passes.replace_conductances import divided_scale
from onnx_gconv.simulation.chips.chip_weight import Chip, absolute_sums, array_parts, drift_factor
from onnx_gconv.simulation.chips.simulated_tensor import InMemory, SimulatedDevices, in_memory, read_again
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.streamed import StreamedTensor, all_elements

__all__ = ["WeightOnChips"]

_KEPT_ELEMENTS = 1 << 20
"""Weights of no more elements stay programmed until another chip is asked for. Larger ones would cost memory."""


@dataclass(frozen=True)
class _Programmed:
    """A weight that was programmed, until it is wanted at another time.

    Attributes:
        chip: The chip and the time that it was read at first.
        devices: Its devices.
        sums: What `absolute_sums` gives of them when programming has ended; None without compensation.
    """

    chip: Chip
    devices: tuple[InMemory, ...]
    sums: NDArray[np.float64] | None

    def is_of(self, chip: Chip) -> bool:
        """Whether it is the same chip, at any time."""
        return replace(self.chip, seconds=chip.seconds) == chip


class WeightOnChips:
    """A mapped weight that is put on one chip after the other. Several threads may do so at once.

    Attributes:
        mapped: The weight.
        targets: What its devices are told, in µS.
        decoding: How conductances become the weight.

    Args:
        weight: The weight.
    """

    def __init__(self, weight: MappedWeight) -> None:
        self.mapped = weight
        # Those of a model that was mapped in memory are computed from its weights, once.
        self.targets: tuple[ir.TensorProtocol, ...] = tuple(
            ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, StreamedTensor) else tensor
            for tensor in weight.tensors
        )
        self.decoding: Decoding = weight.decoding
        record = weight.record
        # In a model, nodes keep a weight within its type only where it may be beyond: elsewhere this does nothing.
        self._rebuilt = RebuiltTensor(
            self.targets,
            self.decoding,
            dtype=record.ir_dtype,
            name=record.name,
            rounded=record.rounded,
            zero_point=weight.zero_point,
            grid=record.grid,
            limits=record.number_range if record.dtype != record.compute_dtype else None,
        )
        self._padding = weight.padding
        self._programmed: dict[int, _Programmed] = {}  # by thread

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programmed": {}}

    @property
    def is_decoded_only(self) -> bool:
        """Whether the weight is ``(sum_k c_k * G_k - b) / scale`` in single precision, and nothing else is done."""
        record = self.mapped.record
        return (
            {record.ir_dtype, *(target.dtype for target in self.targets)} == {ir.DataType.FLOAT}
            and not record.rounded
            and record.packing_of_codes is None
            and self.mapped.zero_point is None
            and isinstance(self.decoding.zero, float)
            and not self.decoding.zero
        )

    def ideal(self) -> NDArray[Any]:
        """What the targets give, of the shape and type of the weight, or of the bytes into which it is packed."""
        return self.mapped.stored.numpy()

    def on(self, chip: Chip) -> NDArray[Any]:
        """What a chip gives: the weight of the model that `program_model` writes for it, bit for bit.

        It takes less time if the last one that this thread asked for was the same chip, at another time.
        """
        record, decoding = self.mapped.record, self.decoding
        devices = [chip.devices(record, self.targets, number) for number in range(len(self.targets))]
        known = self._programmed.get(threading.get_ident())
        if known is not None and known.is_of(chip):
            read = [read_again(each, how) for each, how in zip(known.devices, devices, strict=True)]
            before = known.sums
        else:
            read, before = self._programmed_and_read(chip, devices)
        if before is not None:
            after = absolute_sums(record, array_parts(read), chip.compensation)
            factor = drift_factor(record, before, after, chip.compensation)
            if np.any(factor != 1):
                compute = np.dtype(record.ir_compute_dtype.numpy())
                decoding = replace(decoding, scale=divided_scale(decoding.scale, factor, compute))
        weights, packing = self._rebuilt.from_others(read, decoding), record.packing_of_codes
        return weights if packing is None else packing.pack(weights, self._padding)

    def _programmed_and_read(
        self, chip: Chip, devices: list[SimulatedDevices]
    ) -> tuple[list[NDArray[Any]], NDArray[np.float64] | None]:
        """A reading of each device in µS, and the sums that a factor is computed from, if one is asked for."""
        is_compensated, is_kept = chip.compensation != "none", self._rebuilt.size <= _KEPT_ELEMENTS
        found = [
            in_memory(all_elements(targets), how, keeps_programmed=is_compensated, keeps_blocks=is_kept)
            for targets, how in zip(self.targets, devices, strict=True)
        ]
        sums = None
        if is_compensated:
            programmed = [each.programmed_us for each in found if each.programmed_us is not None]
            sums = absolute_sums(self.mapped.record, array_parts(programmed), chip.compensation)
        read = [each.read_us for each in found]
        if is_kept:
            kept = tuple(replace(each, programmed_us=None, read_us=each.read_us[:0]) for each in found)
            self._programmed[threading.get_ident()] = _Programmed(chip, kept, sums)
        return read, sums
