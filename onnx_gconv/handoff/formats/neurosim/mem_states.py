"""The file ``mem_states.csv``: the states of a memory cell, as the Python side of NeuroSim V1.5 reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.devices.levels import ConductanceLevels

__all__ = ["MEM_STATES_FILE", "bits_of_cell", "common_levels", "levels_of", "mem_states_text"]

MEM_STATES_FILE = "mem_states.csv"

_US_PER_SIEMENS = 1e6


def levels_of(layer: Layer) -> ConductanceLevels | None:
    """The levels of the devices of a layer; None if devices can take any value."""
    record = layer.record
    if record.levels is not None:
        return record.levels.levels
    converter = record.converter.converter()
    count = converter.natural_levels
    return None if count is None else ConductanceLevels.uniform(count, converter.g_min, converter.g_max)


def common_levels(layers: Iterable[Layer]) -> ConductanceLevels | str:
    """The levels that the devices of all layers share, or why there are none, as a part of a sentence."""
    found = {levels_of(layer) for layer in layers}
    if len(found) != 1:
        return "the levels of conductance differ from layer to layer"
    [levels] = found
    if levels is None:
        return "the mapping has no levels of conductance"
    return levels


def bits_of_cell(levels: ConductanceLevels) -> int | None:
    """The bits of a cell with these levels; None if the number of levels is no power of two."""
    bits = levels.count.bit_length() - 1
    return bits if levels.count == 1 << bits else None


def mem_states_text(means_us: NDArray[Any], deviations_us: NDArray[Any]) -> str:
    """The text of ``mem_states.csv``: a line for each state, the lowest conductance first, in siemens.

    Args:
        means_us: The mean conductance of each state in µS, [states].
        deviations_us: The standard deviation of each state in µS, [states].
    """
    lines = (
        f"{state},{float(mean) / _US_PER_SIEMENS!r},{float(deviation) / _US_PER_SIEMENS!r}\n"
        for state, (mean, deviation) in enumerate(zip(means_us, deviations_us, strict=True))
    )
    return "states,mean,std\n" + "".join(lines)
