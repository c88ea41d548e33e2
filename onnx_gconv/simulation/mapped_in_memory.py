"""Maps a plain model in memory, to the conductance range of a device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.configuration.options import (
    ConfigurationLike,
    ConverterLike,
    MappingOptions,
    configuration_of,
    require_none_for_mapped,
)
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import MANIFEST_KEY, WeightRecord
from onnx_gconv.mapping.preconditions import manifest_or_none
from onnx_gconv.mapping.unlisted import rebuilding_node
from onnx_gconv.passes import MapConductances
from onnx_gconv.passes.raise_opset import raised_opset

__all__ = ["Mapped", "is_mapped", "mapped_in_memory"]


@dataclass(frozen=True)
class Mapped:
    """How a plain model was mapped.

    Attributes:
        notes: Notes on the mapping for the report, a line each.
        digest: A hash of the manifest, which differs for other mappings.
    """

    notes: tuple[str, ...]
    digest: str


def mapped_in_memory(
    model: ir.Model,
    device: DeviceModel,
    converter: ConverterLike | None,
    config: ConfigurationLike | None,
    options: MappingOptions,
) -> Mapped | None:
    """Map a plain model in place; leave a mapped one as it is.

    Args:
        model: The model.
        device: Its range of conductances is used unless another range is given.
        converter: See `MapConductances`.
        config: See `MapConductances`.
        options: See `MapConductances`.

    Returns:
        How the model was mapped; None if it was mapped already.

    Raises:
        ConfigError: If an option is wrong, or options were given for a model that is mapped already.
        ModelError: If the model cannot be mapped, or has no weight that can be.
        UnmappableWeightError: If a weight has values that no conductance can hold.
    """
    if is_mapped(model):
        require_none_for_mapped(converter, config, options)
        return None
    configuration = configuration_of(config, converter, options).with_range(device.g_min, device.g_max)
    notes = raised_opset(model) if configuration.model.upgrade_opset else ()
    MapConductances(configuration=configuration)(model)
    manifest = manifest_or_none(model)
    if manifest is None:
        raise ModelError("has no weight that can be mapped, so that there is nothing to simulate")
    rules = dict.fromkeys(map(_said, manifest.weights))
    skipped = sum(item.is_mvm for item in manifest.skipped)
    left = f"; {skipped} more weights of MVM ops are not mapped, and stay ideal" if skipped else ""
    note = f"mapped in memory: {len(manifest.weights)} weights, {', '.join(rules)}{left}"
    digest = hashlib.sha256(model.metadata_props[MANIFEST_KEY].encode()).hexdigest()
    return Mapped((*notes, *manifest.notes, note), digest)


def is_mapped(model: ir.Model) -> bool:
    """Whether a model is mapped. A model whose manifest was lost counts, too, if it has nodes that rebuild weights."""
    return manifest_or_none(model) is not None or rebuilding_node(model) is not None


def _said(record: WeightRecord) -> str:
    rule = record.converter.converter()
    return f"{type(rule).__name__} of {rule.g_min:g} to {rule.g_max:g} \u00b5S"
