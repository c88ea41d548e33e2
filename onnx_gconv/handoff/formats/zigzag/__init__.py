"""The format for ZigZag: a workload in ONNX, an accelerator, a mapping, and a script that runs ZigZag on them."""

from __future__ import annotations

from onnx_gconv.handoff.formats.zigzag.zigzag import ZigZag

__all__ = ["ZigZag"]
