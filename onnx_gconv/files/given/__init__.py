"""Models as callers give them: as a file, or in memory as an exporter or another tool holds them."""

from __future__ import annotations

from onnx_gconv.files.given.given_model import GivenModel, named_as_given, renamed
from onnx_gconv.files.given.kinds import ModelLike, ProgramLike, is_program

__all__ = ["GivenModel", "ModelLike", "ProgramLike", "is_program", "named_as_given", "renamed"]
