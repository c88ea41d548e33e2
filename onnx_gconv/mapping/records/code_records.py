"""What the manifest says of weights of integer codes: how they are packed, and what nodes make of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnx_gconv.mapping.records.record import Record
from onnx_gconv.tensors.codes import Blocks

__all__ = ["BlocksRecord", "DecodedRecord", "DequantizationRecord", "PackingRecord"]


class PackingRecord(Record):
    """How the codes of a weight are packed into the bytes that nodes read, the first code in the low bits of a byte.

    The shape is that of the bytes; a block is as many codes, along the last axis of the weight, as share a zero point.
    Where codes do not fill the last byte or block of a row, the initializer of the padding does, with codes less zero
    points.
    """

    bits: Literal[2, 4, 8]
    shape: tuple[int, ...]
    block: int = Field(ge=1)
    padding: str | None = None


class BlocksRecord(Record):
    """Neighbours along an axis of a weight that share a zero point: the fields of `Blocks`."""

    axis: int = Field(ge=0)
    size: int = Field(ge=1)

    @property
    def blocks(self) -> Blocks:
        """The blocks."""
        return Blocks(self.axis, self.size)


class DecodedRecord(Record):
    """From which op's packed weight a weight of floating point was decoded, which MatMul multiplies with in its place.

    Scales is the name of the scales there, which are gone; a block is as many neighbours as share one. Of MatMulBnb4,
    table is NF4 or FP4, and the last code what fills the last byte of an odd number of codes.
    """

    op_type: Literal["MatMulBnb4", "MatMulNBits"]
    scales: str
    block: int = Field(ge=1)
    table: Literal["NF4", "FP4"] | None = None
    last_code: int = Field(default=0, ge=0, le=15)


class DequantizationRecord(Record):
    """With what nodes multiply the codes of a weight less their zero points: the fields of a `Dequantization`.

    Scale, zero point and groups are the names of values of the model.
    """

    scale: str | None
    zero_point: str | None
    axis: int | None = None
    block: int | None = Field(default=None, ge=1)
    groups: str | None = None
