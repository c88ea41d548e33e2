"""Finds the weights of a model: the constants that feed nodes which multiply matrices, and those that are skipped."""

from __future__ import annotations

from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.weights.find_weights import find_weights, readers_of_weights
from onnx_gconv.weights.ops import op_views
from onnx_gconv.weights.ops.mvm_ops import LOOKUP_OPS, MVM_OPS, BiasSlot, MvmOp, WeightSlot, register_mvm_op
from onnx_gconv.weights.opsets import default_opset
from onnx_gconv.weights.records import Consumer, FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.scopes import Scope, scopes
from onnx_gconv.weights.selection import WeightSelection

__all__ = [
    "LOOKUP_OPS",
    "MVM_OPS",
    "BiasSlot",
    "Consumer",
    "FoundWeight",
    "MatrixView",
    "MvmOp",
    "Scope",
    "SkipReason",
    "SkippedWeight",
    "WeightSelection",
    "WeightSlot",
    "WeightSurvey",
    "default_opset",
    "find_weights",
    "op_views",
    "readers_of_weights",
    "register_mvm_op",
    "scopes",
]
