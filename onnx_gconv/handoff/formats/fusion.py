"""The CSV file for IBM's Fusion chip, as aihwkit 1.1.0 writes and reads it (``aihwkit.utils.export``).

The file has five lines with an entry for each layer (its number, class, number of weights, height = outputs, width =
inputs), a line with the names of the layers, and then a line for each layer: its conductances in µS, output by output.

aihwkit writes two variants. With `FusionConductanceConverter`, the default of `fusion_export`, the line of a layer
holds one magnitude for each weight; the chip keeps the other device of the pair in reset, and the file does not hold
the signs. With a converter of pairs, the line holds G+ of all weights and then G- of all weights; `fusion_import`
cannot read this variant.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.csv_text import csv_line, inert
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances, device_cells
from onnx_gconv.handoff.formats.scales import SCALES_FILE, ScaledMatrix, write_scales
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["Fusion", "FusionPair"]

_VALUES, _SIGNS = "conductances.csv", "signs.csv"

_LINES = """\
Five lines with an entry for each layer: its number, its class in aihwkit, its number of weights, its height (outputs)
and its width (inputs). Then a line with the names of the layers, and then a line for each layer, output by output."""

# The defaults of max_input_size and max_output_size of a mapping in aihwkit 1.1.0.
_AIHWKIT_TILE = 512

# The range that FusionConductanceConverter of aihwkit 1.1.0 accepts, in µS.
_LEAST_G_MAX, _MOST_G_MAX = 10.0, 40.0

# So many numbers are formatted at once, because Python's floats and texts need many times the memory of an array.
_TEXT_CELLS = 1 << 16

# aihwkit has AnalogConv1d to AnalogConv3d.
_MOST_KERNEL_AXES = 3


class Fusion(HandoffFormat):
    """The format ``fusion``: the magnitude G+ + G- of each pair, one of which is 0; signs and scales in other files."""

    name = "fusion"
    description = "IBM's Fusion chip"
    content = f"""\
conductances.csv: the magnitudes of IBM's Fusion chip in µS, as fusion_export of aihwkit 1.1.0 writes them.

{_LINES}

signs.csv: the same lines with the sign of each weight, 1, 0 or -1, in place of its conductance.
{SCALES_FILE}: the scales; a weight is sign * conductance / scale + zero.

To read conductances back, aihwkit's fusion_import finds layers by name. It needs the weights as they were, and layers
that are one tile (max_input_size = max_output_size = 0 in the mapping of rpu_config). Give it the values, not the name
of the file: with a name it also compares the first five lines, but aihwkit's layer numbers count digital modules, too:

    lines = list(csv.reader(open("conductances.csv", newline="")))
    values = OrderedDict(zip(lines[5], ([float(text) for text in line] for line in lines[6:])))
    weights = {{name: [{{"original_weights": weight}}] for name, weight in ...}}   # tensors [outputs, inputs]
    fusion_import(values, analog_model, weights)
"""
    remarks: ClassVar[tuple[str, ...]] = (
        f"signs and scales are not in conductances.csv, but beside it, in signs.csv and {SCALES_FILE}",
        "matrices are written whole, not cut into tiles",
    )

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that one magnitude and a sign describe each weight, and that the chip reaches the conductances.

        Raises:
            ConfigError: If a layer is not mapped to single pairs with g_min = 0, its g_max is out of the chip's range,
                or an output has more than one scale.
        """
        for layer in layers:
            parameters = layer.record.converter.parameters
            if layer.record.converter.name != "SinglePairConductanceConverter" or parameters["g_min"] != 0:
                raise _refused(
                    layer,
                    self.name,
                    f"it programs one device of a pair and leaves the other at 0 µS, but {_mapping_text(layer)}; map "
                    "with --converter single-pair --g-min 0, or choose fusion-pair, csv or npy",
                )
            if not _LEAST_G_MAX <= parameters["g_max"] <= _MOST_G_MAX:
                raise _refused(
                    layer,
                    self.name,
                    f"the chip's g_max is {_LEAST_G_MAX:g} .. {_MOST_G_MAX:g} µS, but that of the weight is "
                    f"{parameters['g_max']:g} µS; map with another --g-max, or choose fusion-pair, csv or npy",
                )
            if len(layer.scale_grid.row_starts) > 1:
                raise _refused(
                    layer,
                    self.name,
                    f"it has one scale for each output, but with the granularity {layer.record.granularity} an output "
                    f"has {len(layer.scale_grid.row_starts)}; map with --granularity channel, or choose fusion-pair, "
                    "csv or npy",
                )

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """The layers that aihwkit would cut into tiles, and those whose names differ from the model's."""
        return [_cut_by_aihwkit(layers), _renamed(layers)]

    def cells(self, layers: Sequence[Layer]) -> int:
        """Number of conductances of both devices, which are all read although one magnitude per pair is written."""
        return device_cells(layers)

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> list[FileRecord]:
        """Write magnitudes, signs and scales."""
        columns = _columns(layers)
        with (
            HashedFile(folder, f"{self.name}/{_VALUES}") as values,
            HashedFile(folder, f"{self.name}/{_SIGNS}") as signs,
        ):
            for file in (values, signs):
                file.write(_head(columns))
            for column in columns:
                with (
                    LayerConductances(column.layer) as conductances,
                    _row(values) as value_row,
                    _row(signs) as sign_row,
                ):
                    for plus, minus in conductances.blocks(column.matrix, (0, 1), "output"):
                        if np.minimum(plus, minus).any():
                            raise _conducting_pair(column)
                        value_row.add(np.abs(plus + minus))
                        sign_row.add(np.sign(plus - minus).astype(np.int8))
                        advance(plus.size + minus.size)
        return [values.record, signs.record, _write_scales(columns, folder, self.name)]


class FusionPair(HandoffFormat):
    """The format ``fusion-pair``: a line with G+ and then G- of all weights of a matrix; scales in a file beside."""

    name = "fusion-pair"
    description = "IBM's Fusion chip, with both devices of each pair"
    content = f"""\
conductances.csv: the pairs of devices in µS, as fusion_export of aihwkit 1.1.0 writes them with a converter of pairs.

{_LINES} A line has G+ of all weights of the layer first, and then G- of all of them.

{SCALES_FILE}: the scales; a weight is (G+ - G-) / scale + zero. fusion_import of aihwkit 1.1.0 cannot read such lines.
"""
    remarks: ClassVar[tuple[str, ...]] = (
        f"scales are not in conductances.csv, but beside it, in {SCALES_FILE}",
        "matrices are written whole, not cut into tiles",
        "aihwkit's fusion_import cannot read pairs",
    )

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that every weight has exactly one pair of devices.

        Raises:
            ConfigError: If a layer has other devices.
        """
        for layer in layers:
            if layer.pairs != ((0, 1),) or len(layer.record.conductances) != len(layer.pairs[0]):
                raise _refused(
                    layer,
                    self.name,
                    f"it has a place for one pair of devices, but {_mapping_text(layer)}; map with --converter "
                    "single-pair, or choose csv or npy",
                )

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """The layers that aihwkit would cut into tiles, and those whose names differ from the model's."""
        return [_cut_by_aihwkit(layers), _renamed(layers)]

    def cells(self, layers: Sequence[Layer]) -> int:
        """Number of conductances of both devices."""
        return device_cells(layers)

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> list[FileRecord]:
        """Write pairs and scales."""
        columns = _columns(layers)
        with HashedFile(folder, f"{self.name}/{_VALUES}") as file:
            file.write(_head(columns))
            for column in columns:
                with LayerConductances(column.layer) as conductances, _row(file) as row:
                    for device in (0, 1):
                        for (block,) in conductances.blocks(column.matrix, [device], "output"):
                            row.add(block)
                            advance(block.size)
        return [file.record, _write_scales(columns, folder, self.name)]


@dataclass(frozen=True)
class _Column:
    """An entry of the file. It calls each matrix of a mapped weight a layer.

    Attributes:
        layer: The layer that has the matrix.
        matrix: Number of the matrix in the layer.
        name: Unique name of the entry.
        class_name: The class of aihwkit's layer, or the op type if aihwkit has no such layer.
    """

    layer: Layer
    matrix: int
    name: str
    class_name: str


def _columns(layers: Sequence[Layer]) -> tuple[_Column, ...]:
    """The entries of the file, named as PyTorch names the module that has the weight.

    The name is that of the parameter, or of the initializer if no parameter is known, without ``.weight``, and made
    harmless for spreadsheets (`inert`). ``[k]`` is appended for matrix k of several. The layer's id is put in front if
    names repeat.
    """
    columns = tuple(
        _Column(
            layer,
            matrix,
            _module(layer) if layer.layout.matrices == 1 else f"{_module(layer)}[{matrix}]",
            _class_name(layer),
        )
        for layer in layers
        for matrix in range(layer.layout.matrices)
    )
    # A new name may equal another one, since a parameter may itself be called `a[0]` or `L003:fc`. So repeat until all
    # differ; that ends, because ids differ.
    while repeated := {name for name, count in Counter(column.name for column in columns).items() if count > 1}:
        columns = tuple(
            replace(column, name=f"{column.layer.id}:{column.name}") if column.name in repeated else column
            for column in columns
        )
    return columns


def _module(layer: Layer) -> str:
    return inert(_module_name(layer))


def _module_name(layer: Layer) -> str:
    return layer.record.known_as.removesuffix(".weight")


def _class_name(layer: Layer) -> str:
    op = layer.op
    if op.convolution is None:
        return "AnalogLinear"
    kernel_axes = len(op.kernel_shape(layer.view))
    if op.convolution == "plain" and 1 <= kernel_axes <= _MOST_KERNEL_AXES:
        return f"AnalogConv{kernel_axes}d"
    return op.op_type


def _head(columns: Sequence[_Column]) -> str:
    """The first six lines. The names and all further lines end in CR LF, as aihwkit's csv.writer ends them."""
    sizes = [(column.layer.layout.columns, column.layer.layout.rows) for column in columns]
    lines: tuple[Iterable[object], ...] = (
        range(1, len(columns) + 1),
        (column.class_name for column in columns),
        (height * width for height, width in sizes),
        (height for height, _ in sizes),
        (width for _, width in sizes),
    )
    return "".join(map(csv_line, lines)) + csv_line((column.name for column in columns), end="\r\n")


class _Row:
    """A line of numbers that is written in parts, formatted as Python's csv formats floats (repr of float64)."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._separator = ""

    def add(self, block: NDArray[Any]) -> None:
        flat = block.reshape(-1)
        for start in range(0, flat.size, _TEXT_CELLS):
            numbers = ",".join(map(repr, flat[start : start + _TEXT_CELLS].tolist()))
            self._file.write(self._separator + numbers)
            self._separator = ","


@contextlib.contextmanager
def _row(file: HashedFile) -> Iterator[_Row]:
    yield _Row(file)
    file.write("\r\n")


def _write_scales(columns: Sequence[_Column], folder: Path, name: str) -> FileRecord:
    return write_scales([ScaledMatrix(item.name, item.layer, item.matrix) for item in columns], folder, name)


def _cut_by_aihwkit(layers: Sequence[Layer]) -> LayerNote:
    return LayerNote(
        f"aihwkit cuts a layer of more than {_AIHWKIT_TILE} inputs or outputs into tiles, if max_input_size and "
        "max_output_size do not say otherwise, and writes it tile by tile; here it is whole",
        [layer for layer in layers if max(layer.layout.rows, layer.layout.columns) > _AIHWKIT_TILE],
    )


def _renamed(layers: Sequence[Layer]) -> LayerNote:
    return LayerNote(
        "the name of a layer is written so that no spreadsheet runs it: ' before what would be a formula, and escapes "
        "such as \\n for control characters",
        [layer for layer in layers if _module(layer) != _module_name(layer)],
    )


def _mapping_text(layer: Layer) -> str:
    record = layer.record
    return (
        f"{record.converter.name} maps the weight to {len(record.conductances)} devices of "
        f"{record.converter.parameters['g_min']:g} .. {record.converter.parameters['g_max']:g} µS"
    )


def _refused(layer: Layer, name: str, reason: str) -> ConfigError:
    return ConfigError(f"the weight {layer.record.quoted} cannot be written as {name}: {reason}")


def _conducting_pair(column: _Column) -> ModelError:
    return ModelError(
        f"the weight {column.layer.record.quoted} cannot be written as fusion: both devices of a pair are above 0 µS, "
        "but the chip programs one of them; hand off the model as it was mapped, or choose fusion-pair"
    )
