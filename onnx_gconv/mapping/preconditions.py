"""Checks that a model is mapped before a pass reads its mapping."""

from __future__ import annotations

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping.manifest import Manifest, read_manifest
from onnx_gconv.mapping.unlisted import rebuilding_node

__all__ = ["ModelPreconditionError", "manifest_or_none", "require_mapped"]


class ModelPreconditionError(ModelError, ir.passes.PreconditionError):
    """A `ModelError` that is also onnx-ir's `PreconditionError`, so that onnx-ir raises it unchanged from a pass."""


def require_mapped(model: ir.Model) -> Manifest:
    """The manifest of a mapped model.

    Raises:
        ModelPreconditionError: If there is no manifest, or it cannot be read.
    """
    manifest = manifest_or_none(model)
    if manifest is None:
        if (node := rebuilding_node(model)) is not None:
            raise ModelPreconditionError(
                f"the mapping has lost its manifest: node '{node.name}' ({node.op_type}) still rebuilds a weight, but "
                "another tool removed the manifest; take the model as it was mapped"
            )
        raise ModelPreconditionError(
            "the model carries no mapping: it was never mapped, or another tool removed the manifest; map it with "
            "onnx-gconv map or map_model first, as the last step"
        )
    return manifest


def manifest_or_none(model: ir.Model) -> Manifest | None:
    """The manifest of a model, or None if it has none.

    Raises:
        ModelPreconditionError: If it cannot be read.
    """
    try:
        return read_manifest(model)
    except ModelError as error:
        raise ModelPreconditionError(str(error)) from None
