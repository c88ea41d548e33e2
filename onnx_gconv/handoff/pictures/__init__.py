"""Pictures of the tiles of a bundle: target conductances, or measured minus target conductances."""

from __future__ import annotations

from onnx_gconv.handoff.pictures.write import (
    check_pictures,
    draw_pictures,
    write_error_pictures,
    write_pictures,
)

__all__ = ["check_pictures", "draw_pictures", "write_error_pictures", "write_pictures"]
