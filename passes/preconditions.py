"""Checks that a model can be mapped."""

from __future__ import annotations

import onnx_ir as ir

from onnx_gconv.mapping.preconditions import ModelPreconditionError, manifest_or_none
from onnx_gconv.mapping.unlisted import rebuilding_node
from onnx_gconv.weights.opsets import OLDEST_OPSET, default_opset

__all__ = ["require_mappable"]


def require_mappable(model: ir.Model) -> None:
    """Raise unless the model can be mapped.

    Raises:
        ModelPreconditionError: If the model is mapped already, or its opset is too old.
    """
    if manifest_or_none(model) is not None:
        raise ModelPreconditionError("the model is mapped already; restore it first, or map the original")
    if (node := rebuilding_node(model)) is not None:
        raise ModelPreconditionError(
            f"the model is mapped already (node '{node.name}' rebuilds a weight), but another tool removed its "
            "manifest; map the original"
        )
    opset = default_opset(model)
    if opset is not None and opset < OLDEST_OPSET:
        raise ModelPreconditionError(
            f"the model has opset {opset}, but Sub and Div need opset {OLDEST_OPSET}; raise it with --upgrade-opset "
            "(upgrade_opset=True), which uses onnx.version_converter"
        )
