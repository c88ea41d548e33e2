"""The texts of ``functions.py`` and ``load.py`` beside the files for AccelForge."""

from __future__ import annotations

__all__ = ["AVERAGE_FUNCTION", "FUNCTIONS_FILE", "LOAD_FILE", "LOAD_SCRIPT"]

FUNCTIONS_FILE, LOAD_FILE = "functions.py", "load.py"

AVERAGE_FUNCTION = '''\
"""Functions for AccelForge's expressions; load.py adds this file to spec.config.expression_custom_functions."""


def average_conductance(hists):
    """The average conductance of all devices of a layer: 0 is g_min, 1 is g_max."""
    shares = [
        sum(place / (len(hist) - 1) * count for place, count in enumerate(hist)) / sum(hist) for hist in hists
    ]
    return sum(shares) / len(shares)
'''

LOAD_SCRIPT = '''\
"""AccelForge's specification of each layer: pip install accelforge==1.0.467 (Python 3.12), then python load.py.

spec_of returns the specification of a layer; spec_of("L000").map_workload_to_arch() computes energy and latency. The
architecture is basic_analog, which comes with AccelForge, with the arrays, cells and converters of this folder.
"""

import importlib.util
import sys
from pathlib import Path

import accelforge as af

FOLDER = Path(__file__).resolve().parent
ARCHITECTURES = Path(af.examples.arches.compute_in_memory.path)
ROWS, COLUMNS = {rows}, {columns}
DAC_BITS, ADC_BITS = {dac_bits}, {adc_bits}
CELLS = {cells}  # for each layer: cells of a weight in a row of an array, bits of a cell, and the file of the cell


def layer_names():
    """The names of all layers, and of further nodes that read their weights, such as L003_2."""
    workload = af.Workload.from_yaml(FOLDER / "workload.yaml", top_key="workload")
    return [einsum.name.removeprefix("O_") for einsum in workload.einsums]


def spec_of(name):
    """The specification of a layer."""
    loader = importlib.util.spec_from_file_location("load_spec", ARCHITECTURES / "_load_spec.py")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    spec = module.get_spec("basic_analog", add_dummy_main_memory=True)
    place = layer_names().index(name)
    workload = af.Workload.from_yaml(FOLDER / "workload.yaml", top_key="workload")
    workload.einsums = workload.einsums[place : place + 1]
    spec.workload = workload
    spec.renames = af.Renames.from_yaml(FOLDER / "workload.yaml", top_key="renames")
    layer = name.split("_")[0]
    cells, bits, cell_file = CELLS[layer]
    known = af.Variables.from_yaml(FOLDER / f"{{layer}}.yaml", top_key="variables")
    if "inputs_hist" not in known:
        print(f"{{name}}: inputs are those of AccelForge's example; hand off with --inputs to have your own")
    for key, value in dict(known).items():
        spec.variables[key] = value
    spec.variables["cell_config"] = af.LiteralString(str(FOLDER / cell_file))
    spec.config.expression_custom_functions.append(str(FOLDER / "functions.py"))
    spec.arch.find("Column").spatial[0].fanout = COLUMNS
    spec.arch.find("Row").spatial[0].fanout = ROWS
    spec.arch.variables["adc_resolution"] = ADC_BITS
    spec.arch.variables["temporal_dac_resolution"] = DAC_BITS
    spec.arch.variables["bits_per_cell"] = bits
    spec.arch.variables["encoded_weight_bits"] = cells * bits
    spec.arch.variables["average_weight_value"] = "average_conductance(conductance_hists)"
    spec.arch.variables["input_encoding_func"] = "offset_encode_if_signed_hist"
    return spec


def main():
    """Print what AccelForge computes from the files for each layer, or for those that are named."""
    for name in sys.argv[1:] or layer_names():
        spec = spec_of(name)
        found = spec._spec_eval_expressions(einsum_name=f"O_{{name}}")
        variables = found.arch.variables
        print(
            f"{{name}}: {{variables['n_weight_slices']}} cells of a weight, average conductance "
            f"{{variables['average_weight_value']:.6f}}, average input {{variables['average_input_value']:.6f}}, "
            f"arrays of {{variables['array_parallel_inputs']}} x {{variables['array_parallel_outputs']}}"
        )


if __name__ == "__main__":
    main()
'''
