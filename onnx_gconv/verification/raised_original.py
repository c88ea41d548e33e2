"""Raises an original that is too old for ONNX Runtime to the opset of its mapped model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import RaiseOpset
from onnx_gconv.weights import default_opset

__all__ = ["RaisedOriginal", "raised_original"]


@dataclass(frozen=True)
class RaisedOriginal:
    """An original at the opset of its mapped model.

    Attributes:
        model: Its file, which exists only in the ``with`` block.
        note: A note on what the comparison with it does not prove.
    """

    model: Path
    note: str


@contextmanager
def raised_original(original: Path, mapped: Path) -> Iterator[RaisedOriginal | None]:
    """Give the original at the opset of the mapped model, in a temporary folder.

    None if it has that opset already, or cannot be raised.

    Raises:
        ModelError: If a model cannot be read.
    """
    model, opset = load_model(original), default_opset(load_model(mapped))
    before = default_opset(model)
    if before is None or opset is None or before >= opset:
        yield None
        return
    try:
        RaiseOpset(opset)(model)
    except ModelError:  # the report says why ONNX Runtime does not run the original, which is more helpful
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        path = Path(folder) / original.name
        save_model(model, path)
        del model
        yield RaisedOriginal(
            path,
            f"ONNX Runtime does not run the original at opset {before}; its outputs are those that it has after "
            f"onnx.version_converter raised it to opset {opset}, so that what the converter did is not checked",
        )
