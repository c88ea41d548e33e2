"""The format ``zigzag``: a workload, an accelerator and a mapping for ZigZag, which estimates energy and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote, Preparation
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.receiver_settings import cells_in_a_row, figures_text
from onnx_gconv.handoff.formats.sample import Sample
from onnx_gconv.handoff.formats.zigzag.accelerator import ImcArray, accelerator_yaml, mapping_yaml
from onnx_gconv.handoff.formats.zigzag.run_script import RUN_SCRIPT
from onnx_gconv.handoff.formats.zigzag.workload import COUNTED_OPS, WEIGHT, problem_of, workload_of
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.handoff.model_files import hashed

__all__ = ["ZigZag"]

_MOST_NAMED = 4


@dataclass(frozen=True, eq=False)
class ZigZag(HandoffFormat):
    """The format ``zigzag``.

    Attributes:
        preparation: A run of the model and the settings; None until `prepared` is called.
        refused: The reasons why layers are not counted, by their ids.
    """

    preparation: Preparation | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    name = "zigzag"
    description = "ZigZag (energy and latency)"
    content = """\
model.onnx: the model with plain weights and the shapes of one run, for ZigZag 3.9 (zigzag-dse). Attributes of its Conv,
Gemm and MatMul nodes say weight_size, act_size and output_size, in bits; ONNX Runtime refuses it for them.
accelerator.yaml: an analog in-memory accelerator with arrays of the size of the bundle's.
mapping.yaml: outputs stand in columns, inputs and positions of kernels in rows.
run.py: runs ZigZag on these files: pip install zigzag-dse==3.9.1 six, then python run.py.

ZigZag's arrays have cells of one bit: it counts a column and a converter for each bit of a weight. To make it count the
columns of this chip, weight_size is the number of cells of a weight in a row of an array, unless --bits gives another
number. Weights are programmed beforehand, and loading them costs nothing.
"""
    remarks: ClassVar[tuple[str, ...]] = (
        "conductances are not in it",
        "shapes are those of one run; give the inputs of another size with --inputs or --dim",
        "ZigZag models one group of arrays, one for each device of a weight, and runs tiles one after the other",
        "ZigZag's figures of transistors and wires are those of 28 nm SRAM; the devices themselves cost nothing",
    )
    is_for_costs = True
    needs_sample = True
    settings: ClassVar[tuple[str, ...]] = ("bits", "dac_bits", "adc_bits")

    def prepared(self, preparation: Preparation) -> ZigZag:
        """The format with a run of the model and the settings."""
        found = ((layer.id, _problem(layer, preparation.run)) for layer in preparation.layers)
        return ZigZag(preparation, {name: problem for name, problem in found if problem is not None})

    def readme_content(self) -> str:
        """The description of the files, and the origin of all figures that are not from the mapping."""
        settings, array = self._prepared.settings, self._array(self._prepared.layers)
        devices = max(map(cells_in_a_row, self.held(self._prepared.layers)))
        rounded = "" if devices == array.cells else ", and ZigZag takes powers of two alone"
        figures = (
            *settings.described(f"weight_size is {array.cells}, as a weight has {devices} cells in a row{rounded}"),
            f"output_size {array.output_bits}: twice the bits of inputs, as ZigZag has it by default",
            "registers, buffer, DRAM: sizes and energies of ZigZag's analog example, inputs/hardware/aimc.yaml",
            f"shapes: those of a run on {self._prepared.run}",
        )
        return f"{self.content}\n{figures_text(figures)}"

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that ZigZag accepts the numbers of bits, and counts at least one layer.

        Raises:
            ConfigError: If a number of bits is no power of two, or ZigZag counts no layer.
        """
        settings = self._prepared.settings
        counts = {"weights": settings.weight_bits, "inputs": settings.input_bits, "a DAC": settings.dac_bits}
        for name, bits in counts.items():
            if bits is not None and bits & (bits - 1):
                raise ConfigError(f"ZigZag takes powers of two for the bits of {name}, but not {bits}")
        if not self.held(layers):
            reasons = "; ".join(f"{layer.record.quoted}: {self.refused[layer.id]}" for layer in layers[:_MOST_NAMED])
            raise ConfigError(f"ZigZag can count no layer of the model ({reasons}); leave the format zigzag out")

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """The layers that ZigZag counts."""
        return [layer for layer in layers if layer.id not in self.refused]

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Notes on the layers that ZigZag does not count, and on those that it counts differently from the chip."""
        held = self.held(layers)
        most = max(map(cells_in_a_row, held), default=0)
        return (
            *(
                LayerNote(
                    f"not counted, because {reason}", [item for item in layers if self.refused.get(item.id) == reason]
                )
                for reason in dict.fromkeys(self.refused.values())
            ),
            LayerNote(
                "read by several nodes, and counted for each of them",
                [item for item in held if len(self._prepared.run.uses[item.id]) > 1],
            ),
            LayerNote(
                f"counted with {most} cells of a weight, the largest number of all layers, but they have fewer",
                [item for item in held if cells_in_a_row(item) < most],
            ),
            LayerNote(
                "kernels that are not square: ZigZag exchanges their height and width; numbers of weights and products "
                "stay the same",
                [item for item in held if len(set(item.op.kernel_shape(item.view))) > 1],
            ),
        )

    def write(
        self,
        layers: Sequence[Layer],
        folder: Path,
        advance: Callable[[int], None],  # noqa: ARG002 - it writes no conductances
    ) -> Iterator[FileRecord]:
        """Write the model, the accelerator, the mapping, and the script."""
        array = self._array(layers)
        workload = workload_of(self._prepared.model, self._prepared.run, array, self._uncounted)
        (folder / self.name).mkdir()
        for path in save_model(workload.model, folder / self.name / "model.onnx"):
            yield hashed(path).model_copy(update={"path": f"{self.name}/{path.name}"})
        texts = {
            "accelerator.yaml": accelerator_yaml(array, workload.weights),
            "mapping.yaml": mapping_yaml(),
            "run.py": RUN_SCRIPT,
        }
        for name, text in texts.items():
            with HashedFile(folder, f"{self.name}/{name}") as file:
                file.write(text)
            yield file.record

    @property
    def _prepared(self) -> Preparation:
        assert self.preparation is not None  # noqa: S101 - those that write bundles prepare formats first
        return self.preparation

    @property
    def _uncounted(self) -> set[str]:
        """The names of the products of layers that are not counted."""
        layers = [layer for layer in self._prepared.layers if layer.id in self.refused]
        return {use.output.name or "" for layer in layers for use in self._prepared.run.uses[layer.id]}

    def _array(self, layers: Sequence[Layer]) -> ImcArray:
        settings, geometry, held = self._prepared.settings, layers[0].geometry, self.held(layers)
        rows, columns = geometry.capacity(is_paired=any(layer.pairs for layer in held))
        cells = settings.weight_bits or 1 << (max(map(cells_in_a_row, held)) - 1).bit_length()
        return ImcArray(rows, columns, cells, settings.input_bits, settings.dac_bits, settings.adc_bits)


def _problem(layer: Layer, sample: Sample) -> str | None:
    """Why ZigZag would not count the weight of a layer, or count it wrongly; None if it counts it right."""
    uses = sample.uses[layer.id]
    if any(use.node.op_type in COUNTED_OPS and use.slot.index != WEIGHT for use in uses):
        return f"it is the first input of {uses[0].op.name}, and ZigZag takes the second one for the weight"
    problems = (problem_of(use.node, sample) for use in uses)
    problem = next((item for item in problems if item is not None), None)
    if problem is None and uses[0].op.name != "Conv" and layer.layout.matrices > 1:
        problem = f"it is {layer.layout.matrices} matrices, of which ZigZag counts one"
    return problem
