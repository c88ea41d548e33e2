"""Analog conductance mappings, explicit in ONNX models."""
