"""The contents of a mapped model: its manifest, and the nodes that rebuild its weights."""

from __future__ import annotations

from onnx_gconv.mapping.manifest import (
    FORMAT_VERSION,
    MANIFEST_KEY,
    Manifest,
    format_version_of,
    read_manifest,
    remove_manifest,
    write_manifest,
)
from onnx_gconv.mapping.records.chip_records import MeasuredRecord, ReadNoiseRecord, SimulatedRecord
from onnx_gconv.mapping.records.code_records import BlocksRecord, DecodedRecord, DequantizationRecord, PackingRecord
from onnx_gconv.mapping.records.consumer_records import ConsumerRecord, MatrixViewRecord, RearrangementRecord
from onnx_gconv.mapping.records.converter_record import ConverterOriginRecord, ConverterRecord, UnknownConverterError
from onnx_gconv.mapping.records.scheme_records import (
    ClippingRecord,
    LevelsRecord,
    LossRecord,
    PartRecord,
    ScaleRecord,
    TilingRecord,
    ZeroRecord,
)
from onnx_gconv.mapping.records.weight_record import (
    ComputeDtype,
    ConductanceRecord,
    OtherParameterRecord,
    SameSourceRecord,
    SkippedRecord,
    WeightRecord,
)

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_KEY",
    "BlocksRecord",
    "ClippingRecord",
    "ComputeDtype",
    "ConductanceRecord",
    "ConsumerRecord",
    "ConverterOriginRecord",
    "ConverterRecord",
    "DecodedRecord",
    "DequantizationRecord",
    "LevelsRecord",
    "LossRecord",
    "Manifest",
    "MatrixViewRecord",
    "MeasuredRecord",
    "OtherParameterRecord",
    "PackingRecord",
    "PartRecord",
    "ReadNoiseRecord",
    "RearrangementRecord",
    "SameSourceRecord",
    "ScaleRecord",
    "SimulatedRecord",
    "SkippedRecord",
    "TilingRecord",
    "UnknownConverterError",
    "WeightRecord",
    "ZeroRecord",
    "format_version_of",
    "read_manifest",
    "remove_manifest",
    "write_manifest",
]
