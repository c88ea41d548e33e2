"""Layers, histograms and a memory cell for AccelForge, the successor of CiMLoop, which estimates energy and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.accelforge.cell import HIGHEST_OHM, cell_text
from onnx_gconv.handoff.formats.accelforge.einsums import einsums_of, problem_of, workload_yaml
from onnx_gconv.handoff.formats.accelforge.functions import (
    AVERAGE_FUNCTION,
    FUNCTIONS_FILE,
    LOAD_FILE,
    LOAD_SCRIPT,
)
from onnx_gconv.handoff.formats.accelforge.histograms import (
    conductance_bins,
    histograms_of,
    signed_histogram,
    variables_yaml,
)
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote, Preparation
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import device_cells
from onnx_gconv.handoff.formats.receiver_settings import cells_in_a_row, figures_text
from onnx_gconv.handoff.formats.sample import LayerInput
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["AccelForge"]

_MOST_NAMED = 4

# Of analog devices: the bits of the networks that come with AccelForge.
_ANALOG_BITS = 8

# A histogram has two to the power of the bits bins.
_MOST_BITS = 16


@dataclass(frozen=True, eq=False)
class AccelForge(HandoffFormat):
    """The files for AccelForge.

    Attributes:
        preparation: A run of the model and the settings; None in the table of formats.
        refused: Why layers are not written, by their ids.
    """

    preparation: Preparation | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    name = "accelforge"
    description = "AccelForge, successor of CiMLoop (energy and latency)"
    content = """\
workload.yaml: a product of matrices or a convolution for each layer, as einsums for AccelForge 1.0, with its renames.
LAYER.yaml: variables of a layer: histograms of its weights, of the conductances of each device, and of its inputs.
cell.yaml: the memory cell in the format of NVSim, with the resistances of g_max and g_min; a file more for each further
range, cell_2.yaml and so on.
functions.py: what expressions call to average conductances.
load.py: loads all of it into AccelForge: pip install accelforge==1.0.467 (Python 3.12), then python load.py.

A device is a cell and has a column of its own, or shares one if pairs stand in one column. Its average conductance is
that of the histograms, 0 for g_min and 1 for g_max; AccelForge's own encodings of weights are not needed for it.
"""
    remarks: ClassVar[tuple[str, ...]] = (
        "conductances are in it as histograms, and biases are not in it",
        "convolutions are without padding, as those of AccelForge's own networks: inputs have the size that is needed",
        "area and voltages of the cell are those of an example of AccelForge; replace them in cell.yaml",
    )
    is_for_costs = True
    needs_sample = True
    settings: ClassVar[tuple[str, ...]] = ("bits", "dac_bits", "adc_bits")

    def prepared(self, preparation: Preparation) -> AccelForge:
        """The format with a run of the model and the settings."""
        found = ((layer.id, problem_of(layer, preparation.run)) for layer in preparation.layers)
        return AccelForge(preparation, {name: problem for name, problem in found if problem is not None})

    def readme_content(self) -> str:
        """The files, and where the figures are from that the mapping does not have."""
        settings = self._prepared.settings
        weights = (
            f"{self._weight_bits}, which number the weights that levels of devices make, and {_ANALOG_BITS} without "
            "levels, as in AccelForge's networks"
        )
        figures = (
            *settings.described(weights),
            "outputs: adc_bits",
            "cell.yaml, all but the resistances: rram_example.yaml of AccelForge",
            f"a conductance of 0: {HIGHEST_OHM:g} ohm",
            f"shapes: those of a run on {self._prepared.run}",
        )
        return f"{self.content}\n{figures_text(figures)}"

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that there is a layer that can be said as an einsum, and that histograms have not too many bins."""
        if self._weight_bits > _MOST_BITS:
            raise ConfigError(
                f"histograms for AccelForge have a bin for each number of {self._weight_bits} bits, which levels of "
                "devices make; give fewer with --bits"
            )
        if not self.held(layers):
            reasons = "; ".join(f"{layer.record.quoted}: {self.refused[layer.id]}" for layer in layers[:_MOST_NAMED])
            raise ConfigError(f"no layer can be written for AccelForge ({reasons}); leave the format accelforge out")

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """Those that can be said as einsums."""
        return [layer for layer in layers if layer.id not in self.refused]

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Which layers are not written and why, and what is not known of the others."""
        held = self.held(layers)
        no_inputs = "histograms of inputs are not in it, as nobody has given inputs; give some with --inputs"
        return (
            *(
                LayerNote(
                    f"not written, because {reason}", [item for item in layers if self.refused.get(item.id) == reason]
                )
                for reason in dict.fromkeys(self.refused.values())
            ),
            LayerNote(no_inputs, held if self._prepared.run.source is None else ()),
            LayerNote(
                "histograms of conductances have 256 bins, as there are no uniform levels, or more of them",
                [item for item in held if not _has_a_bin_for_each_level(item)],
            ),
        )

    def cells(self, layers: Sequence[Layer]) -> int:
        """All conductances are counted."""
        return device_cells(self.held(layers))

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> Iterator[FileRecord]:
        """Write the workload, the variables of each layer, the cells, and the script."""
        settings, sample, held = self._prepared.settings, self._prepared.run, self.held(layers)
        for layer in held:
            histograms = histograms_of(layer, self._weight_bits, advance)
            yield self._text(folder, f"{layer.id}.yaml", variables_yaml(layer, histograms, self._inputs(layer)))
        workload = workload_yaml(
            [(layer, list(einsums_of(layer, sample))) for layer in held],
            input_bits=settings.input_bits,
            output_bits=settings.adc_bits,
            weight_bits=self._weight_bits,
        )
        yield self._text(folder, "workload.yaml", workload)
        ranges = list(dict.fromkeys(map(_range, held)))
        files = {ends: "cell.yaml" if number == 0 else f"cell_{number + 1}.yaml" for number, ends in enumerate(ranges)}
        for ends, name in files.items():
            yield self._text(folder, name, cell_text(*ends))
        yield self._text(folder, FUNCTIONS_FILE, AVERAGE_FUNCTION)
        geometry = layers[0].geometry
        rows, columns = geometry.rows - geometry.spare_rows, geometry.columns - geometry.spare_columns
        script = LOAD_SCRIPT.format(
            rows=rows,
            columns=columns,
            dac_bits=settings.dac_bits,
            adc_bits=settings.adc_bits,
            cells={layer.id: (cells_in_a_row(layer), _bits_of_cell(layer), files[_range(layer)]) for layer in held},
        )
        yield self._text(folder, LOAD_FILE, script)

    def _text(self, folder: Path, name: str, text: str) -> FileRecord:
        with HashedFile(folder, f"{self.name}/{name}") as file:
            file.write(text)
        return file.record

    def _inputs(self, layer: Layer) -> NDArray[np.int64] | None:
        """The histogram of what arrives at a layer; None if no inputs were given."""
        arriving = self._prepared.run.inputs[self._prepared.layers.index(layer)]
        if self._prepared.run.source is None or not isinstance(arriving, LayerInput):
            return None
        values = arriving.values
        largest = float(np.abs(values.astype(np.float64)).max(initial=0.0))
        return signed_histogram(values, self._prepared.settings.input_bits, largest)

    @property
    def _prepared(self) -> Preparation:
        assert self.preparation is not None  # noqa: S101 - those that write bundles prepare formats first
        return self.preparation

    @property
    def _weight_bits(self) -> int:
        return self._prepared.settings.weight_bits or max(map(_bits_of_weight, self._prepared.layers))


def _range(layer: Layer) -> tuple[float, float]:
    parameters = layer.record.converter.parameters
    return parameters["g_min"], parameters["g_max"]


def _has_a_bin_for_each_level(layer: Layer) -> bool:
    levels = layer.record.levels
    return levels is not None and levels.uniform and levels.count == conductance_bins(layer)


def _bits_of_cell(layer: Layer) -> int:
    return max((conductance_bins(layer) - 1).bit_length(), 1)


def _bits_of_weight(layer: Layer) -> int:
    """The bits that number all weights that devices with uniform levels can hold together."""
    levels = layer.record.levels
    if levels is None or not levels.uniform:
        return _ANALOG_BITS
    weights = [abs(item.coefficient) for item in layer.record.conductances]
    steps = round(sum(weights) / min(weights)) * (levels.count - 1)
    return max(steps.bit_length(), 1)
