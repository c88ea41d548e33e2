"""The version of onnx_gconv. pyproject.toml reads it from here, so that a checkout that is not installed has it too."""

from __future__ import annotations

__all__ = ["TOOL", "__version__"]

__version__ = "0.1.0"

TOOL = f"onnx_gconv {__version__}"
"""The tool and its version, as written into manifests."""
