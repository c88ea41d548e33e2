"""What is written for NeuroSim: the layers, the names of files, and the numbers of its command and its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.handoff.formats.neurosim.mem_states import bits_of_cell, common_levels
from onnx_gconv.handoff.formats.neurosim.network import NetworkLayer, network_of, rows_of_subarrays
from onnx_gconv.handoff.formats.sample import Bits, Sample

__all__ = ["Plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is written for NeuroSim.

    Attributes:
        name: What the network is called.
        network: The layers that NeuroSim can hold, in the order in which they run.
        refused: Why it cannot hold the others, by their ids.
        sample: What arrives at the layers.
    """

    name: str
    network: tuple[NetworkLayer, ...]
    refused: Mapping[str, str]
    sample: Sample

    @classmethod
    def of(cls, name: str, layers: Sequence[Layer], sample: Sample) -> Plan:
        """Plan the files of a model.

        Args:
            name: What the model is called.
            layers: Its layers.
            sample: What arrives at them.
        """
        network, refused = network_of(layers, sample)
        # What a shell, a CSV file and a spreadsheet take for a name.
        plain = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")
        return cls(plain or "model", network, refused, sample)

    @property
    def bits(self) -> Bits:
        """Bits of a weight and of what arrives."""
        return self.sample.bits

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that NeuroSim can hold."""
        return tuple(item.layer for item in self.network)

    @property
    def network_file(self) -> str:
        """The file of the network."""
        return f"NetWork_{self.name}.csv"

    @staticmethod
    def weight_file(item: NetworkLayer) -> str:
        """The file of the weights of a layer."""
        return f"weight{item.layer.id}.csv"

    @staticmethod
    def input_file(item: NetworkLayer) -> str:
        """The file of what arrives at a layer; each version of NeuroSim has one of its own, in another folder."""
        return f"input{item.layer.id}.csv"

    @cached_property
    def levels(self) -> ConductanceLevels | str:
        """The levels of conductance of all layers, or why there are none of a cell of NeuroSim."""
        levels = common_levels(self.layers)
        if isinstance(levels, ConductanceLevels) and bits_of_cell(levels) is None:
            return f"the mapping has {levels.count} levels, no power of two"
        return levels

    @property
    def cell_bits(self) -> int:
        """The bits of a cell; those of a weight if devices take any value, so that a weight has one cell."""
        bits = None if isinstance(self.levels, str) else bits_of_cell(self.levels)
        return min(bits or self.bits.weights, self.bits.weights)

    @property
    def rows(self) -> int:
        """The rows of the chip's arrays."""
        return self.network[0].layer.geometry.rows

    @property
    def columns(self) -> int:
        """The columns of the chip's arrays."""
        return self.network[0].layer.geometry.columns

    @cached_property
    def subarray_rows(self) -> int:
        """The rows of NeuroSim's sub-arrays: those of the chip's arrays, or as many as NeuroSim takes."""
        return rows_of_subarrays(self._lines, self._columns_per_weight, self.rows)

    @property
    def subarray_rows_without_novel_mapping(self) -> int:
        """The same if Param.cpp says ``novelMapping = false``."""
        return rows_of_subarrays(self._lines, self._columns_per_weight, self.rows, is_novel=False)

    @property
    def _lines(self) -> list[tuple[int, ...]]:
        return [item.line for item in self.network]

    @property
    def _columns_per_weight(self) -> int:
        return -(-self.bits.weights // self.cell_bits)

    @property
    def ranges_us(self) -> tuple[tuple[float, float], ...]:
        """The ranges of the devices of all layers, lowest and highest conductance in µS; one if all are alike."""
        parameters = (item.layer.record.converter.parameters for item in self.network)
        return tuple(dict.fromkeys((float(item["g_min"]), float(item["g_max"])) for item in parameters))
