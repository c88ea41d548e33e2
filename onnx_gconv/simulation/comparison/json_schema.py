"""Describes the file of a comparison for editors."""

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
        installed: Describe converters and device models of installed packages, and those that the program has
            registered, too.
    """
    schema = ComparisonTable.model_json_schema()
    schema["title"] = "Comparison of onnx_gconv"
    tables = schema["$defs"]
    # Editors complete the names; but a device may be a file of measurements, too.
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
    """Let a list of alternatives have one at least."""
    for choice in (*lists.get("anyOf", ()), lists.get("additionalProperties")):
        if isinstance(choice, dict) and choice.get("type") == "array":
            choice["minItems"] = 1
