"""The hand-off bundle: target conductances of every tile for a lab, and reading measured conductances back."""

from __future__ import annotations

from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.handoff.bundle import Bundle, open_bundle
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.bundle_tile import BundleTile, PhysicalArray, TileScale
from onnx_gconv.handoff.drawn_pictures import PicturesReport
from onnx_gconv.handoff.pictures import write_error_pictures, write_pictures
from onnx_gconv.handoff.read_back import read_back
from onnx_gconv.handoff.readback_report import ReadbackReport
from onnx_gconv.handoff.report import HandoffReport
from onnx_gconv.handoff.rounds.targets_report import TargetsReport
from onnx_gconv.handoff.rounds.targets_table import write_targets
from onnx_gconv.handoff.write_bundle import write_bundle

__all__ = [
    "ArrayGeometry",
    "Bundle",
    "BundleLayer",
    "BundleTile",
    "HandoffReport",
    "PhysicalArray",
    "PicturesReport",
    "ReadbackReport",
    "TargetsReport",
    "TileScale",
    "open_bundle",
    "read_back",
    "write_bundle",
    "write_error_pictures",
    "write_pictures",
    "write_targets",
]
