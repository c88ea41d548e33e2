"""Whether pictures can be drawn, as Matplotlib is an extra, and what they are drawn on."""

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
    """An empty picture that pyplot does not know, and that notebooks show all the same.

    Args:
        width: In inches.
        height: In inches.

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
    """A text in which all that the font may lack is written as escapes."""
    return visible(text).encode("latin-1", "backslashreplace").decode("latin-1")
