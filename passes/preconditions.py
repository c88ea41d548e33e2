"""What a model has to be before a pass may touch it."""

from __future__ import annotations

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, read_manifest
from onnx_gconv.passes.rebuild_nodes import ROLE_KEY
from onnx_gconv.weights.opsets import OLDEST_OPSET, default_opset

__all__ = ["ModelPreconditionError", "require_mappable", "require_mapped"]


class ModelPreconditionError(ModelError, ir.passes.PreconditionError):
    """A `ModelError` that onnx-ir knows as a precondition of a pass, and hands on as it is."""


def require_mappable(model: ir.Model) -> None:
    """Raise unless the model can be mapped.

    Raises:
        ModelPreconditionError: If it is mapped already, or its opset is too old.
    """
    if _manifest(model) is not None:
        raise ModelPreconditionError("the model is mapped already; restore it first, or map the original")
    for graph in model.graphs():
        for node in graph:
            if ROLE_KEY in node.metadata_props:
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


def require_mapped(model: ir.Model) -> Manifest:
    """The manifest of a mapped model.

    Raises:
        ModelPreconditionError: If there is none, or it cannot be read.
    """
    manifest = _manifest(model)
    if manifest is None:
        raise ModelPreconditionError(
            "the model carries no mapping: it was never mapped, or another tool removed the manifest"
        )
    return manifest


def _manifest(model: ir.Model) -> Manifest | None:
    try:
        return read_manifest(model)
    except ModelError as error:
        raise ModelPreconditionError(str(error)) from None
