"""The kinds of models that callers can give, and messages for callers who give something else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

import onnx
import onnx_ir as ir

__all__ = ["TAKEN", "ModelLike", "ProgramLike", "is_program", "why_no_model"]


@runtime_checkable
class ProgramLike(Protocol):
    """An object that holds a model of onnx-ir: ``torch.onnx.ONNXProgram``, or the result of a pass.

    torch is not imported to recognize it.
    """

    @property
    def model(self) -> ir.Model:
        """The model."""


ModelLike: TypeAlias = str | os.PathLike[str] | ir.Model | onnx.ModelProto | ProgramLike
"""A model: the path of its file, what ``torch.onnx.export`` returns, an `onnx_ir.Model`, or an `onnx.ModelProto`."""

TAKEN = "the path of an ONNX model, what torch.onnx.export returns, an onnx_ir.Model or an onnx.ModelProto"


def is_program(given: object) -> bool:
    """Whether an object holds a model of onnx-ir."""
    return isinstance(getattr(given, "model", None), ir.Model)


def why_no_model(given: object) -> str:
    """Return why an object is no model, and how to get a model from it, in a line."""
    return next(_reasons(given))


def _reasons(given: object) -> Iterator[str]:
    kind = type(given)
    if _is_of_torch(kind, "Module"):
        yield (
            f"a torch module ({kind.__name__}) is no ONNX model: export it with torch.onnx.export(module, args), or "
            "export and map it in one call, onnx_gconv.integrations.torch.export(module, args, path)"
        )
    if _is_of_torch(kind, "ExportedProgram"):
        yield (
            "an ExportedProgram of torch.export is no ONNX model: torch.onnx.export(exported_program) makes one of it, "
            "and onnx_gconv.integrations.torch.export(exported_program, (), path) maps it, too"
        )
    if given is None:
        yield (
            "None is no model: exporters that write a file, such as torch.onnx.export(..., dynamo=False), return None; "
            "give the path of that file"
        )
    if isinstance(given, (bytes, bytearray, memoryview)):
        yield "bytes are no model: give the path of their file, or onnx.load_model_from_string(bytes)"
    if isinstance(given, (onnx.GraphProto, ir.Graph, ir.GraphView)):
        yield "a graph is no model, because it has no opsets: give the model that holds the graph"
    if isinstance(given, (list, tuple, set, dict)):
        yield f"a {kind.__name__} is no model: give one model, and call again for each other one"
    if hasattr(given, "read"):
        yield "an open file is no model: give its path"
    if kind.__module__.split(".")[0] == "onnx_gconv" and hasattr(given, "output"):
        yield f"a {kind.__name__} is no model, but says which one was written: give its `output`"
    yield f"an object of type {kind.__name__} is no model"


def _is_of_torch(kind: type, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split(".")[0] == "torch" for base in kind.__mro__)
