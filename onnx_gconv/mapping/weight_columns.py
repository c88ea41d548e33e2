"""The weights of a mapping as columns of a data frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_gconv.data_frame import Column, Columns, shape_text
from onnx_gconv.mapping.records.scheme_records import LossRecord
from onnx_gconv.mapping.records.weight_record import SkippedRecord, WeightRecord

__all__ = ["WeightRow", "weight_columns"]


@dataclass(frozen=True)
class WeightRow:
    """A weight of a model, mapped or not.

    Attributes:
        record: The weight's record in the manifest.
        status: The outcome, such as ``mapped``.
        reason: Why the weight is not mapped; None if it is mapped.
    """

    record: WeightRecord | SkippedRecord
    status: str
    reason: str | None = None


def weight_columns(rows: Sequence[WeightRow]) -> Columns:
    """The columns of a table with one row for each weight.

    `known_as` and `program_names` are names of the exported program, such as parameters of a PyTorch module. Scales are
    in µS per unit of weight.
    """
    records = [row.record for row in rows]
    mapped = [row.record if isinstance(row.record, WeightRecord) else None for row in rows]
    losses = [None if record is None else record.loss for record in mapped]
    return {
        "weight": Column("text", [record.name for record in records]),
        "graph": Column("text", [record.graph for record in records]),
        "known_as": Column("text", [record.known_as for record in records]),
        "program_names": Column("text", [", ".join(record.parameters) or None for record in records]),
        "status": Column("text", [row.status for row in rows]),
        "shape": Column("text", [shape_text(record.shape) for record in records]),
        "dtype": Column("text", [None if record is None else record.dtype for record in mapped]),
        "parameters": Column("whole number", [_parameters(record) for record in records]),
        "converter": Column("text", [None if record is None else record.converter.name for record in mapped]),
        "granularity": Column("text", [None if record is None else record.granularity for record in mapped]),
        "smallest_scale_us_per_unit": Column("number", [_scale(record, "minimum") for record in mapped]),
        "largest_scale_us_per_unit": Column("number", [_scale(record, "maximum") for record in mapped]),
        "sqnr_db": Column("number", [None if loss is None else _sqnr_db(loss) for loss in losses]),
        "clipped_elements": Column("whole number", [None if loss is None else loss.clipped for loss in losses]),
        "op_types": Column("text", [_op_types(record) for record in mapped]),
        "reason": Column("text", [row.reason for row in rows]),
    }


def _sqnr_db(loss: LossRecord) -> float:
    """The SQNR in dB; infinite for a weight that is rebuilt without an error."""
    return math.inf if loss.sqnr_db is None else loss.sqnr_db


def _parameters(record: WeightRecord | SkippedRecord) -> int | None:
    return None if record.shape is None else math.prod(record.shape)


def _scale(record: WeightRecord | None, extreme: str) -> float | None:
    if record is None:
        return None
    number: float | None = getattr(record.scale, extreme)
    return record.scale.value if number is None else number


def _op_types(record: WeightRecord | None) -> str | None:
    return None if record is None else ", ".join(dict.fromkeys(item.op_type for item in record.consumers))
