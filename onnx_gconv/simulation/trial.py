"""Weights on one chip at one time, in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.passes.replace_conductances import divided_scale
from onnx_gconv.simulation.chip_weight import Chip, drift_factor
from onnx_gconv.simulation.simulated_tensor import in_memory
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.streamed import StreamedTensor, all_elements
from onnx_gconv.tensors.types import finite_range

__all__ = ["WeightOnChips"]


class WeightOnChips:
    """A mapped weight that is put on one chip after the other.

    Args:
        weight: The weight.
    """

    def __init__(self, weight: MappedWeight) -> None:
        self.mapped = weight
        # Those of a model that was mapped in memory are computed from its weights, once.
        self._targets = tuple(
            ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, StreamedTensor) else tensor
            for tensor in weight.tensors
        )
        self._decoding = weight.decoding
        self._zero_point = weight.zero_point

    def ideal(self) -> NDArray[Any]:
        """What the targets give, of the shape and type of the weight."""
        return self.mapped.rebuilt.numpy()

    def on(self, chip: Chip) -> NDArray[Any]:
        """What a chip gives: the weight of the model that `program_model` writes for it, bit for bit."""
        record, decoding = self.mapped.record, self._decoding
        programmed, read = [], []
        for number, targets in enumerate(self._targets):
            devices, is_compensated = chip.devices(record, self._targets, number), chip.compensation != "none"
            before, now = in_memory(all_elements(targets), devices, keeps_programmed=is_compensated)
            read.append(ir.Tensor(now, dtype=targets.dtype))
            if before is not None:
                programmed.append(ir.Tensor(before, dtype=targets.dtype))
        if programmed and np.any((factor := drift_factor(record, programmed, read, chip.compensation)) != 1):
            compute = np.dtype(record.ir_compute_dtype.numpy())
            decoding = replace(decoding, scale=divided_scale(decoding.scale, factor, compute))
        del programmed
        # In a model, nodes keep a weight within its type only where it may be beyond: elsewhere this does nothing.
        rebuilt = RebuiltTensor(
            read,
            decoding,
            dtype=record.ir_dtype,
            name=record.name,
            rounded=record.rounded,
            zero_point=self._zero_point,
            grid=record.grid,
            limits=finite_range(record.ir_dtype) if record.dtype != record.compute_dtype else None,
        )
        return rebuilt.numpy()
