"""A mapped weight in the graph: its conductances, its scale and its nodes, and what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.mapping.conductance_sum import Term
from onnx_gconv.mapping.model_values import tensor_of
from onnx_gconv.mapping.packed_codes import FoundPacking
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.tensors.codes import DecodedLevelsTensor, ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.rebuilt_bytes import RebuiltBytesTensor
from onnx_gconv.tensors.streamed import all_elements

__all__ = ["MappedWeight"]


@dataclass(frozen=True, eq=False)
class MappedWeight:
    """A mapped weight in the graph.

    Attributes:
        record: The weight's record in the manifest.
        terms: The conductances in the sum that is divided by the scale, in the order of the record.
        scale: The scale initializer.
        zero: The initializer that is added to the quotient, w0; None if none is.
        zero_point_value: The initializer of the zero points of integer codes; None if they are 0.
        constants: All other initializers of the nodes.
        nodes: The nodes that rebuild the weight, the last one first.
        value: The rebuilt weight.
        limited_use: Where Max and Min nodes can be inserted that keep the weight within the range of its type: the node
            that would read their result, and the index of its input. None if the weight is not cast.
        packing: The nodes that pack integer codes into bytes; None if the codes are not packed.
    """

    record: WeightRecord
    terms: tuple[Term, ...]
    scale: ir.Value
    zero: ir.Value | None
    zero_point_value: ir.Value | None
    constants: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    value: ir.Value
    limited_use: tuple[ir.Node, int] | None = None
    packing: FoundPacking | None = None

    @property
    def conductances(self) -> tuple[ir.Value, ...]:
        """The initializers of the conductances, or of their level codes, in the order of the record."""
        return tuple(term.stored for term in self.terms)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """The conductances and the scale that have another name in the graph: (name in the manifest, name now).

        Another tool has merged several equal initializers into one, or has renamed them.
        """
        said = (*(item.name for item in self.record.conductances), self.record.scale.name)
        found = (value.name or "" for value in (*self.conductances, self.scale))
        return tuple((name, now) for name, now in zip(said, found, strict=True) if name != now)

    @property
    def rebuilt(self) -> RebuiltTensor:
        """The rebuilt weight, computed while it is read; the unpacked codes if the codes are packed into bytes."""
        packing = self.record.packing_of_codes
        return RebuiltTensor(
            self.tensors,
            self.decoding,
            dtype=self.record.ir_dtype,
            name=self.record.name,
            rounded=self.record.rounded,
            zero_point=self.zero_point,
            grid=self.record.grid,
            limits=self.record.saturation_limits,
            highest=None if packing is None else packing.highest,
        )

    @property
    def stored(self) -> RebuiltTensor | RebuiltBytesTensor:
        """The value that the nodes compute: the rebuilt weight, or the bytes into which its codes are packed."""
        packing = self.record.packing_of_codes
        if packing is None or self.packing is None:
            return self.rebuilt
        return RebuiltBytesTensor(self.rebuilt, packing, self.padding)

    @property
    def padding(self) -> NDArray[np.uint8] | None:
        """The codes that fill up the rows of packed codes, [rows, padding]; None if the codes are not packed."""
        packing = self.record.packing_of_codes
        return None if packing is None or self.packing is None else self.packing.padding_codes(packing)

    @property
    def decoding(self) -> Decoding:
        """How the conductances become the weight again."""
        zero = None if self.zero is None else all_elements(tensor_of(self.zero))
        return self.record.decoding(all_elements(tensor_of(self.scale)), zero)

    @property
    def zero_point(self) -> ZeroPoint | BlockZeroPoint | None:
        """The zero points of a weight of integer codes; None for 0."""
        if self.packing is not None:
            return self.packing.zero_point
        value = self.zero_point_value
        if value is None:
            return None
        said = self.record.zero_point_blocks
        points = all_elements(tensor_of(value)).astype(np.int64)
        return ZeroPoint(points, self.record.shape, None if said is None else said.blocks)

    @property
    def tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """The conductances in µS, decoded while they are read if they are stored as codes."""
        levels = self.record.levels_of_codes
        if levels is None:
            return self.stored_tensors
        return tuple(
            DecodedLevelsTensor(tensor, levels.levels, self.record.ir_compute_dtype, item.name)
            for tensor, item in zip(self.stored_tensors, self.record.conductances, strict=True)
        )

    @property
    def stored_tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """The data of the initializers of the conductances, or of their level codes."""
        return tuple(tensor_of(value) for value in self.conductances)

    @property
    def read_sigmas(self) -> tuple[ir.TensorProtocol, ...]:
        """The standard deviations of read noise, in µS, one tensor for each device; empty if the nodes add no noise."""
        return tuple(tensor_of(term.reading.sigma) for term in self.terms if term.reading is not None)
