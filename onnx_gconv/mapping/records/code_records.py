"""Records of weights of integer codes: how the codes are packed, and how nodes dequantize them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnx_gconv.mapping.records.record import Record
from onnx_gconv.tensors.codes import Blocks

__all__ = ["BlocksRecord", "DecodedRecord", "DequantizationRecord", "PackingRecord"]


class PackingRecord(Record):
    """How the codes of a weight are packed into the bytes that nodes read, the first code in the low bits of a byte.

    `shape` is the shape of the bytes. `block` is the number of codes along the last axis of the weight that share a
    zero point. `padding` names the initializer that fills up the last byte or block of each row, with codes less their
    zero points.
    """

    bits: Literal[2, 4, 8]
    shape: tuple[int, ...]
    block: int = Field(ge=1)
    padding: str | None = None


class BlocksRecord(Record):
    """Blocks of `size` neighbours along an axis of a weight that share a zero point: the fields of `Blocks`."""

    axis: int = Field(ge=0)
    size: int = Field(ge=1)

    @property
    def blocks(self) -> Blocks:
        """The blocks."""
        return Blocks(self.axis, self.size)


class DecodedRecord(Record):
    """The op with a packed weight that a MatMul with the decoded floating-point weight has replaced.

    `scales` is the name of the initializer of scales that the op had; `block` is the number of neighbours that shared
    one. For MatMulBnb4, `table` is NF4 or FP4, and `last_code` filled the last byte of an odd number of codes.
    """

    op_type: Literal["MatMulBnb4", "MatMulNBits"]
    scales: str
    block: int = Field(ge=1)
    table: Literal["NF4", "FP4"] | None = None
    last_code: int = Field(default=0, ge=0, le=15)


class DequantizationRecord(Record):
    """How nodes make numbers of the codes of a weight, ``(code - zero_point) * scale``: the fields of `Dequantization`.

    `scale`, `zero_point` and `groups` are names of values of the model.
    """

    scale: str | None
    zero_point: str | None
    axis: int | None = None
    block: int | None = Field(default=None, ge=1)
    groups: str | None = None
