"""The plan of the files for NeuroSim: layers, names of files, and numbers for the command and the parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.handoff.formats.neurosim.mem_states import bits_of_cell, common_levels
from onnx_gconv.handoff.formats.neurosim.network import (
    NetworkLayer,
    network_of,
    novel_mapping_fits,
    rows_of_subarrays,
)
from onnx_gconv.handoff.formats.sample import Bits, Sample

__all__ = ["LEAST_ROWS", "Plan"]

LEAST_ROWS = 8
"""NeuroSim finds sub-arrays of fewer rows or columns too small for its circuits, and stops."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan of the files for NeuroSim.

    Attributes:
        name: Name of the network.
        network: The layers that NeuroSim can hold, in the order in which they run.
        refused: The reasons why it cannot hold the others, by their ids.
        sample: A run of the model, with the activations of the layers.
    """

    name: str
    network: tuple[NetworkLayer, ...]
    refused: Mapping[str, str]
    sample: Sample

    @classmethod
    def of(cls, name: str, layers: Sequence[Layer], sample: Sample) -> Plan:
        """Plan the files of a model.

        Args:
            name: Name of the model.
            layers: The layers of the model.
            sample: A run of the model, with the activations of the layers.
        """
        network, refused = network_of(layers, sample)
        # A name that is safe in a shell, a CSV file and a spreadsheet.
        plain = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")
        return cls(plain or "model", network, refused, sample)

    @property
    def bits(self) -> Bits:
        """Bits of a weight and of an activation."""
        return self.sample.bits

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that NeuroSim can hold."""
        return tuple(item.layer for item in self.network)

    @property
    def network_file(self) -> str:
        """Name of the file of the network."""
        return f"NetWork_{self.name}.csv"

    @staticmethod
    def weight_file(item: NetworkLayer) -> str:
        """Name of the file of the weights of a layer."""
        return f"weight{item.layer.id}.csv"

    @staticmethod
    def input_file(item: NetworkLayer) -> str:
        """Name of the file of a layer's activations; each version of NeuroSim has one in a folder of its own."""
        return f"input{item.layer.id}.csv"

    @cached_property
    def levels(self) -> ConductanceLevels | str:
        """The levels of conductance of all layers, or the reason why NeuroSim cannot have them as states of a cell."""
        levels = common_levels(self.layers)
        if isinstance(levels, ConductanceLevels) and bits_of_cell(levels) is None:
            return f"the mapping has {levels.count} levels, no power of two"
        return levels

    @property
    def cell_bits(self) -> int:
        """Bits of a cell. Without usable levels these are the bits of a weight, so that a weight has one cell."""
        bits = None if isinstance(self.levels, str) else bits_of_cell(self.levels)
        return min(bits or self.bits.weights, self.bits.weights)

    @property
    def rows(self) -> int:
        """Number of rows of the chip's arrays."""
        return self.network[0].layer.geometry.rows

    @property
    def columns(self) -> int:
        """Number of columns of the chip's arrays."""
        return self.network[0].layer.geometry.columns

    @property
    def subarray_rows(self) -> int:
        """Number of rows of NeuroSim's sub-arrays: that of the chip's arrays, or less if NeuroSim refuses it."""
        return self._rows_with_novel_mapping if self.is_novel else self.subarray_rows_without_novel_mapping

    @cached_property
    def is_novel(self) -> bool:
        """Whether the command is for ``novelMapping = true`` in Param.cpp, the default."""
        return not self.why_not_novel

    @cached_property
    def why_not_novel(self) -> str:
        """What NeuroSim would do with ``novelMapping``, for which the command is not then; else empty."""
        rows = self._rows_with_novel_mapping
        if not novel_mapping_fits(self._lines, self._columns_per_weight, rows):
            return "read memory behind the weights, because it cuts layers into parts that do not divide them"
        if rows < LEAST_ROWS <= self.subarray_rows_without_novel_mapping:
            return f"take no sub-arrays of more than {rows} rows, which are too low for its circuits"
        return ""

    @cached_property
    def _rows_with_novel_mapping(self) -> int:
        return rows_of_subarrays(self._lines, self._columns_per_weight, self.rows)

    @cached_property
    def subarray_rows_without_novel_mapping(self) -> int:
        """Number of rows of NeuroSim's sub-arrays if Param.cpp has ``novelMapping = false``."""
        return rows_of_subarrays(self._lines, self._columns_per_weight, self.rows, is_novel=False)

    @property
    def _lines(self) -> list[tuple[int, ...]]:
        return [item.line for item in self.network]

    @property
    def _columns_per_weight(self) -> int:
        return -(-self.bits.weights // self.cell_bits)

    @property
    def ranges_us(self) -> tuple[tuple[float, float], ...]:
        """The different ranges (g_min, g_max) of the devices of all layers, in µS."""
        parameters = (item.layer.record.converter.parameters for item in self.network)
        return tuple(dict.fromkeys((float(item["g_min"]), float(item["g_max"])) for item in parameters))
