"""The manifest's records of the chip: size of its arrays, device preset, defect map, and how partial sums are added."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_gconv.crossbars.chip import LayerPlacement, passed_over
from onnx_gconv.crossbars.defects import DefectMap
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.devices.presets import DevicePreset
from onnx_gconv.handoff.manifest import DefectsRecord, GeometryRecord, PresetRecord

__all__ = ["PARTIAL_SUMS", "defects_record", "geometry_record", "preset_record"]

PARTIAL_SUMS = (
    "Within a matrix, tiles with the same outputs have different inputs: their results are added, each after its own "
    "scale and zero. Tiles with different outputs give different outputs of the layer. The weight of a cell is "
    "(sum_k c_k * G_k - offset_us) / scale + zero; where a column of a tile has one scale, this can be applied "
    "digitally after the array: y = ((x @ sum_k c_k * G_k) - offset_us * sum(x)) / scale + zero * sum(x). "
    "matrix_view.factor multiplies the result of the layer, before the bias is added."
)


def preset_record(preset: DevicePreset | None) -> PresetRecord | None:
    """The manifest's record of the device preset; None if none was chosen."""
    if preset is None:
        return None
    return PresetRecord(
        name=preset.name, tolerance_us=preset.tolerance_us, tolerance_relative=preset.tolerance_relative
    )


def defects_record(name: str, sha256: str, found: DefectMap, placements: Sequence[LayerPlacement]) -> DefectsRecord:
    """The manifest's record of the defect map.

    Args:
        name: Name of the file of the defect map.
        sha256: SHA-256 of this file.
        found: The defect map.
        placements: Where the tiles of each layer stand.
    """
    return DefectsRecord(
        name=name,
        sha256=sha256,
        array_count=found.array_count,
        arrays=len(found.arrays),
        passed_over=passed_over(placements),
    )


def geometry_record(geometry: ArrayGeometry) -> GeometryRecord:
    """The manifest's record of the chip's arrays and of how tiles are placed on them."""
    return GeometryRecord(
        rows=geometry.rows,
        columns=geometry.columns,
        partition=geometry.partition,
        pair_layout=geometry.pair_layout,
        whole_kernels=geometry.whole_kernels,
        bias_rows=geometry.bias_rows,
        spare_rows=geometry.spare_rows,
        spare_columns=geometry.spare_columns,
        padding="g_min",
    )
