"""The hand-off bundle: target conductances of every crossbar tile, for a lab's tools to program a chip with."""

from __future__ import annotations

from onnx_gconv.handoff.bundle import Bundle, BundleLayer, BundleTile, PhysicalArray, TileScale, open_bundle
from onnx_gconv.handoff.pictures import PicturesReport, write_error_pictures, write_pictures
from onnx_gconv.handoff.report import HandoffReport
from onnx_gconv.handoff.tiles import ArrayGeometry
from onnx_gconv.handoff.write_bundle import write_bundle

__all__ = [
    "ArrayGeometry",
    "Bundle",
    "BundleLayer",
    "BundleTile",
    "HandoffReport",
    "PhysicalArray",
    "PicturesReport",
    "TileScale",
    "open_bundle",
    "write_bundle",
    "write_error_pictures",
    "write_pictures",
]
