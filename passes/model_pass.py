"""The base class of all passes: it accepts a model in several forms, and explains what to give in place of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, TypeVar, cast

import onnx
import onnx_ir as ir

from onnx_gconv.files.given import ProgramLike, is_program
from onnx_gconv.files.given.kinds import why_no_model
from onnx_gconv.mapping.preconditions import ModelPreconditionError

__all__ = ["MODEL_IN_MEMORY", "ModelPass", "Result"]

MODEL_IN_MEMORY = Path("<onnx_ir.Model>")
"""The name that reports give to a model that is in no file."""

Result = TypeVar("Result", bound=ir.passes.PassResult)


class ModelPass(ir.passes.InPlacePass, Generic[Result]):
    """A pass that changes a model in place; it takes the model itself, or an object that holds one."""

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult | ProgramLike, /) -> Result:
        """Run the pass.

        Args:
            model_or_result: The model, the result of another pass, or a ``torch.onnx.ONNXProgram``, whose model is
                changed.

        Raises:
            ModelError: If the argument is something else; the message says what to give instead.
        """
        return cast("Result", super().__call__(self._model_of(model_or_result)))

    def _model_of(self, given: object) -> ir.Model:
        if isinstance(given, ir.Model):
            return given
        if is_program(given):
            return cast("ProgramLike", given).model
        if isinstance(given, (str, os.PathLike)):
            why = f"'{given!s}' is a path: onnx_ir.load(path) reads the model, and map_model maps from file to file"
        elif isinstance(given, onnx.ModelProto):
            why = (
                "an onnx.ModelProto is not changed in place: onnx_ir.from_proto(proto) makes a model of it, and "
                "onnx_ir.to_proto(result.model) gives it back"
            )
        else:
            why = why_no_model(given)
        name = type(self).__name__
        raise ModelPreconditionError(
            f"{why}; the pass {name} takes an onnx_ir.Model, or what torch.onnx.export returns"
        )
