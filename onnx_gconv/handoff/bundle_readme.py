"""README.txt of a bundle: its files, units and layers, and how to read a tile in three lines of code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnx_gconv.files.csv_text import inert
from onnx_gconv.handoff.manifest import BundleManifest, LayerRecord, TileRecord
from onnx_gconv.terminal_text import counted
from onnx_gconv.visible_text import visible, visible_json

__all__ = ["README_FILE", "bundle_readme"]

README_FILE = "README.txt"

_INDENT = "    "

_PAIR_LAYOUTS = {
    "separate_arrays": "the devices of a pair stand on arrays of their own",
    "adjacent_columns": "the devices of a pair stand in neighbouring columns of one array",
    "interleaved_rows": "the devices of a pair stand in neighbouring rows of one array",
}

# How MATLAB and Octave read numbers of each type.
_PRECISIONS = {"float32": "single", "float64": "double"}

_OTHER_FILES = {
    "manifest.json": "everything else that is known, as JSON: layers, tiles, the arrays they stand on, checksums",
    "model.onnx": "the mapped model; it computes with these conductances",
    "plain.onnx": "the model with its weights rebuilt from them",
    "targets.csv": "the targets as text, a line for each device of each cell",
}


def bundle_readme(manifest: BundleManifest, formats: Sequence[str], *, csv: bool, pictures: bool) -> str:
    """The text of README.txt.

    Args:
        manifest: The manifest of the bundle.
        formats: Names of the formats of other tools in the bundle.
        csv: Whether the bundle has ``targets.csv``.
        pictures: Whether the bundle has pictures.
    """
    files = [*_files(manifest, formats, csv=csv, pictures=pictures)]
    width = max(len(name) for name, _ in files)
    geometry = manifest.geometry
    arrays = f"{manifest.total_arrays:,} arrays" if manifest.total_arrays != 1 else "1 array"
    lines = [
        f"Hand-off bundle of {_quoted(manifest.source.name)}, written by {visible(manifest.tool)}: the conductances",
        "that the crossbar arrays of a chip are to be programmed to. All conductances are in µS (1e-6 siemens).",
        "",
        "Files",
        *(f"{_INDENT}{name:{width}}  {text}" for name, text in files),
        "",
        "Words",
        f"{_INDENT}layer   a weight of the model, as a matrix of inputs by outputs, or as several: L000, L001, ...",
        f"{_INDENT}tile    a part of a matrix that stands on one array of the chip, or on one for each device",
        f"{_INDENT}device  one of the conductances of a weight:",
        f"{_INDENT}        weight = (sum of coefficient * conductance - offset) / scale + zero",
        "",
        f"The chip: {arrays} of {geometry.rows} x {geometry.columns} (rows = inputs, columns = outputs);",
        f"{_PAIR_LAYOUTS[geometry.pair_layout]}.",
        "Cells of an array that hold no weight are programmed to the lowest conductance of the layer.",
        *_places(manifest),
        *_tolerance(manifest),
        "",
        "Layers, with names as JSON has them",
        *(f"{_INDENT}{line}" for layer in manifest.layers for line in _layer_lines(layer)),
        *_reading(manifest, formats, csv=csv),
        "",
        "Send measured conductances back under the same keys, [inputs, outputs] in µS, as measured.h5 or measured.npz.",
        "docs/bundle.md of onnx_gconv specifies all of this.",
    ]
    return "".join(f"{line}\n" for line in lines)


def _files(manifest: BundleManifest, formats: Sequence[str], *, csv: bool, pictures: bool) -> Iterator[tuple[str, str]]:
    """The files and folders of the bundle, each with a description."""
    yield "manifest.json", _OTHER_FILES["manifest.json"]
    yield manifest.arrays.path, "the targets of every tile and device, [inputs, outputs] in µS; scales, zeros, biases"
    known = [file.path for file in manifest.files]
    for name in ("model.onnx", "plain.onnx"):
        yield name, _OTHER_FILES[name]
    folders = {*formats, "pictures"}
    for path in known:
        if path not in _OTHER_FILES and path.partition("/")[0] not in folders:
            yield _quoted(path)[1:-1], "data of the models"
    if csv:
        yield "targets.csv", _OTHER_FILES["targets.csv"]
    for name in formats:
        yield f"{name}/", "the targets in the format of that name; README.txt in it says more"
    if pictures:
        yield "pictures/", "pictures of the targets"


def _places(manifest: BundleManifest) -> Iterator[str]:
    """Say where cells stand on the arrays of the chip, and what is left out and stuck there."""
    yield "manifest.json says on which array each tile stands (placements); `onnx-gconv targets` lists row and column"
    yield "of each cell on its array."
    if manifest.defects is None:
        return
    tiles = [tile for layer in manifest.layers for tile in layer.tiles]
    avoided = sum(
        len(placement.avoided_rows) + len(placement.avoided_columns) for tile in tiles for placement in tile.placements
    )
    lines = counted(avoided, "row or column of arrays is", "rows and columns of arrays are")
    yield f"Tiles were placed with the defect map {_quoted(manifest.defects.name)}:"
    yield f"{_INDENT}{lines} left out (avoided_rows and avoided_columns in placements); cells behind stand further on"
    stuck = [item.cells.key for tile in tiles for item in tile.stuck]
    if stuck:
        more = f", and {len(stuck) - 1:,} more like it" if len(stuck) > 1 else ""
        yield f"{_INDENT}cells are stuck: {stuck[0]} of {manifest.arrays.path} has their rows and columns{more}"


def _tolerance(manifest: BundleManifest) -> Iterator[str]:
    preset = manifest.preset
    if preset is None:
        return
    absolute = [] if preset.tolerance_us is None else [f"{preset.tolerance_us:g} µS"]
    relative = [] if preset.tolerance_relative is None else [f"{preset.tolerance_relative * 100:g} % of its target"]
    if both := [*absolute, *relative]:
        larger = ", whichever is larger" if len(both) > 1 else ""
        yield f"How far from its target a device may be ({visible(preset.name)}): {' or '.join(both)}{larger}."


def _layer_lines(layer: LayerRecord) -> Iterator[str]:
    view = layer.matrix_view
    several = f"{view.matrices} matrices of " if view.matrices > 1 else ""
    bias = f" and {layer.bias_rows} of the bias" if layer.bias_rows else ""
    scale = "of many values" if layer.scale.value is None else f"{layer.scale.value:.9g}"
    size = f"{several}{view.rows} inputs{bias} x {view.columns} outputs"
    tiles = "1 tile" if len(layer.tiles) == 1 else f"{len(layer.tiles):,} tiles"
    yield f"{layer.id}  {_quoted(layer.known_as)} of {visible(layer.nodes[0].op_type)}: {size} in {tiles}"
    devices = ", ".join(f"{device.name} (coefficient {device.coefficient:g})" for device in layer.devices)
    yield (
        f"      devices {devices}; {layer.g_min:g} to {layer.g_max:g} µS, offset {layer.offset_us:g} µS, scale {scale} "
        "µS per unit of weight"
    )
    if layer.rounded:
        yield from _lines_on_codes(layer)


def _lines_on_codes(layer: LayerRecord) -> Iterator[str]:
    """Say that the weights are integer codes, and which digital scales make numbers of the outputs."""
    yield "      its weights are integer codes less their zero points; scales are digital:"
    found = layer.dequantization
    if found is None or (found.scale is None and found.scales is None):
        yield "      not known, see the model"
        return
    place = f"{_quoted(found.scale or '')} of model.onnx"
    if found.scales is not None:
        place = f"array {_quoted(found.scales.key)}"
    blocks = (
        "" if found.axis is None or found.block is None else f", along axis {found.axis} in blocks of {found.block}"
    )
    yield f"      {place}{blocks}"
    rows, view = max(tile.inputs[1] - tile.inputs[0] for tile in layer.tiles), layer.matrix_view
    runs_along_inputs = tuple(view.split_shape) == layer.shape and found.axis in view.row_axes
    if runs_along_inputs and rows > (found.block or rows):
        yield "      columns of tiles sum blocks of different scales: drive one block of inputs at a time"


# Reading a tile


@dataclass(frozen=True)
class _Example:
    """The tile and device that the example code reads.

    Attributes:
        key: Key of the array in the arrays file.
        tile: Id of the tile.
        device: Name of the device.
        shape: Number of inputs and outputs of the tile.
        precision: MATLAB's name of the array's dtype: ``single`` or ``double``.
    """

    key: str
    tile: str
    device: str
    shape: tuple[int, int]
    precision: str

    @classmethod
    def of(cls, layer: LayerRecord, tile: TileRecord) -> _Example:
        shape = tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0]
        device = layer.devices[0].name
        return cls(tile.conductances[0].key, tile.id, device, shape, _PRECISIONS[layer.array_dtype])


def _reading(manifest: BundleManifest, formats: Sequence[str], *, csv: bool) -> Iterator[str]:
    """Code that reads a tile, for each file format in the bundle; it runs in the folder of the bundle."""
    if not manifest.layers:
        return
    layer = manifest.layers[0]
    tile = layer.tiles[0]
    example = _Example.of(layer, tile)
    yield ""
    inputs, outputs = example.shape
    yield f"Reading a tile: {example.device} of {example.tile}, {inputs} inputs x {outputs} outputs, in µS."
    yield (
        f"It is inputs {tile.inputs[0]} to {tile.inputs[1] - 1} and outputs {tile.outputs[0]} to {tile.outputs[1] - 1} "
        f"of matrix {tile.matrix} of {layer.id}. The lines run in the folder of this file."
    )
    forms: dict[str, Callable[[_Example], dict[str, list[str]]]] = {"hdf5": _hdf5_lines, "npz": _npz_lines}
    readings = [(manifest.arrays.path, forms[manifest.arrays.kind](example))]
    if "npy" in formats:
        readings.append(("npy", _npy_lines(example)))
    if csv:
        readings.append(("targets.csv", _csv_lines(example)))
    for file, lines_of in readings:
        for language, lines in lines_of.items():
            yield ""
            yield f"{file} in {language}"
            yield from (f"{_INDENT}{line}" for line in lines)


def _hdf5_lines(example: _Example) -> dict[str, list[str]]:
    layer, _, rest = example.key.partition("/")
    fields = ".".join(re.sub(r"\W", "_", part, flags=re.ASCII) for part in rest.split("/"))
    return {
        "Python": [
            "import h5py",
            'with h5py.File("conductances.h5") as file:',
            f'{_INDENT}targets = file["{example.key}"][()]',
        ],
        "MATLAB": [
            f"targets = h5read('conductances.h5', '/{example.key}')';  % h5read reverses the axes",
            f"unit = h5readatt('conductances.h5', '/{example.key}', 'unit');",
            f"range = h5readatt('conductances.h5', '/{example.key}', 'range');",
        ],
        "Octave": [
            f"load('conductances.h5', '{layer}');",
            f"targets = {layer}.{fields}';  % load reverses the axes",
        ],
    }


def _npz_lines(example: _Example) -> dict[str, list[str]]:
    return {
        "Python": ["import numpy as np", f'targets = np.load("conductances.npz")["{example.key}"]'],
        "MATLAB and Octave": [
            "folder = tempname(); unzip('conductances.npz', folder);",
            *_npy_in_matlab(f"fullfile(folder, '{example.key}.npy')", example),
        ],
    }


def _npy_lines(example: _Example) -> dict[str, list[str]]:
    return {
        "Python": ["import numpy as np", f'targets = np.load("npy/{example.key}.npy")'],
        "MATLAB and Octave": _npy_in_matlab(f"'npy/{example.key}.npy'", example),
    }


def _npy_in_matlab(path: str, example: _Example) -> list[str]:
    """Code that reads an .npy file.

    The file begins with 10 bytes, of which the last two are the length of the header that follows; then come the
    numbers.
    """
    rows, columns = example.shape
    return [
        f"file = fopen({path}); head = fread(file, 10); fseek(file, 10 + head(9) + 256 * head(10), 'bof');",
        f"targets = fread(file, [{columns}, {rows}], '{example.precision}', 0, 'ieee-le')'; fclose(file);",
    ]


def _csv_lines(example: _Example) -> dict[str, list[str]]:
    shape, (rows, columns) = example.shape, example.shape
    device = inert(example.device)  # as targets.csv writes the name
    in_matlab = device.replace("'", "''")
    place, columns_read = json.dumps([example.tile, device]), "%s %s %f %f %f %f %f %*[^\\n]"
    return {
        "Python": [
            "import csv, numpy as np",
            'with open("targets.csv", encoding="utf-8", newline="") as file:',
            f"{_INDENT}targets = np.reshape([float(c[6]) for c in csv.reader(file) if c[:2] == {place}], {shape})",
        ],
        "MATLAB and Octave": [
            f"file = fopen('targets.csv'); fgetl(file); cells = textscan(file, '{columns_read}', 'Delimiter', ',');",
            f"is_mine = strcmp(cells{{1}}, '{example.tile}') & strcmp(cells{{2}}, '{in_matlab}');",
            f"targets = reshape(cells{{7}}(is_mine), {columns}, {rows})';",
        ],
    }


def _quoted(name: str) -> str:
    return visible_json(json.dumps(name, ensure_ascii=False))
