"""The format ``accelforge``: files for AccelForge, the successor of CiMLoop, which estimates energy and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

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

# Bits of a weight if devices have no levels: those of the networks that come with AccelForge.
_ANALOG_BITS = 8

# The most bits of a weight; a histogram of weights has 2^bits - 1 bins.
_MOST_BITS = 16


@dataclass(frozen=True, eq=False)
class AccelForge(HandoffFormat):
    """The format ``accelforge``.

    Attributes:
        preparation: A run of the model and the settings; None until `prepared` is called.
        refused: The reasons why layers are not written, by their ids.
    """

    preparation: Preparation | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    name = "accelforge"
    description = "AccelForge, successor of CiMLoop (energy and latency)"
    content = """\
workload.yaml: a product of matrices or a convolution for each layer, as einsums for AccelForge 1.0, with its renames.
LAYER.yaml: variables of a layer: histograms of its weights, of the conductances of each device, and of its inputs.
cell.yaml: the memory cell in the format of NVSim, with the resistances of g_max and g_min; if layers have other ranges,
cell_2.yaml and so on.
functions.py: a function for AccelForge's expressions that averages conductances.
load.py: loads all files into AccelForge: pip install accelforge==1.0.467 (Python 3.12), then python load.py.

Each device is a cell in a column of its own; if pairs stand in one column, the two devices share it. The average
conductance is that of the histograms, where 0 is g_min and 1 is g_max; AccelForge's own encodings of weights are not
used.
"""
    remarks: ClassVar[tuple[str, ...]] = (
        "conductances are in it as histograms, and biases are not in it",
        "convolutions have no padding, as in AccelForge's own networks: the padding is part of the size of the inputs",
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
        """The description of the files, and the origin of all figures that are not from the mapping."""
        settings = self._prepared.settings
        weights = (
            f"{self._weight_bits}, enough to number all weights that the levels of devices give; {_ANALOG_BITS} for "
            "devices without levels, as in AccelForge's networks"
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
        """Check that at least one layer can be written as an einsum, and that histograms do not have too many bins.

        Raises:
            ConfigError: If no layer can be written, or weights have more than 16 bits.
        """
        if self._weight_bits > _MOST_BITS:
            raise ConfigError(
                f"histograms for AccelForge would have a bin for each number of {self._weight_bits} bits, as many as "
                "the levels of devices give; give fewer bits with --bits"
            )
        if not self.held(layers):
            reasons = "; ".join(f"{layer.record.quoted}: {self.refused[layer.id]}" for layer in layers[:_MOST_NAMED])
            raise ConfigError(f"no layer can be written for AccelForge ({reasons}); leave the format accelforge out")

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """The layers that can be written as einsums."""
        return [layer for layer in layers if layer.id not in self.refused]

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Notes on the layers that are not written, and on histograms that are missing or coarse."""
        held = self.held(layers)
        no_inputs = "histograms of inputs are not in it, because no inputs were given; give some with --inputs"
        return (
            *(
                LayerNote(
                    f"not written, because {reason}", [item for item in layers if self.refused.get(item.id) == reason]
                )
                for reason in dict.fromkeys(self.refused.values())
            ),
            LayerNote(no_inputs, held if self._prepared.run.source is None else ()),
            LayerNote(
                "histograms of inputs are not in it, because activations are not finite in the run",
                [item for item in held if (given := self._activations(item)) is not None and not _is_finite(given)],
            ),
            LayerNote(
                "histograms of conductances have 256 bins, because devices have no uniform levels, or more than 256",
                [item for item in held if not _has_a_bin_for_each_level(item)],
            ),
        )

    def cells(self, layers: Sequence[Layer]) -> int:
        """Number of conductances that histograms count, over all devices."""
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
        """The histogram of the activations that a layer receives, [2^bits - 1].

        None if no inputs were given, or activations are not finite.
        """
        values = self._activations(layer)
        if values is None or not _is_finite(values):
            return None
        largest = float(np.abs(values.astype(np.float64)).max(initial=0.0))
        return signed_histogram(values, self._prepared.settings.input_bits, largest)

    def _activations(self, layer: Layer) -> NDArray[Any] | None:
        """The activations that a layer receives from the inputs that were given; None if none were."""
        arriving = self._prepared.run.inputs[self._prepared.layers.index(layer)]
        if self._prepared.run.source is None or not isinstance(arriving, LayerInput):
            return None
        return arriving.values

    @property
    def _prepared(self) -> Preparation:
        assert self.preparation is not None  # noqa: S101 - those that write bundles prepare formats first
        return self.preparation

    @property
    def _weight_bits(self) -> int:
        return self._prepared.settings.weight_bits or max(map(_bits_of_weight, self._prepared.layers))


def _is_finite(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values.astype(np.float64)).all())


def _range(layer: Layer) -> tuple[float, float]:
    parameters = layer.record.converter.parameters
    return parameters["g_min"], parameters["g_max"]


def _has_a_bin_for_each_level(layer: Layer) -> bool:
    levels = layer.record.levels
    return levels is not None and levels.uniform and levels.count == conductance_bins(layer)


def _bits_of_cell(layer: Layer) -> int:
    return max((conductance_bins(layer) - 1).bit_length(), 1)


def _bits_of_weight(layer: Layer) -> int:
    """The bits needed to number all weights that the devices can represent with uniform levels; 8 without levels."""
    levels = layer.record.levels
    if levels is None or not levels.uniform:
        return _ANALOG_BITS
    weights = [abs(item.coefficient) for item in layer.record.conductances]
    steps = round(sum(weights) / min(weights)) * (levels.count - 1)
    return max(steps.bit_length(), 1)
