"""What all parts of the manifest have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Record"]


class Record(BaseModel):
    """A part of the manifest, which is a table of JSON."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
