"""The format for AccelForge: layers as einsums, histograms of their values, and the memory cell."""

from __future__ import annotations

from onnx_gconv.handoff.formats.accelforge.accelforge import AccelForge

__all__ = ["AccelForge"]
