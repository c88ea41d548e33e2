"""Pictures of the tiles of a bundle: target conductances, and how far measured ones are from them."""

from onnx_gconv.handoff.pictures.write import (  # noqa: I001 - in few lines
    PicturesReport, check_pictures, draw_pictures, require_matplotlib, write_error_pictures, write_pictures,
)  # fmt: skip

__all__ = ["PicturesReport", "check_pictures", "draw_pictures", "require_matplotlib"]
__all__ += ["write_error_pictures", "write_pictures"]
