"""Removes the read noise from a mapped model, so that its outputs can be compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import Manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.verification.rebuilt_original import NoRebuiltOriginalError

__all__ = ["READ_NOISE_TAKEN_OUT", "draws_readings", "without_read_noise"]

READ_NOISE_TAKEN_OUT = (
    "each run of the mapped model draws new readings of its devices, so that its outputs differ from run to run: "
    "errors of outputs are those of one run; weights, and what passes of outputs, are judged without that noise"
)


def draws_readings(manifest: Manifest) -> bool:
    """Whether nodes of a model draw readings of its devices in each run."""
    return any(record.read_noise for record in manifest.weights)


@contextmanager
def without_read_noise(mapped: Path, manifest: Manifest) -> Iterator[Path]:
    """Give a copy of the mapped model, in a temporary folder, that rebuilds weights from conductances without noise::

        before:  Sub(W.g_plus_read, W.g_minus_read)
        after:   Sub(W.g_plus, W.g_minus)

    A model that draws no readings is given itself, not a copy.

    Args:
        mapped: The model; it is not changed.
        manifest: Its manifest.

    Raises:
        NoRebuiltOriginalError: If its nodes are not as the manifest says.
        ModelError: If the model cannot be read.
    """
    if not draws_readings(manifest):
        yield mapped
        return
    model = load_model(mapped)
    values = ModelValues(model)
    for record in manifest.weights:
        if not record.read_noise:
            continue
        try:
            terms = locate(record, values).terms
        except BrokenMappingError as error:
            raise NoRebuiltOriginalError(f"the noise of {record.quoted} cannot be taken out: {error}") from None
        for term in terms:
            (node, index), drawing = term.use, term.decoded.producer()
            assert term.reading is not None and drawing is not None  # noqa: PT018, S101 - `locate` has found them
            node.replace_input_with(index, term.reading.conductance)
            remove_unused([drawing])
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        path = Path(folder) / mapped.name
        save_model(model, path, external_data=True)
        del model, values
        yield path
