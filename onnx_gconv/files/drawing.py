"""Whether pictures can be drawn: Matplotlib is an extra."""

from __future__ import annotations

import importlib.util

from onnx_gconv.errors import ConfigError

__all__ = ["has_matplotlib", "require_matplotlib"]


def has_matplotlib() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise ConfigError if Matplotlib is not installed."""
    if not has_matplotlib():
        raise ConfigError("pictures need Matplotlib, which is missing; pip install matplotlib")
