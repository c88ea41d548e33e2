"""A workload, an accelerator and a mapping for ZigZag, which estimates energy, latency and area."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote, Preparation
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.sample_run import SampleRun, uses_of
from onnx_gconv.handoff.formats.zigzag.accelerator import ImcArray, accelerator_yaml, mapping_yaml
from onnx_gconv.handoff.formats.zigzag.run_script import RUN_SCRIPT
from onnx_gconv.handoff.formats.zigzag.workload import COUNTED_OPS, WEIGHT, workload_of
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.handoff.model_files import hashed
from onnx_gconv.weights.constants import constant_tensor, leaves

__all__ = ["ZigZag"]

_CONVOLUTION_RANK = 4
_MATRIX_RANKS = (2, 3, 4)


@dataclass(frozen=True, eq=False)
class ZigZag(HandoffFormat):
    """The files for ZigZag.

    Attributes:
        preparation: A run of the model and the settings; None in the table of formats.
    """

    preparation: Preparation | None = None

    name = "zigzag"
    description = "ZigZag (energy and latency)"
    content = """\
model.onnx: the model with plain weights and the shapes of one run, for ZigZag 3.9 (zigzag-dse). Attributes of its Conv,
Gemm and MatMul nodes say weight_size, act_size and output_size, in bits; ONNX Runtime refuses it for them.
accelerator.yaml: an analog in-memory accelerator with arrays of the size of the bundle's.
mapping.yaml: outputs stand in columns, inputs and positions of kernels in rows.
run.py: runs ZigZag on these files: pip install zigzag-dse==3.9.1 six, then python run.py.

ZigZag's arrays have cells of one bit: it counts a column and a converter for each bit of a weight. So that it counts
those that there are, weight_size is the number of cells of a weight in a row of an array, unless --weight-bits says
otherwise. Weights are programmed before, and loading them costs nothing.
"""
    remarks = (
        "conductances are not in it",
        "shapes are those of one run; give the inputs of another size with --inputs or --dim",
        "ZigZag has one group of arrays, of which each holds one device of a weight: tiles follow one after the other",
        "ZigZag's figures of transistors and wires are those of 28 nm SRAM; the devices themselves cost nothing",
    )
    is_for_costs = True
    needs_run = True
    settings = ("input_bits", "dac_bits", "adc_bits", "weight_bits")

    def prepared(self, preparation: Preparation) -> ZigZag:
        """The format with a run of the model and the settings."""
        return ZigZag(preparation)

    def figures(self, layers: Sequence[Layer]) -> Sequence[str]:
        """Bits, and the energy of memories."""
        settings, array = self._prepared.settings, self._array(layers)
        cells = settings.described("weight_bits")
        if settings.weight_bits is None:
            devices = max(map(_cells, layers))
            rounded = "" if devices == array.cells else ", and ZigZag takes powers of two alone"
            cells = f"weight_size {array.cells}: a weight has {devices} cells in a row of an array{rounded}"
        return (
            *(settings.described(name) for name in ("input_bits", "dac_bits", "adc_bits")),
            cells,
            f"output_size {array.output_bits}: twice input_bits, as ZigZag has it by default",
            "registers, buffer and DRAM: sizes and energies of the analog example of ZigZag 3.9, inputs/hardware/aimc.yaml",
            f"the run: {self._sample.inputs_text}, {'given' if self._sample.is_given else 'random numbers'}",
        )

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that ZigZag sees each weight as one, and takes the bits."""
        settings = self._prepared.settings
        for name in self.settings[:2] + self.settings[3:]:
            value = getattr(settings, name)
            if value is not None and value & (value - 1):
                raise ConfigError(f"zigzag takes powers of two for {name}, but it is {value}")
        for layer in layers:
            problem = _problem(layer, self._sample)
            if problem is not None:
                raise ConfigError(
                    f"the weight {layer.record.quoted} of {layer.consumers[0].op_type} cannot be written as zigzag: "
                    f"{problem}; leave it out of the mapping, or choose another format"
                )

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Weights that ZigZag counts in another way than arrays hold them."""
        most = max(map(_cells, layers), default=0)
        return (
            LayerNote(
                "read by several nodes, and counted for each of them",
                [item for item in layers if len(uses_of(item)) > 1],
            ),
            LayerNote(
                f"counted with {most} cells of a weight, as others have, but they have fewer",
                [item for item in layers if _cells(item) < most],
            ),
            LayerNote(
                "kernels that are not square: ZigZag exchanges their height and width, which leaves numbers of weights "
                "and products as they are",
                [item for item in layers if len(set(item.op.kernel_shape(item.view))) > 1],
            ),
        )

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> Iterator[FileRecord]:
        """Write the model, the accelerator, the mapping, and the script."""
        array = self._array(layers)
        workload = workload_of(self._prepared.model, self._sample, array)
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
    def _sample(self) -> SampleRun:
        assert self._prepared.sample is not None  # noqa: S101 - this format needs one
        return self._prepared.sample

    def _array(self, layers: Sequence[Layer]) -> ImcArray:
        settings, geometry = self._prepared.settings, layers[0].geometry
        rows, columns = geometry.capacity(is_paired=any(layer.pairs for layer in layers))
        cells = settings.weight_bits or 1 << (max(map(_cells, layers)) - 1).bit_length()
        return ImcArray(rows, columns, cells, settings.input_bits, settings.dac_bits, settings.adc_bits)


def _cells(layer: Layer) -> int:
    """How many columns of arrays a weight has: one for each device, or for each pair that stands in one column."""
    stacked = len(layer.pairs) if layer.geometry.pair_layout == "interleaved_rows" else 0
    return len(layer.record.conductances) - stacked


def _is_computed(value: ir.Value) -> bool:
    """Whether nodes compute a value, and not from constants alone."""
    if value.producer() is None:
        return False
    found = leaves(value, ())
    return not found.is_foldable or any(constant_tensor(leaf) is None for leaf in found.values)


def _problem(layer: Layer, sample: SampleRun) -> str | None:
    """Why ZigZag would not count a weight as one; None if it does."""
    for use in uses_of(layer):
        if use.op.name not in COUNTED_OPS:
            return f"ZigZag counts {', '.join(sorted(COUNTED_OPS))} alone, and takes {use.op.name} for no layer"
        if use.slot.index != WEIGHT:
            return f"it is the first input of {use.op.name}, and ZigZag takes the second one for the weight"
        given, made = sample.shape(use.activation), sample.shape(use.output)
        if given is None or made is None:
            return "it is in a subgraph, into which ZigZag does not look"
        if use.op.name == "Conv":
            if len(given) != _CONVOLUTION_RANK:
                return f"ZigZag takes convolutions over two axes, but this one is over {len(given) - 2}"
        elif len(given) not in _MATRIX_RANKS or len(made) != len(given):
            return f"ZigZag takes activations of 2 to 4 axes, but these have {len(given)}"
        elif layer.layout.matrices > 1:
            return f"it is {layer.layout.matrices} matrices, of which ZigZag counts one"
        if any(_is_computed(value) for value in use.node.inputs[WEIGHT + 1 :] if value is not None):
            return "nodes compute its bias, which makes activations of its weights in ZigZag"
    return None
