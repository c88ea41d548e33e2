"""What each further format leaves out or rounds, and what a station has to know to use its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.neurosim import NEUROSIM_ROUNDING_US
from onnx_gconv.handoff.formats.scales import SCALES_FILE

__all__ = ["HandoffFormat", "format_notes", "readme_text"]

HandoffFormat: TypeAlias = Literal["fusion", "fusion-pair", "neurosim", "npy"]

_MOST_NAMED = 4

# max_input_size and max_output_size of a mapping in aihwkit 1.1.0, if nobody says otherwise.
_AIHWKIT_TILE = 512
_CUT_BY_AIHWKIT = (
    f"aihwkit cuts a layer of more than {_AIHWKIT_TILE} inputs or outputs into tiles, if max_input_size and "
    "max_output_size do not say otherwise, and writes it tile by tile; here it is whole"
)

_FUSION_LINES = """\
Five lines with an entry for each layer: its number, its class in aihwkit, its number of weights, its height (outputs)
and its width (inputs). Then a line with the names of the layers, and then a line for each layer, output by output."""

_CONTENT: dict[HandoffFormat, str] = {
    "fusion": f"""\
conductances.csv: the magnitudes of IBM's Fusion chip in µS, as fusion_export of aihwkit 1.1.0 writes them.

{_FUSION_LINES}

signs.csv: the same lines with the sign of each weight, 1, 0 or -1, in place of its conductance.
{SCALES_FILE}: the scales; a weight is sign * conductance / scale + zero.

To read conductances back with aihwkit: it finds layers by name, needs layers that are one tile (max_input_size =
max_output_size = 0 in the mapping of rpu_config), and the weights as they were. It compares the first five lines only
if it is given the name of the file: its numbers count digital modules, too. Without that:

    lines = list(csv.reader(open("conductances.csv", newline="")))
    values = OrderedDict(zip(lines[5], ([float(text) for text in line] for line in lines[6:])))
    weights = {{name: [{{"original_weights": weight}}] for name, weight in ...}}   # tensors [outputs, inputs]
    fusion_import(values, analog_model, weights)
""",
    "fusion-pair": f"""\
conductances.csv: the pairs of devices in µS, as fusion_export of aihwkit 1.1.0 writes them with a converter of pairs.

{_FUSION_LINES} A line has G+ of all weights of the layer first, and then G- of all of them.

{SCALES_FILE}: the scales; a weight is (G+ - G-) / scale + zero. fusion_import of aihwkit 1.1.0 cannot read such lines.
""",
    "neurosim": f"""\
LAYER_DEVICE.csv, or LAYER_MATRIX_DEVICE.csv of layers with several matrices: conductances in µS in the layout of the
weight files of DNN+NeuroSim V1.4, a line for each input, a number for each output.

{SCALES_FILE}: the scales; a weight is (sum of coefficient * conductance - offset) / scale + zero.

NeuroSim's own program takes what it reads for weights between algoWeightMin and algoWeightMax (Param.cpp: -1 and 1),
rounds them to synapseBit bits, and makes conductances of its own of them. To have it take these files, set the two to
the least and the largest conductance of the devices in µS. It knows neither pairs nor scales: each file is a layer.
""",
    "npy": """\
LAYER/TILE/DEVICE.npy: the targets of a device of a tile in µS, [inputs, outputs]. LAYER/TILE/DEVICE_code.npy, if the
mapping has codes: the numbers of their levels. LAYER/scale.npy, zero.npy, scale_row_starts.npy and
scale_column_starts.npy: the scales of all matrices, and where their pieces begin. LAYER/bias.npy: the bias, as the
model has it. The names are the keys of the arrays file, and so are the bytes. All are little-endian, in row-major
order, and load with allow_pickle=False.

A weight is (sum of coefficient * conductance - offset) / scale + zero. manifest.json says where tiles stand.
""",
}

_ALWAYS: dict[HandoffFormat, tuple[str, ...]] = {
    "fusion": (
        f"signs and scales are not in conductances.csv, but beside it, in signs.csv and {SCALES_FILE}",
        "matrices are whole; tiles are not in it",
    ),
    "fusion-pair": (
        f"scales are not in conductances.csv, but beside it, in {SCALES_FILE}",
        "matrices are whole; tiles are not in it",
        "aihwkit's fusion_import cannot read pairs",
    ),
    "neurosim": (
        f"numbers have five decimals, which moves conductances by up to {NEUROSIM_ROUNDING_US:g} µS",
        f"scales are not in the matrices, but beside them, in {SCALES_FILE}",
        "matrices are whole; tiles are not in it",
        "NeuroSim's own program makes other conductances of the numbers; README.txt says how to set it",
    ),
    "npy": ("where tiles stand is only in manifest.json",),
}


def format_notes(name: HandoffFormat, layers: Sequence[Layer]) -> tuple[str, ...]:
    """What a format leaves out of these layers or rounds, and what readers have to know; a line each.

    Args:
        name: The format.
        layers: The layers.
    """
    particular = (
        (
            "biases are not in it; they are added digitally, and the arrays file has them",
            [layer for layer in layers if layer.bias is not None and not _has_bias_rows(layer) and name != "npy"],
        ),
        (
            "the rows of the bias are not in it; add the bias digitally, or take the rows from the arrays file",
            [layer for layer in layers if _has_bias_rows(layer) and name != "npy"],
        ),
        (
            "several matrices (groups, batches, directions) stand one by one",
            [layer for layer in layers if layer.layout.matrices > 1 and name != "npy"],
        ),
        (
            _CUT_BY_AIHWKIT,
            [layer for layer in layers if _is_cut_by_aihwkit(layer) and name in {"fusion", "fusion-pair"}],
        ),
        ("a factor that multiplies the outputs is not in it", [layer for layer in layers if _factor(layer) != 1.0]),
        (
            "weights of integer codes: what the scale gives is still to be rounded, and the zero point added",
            [layer for layer in layers if layer.record.rounded],
        ),
        (
            "codes of levels are not in it, only their conductances",
            [layer for layer in layers if _has_codes(layer) and name != "npy"],
        ),
    )
    return (*_ALWAYS[name], *(f"{text}: {_named(found)}" for text, found in particular if found))


def readme_text(name: HandoffFormat, layers: Sequence[Layer]) -> str:
    """The text that stands beside the files of a format.

    Args:
        name: The format.
        layers: The layers.
    """
    notes = "\n".join(f"- {note}" for note in format_notes(name, layers))
    described = "\n".join(map(_description, layers))
    return (
        f"{_CONTENT[name]}\nWhat to know:\n{notes}\n\nLayers, with names as JSON has them:\n{described}\n\n"
        "manifest.json, in the folder above, says everything else; docs/bundle.md of onnx_gconv explains it.\n"
    )


def _description(layer: Layer) -> str:
    record, layout = layer.record, layer.layout
    parameters = record.converter.parameters
    devices = ", ".join(f"{item.device} (coefficient {item.coefficient:g})" for item in record.conductances)
    reach = f"from {parameters['g_min']:g} to {parameters['g_max']:g} µS"
    several = f"{layout.matrices} matrices of " if layout.matrices > 1 else ""
    size = f"{several}{layout.rows} inputs x {layout.columns} outputs"
    lines = [
        f"{layer.id}: weight {_quoted(record.name)} of {layer.consumers[0].op_type}, {size}",
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


def _is_cut_by_aihwkit(layer: Layer) -> bool:
    return max(layer.layout.rows, layer.layout.columns) > _AIHWKIT_TILE


def _has_codes(layer: Layer) -> bool:
    return layer.record.levels_of_codes is not None


def _named(layers: Sequence[Layer]) -> str:
    ids = [layer.id for layer in layers[:_MOST_NAMED]]
    more = len(layers) - len(ids)
    return ", ".join(ids) + (f" and {more} more" if more else "")


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
