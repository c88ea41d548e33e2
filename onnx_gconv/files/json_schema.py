"""Writes JSON Schemas as the text of published files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["schema_text"]

_DRAFT_2020_12 = "https://json-schema.org/draft/2020-12/schema"  # the one that pydantic's schemas are written in


def schema_text(schema: Mapping[str, Any], draft: str = _DRAFT_2020_12) -> str:
    """Return the text of a file with a JSON Schema.

    Args:
        schema: The schema, without its "$schema" entry.
        draft: The URI of the draft, which becomes "$schema".
    """
    return json.dumps({"$schema": draft, **schema}, indent=2, ensure_ascii=False) + "\n"
