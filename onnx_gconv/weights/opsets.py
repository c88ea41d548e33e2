"""The opsets of the default domain since which the ops that rebuild weights exist."""

from __future__ import annotations

import onnx_ir as ir

from onnx_gconv.weights.records import FoundWeight, SkippedWeight, SkipReason, WeightSurvey

__all__ = [
    "FREE_INITIALIZERS_IR_VERSION",
    "OLDEST_CASTS",
    "OLDEST_INTEGER_CONSTANTS",
    "OLDEST_NARROW_CODES",
    "OLDEST_OPSET",
    "OLDEST_ROUND_OPSET",
    "default_opset",
    "set_default_opset",
    "without_missing_casts",
]

FREE_INITIALIZERS_IR_VERSION = 4
"""Below this IR version every initializer has to be a graph input, too, even if callers are not to replace it."""

OLDEST_OPSET = 7
"""Sub and Div broadcast by shape since this opset, and ONNX Runtime has no kernels for their older versions."""

OLDEST_ROUND_OPSET = 11
"""The op Round exists since this opset."""

OLDEST_INTEGER_CONSTANTS = 9
"""Constant nodes hold integers since this opset."""

OLDEST_NARROW_CODES = 21
"""Codes of four bits, and a DequantizeLinear that takes them, exist since this opset."""

OLDEST_CASTS = {
    ir.DataType.BFLOAT16: 13,
    ir.DataType.FLOAT8E4M3FN: 19,
    ir.DataType.FLOAT8E4M3FNUZ: 19,
    ir.DataType.FLOAT8E5M2: 19,
    ir.DataType.FLOAT8E5M2FNUZ: 19,
    ir.DataType.INT4: 21,
    ir.DataType.UINT4: 21,
}
"""The opsets since which Cast can give these types; all other types it can give since `OLDEST_OPSET`."""

_LONG_NAME = "ai.onnx"


def default_opset(model: ir.Model) -> int | None:
    """The version of the default domain that a model imports, or None if it imports other domains only."""
    return model.opset_imports.get("", model.opset_imports.get(_LONG_NAME))


def set_default_opset(model: ir.Model, version: int) -> None:
    """Import a version of the default domain under its short name, the empty string, only."""
    model.opset_imports.pop(_LONG_NAME, None)
    model.opset_imports[""] = version


def without_missing_casts(survey: WeightSurvey, opset: int | None) -> WeightSurvey:
    """Move weights to the skipped ones if Cast cannot give their type in an opset; None means that any is possible."""
    if opset is None:
        return survey
    kept: list[FoundWeight] = []
    lacking: list[SkippedWeight] = []
    for weight in survey.weights:
        if (needed := OLDEST_CASTS.get(weight.tensor.dtype, 0)) > opset:
            detail = f"{weight.tensor.dtype.name.lower()} at opset {opset}, needs {needed}"
            lacking.append(SkippedWeight.of(weight, SkipReason.OPSET_TOO_OLD, detail))
        else:
            kept.append(weight)
    return WeightSurvey(tuple(kept), (*survey.skipped, *lacking))
