"""Conductances that are stored as codes of levels, decoded while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.streamed_tensor import StreamedTensor, element_chunks

__all__ = ["DecodedLevelsTensor"]


class DecodedLevelsTensor(StreamedTensor):
    """The conductances in µS that codes stand for, bit-identical to what the nodes of a mapped model decode.

    Args:
        codes: Codes of levels.
        levels: The levels.
        dtype: Type of the conductances: FLOAT or DOUBLE.
        name: Name of the conductances.
    """

    def __init__(self, codes: ir.TensorProtocol, levels: ConductanceLevels, dtype: ir.DataType, name: str) -> None:
        super().__init__(dtype, ir.Shape(codes.shape.numpy()), name)
        self._codes = codes
        self._levels = levels

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The codes."""
        return (self._codes,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances from element `start` to `stop`, in row-major order."""
        dtype = np.dtype(self.dtype.numpy())
        for codes in element_chunks(self._codes, start, stop):
            yield self._levels.decode(codes, dtype)
