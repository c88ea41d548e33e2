"""Records of how a weight is mapped: its scales, tiling, clipping and levels, and what precision it loses."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.mapping.records.record import Record
from onnx_gconv.schemes.granularity import Partition
from onnx_gconv.schemes.scale_grid import ScaleForm

__all__ = ["ClippingRecord", "LevelsRecord", "LossRecord", "PartRecord", "ScaleRecord", "TilingRecord", "ZeroRecord"]


class ScaleRecord(Record):
    """The scale in µS per unit of weight: the name of its initializer, and its number, or the extremes of its numbers.

    `shape` is the shape of the initializer. `consumer` is the index of the consumer whose matrices the granularity and
    the tiling refer to.
    """

    name: str
    value: float | None = Field(gt=0)
    form: ScaleForm = "number"
    shape: tuple[int, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    consumer: int | None = None

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Self:
        if self.form == "number" and self.value is None:
            raise ValueError("a scale that is one number has no value")
        if self.form != "number" and (self.minimum is None or self.maximum is None):
            raise ValueError("a scale of several numbers has no minimum or no maximum")
        return self


class ZeroRecord(Record):
    """The initializer of the zero w0, in units of weight, which is added to the quotient; its shape is the scale's."""

    name: str
    minimum: float
    maximum: float


class TilingRecord(Record):
    """How the matrices of a weight are cut into pieces that have a scale each.

    `rows` and `columns` are the sizes that the cut was asked for; `row_starts` and `column_starts` are the first rows
    and columns of the pieces.
    """

    rows: int | None
    columns: int | None
    partition: Partition
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]


class PartRecord(Record):
    """A part of a weight that is several matrices side by side, such as queries, keys and values, and its columns."""

    name: str = Field(min_length=1)
    columns: int = Field(ge=1)


class ClippingRecord(Record):
    """The limit that weights are clipped to: a percentile of |W|, or a value in units of weight."""

    percentile: float | None
    value: float | None

    @model_validator(mode="after")
    def _has_one_of_them(self) -> Self:
        if self.percentile is None and self.value is None:
            raise ValueError("it has neither a percentile nor a value")
        return self


class LevelsRecord(Record):
    """The levels that conductances are rounded to, in µS, and how they are stored."""

    count: int
    uniform: bool
    g_min: float
    g_max: float
    values: tuple[float, ...] | None
    storage: Literal["float", "uint4", "uint8", "uint16"]

    @property
    def is_coded(self) -> bool:
        """Whether initializers hold codes of the levels, and not conductances in µS."""
        return self.storage != "float"

    @property
    def code_dtype(self) -> np.dtype[np.unsignedinteger]:
        """The NumPy type of the codes: uint8 for 4-bit codes, too, and uint16 if conductances are stored in µS."""
        return np.dtype(np.uint8 if self.storage in {"uint4", "uint8"} else np.uint16)

    @property
    def levels(self) -> ConductanceLevels:
        """The levels themselves.

        Raises:
            ModelError: If the record describes no valid levels.
        """
        try:
            return ConductanceLevels.from_manifest(self.model_dump(exclude={"storage"}))
        except ConfigError as error:
            raise ModelError(f"the manifest has wrong levels: {error}") from None


class LossRecord(Record):
    """The error of a weight by clipping and by rounding to levels, in units of weight.

    `clipped` is the number of clipped elements; `sqnr_db` is None if there is no error.
    """

    clipped: int
    max_clipping_error: float
    max_rounding_error: float
    rms_error: float
    sqnr_db: float | None
