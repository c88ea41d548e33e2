"""The text files for NeuroSim: network, commands, and README.txt with the parameters that have to agree."""

from __future__ import annotations

from onnx_gconv.handoff.formats.neurosim.mem_states import MEM_STATES_FILE
from onnx_gconv.handoff.formats.neurosim.network import NetworkLayer
from onnx_gconv.handoff.formats.neurosim.plan import Plan
from onnx_gconv.visible_text import visible

__all__ = ["COMMAND_FILE", "V15_FOLDER", "command_text", "network_text", "readme_text_of"]

COMMAND_FILE = "trace_command.sh"
V15_FOLDER = "V1.5"
"""The folder of the files that V1.5 reads in another form than V1.4."""

_OHM_US = 1e6  # the resistance of 1 µS in ohm
_NO_CONDUCTANCE_OHM = 1e12  # stands for a conductance of 0

_STATES = f"""\
{MEM_STATES_FILE}: the levels of conductance in siemens, for --mem_states_file of inference.py of V1.5. After a
measurement, onnx-gconv readback --mem-states writes this file with the measured conductances of each level.
"""


def network_text(plan: Plan) -> str:
    """The text of the network file."""
    return "".join(f"{','.join(map(str, item.line))}\n" for item in plan.network)


def command_text(plan: Plan, *, is_v15: bool) -> str:
    """A shell script that runs NeuroSim on the files.

    Args:
        plan: The plan of the files.
        is_v15: Whether the script is for V1.5 and stands in the folder `V15_FOLDER`.
    """
    version, shared = (V15_FOLDER, "..") if is_v15 else ("V1.4", ".")
    files = " ".join(f"{shared}/{plan.weight_file(item)} ./{plan.input_file(item)}" for item in plan.network)
    numbers = f"{plan.bits.weights} {plan.bits.inputs} {plan.subarray_rows} {plan.subarray_rows}"
    return f"""\
#!/bin/sh
# Runs NeuroSim {version}: the argument is its program, or ./NeuroSIM/main. README.txt: parameters that have to agree.
program=$(realpath "${{1:-./NeuroSIM/main}}") && cd "$(dirname "$0")" || exit 1
exec "$program" {shared}/{plan.network_file} {numbers} {files}
"""


def readme_text_of(plan: Plan) -> str:
    """The first part of README.txt: the files, how to run NeuroSim on them, and the parameters that have to agree."""
    return "\n".join((_files(plan), _parameters(plan), _positions(plan)))


def _files(plan: Plan) -> str:
    source = "random numbers" if plan.sample.source is None else f"the first sample of {visible(plan.sample.source)}"
    states = f"{MEM_STATES_FILE} is not there: {plan.levels}.\n" if isinstance(plan.levels, str) else _STATES
    highest = 2 ** (plan.bits.inputs - 1) - 1
    return f"""\
These files are for NeuroSim's program, main, of DNN+NeuroSim V1.4 and of V1.5 (branch 2DInferenceV1.5-dev):

    ./{COMMAND_FILE} .../NeuroSIM/main            V1.4
    ./{V15_FOLDER}/{COMMAND_FILE} .../NeuroSIM/main       V1.5

{plan.network_file}: a line for each layer: height, width and channels of the activations, before padding; height and
width of the kernel; outputs; 1 if pooling follows; stride. A line 1,1,inputs,1,1,outputs,0,1 is fully connected.

weightLAYER.csv: weights from -1 to 1, a line for each input, a number for each output; inputs of a convolution are
(channel, kernel row, kernel column). 1 stands for the largest weight that shares a scale, or for the weight at which
weights are clipped. NeuroSim would give a weight of exactly 1 the code 2^bits, whose lowest bits are those of -1. So
the largest number in the file is the largest that still gives the code {2**plan.bits.weights - 1}.
The files are for weights of {plan.bits.weights} bits.

inputLAYER.csv: the activations x for {source}: a line for each input, {plan.bits.inputs} bits for
each position, two's complement, the most significant bit first, of round(x / max|x| * {highest}).
{V15_FOLDER}/inputLAYER.csv: the same as integers, which V1.5 reads. Each version accepts the other's file without a
warning, but computes wrong figures.

{states}"""


def _parameters(plan: Plan) -> str:
    rows, taken = plan.rows, plan.subarray_rows
    if taken == rows:
        size = f"numColSubArray = {plan.columns} of Param.cpp, as numRowSubArray = {rows} of the command."
    else:
        size = (
            f"numColSubArray = {taken} of Param.cpp, as numRowSubArray = {taken} of the command. Arrays of the chip\n"
            f"  are {rows}x{plan.columns}, but so small a network takes no sub-arrays of more than {taken} rows."
        )
        if plan.is_novel and (more := plan.subarray_rows_without_novel_mapping) > taken:
            size += f" With\n  novelMapping = false of Param.cpp it takes {more}; then change the command, too."
    why = (
        f"{plan.levels}; with as many bits as a weight, a weight has one cell"
        if isinstance(plan.levels, str)
        else f"devices have {plan.levels.count} levels"
    )
    ranges = "\n".join(_resistances(low, high) for low, high in plan.ranges_us)
    several = "" if len(plan.ranges_us) == 1 else (
        "\n  Devices of layers have several ranges, but NeuroSim has one for all; run it once for each of them."
    )  # fmt: skip
    novel = (
        "true (the default)."
        if plan.is_novel
        else f"false. With true, the default, NeuroSim would\n  {plan.why_not_novel}."
    )
    return f"""\
Parameters that have to agree (Param.cpp of NeuroSim; then make):
- memcelltype = 2 (RRAM). With 1 (SRAM, the default of V1.4) no figure depends on the weights.
- currentMode = true (the default of V1.4). With false, the default of V1.5, no figure depends on the weights, either.
- cellBit = {plan.cell_bits}: {why}.
- {size}
- novelMapping = {novel}
- numRowParallel: the last number of the command, rows that are read at once.
- synapseBit = {plan.bits.weights} and numBitInput = {plan.bits.inputs} of the command: those of the files.
- algoWeightMin = -1, algoWeightMax = 1 (the defaults).
{ranges}{several}
- levelOutput: two to the power of the bits of the ADC. Nothing here says how many the chip has.
NeuroSim holds a weight in one device for each cell, from the lowest to the highest conductance, and a column of dummy
cells; this mapping has {_devices(plan)}. NeuroSim's figures hold for a chip of its own kind with these weights.
"""


def _devices(plan: Plan) -> str:
    counts = dict.fromkeys(len(item.layer.record.conductances) for item in plan.network)
    return " or ".join(f"{count} device{'s' if count > 1 else ''} for each weight" for count in counts)


def _resistances(low_us: float, high_us: float) -> str:
    if low_us > 0:
        off = f"resistanceOff = {_OHM_US / low_us:.9g} (ohm; 1 / g_min of {low_us:g} µS)"
    else:
        off = f"resistanceOff = {_NO_CONDUCTANCE_OHM:g} (ohm; g_min is 0 µS, which is no resistance)"
    return f"- resistanceOn = {_OHM_US / high_us:.9g} (ohm; 1 / g_max of {high_us:g} µS), {off}."


def _positions(plan: Plan) -> str:
    lines = "\n".join(map(_positions_of, plan.network))
    return f"""\
Positions of each layer that NeuroSim reads; it counts (H - kernel + 1) / stride in both directions, without padding:
{lines}
"""


def _positions_of(item: NetworkLayer) -> str:
    read, all_of_them = item.positions_read, item.windows.positions
    text = f"- {item.layer.id}: {read:,} of {all_of_them:,}"
    height, width, more = item.with_padding
    return text if more == read else f"{text}; {more:,} with {height},{width} as height and width in its line"
