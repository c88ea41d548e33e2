"""What the file of a model says about the tensor of a weight, kept while the weight is mapped.

The name of a mapped weight belongs to a value that nodes compute, which has metadata of its own, but no tensor. What
the tensor said, its text and its metadata, is kept among the metadata of that value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

__all__ = ["TENSOR_KEY", "kept_texts", "put_texts_back"]

TENSOR_KEY = "onnx_gconv.tensor."

_DOC_STRING = f"{TENSOR_KEY}doc_string"
_METADATA = f"{TENSOR_KEY}metadata."


def kept_texts(tensor: ir.TensorProtocol) -> Iterator[tuple[str, str]]:
    """The metadata of the rebuilt weight that keep what its tensor said."""
    if tensor.doc_string:
        yield _DOC_STRING, tensor.doc_string
    for key, text in tensor.metadata_props.items():
        yield f"{_METADATA}{key}", text


def put_texts_back(tensor: ir.TensorProtocol, metadata: Mapping[str, str]) -> None:
    """Let a tensor say what the metadata of the rebuilt weight keep."""
    tensor.doc_string = metadata.get(_DOC_STRING, tensor.doc_string)
    for key, text in metadata.items():
        if key.startswith(_METADATA):
            tensor.metadata_props[key.removeprefix(_METADATA)] = text
