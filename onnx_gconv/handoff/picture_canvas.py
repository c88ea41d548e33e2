"""The surface of a picture: pixels, and text that Matplotlib writes over them.

Pixels are placed one by one, so that no cell is blurred or lost; nothing is resampled.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FAINT", "INK", "SMALL", "TEXT", "TITLE", "Canvas", "Rgb", "Text", "checkered", "hatched", "legible", "number_text",
    "png", "require_matplotlib", "text_width",
]  # fmt: skip

Rgb: TypeAlias = NDArray[np.uint8]

TITLE, TEXT, SMALL = 17, 13, 11  # pixels
INK, FAINT = (0, 0, 0), (70, 70, 70)

# A power of two, so that sizes in pixels become inches and come back exactly.
_DPI = 64
_POINTS_PER_PIXEL = 72 / _DPI
_LETTER, _BOLD_LETTER = 0.6, 0.7  # mean width of a letter, as a part of the size of the font

_SETTINGS = ("text.", "font.", "path.", "agg.")

_WHITE, _FRAME = (255, 255, 255), (96, 96, 96)
_UNUSED = ((236, 236, 236), (176, 176, 176))
_MISSING = ((150, 150, 150), (96, 96, 96))


def require_matplotlib() -> None:
    """Check that pictures can be drawn.

    Raises:
        ConfigError: If Matplotlib is not installed.
    """
    try:
        import matplotlib as _  # noqa: F401, ICN001 - whether it is there
    except ImportError:
        raise ConfigError("pictures need Matplotlib, which is missing; pip install 'onnx_gconv[report]'") from None


@dataclass(frozen=True)
class Text:
    """A line of text.

    Attributes:
        x: Where it begins, is centred, or ends, in pixels from the left.
        y: Where it begins, or has its middle, in pixels from the top.
        text: What it says.
        size: Of the font, in pixels.
        weight: Of the font.
        side: What `x` is.
        is_middle: Whether `y` is its middle.
        color: As red, green and blue.
    """

    x: float
    y: float
    text: str
    size: int = SMALL
    weight: Literal["normal", "bold"] = "normal"
    side: Literal["left", "center", "right"] = "left"
    is_middle: bool = False
    color: tuple[int, int, int] = INK


class Canvas:
    """Pixels, and the text that will be written over them.

    Attributes:
        pixels: Colours, [height, width, 3].
        texts: The text.
    """

    def __init__(self, height: int, width: int) -> None:
        self.pixels: Rgb = np.full((height, width, 3), _WHITE, np.uint8)
        self.texts: list[Text] = []

    def paste(self, top: int, left: int, colors: Rgb) -> None:
        """Put colours [rows, columns, 3] somewhere."""
        self.pixels[top : top + colors.shape[0], left : left + colors.shape[1]] = colors

    def frame(self, top: int, left: int, height: int, width: int) -> None:
        """Draw a line around a rectangle, outside of it."""
        self.pixels[[top - 1, top + height], left - 1 : left + width + 1] = _FRAME
        self.pixels[top - 1 : top + height + 1, [left - 1, left + width]] = _FRAME

    def figure(self) -> Figure:
        """All of it as a figure of Matplotlib."""
        from matplotlib.figure import Figure
        from matplotlib.font_manager import FontProperties

        height, width = self.pixels.shape[:2]
        with _own_settings():
            figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
            figure.figimage(self.pixels, origin="upper")
            for text in self.texts:
                size = text.size * _POINTS_PER_PIXEL
                figure.text(
                    text.x / width,
                    1 - text.y / height,
                    text.text,
                    fontproperties=FontProperties(family="DejaVu Sans", weight=text.weight, size=size),
                    horizontalalignment=text.side,
                    verticalalignment="center_baseline" if text.is_middle else "top",
                    color=tuple(part / 255 for part in text.color),
                    parse_math=False,  # a dollar in a name is a dollar
                )
        return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file. Equal figures have equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    with _own_settings():
        canvas: Any = FigureCanvasAgg(figure)  # print_png has no types
        # Level 6, the default, takes three times as long, and files are hardly smaller.
        canvas.print_png(file, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return file.getvalue()


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Matplotlib's own settings of text, whatever the user's are: pictures are equal for everybody."""
    import matplotlib as mpl

    defaults = mpl.rcParamsDefault
    with mpl.rc_context({key: defaults[key] for key in defaults if key.startswith(_SETTINGS)}):
        yield


def hatched(height: int, width: int) -> Rgb:
    """Stripes for the cells of arrays that hold no weight."""
    diagonals = np.add.outer(np.arange(height), np.arange(width)) % 6
    found: Rgb = np.array(_UNUSED, np.uint8)[(diagonals < 2).astype(np.intp)]  # noqa: PLR2004 - of the stripes
    return found


def checkered(height: int, width: int) -> Rgb:
    """A pattern for cells without a value."""
    found: Rgb = np.array(_MISSING, np.uint8)[np.add.outer(np.arange(height) // 2, np.arange(width) // 2) % 2]
    return found


def text_width(text: str, size: int = SMALL, *, is_bold: bool = False) -> int:
    """About how many pixels wide a text is."""
    return math.ceil(len(text) * size * (_BOLD_LETTER if is_bold else _LETTER))


def number_text(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}".replace("-", "\u2212")


def legible(name: str) -> str:
    """A name in which all that the font may lack is written as escapes."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
    return text.encode("latin-1", "backslashreplace").decode("latin-1")
