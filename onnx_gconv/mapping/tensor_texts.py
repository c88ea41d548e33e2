"""Keeps the doc string and the metadata of a weight's tensor while the weight is mapped.

A mapped weight is a value that nodes compute; it has metadata, but no tensor any more. The texts of the tensor are kept
in the metadata of that value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

__all__ = ["TENSOR_KEY", "kept_texts", "put_texts_back"]

TENSOR_KEY = "onnx_gconv.tensor."

_DOC_STRING = f"{TENSOR_KEY}doc_string"
_METADATA = f"{TENSOR_KEY}metadata."


def kept_texts(tensor: ir.TensorProtocol) -> Iterator[tuple[str, str]]:
    """Yield the keys and texts for the metadata of the rebuilt weight that keep the texts of its tensor."""
    if tensor.doc_string:
        yield _DOC_STRING, tensor.doc_string
    for key, text in tensor.metadata_props.items():
        yield f"{_METADATA}{key}", text


def put_texts_back(tensor: ir.TensorProtocol, metadata: Mapping[str, str]) -> None:
    """Set the doc string and the metadata of a tensor to those kept in the metadata of the rebuilt weight."""
    tensor.doc_string = metadata.get(_DOC_STRING, tensor.doc_string)
    for key, text in metadata.items():
        if key.startswith(_METADATA):
            tensor.metadata_props[key.removeprefix(_METADATA)] = text
