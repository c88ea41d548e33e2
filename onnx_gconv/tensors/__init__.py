"""Tensors for onnx-ir that are read, computed and written in chunks, so that memory does not grow with the model."""
