"""Text for terminals: names are shown as they are, never read as markup."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["counted", "file_list", "plain", "rendered", "with_remark"]

_WIDTH = 120
_BINARY_STEP = 1024


def rendered(item: RenderableType, width: int = _WIDTH) -> str:
    """What rich shows of an object, without colours."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width).print(item)
    return text.getvalue().rstrip("\n")


def plain(text: str) -> Text:
    """A text in which nothing is markup."""
    from rich.text import Text

    return Text(text)


def with_remark(text: str, remark: str, separator: str = "\n") -> Text:
    """A text and, less conspicuous, a remark behind it if there is one."""
    from rich.text import Text

    return Text.assemble(text, separator, (remark, "dim")) if remark else Text(text)


def counted(weights: int) -> str:
    """E.g. ``1 weight`` or ``3 weights``."""
    return f"{weights} weight{'' if weights == 1 else 's'}"


def file_list(files: Iterable[Path]) -> str:
    """Files with their sizes, as far as they still exist."""
    return ", ".join(f"{file} ({_size(file.stat().st_size)})" if file.exists() else str(file) for file in files)


def _size(count: float) -> str:
    if count < _BINARY_STEP:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= _BINARY_STEP
        if count < _BINARY_STEP:
            return f"{count:.1f} {unit}"
    return f"{count / _BINARY_STEP:.2f} GiB"
