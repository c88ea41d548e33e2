"""The notes on what a format leaves out of the layers, and README.txt beside the files of each format."""

from __future__ import annotations

import json
from collections.abc import Sequence

from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote
from onnx_gconv.visible_text import visible, visible_json

__all__ = ["README_FILE", "format_notes", "readme_text"]

README_FILE = "README.txt"


def format_notes(form: HandoffFormat, layers: Sequence[Layer]) -> tuple[str, ...]:
    """What a format leaves out or rounds, and what readers of these layers have to know; a line each.

    Args:
        form: The format.
        layers: The layers.
    """
    held = form.held(layers)
    common = ((), ()) if form.is_for_costs else (_of_matrices(form, held), _of_values(form, held))
    particular = (*common[0], *form.notes(layers), *common[1])
    return (*form.remarks, *(str(note) for note in particular if note.layers))


def readme_text(form: HandoffFormat, layers: Sequence[Layer]) -> str:
    """The text of README.txt beside the files of a format.

    Args:
        form: The format.
        layers: The layers.
    """
    notes = "\n".join(f"- {note}" for note in format_notes(form, layers))
    described = "\n".join(map(_description, form.held(layers)))
    return (
        f"{form.readme_content()}\nWhat to know:\n{notes}\n\nLayers, with names as JSON has them:\n{described}\n\n"
        "manifest.json, in the folder above, says everything else; docs/bundle.md of onnx_gconv explains it.\n"
    )


def _of_matrices(form: HandoffFormat, layers: Sequence[Layer]) -> tuple[LayerNote, ...]:
    """Notes on parts of layers that the format leaves out or separates: biases and matrices."""
    return (
        LayerNote(
            "biases are not in it; they are added digitally, and the arrays file has them",
            [item for item in layers if item.bias is not None and not _has_bias_rows(item) and not form.holds_biases],
        ),
        LayerNote(
            "the rows of the bias are not in it; add the bias digitally, or take the rows from the arrays file",
            [item for item in layers if _has_bias_rows(item) and not form.holds_bias_rows],
        ),
        LayerNote(
            "several matrices (groups, batches, directions) are written one by one",
            [item for item in layers if item.layout.matrices > 1 and not form.holds_tiles],
        ),
    )


def _of_values(form: HandoffFormat, layers: Sequence[Layer]) -> tuple[LayerNote, ...]:
    """Notes on what has to be applied between the conductances and the outputs of a layer: factors, codes, scales."""
    return (
        LayerNote(
            "a factor that multiplies the outputs is not in it", [item for item in layers if _factor(item) != 1.0]
        ),
        LayerNote(
            "weights of integer codes: round after dividing by the scale, and add the zero point",
            [item for item in layers if item.record.rounded],
        ),
        LayerNote(
            "the scales that dequantize integer codes are not in it; manifest.json of the bundle names them "
            "(dequantization)",
            [item for item in layers if item.record.dequantization is not None],
        ),
        LayerNote(
            "codes of levels are not in it, only their conductances",
            [item for item in layers if _has_codes(item) and not form.holds_codes],
        ),
    )


def _description(layer: Layer) -> str:
    record, layout = layer.record, layer.layout
    parameters = record.converter.parameters
    devices = ", ".join(f"{item.device} (coefficient {item.coefficient:g})" for item in record.conductances)
    reach = f"from {parameters['g_min']:g} to {parameters['g_max']:g} µS"
    several = f"{layout.matrices} matrices of " if layout.matrices > 1 else ""
    size = f"{several}{layout.rows} inputs x {layout.columns} outputs"
    in_model = "" if record.known_as == record.name else f" (in the model {_quoted(record.name)})"
    lines = [
        f"{layer.id}: weight {_quoted(record.known_as)}{in_model} of {visible(layer.consumers[0].op_type)}, {size}",
        f"devices {devices}, {reach}, offset {record.offset_us:g} µS",
        f"scale in µS per unit of weight: {_scale_text(layer)}",
    ]
    if _factor(layer) != 1.0:
        lines.append(f"the outputs are multiplied by {_factor(layer):g}")
    if layer.bias is not None:
        lines.append(f"bias {_quoted(layer.bias.name)}, a constant of model.onnx; {layer.id}/bias of the arrays file")
    if record.rounded:
        lines.append("a weight is an integer code: round, and add the zero point, which manifest.json names")
    return "\n  ".join(lines)


def _scale_text(layer: Layer) -> str:
    scale, zero = layer.scale_and_zero()
    if (scale == scale.flat[0]).all() and (zero == zero.flat[0]).all():
        return f"{scale.flat[0]}, zero {zero.flat[0]}"
    return f"{scale.size} of them, for each {layer.record.granularity.replace('_', ' ')}"


def _factor(layer: Layer) -> float:
    view = layer.consumers[0].matrix_view
    assert view is not None  # noqa: S101 - layers have one
    return view.factor


def _has_bias_rows(layer: Layer) -> bool:
    return isinstance(layer.bias_rows, BiasRows)


def _has_codes(layer: Layer) -> bool:
    return layer.record.levels_of_codes is not None


def _quoted(name: str) -> str:
    return visible_json(json.dumps(name, ensure_ascii=False))
