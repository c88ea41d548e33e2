"""Finds data files that are not there: weights are compared without those of other tensors, but no model can be run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.tensors.external import external_tensors, is_absent

__all__ = ["missing_data"]


def missing_data(models: Mapping[Path, ir.Model]) -> str | None:
    """Return why ONNX Runtime cannot load one of the models, with the remedy; None if all data files are there.

    Args:
        models: The models by their files.
    """
    for file, model in models.items():
        for tensor in external_tensors(model):
            if is_absent(tensor):
                return (
                    f"'{file}': the data file '{tensor.location}' of the tensor '{tensor.name}' is not there, so that "
                    "the model cannot be run; copy the data file there"
                )
    return None
