"""Runs models in ONNX Runtime: sessions, inputs, and the comparison of outputs."""
