"""Checks whether Matplotlib, an optional dependency, is installed, and makes empty figures."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING

from onnx_gconv.errors import ConfigError
from onnx_gconv.visible_text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["has_matplotlib", "legible", "new_figure", "require_matplotlib"]


def has_matplotlib() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise ConfigError if Matplotlib is not installed."""
    if not has_matplotlib():
        raise ConfigError("pictures need Matplotlib, which is missing; pip install matplotlib")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that is not registered in pyplot, but is shown by notebooks.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        ConfigError: If Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legible(text: str) -> str:
    """Return a text in which characters that the font may lack are written as escapes."""
    return visible(text).encode("latin-1", "backslashreplace").decode("latin-1")
