"""Records of the nodes that read a weight, and of the matrices that they read it as."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from onnx_gconv.mapping.records.record import Record
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.schemes.matrix_view import MatrixView

__all__ = ["ConsumerRecord", "MatrixViewRecord", "RearrangementRecord"]


class MatrixViewRecord(Record):
    """How a weight is read as matrices of inputs by outputs: the fields of a `MatrixView`, by name."""

    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    matrices: int = Field(ge=1)
    split_shape: tuple[int, ...]
    matrix_axes: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    factor: float
    columns_per_channel: int = Field(default=1, ge=1)

    @classmethod
    def of(cls, view: MatrixView) -> MatrixViewRecord:
        """The record of a view."""
        return cls(**vars(view))

    @property
    def view(self) -> MatrixView:
        """The view itself."""
        return MatrixView(**dict(self))

    def layout(self, shape: tuple[int, ...], path: tuple[RearrangementRecord, ...]) -> MatrixLayout:
        """Where the elements of a weight of this shape stand in the matrices; see `MatrixView.layout`.

        Args:
            shape: The shape of the weight.
            path: The rearrangements between the weight and the weight slot.
        """
        return self.view.layout(shape, path)


class RearrangementRecord(Record):
    """One rearrangement between a weight and a weight slot: a transposition or a reshape."""

    op: Literal["transpose", "reshape"]
    argument: tuple[int, ...]


class ConsumerRecord(Record):
    """A node that reads a rebuilt weight, directly or through nodes that only rearrange it."""

    node: str
    op_type: str
    domain: str
    slot: int = Field(ge=0)
    graph: str
    is_mvm: bool
    path: tuple[RearrangementRecord, ...]
    matrix_view: MatrixViewRecord | None
    reads: Literal["rebuilt", "digital"] = "rebuilt"
