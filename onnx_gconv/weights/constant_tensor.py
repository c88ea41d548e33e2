"""The data of a constant value."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["constant_tensor"]


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The data of an initializer or of the output of a Constant node; None for other values, and for sparse data.

    `onnx_ir.convenience.get_const_tensor` gives the tensor in a Constant node the name of the node's output. Looking at
    a model must not change what it is written as.
    """
    node = value.producer()
    if value.const_value is None and node is not None and node.op_type == "Constant" and node.domain == "":
        if "sparse_value" in node.attributes:
            return None
        attribute = node.attributes.get("value")
        if attribute is not None and not attribute.is_ref():
            return attribute.as_tensor()
    return ir.convenience.get_const_tensor(value)
