"""The command line ``onnx-gconv``."""

from __future__ import annotations

from onnx_gconv.cli.app import app, main

__all__ = ["app", "main"]
