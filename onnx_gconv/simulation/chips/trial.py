"""Computes one weight on one chip at one time, in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.passes.replace_conductances import divided_scale
from onnx_gconv.simulation.chips.chip_weight import Chip, absolute_sums, array_parts, drift_factor
from onnx_gconv.simulation.chips.simulated_tensor import InMemory, SimulatedDevices, in_memory, read_again
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.streamed import StreamedTensor, all_elements

__all__ = ["WeightOnChips"]

_KEPT_ELEMENTS = 1 << 20
"""Weights of at most this many elements stay programmed until another chip is asked for. Larger ones do not, to save
memory."""


@dataclass(frozen=True)
class _Programmed:
    """A programmed weight, which is kept to be read at other times.

    Attributes:
        chip: The chip, at the time of its first reading.
        devices: The devices of the weight.
        sums: What `absolute_sums` gives at the end of programming; None if drift is not compensated.
    """

    chip: Chip
    devices: tuple[InMemory, ...]
    sums: NDArray[np.float64] | None

    def is_of(self, chip: Chip) -> bool:
        """Whether the weight was programmed on this chip; the times may differ."""
        return replace(self.chip, seconds=chip.seconds) == chip


class WeightOnChips:
    """Puts a mapped weight on one chip after the other. Several threads may use it at once.

    Attributes:
        mapped: The weight.
        targets: The target conductances in µS, a tensor for each device of an element.
        decoding: How conductances become the weight.

    Args:
        weight: The weight.
    """

    def __init__(self, weight: MappedWeight) -> None:
        self.mapped = weight
        # The targets of a model that was mapped in memory are not stored: compute them from the weight once, not for
        # each chip.
        self.targets: tuple[ir.TensorProtocol, ...] = tuple(
            ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, StreamedTensor) else tensor
            for tensor in weight.tensors
        )
        self.decoding: Decoding = weight.decoding
        record = weight.record
        # A mapped model has clipping nodes only where a weight may exceed its type. Elsewhere limits change nothing.
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
        """Whether the weight is ``(sum_k c_k * G_k - b) / scale`` in float32, without rounding, packing or more."""
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
        """The weight that the targets give, in the shape and type of the initializer: packed codes stay packed."""
        return self.mapped.stored.numpy()

    def on(self, chip: Chip) -> NDArray[Any]:
        """The weight as a chip gives it; it equals the weight of the model that `program_model` writes, bit for bit.

        A call takes less time if the call of this thread before was for the same chip at another time.
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
        """Program a chip and read it.

        Returns:
            A reading of each device in µS, and the sums at the end of programming; None if drift is not compensated.
        """
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
