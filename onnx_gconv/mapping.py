"""The manifest: everything a mapped model says about its conductances, as one JSON document in its metadata.

``docs/format.md`` specifies it for readers in any language.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_gconv.converters import CONVERTERS, ConductanceConverter, Decoding
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.weight_types import MAPPABLE_DTYPES

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_KEY",
    "ComputeDtype",
    "ConductanceRecord",
    "ConsumerRecord",
    "ConverterRecord",
    "Manifest",
    "MatrixViewRecord",
    "RearrangementRecord",
    "SameSourceRecord",
    "ScaleRecord",
    "SkippedRecord",
    "WeightRecord",
    "read_manifest",
    "remove_manifest",
    "write_manifest",
]

MANIFEST_KEY = "onnx_gconv"
FORMAT = "onnx_gconv.mapping"
FORMAT_VERSION = 1


ComputeDtype: TypeAlias = Literal["float16", "bfloat16", "float32", "float64"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class MatrixViewRecord(_Record):
    """How a weight is read as matrices of inputs by outputs; the fields are those of `weights.MatrixView`."""

    rows: int
    columns: int
    matrices: int
    split_shape: tuple[int, ...]
    matrix_axes: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    factor: float


class RearrangementRecord(_Record):
    """A step of the way from a weight to a weight slot: a transposition or a reshape."""

    op: Literal["transpose", "reshape"]
    argument: tuple[int, ...]


class ConsumerRecord(_Record):
    """A node that reads a rebuilt weight, directly or through nodes that only rearrange it."""

    node: str
    op_type: str
    domain: str
    slot: int
    graph: str
    is_mvm: bool
    path: tuple[RearrangementRecord, ...]
    matrix_view: MatrixViewRecord | None
    reads: Literal["rebuilt", "digital"] = "rebuilt"


class SameSourceRecord(_Record):
    """Another constant that holds the same parameter; the fields are those of `weights.same_source.SameSource`."""

    name: str
    graph: str
    relation: Literal["equal", "transposed", "rearranged"]


class ConverterRecord(_Record):
    """The converter and all of its parameters; conductances in µS."""

    name: str
    parameters: dict[str, Any]

    @classmethod
    def of(cls, converter: ConductanceConverter) -> ConverterRecord:
        """The record of a converter."""
        return cls(name=type(converter).__name__, parameters=converter.manifest_parameters())

    def converter(self) -> ConductanceConverter:
        """The converter itself.

        Raises:
            ModelError: If this version does not know it, or its parameters are wrong.
        """
        if self.name not in CONVERTERS:
            raise ModelError(f"the manifest names the converter '{self.name}', which this version does not know")
        try:
            return CONVERTERS[self.name](**self.parameters)
        except (ConfigError, TypeError) as error:
            raise ModelError(f"the manifest has wrong parameters for '{self.name}': {error}") from None


class ConductanceRecord(_Record):
    """One conductance initializer, in µS, and the coefficient c_k with which it counts."""

    name: str
    device: str
    coefficient: float


class ScaleRecord(_Record):
    """The scale initializer and its value, in µS per unit of weight."""

    name: str
    value: float = Field(gt=0)


class WeightRecord(_Record):
    """One mapped weight: ``W = (sum_k c_k * G_k - offset_us) / scale + zero``.

    A weight of integer codes is ``round(W) + zero point`` with that W.
    """

    name: str
    graph: str
    moved_from: str | None = None
    dtype: str
    shape: tuple[int, ...]
    stored_as: Literal["initializer", "constant", "computed"]
    sources: tuple[str, ...] = ()
    converter: ConverterRecord
    granularity: Literal["tensor"]
    axis: int | None
    compute_dtype: ComputeDtype
    conductances: tuple[ConductanceRecord, ...] = Field(min_length=1)
    offset_us: float
    scale: ScaleRecord
    zero: float
    rounded: bool = False
    zero_point: str | None = None
    max_abs: float
    notes: tuple[str, ...]
    consumers: tuple[ConsumerRecord, ...]
    parameters: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    same_source_as: tuple[SameSourceRecord, ...] = ()
    digital_copy: str | None = None

    @property
    def decoding(self) -> Decoding:
        """How the conductances become the weight again."""
        return Decoding(
            coefficients=tuple(item.coefficient for item in self.conductances),
            offset_us=self.offset_us,
            scale=self.scale.value,
            zero=self.zero,
        )

    @property
    def ir_dtype(self) -> ir.DataType:
        """The type of the weight."""
        return _data_type(self.dtype)

    @property
    def ir_compute_dtype(self) -> ir.DataType:
        """The type of the conductances, and of the nodes that rebuild the weight."""
        return _data_type(self.compute_dtype)


class SkippedRecord(_Record):
    """A weight, or another constant of at least two axes, that is not mapped."""

    name: str
    shape: tuple[int, ...] | None
    graph: str
    reason: str
    detail: str
    is_mvm: bool
    consumers: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    same_source_as: tuple[SameSourceRecord, ...] = ()


class Manifest(_Record):
    """The whole document."""

    format: Literal["onnx_gconv.mapping"] = "onnx_gconv.mapping"
    format_version: Literal[1] = 1
    tool: str
    unit: Literal["uS"] = "uS"
    weights: tuple[WeightRecord, ...]
    skipped: tuple[SkippedRecord, ...]
    notes: tuple[str, ...] = ()


def read_manifest(model: ir.Model) -> Manifest | None:
    """The manifest of a model, or None if it has none.

    Raises:
        ModelError: If there is one that this version cannot read.
    """
    text = model.metadata_props.get(MANIFEST_KEY)
    if text is None:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        if where == "format_version":
            raise ModelError(
                f"the manifest has format version {first['input']!r}, this version reads {FORMAT_VERSION}; "
                "use the version of onnx_gconv that wrote the model, or a newer one"
            ) from None
        raise ModelError(f"the manifest in metadata '{MANIFEST_KEY}' is damaged: {where}: {first['msg']}") from None


def write_manifest(model: ir.Model, manifest: Manifest) -> None:
    """Put a manifest into a model."""
    model.metadata_props[MANIFEST_KEY] = manifest.model_dump_json()


def remove_manifest(model: ir.Model) -> None:
    """Take the manifest out of a model."""
    del model.metadata_props[MANIFEST_KEY]


def _data_type(name: str) -> ir.DataType:
    for dtype in MAPPABLE_DTYPES:
        if np.dtype(dtype.numpy()).name == name:
            return dtype
    raise ModelError(f"the manifest names the type '{name}', which this version does not know")
