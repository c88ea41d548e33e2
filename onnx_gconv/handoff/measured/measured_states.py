"""The conductances that were measured for each level: the states of a cell, for NeuroSim V1.5."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import tile_arrays
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.neurosim.mem_states import bits_of_cell, common_levels, mem_states_text
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measured.measurements import Measurements
from onnx_gconv.tensors.streamed import worker_count
from onnx_gconv.visible_text import listed

__all__ = ["MeasuredStates", "measured_states"]

_MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class MeasuredStates:
    """The statistics of the measured conductances of each level.

    Attributes:
        means_us: The mean of each level in µS, [levels]; the target of a level without a measured cell.
        deviations_us: The standard deviation of each level in µS, [levels]; for a level without a measured cell, the
            standard deviation within levels over all cells.
        unmeasured: The numbers of the levels without a measured cell.
    """

    means_us: NDArray[np.float64]
    deviations_us: NDArray[np.float64]
    unmeasured: tuple[int, ...]

    @property
    def text(self) -> str:
        """The text of the file ``mem_states.csv``, in siemens."""
        return mem_states_text(self.means_us, self.deviations_us)

    @property
    def notes(self) -> tuple[str, ...]:
        """A note on levels without a measured cell; empty if there are none."""
        if not self.unmeasured:
            return ()
        levels = listed(list(map(str, self.unmeasured)), _MOST_NAMED)
        what = f"no cell of the levels {levels} was measured; the states of a cell have their targets"
        return (f"{what}, and the standard deviation of all levels together",)


def _levels_of_states(layers: Sequence[Layer]) -> ConductanceLevels:
    """The levels that all layers share; their number is a power of two.

    Raises:
        ConfigError: If layers have no levels or different ones, or their number is no power of two.
    """
    levels = common_levels(layers)
    reason = levels if isinstance(levels, str) else f"the mapping has {levels.count} levels, no power of two"
    if isinstance(levels, str) or bits_of_cell(levels) is None:
        raise ConfigError(f"the states of a cell cannot be written, because {reason}; leave --mem-states out")
    return levels


def measured_states(pairs: Sequence[tuple[LayerRecord, Layer]], measurements: Measurements) -> MeasuredStates:
    """Compute mean and standard deviation of the measured conductances of each level.

    A cell belongs to the level of its target. Cells without a measurement are left out.

    Args:
        pairs: Each layer of the bundle with the same layer of the model.
        measurements: The measurements.

    Raises:
        ConfigError: If nothing was measured, layers have no levels or different ones, or the number of levels is no
            power of two.
    """
    levels = _levels_of_states([layer for _, layer in pairs])
    targets_us = levels.values(np.float64).astype(np.float64)
    counts, sums, squares = np.zeros((3, levels.count))
    with ThreadPoolExecutor(worker_count()) as executor:
        for record, layer in pairs:
            for arrays in tile_arrays(layer, executor):
                for device, targets in enumerate(arrays.conductances):
                    found = measurements.array(record, record.tiles[arrays.tile.number], device)
                    if found is None:
                        continue
                    measured = np.isfinite(found.conductances)
                    codes = levels.codes(targets)[measured]
                    # Sums of differences from the level keep more digits of the spread than sums of conductances.
                    errors = found.conductances[measured].astype(np.float64) - targets_us[codes]
                    counts += np.bincount(codes, minlength=levels.count)
                    sums += np.bincount(codes, errors, levels.count)
                    squares += np.bincount(codes, errors**2, levels.count)
    if not counts.any():
        raise ConfigError("the states of a cell cannot be written, because nothing was measured")
    some = np.maximum(counts, 1)
    variances = np.maximum(squares / some - (sums / some) ** 2, 0)
    together = float((variances * counts).sum() / counts.sum())
    return MeasuredStates(
        targets_us + sums / some,
        np.sqrt(np.where(counts > 0, variances, together)),
        tuple(np.flatnonzero(counts == 0).tolist()),
    )
