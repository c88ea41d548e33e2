"""The JSON Schema of the file of a comparison, for editors."""

from __future__ import annotations

from typing import Any

from onnx_gconv.configuration.json_schema import text_for_editors
from onnx_gconv.devices.presets import presets
from onnx_gconv.devices.registry import DEVICE_MODELS, device_model_names
from onnx_gconv.simulation.comparison.tables import ComparisonTable

__all__ = ["comparison_schema"]


def comparison_schema(*, installed: bool = True) -> str:
    """The JSON Schema of the TOML file of a comparison, as text.

    Args:
        installed: Whether to describe, besides the built-in ones, converters and device models that installed packages
            or the running program have registered.
    """
    schema = ComparisonTable.model_json_schema()
    schema["title"] = "Comparison of onnx_gconv"
    tables = schema["$defs"]
    # The names are there for completion; any other text is allowed, too, since a device may be a file of measurements.
    known = device_model_names() if installed else (*DEVICE_MODELS, *(each.name for each in presets() if each.model))
    device = {"anyOf": [{"enum": list(dict.fromkeys(known)), "type": "string"}, {"type": "string"}]}
    for table in (schema, tables["CandidateTable"]):
        table["properties"]["device"]["anyOf"][0] = device
    tables["Grid"]["properties"]["device"]["anyOf"][0]["items"] = device
    grid, mapping = tables["GridMapping"], tables["MappingTable"]["properties"]
    grid["description"] = "Values of the keys of a mapping, all combinations of which are tried."
    for name, lists in grid["properties"].items():
        lists["description"] = f"Values that are tried. {mapping[name]['description']}"
    for name in ("Grid", "GridMapping"):
        for lists in tables[name]["properties"].values():
            _require_some(lists)
    return text_for_editors(schema, ("MappingTable",), installed=installed)


def _require_some(lists: dict[str, Any]) -> None:
    """Require at least one value in a list of values."""
    for choice in (*lists.get("anyOf", ()), lists.get("additionalProperties")):
        if isinstance(choice, dict) and choice.get("type") == "array":
            choice["minItems"] = 1
