"""Histograms of the conductances, weights and inputs of a layer, in the form that AccelForge 1.0 takes.

AccelForge's histograms of signed values have 2^bits - 1 bins, one for each integer of a sign and bits - 1 further bits.
The middle bin is zero (examples/arches/compute_in_memory/_include_functions.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances
from onnx_gconv.visible_text import visible

__all__ = ["LayerHistograms", "conductance_bins", "histograms_of", "signed_histogram", "variables_yaml"]

_MOST_BINS = 256

_Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerHistograms:
    """The histograms of a layer.

    Attributes:
        conductances: For each device the histogram of its conductances, [bins]. The centres of the bins are equidistant
            from g_min to g_max.
        weights: The histogram of the weights, [2^bits - 1]. These are the sums of coefficient * conductance - offset,
            before the division by scales.
    """

    conductances: dict[str, _Counts]
    weights: _Counts


def conductance_bins(layer: Layer) -> int:
    """Number of bins of a histogram of conductances: one for each level of up to 256 uniform ones, else 256."""
    levels = layer.record.levels
    return levels.count if levels is not None and levels.uniform and levels.count <= _MOST_BINS else _MOST_BINS


def histograms_of(layer: Layer, weight_bits: int, advance: Callable[[int], None]) -> LayerHistograms:
    """Count the conductances of a layer, and the weights that they represent.

    Args:
        layer: The layer.
        weight_bits: Bits of a weight.
        advance: Called with the number of conductances that were counted since the last call.

    Raises:
        ModelError: If external data cannot be read.
    """
    record, bins = layer.record, conductance_bins(layer)
    low, high = (float(record.converter.parameters[name]) for name in ("g_min", "g_max"))
    devices, coefficients = range(len(record.conductances)), [item.coefficient for item in record.conductances]
    ends = [sorted((item * low, item * high)) for item in coefficients]
    reach = max(abs(sum(end[place] for end in ends) - record.offset_us) for place in (0, 1))
    counts = np.zeros((len(devices), bins), np.int64)
    weights = np.zeros(2**weight_bits - 1, np.int64)
    with LayerConductances(layer) as conductances:
        for matrix in range(layer.layout.matrices):
            for blocks in conductances.blocks(matrix, devices, "input"):
                total = np.full(blocks[0].shape, -record.offset_us)
                for number, (block, coefficient) in enumerate(zip(blocks, coefficients, strict=True)):
                    place = np.rint((block.astype(np.float64) - low) / (high - low) * (bins - 1))
                    counts[number] += np.bincount(np.clip(place, 0, bins - 1).astype(np.intp).ravel(), minlength=bins)
                    total += coefficient * block.astype(np.float64)
                weights += signed_histogram(total, weight_bits, reach)
                advance(sum(block.size for block in blocks))
    named = {item.device: count for item, count in zip(record.conductances, counts, strict=True)}
    return LayerHistograms(named, weights)


def signed_histogram(values: NDArray[Any], bits: int, largest: float) -> _Counts:
    """The histogram of values, quantized to integers of a sign and bits - 1 further bits, [2^bits - 1].

    Args:
        values: The values, of any shape.
        bits: Bits of an integer.
        largest: The value that the largest integer, 2^(bits - 1) - 1, stands for; 0 if all values are 0.
    """
    middle = 2 ** (bits - 1) - 1
    step = largest / middle if middle and largest else 1.0
    places = np.clip(np.rint(values.astype(np.float64) / step), -middle, middle).astype(np.intp) + middle
    return np.bincount(places.ravel(), minlength=2 * middle + 1)


def variables_yaml(layer: Layer, histograms: LayerHistograms, inputs: _Counts | None) -> str:
    """The text of ``LAYER.yaml``, the variables of a layer.

    Args:
        layer: The layer.
        histograms: The histograms of the layer.
        inputs: The histogram of its inputs; None if it is not known.
    """
    parameters = layer.record.converter.parameters
    names = ", ".join(visible(name) for name in histograms.conductances)
    bins = len(next(iter(histograms.conductances.values())))
    lines = [
        f"# {visible(layer.record.known_as)}",
        "variables:",
        "  # Weights, as integers of a sign and further bits; zero is in the middle.",
        f"  weights_hist: {_listed(histograms.weights)}",
        f"  # For each device ({names}): {bins} conductances, {parameters['g_min']:g} to {parameters['g_max']:g} uS.",
        "  conductance_hists:",
        *(f"  - {_listed(counts)}" for counts in histograms.conductances.values()),
    ]
    if inputs is not None:
        lines += [
            "  # Inputs, as integers of a sign and further bits; zero is in the middle.",
            f"  inputs_hist: {_listed(inputs)}",
            "  outputs_hist: inputs_hist",
        ]
    return "\n".join(lines) + "\n"


def _listed(counts: _Counts) -> str:
    return f"[{', '.join(map(str, counts.tolist()))}]"
