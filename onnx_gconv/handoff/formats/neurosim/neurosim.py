"""The format ``neurosim``: a folder of files on which NeuroSim's program runs without changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote, Preparation
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.neurosim.mem_states import MEM_STATES_FILE, mem_states_text
from onnx_gconv.handoff.formats.neurosim.plan import LEAST_ROWS, Plan
from onnx_gconv.handoff.formats.neurosim.texts import (
    COMMAND_FILE,
    V15_FOLDER,
    command_text,
    network_text,
    readme_text_of,
)
from onnx_gconv.handoff.formats.neurosim.traces import write_bits, write_integers
from onnx_gconv.handoff.formats.neurosim.weights import write_weights
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["Neurosim"]

_MOST_NAMED = 4


class Neurosim(HandoffFormat):
    """The format ``neurosim``: network, weights, activations of one sample, commands, and the states of a cell.

    Args:
        plan: What to write; None until `prepared` is called.
    """

    name = "neurosim"
    description = "input files for the program of DNN+NeuroSim V1.4 and V1.5 (--inputs gives the sample)"
    content = ""
    remarks: ClassVar[tuple[str, ...]] = (
        "tiles are not in it; NeuroSim cuts matrices itself",
        "README.txt lists the parameters of NeuroSim that have to agree with the files",
    )
    needs_sample = True
    settings: ClassVar[tuple[str, ...]] = ("bits",)

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan

    def prepared(self, preparation: Preparation) -> Neurosim:
        """The format with the network of a model."""
        return Neurosim(Plan.of(preparation.name, preparation.layers, preparation.run))

    @property
    def plan(self) -> Plan:
        """What to write."""
        assert self._plan is not None  # noqa: S101 - `prepared` is called first
        return self._plan

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that NeuroSim can hold at least one layer.

        Raises:
            ConfigError: If it can hold none.
        """
        if not self.plan.network:
            reasons = "; ".join(
                f"{layer.record.quoted}: {self.plan.refused[layer.id]}" for layer in layers[:_MOST_NAMED]
            )
            raise ConfigError(f"NeuroSim can hold no layer of the model ({reasons}); leave the format neurosim out")

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:  # noqa: ARG002 - the plan has the layers
        """The layers that NeuroSim can hold, in the order in which they run."""
        return self.plan.layers

    def readme_content(self) -> str:
        """The description of the files, the commands, and the parameters that have to agree."""
        return readme_text_of(self.plan)

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Notes on the layers that are not written, and on what NeuroSim computes differently from the chip."""
        plan = self.plan
        refused = [
            LayerNote(
                f"not written, because {reason}", [layer for layer in layers if plan.refused.get(layer.id) == reason]
            )
            for reason in dict.fromkeys(plan.refused.values())
        ]
        random = "activations are those of a run on random numbers, which says little about energy; give --inputs"
        smaller = (
            f"the command has sub-arrays of {plan.subarray_rows} rows, because NeuroSim refuses larger ones for so "
            f"small a network; the chip's arrays have {plan.rows}"
        )
        ranges = "devices have several ranges of conductance, but NeuroSim has one"
        states = f"{MEM_STATES_FILE} is not written, because {plan.levels}"
        bits = f"weights have {plan.bits.weights} bits and inputs {plan.bits.inputs} (option --bits)"
        low = f"NeuroSim finds sub-arrays of fewer than {LEAST_ROWS} rows too low for its circuits, and stops"
        conventional = (
            "the command is for novelMapping = false in Param.cpp; with true, the default, NeuroSim would "
            + plan.why_not_novel
        )
        return (
            *refused,
            LayerNote(bits, plan.layers),
            LayerNote(random, plan.layers if plan.sample.source is None else ()),
            LayerNote(smaller, plan.layers if plan.subarray_rows < plan.rows else ()),
            LayerNote(low, plan.layers if plan.subarray_rows < LEAST_ROWS else ()),
            LayerNote(conventional, () if plan.is_novel else plan.layers),
            LayerNote(
                "NeuroSim counts positions without padding, and reads fewer than there are",
                [item.layer for item in plan.network if item.positions_read < item.windows.positions],
            ),
            LayerNote(ranges, plan.layers if len(plan.ranges_us) > 1 else ()),
            LayerNote(states, plan.layers if isinstance(plan.levels, str) else ()),
        )

    def cells(self, layers: Sequence[Layer]) -> int:  # noqa: ARG002 - the plan has the layers
        """Number of weights and of integers of activations, which are written once for each version of NeuroSim."""
        return sum(
            item.layer.layout.rows * (item.layer.layout.columns + 2 * item.windows.positions)
            for item in self.plan.network
        )

    def write(
        self,
        layers: Sequence[Layer],  # noqa: ARG002 - the plan has the layers
        folder: Path,
        advance: Callable[[int], None],
    ) -> Iterator[FileRecord]:
        """Write all files but README.txt."""
        plan = self.plan
        yield self._text(folder, plan.network_file, network_text(plan))
        for item in plan.network:
            name = plan.input_file(item)
            yield write_weights(item.layer, plan.bits.weights, folder, self._path(plan.weight_file(item)), advance)
            yield write_bits(item.windows, plan.bits.inputs, folder, self._path(name), advance)
            yield write_integers(item.windows, plan.bits.inputs, folder, self._path(f"{V15_FOLDER}/{name}"), advance)
        for name, is_v15 in ((COMMAND_FILE, False), (f"{V15_FOLDER}/{COMMAND_FILE}", True)):
            yield self._text(folder, name, command_text(plan, is_v15=is_v15))
            _let_run(folder / self._path(name))
        if not isinstance(plan.levels, str):
            means = plan.levels.values(np.float64)
            yield self._text(folder, MEM_STATES_FILE, mem_states_text(means, np.zeros(means.shape)))

    def _path(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _text(self, folder: Path, name: str, text: str) -> FileRecord:
        with HashedFile(folder, self._path(name)) as file:
            file.write(text)
        return file.record


def _let_run(path: Path) -> None:
    """Make a file executable for everybody who may read it."""
    mode = path.stat().st_mode
    path.chmod(mode | (mode & 0o444) >> 2)
