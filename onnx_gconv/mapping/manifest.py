"""The manifest: everything a mapped model says about its conductances, as one JSON document in its metadata.

``docs/format.md`` specifies it for readers in any language.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Self

import onnx_ir as ir
from pydantic import (
    ValidationError,
    field_validator,
    model_validator,
)

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping.records.record import Record
from onnx_gconv.mapping.records.weight_record import SkippedRecord, WeightRecord
from onnx_gconv.validation_messages import first_flaw

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_KEY",
    "Manifest",
    "format_version_of",
    "read_manifest",
    "remove_manifest",
    "write_manifest",
]

MANIFEST_KEY = "onnx_gconv"

FORMAT = "onnx_gconv.mapping"
FORMAT_VERSION: Final = 1

READ_NOISE_FORMAT_VERSION: Final = 2
"""The version of manifests with read noise that nodes draw: a reader of version 1 would not expect those nodes."""

PACKED_FORMAT_VERSION: Final = 3
"""The version of manifests with packed codes, level codes in four bits, integer codes limited to their range, or zero
points of blocks: a reader of version 2 would rebuild such weights wrongly."""


class Manifest(Record):
    """The whole manifest: the mapped weights, the skipped weights with their reasons, and the versions."""

    format: Literal["onnx_gconv.mapping"] = "onnx_gconv.mapping"
    format_version: Literal[1, 2, 3] = 1
    tool: str
    unit: Literal["uS"] = "uS"
    weights: tuple[WeightRecord, ...]
    skipped: tuple[SkippedRecord, ...]
    notes: tuple[str, ...] = ()

    @field_validator("weights")
    @classmethod
    def _has_each_weight_once(cls, weights: tuple[WeightRecord, ...]) -> tuple[WeightRecord, ...]:
        seen, owners = set[tuple[str, str]](), dict[tuple[str, str], str]()
        for weight in weights:
            if (key := (weight.graph, weight.name)) in seen:
                raise ValueError(f"the weight '{weight.name}' is there twice")
            seen.add(key)
            for item in weight.conductances:
                other = owners.setdefault((weight.graph, item.name), weight.name)
                if other != weight.name:
                    raise ValueError(f"the initializer '{item.name}' belongs to '{other}' and to '{weight.name}'")
        return weights

    @model_validator(mode="after")
    def _has_the_version_of_its_weights(self) -> Self:
        if (version := format_version_of(self.weights)) != self.format_version:
            what = {
                FORMAT_VERSION: "none of its weights draws noise of readings",
                READ_NOISE_FORMAT_VERSION: "some of its weights draw noise of readings",
                PACKED_FORMAT_VERSION: "some of its weights have packed codes, codes of levels in four bits, limited "
                "integers, or zero points of blocks",
            }[version]
            if self.format_version == PACKED_FORMAT_VERSION:
                what = (
                    "none of its weights has packed codes, codes of levels in four bits, limited integers, or zero "
                    "points of blocks"
                )
            raise ValueError(f"the format version is {self.format_version}, but {what}")
        return self


def format_version_of(weights: Iterable[WeightRecord]) -> Literal[1, 2, 3]:
    """The format version of a manifest with these weights: the oldest one that describes them all."""
    found = list(weights)
    if any(weight.packing or weight.has_narrow_codes or weight.limited or weight.zero_point_blocks for weight in found):
        return PACKED_FORMAT_VERSION
    return READ_NOISE_FORMAT_VERSION if any(weight.read_noise for weight in found) else FORMAT_VERSION


def read_manifest(model: ir.Model) -> Manifest | None:
    """The manifest of a model, or None if it has none.

    Raises:
        ModelError: If the manifest is damaged, or has a format version that this version of onnx_gconv cannot read.
    """
    text = model.metadata_props.get(MANIFEST_KEY)
    if text is None:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        flaw = first_flaw(error)
        if flaw.where == "format_version":
            versions = f"{FORMAT_VERSION}, {READ_NOISE_FORMAT_VERSION} and {PACKED_FORMAT_VERSION}"
            raise ModelError(
                f"the manifest has format version {flaw.value!r}, this version reads {versions}; use the version of "
                "onnx_gconv that wrote the model, or a newer one"
            ) from None
        problem = f"{flaw.where}: {flaw.message}"
        raise ModelError(f"the manifest in metadata '{MANIFEST_KEY}' is damaged: {problem}") from None


def write_manifest(model: ir.Model, manifest: Manifest) -> None:
    """Put a manifest into a model."""
    model.metadata_props[MANIFEST_KEY] = manifest.model_dump_json()


def remove_manifest(model: ir.Model) -> None:
    """Take the manifest out of a model."""
    del model.metadata_props[MANIFEST_KEY]
