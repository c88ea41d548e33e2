"""Whether pictures can be drawn: Matplotlib is an extra."""

from __future__ import annotations

import importlib.util

from onnx_gconv.errors import ConfigError
from onnx_gconv.visible_text import visible

__all__ = ["has_matplotlib", "legible", "require_matplotlib"]


def has_matplotlib() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise ConfigError if Matplotlib is not installed."""
    if not has_matplotlib():
        raise ConfigError("pictures need Matplotlib, which is missing; pip install matplotlib")


def legible(text: str) -> str:
    """A text in which all that the font may lack is written as escapes."""
    return visible(text).encode("latin-1", "backslashreplace").decode("latin-1")
