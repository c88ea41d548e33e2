"""ONNX Runtime: sessions, inputs to run models with, and the comparison of outputs."""
