"""The command line ``onnx-gconv``: one file a command."""

from __future__ import annotations

from onnx_gconv.cli.app import app, main

__all__ = ["app", "main"]
