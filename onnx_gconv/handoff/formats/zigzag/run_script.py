"""The script ``run.py`` beside the files for ZigZag, which runs ZigZag on them."""

from __future__ import annotations

__all__ = ["RUN_SCRIPT"]

RUN_SCRIPT = '''\
"""Energy and latency of each layer, by ZigZag 3.9: pip install zigzag-dse==3.9.1 six, then python run.py.

The stages are those of zigzag.api.get_hardware_performance_zigzag(..., in_memory_compute=True), without the stage that
draws loops: it fails on a layer that an array computes at once, such as a small fully connected one.
"""

import argparse
import json
import logging
from pathlib import Path

from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.exploit_data_locality_stages import (
    ExploitInterLayerDataLocalityStage,
    SearchInterLayerDataLocalityStage,
)
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.onnx_model_parser import ONNXModelParserStage
from zigzag.stages.results.reduce_stages import MinimalEDPStage, SumStage
from zigzag.stages.workload_iterator import WorkloadStage

FOLDER = Path(__file__).resolve().parent
STAGES = [
    ONNXModelParserStage,
    AcceleratorParserStage,
    SumStage,
    SearchInterLayerDataLocalityStage,
    WorkloadStage,
    ExploitInterLayerDataLocalityStage,
    MinimalEDPStage,
    SpatialMappingGeneratorStage,
    MinimalEDPStage,
    TemporalMappingGeneratorStage,
    CostModelStage,
]


def costs(lpf_limit):
    """For each layer its weights in bits, energy in pJ and latency in cycles; and the clock and area of the array."""
    stage = MainStage(
        list_of_callables=STAGES,
        workload=str(FOLDER / "model.onnx"),
        accelerator=str(FOLDER / "accelerator.yaml"),
        mapping=str(FOLDER / "mapping.yaml"),
        loma_lpf_limit=lpf_limit,
        loma_show_progress_bar=False,
        nb_mappings_generated=3,
        enable_mix_spatial_mapping_generation=True,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType("uneven"),
    )
    layers, clock, area = [], 0.0, 0.0
    for cost, _ in stage.run()[0][1]:
        bits = {str(operand): size for operand, size in cost.layer.operand_size_bit.items()}
        layers.append(
            {
                "name": cost.layer.name,
                "weights_are_constant": "W" in {str(operand) for operand in cost.layer.constant_operands},
                "weight_bits": bits["W"],
                "energy_pj": float(cost.energy_total),
                "array_energy_pj": float(cost.mac_energy),
                "latency_cycles": float(cost.latency_total2),
            }
        )
        clock, area = float(cost.tclk), float(cost.area_total)
    return {"layers": layers, "clock_ns": clock, "area_mm2": area}


def main():
    """Print energy and latency of each layer, and their sums."""
    parser = argparse.ArgumentParser(description="Energy and latency of each layer, by ZigZag.")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.add_argument("--lpf-limit", type=int, default=6, help="how many loop orders are tried: fewer is faster")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = costs(options.lpf_limit)
    if options.json:
        print(json.dumps(found))
        return
    for layer in found["layers"]:
        kind = "weights" if layer["weights_are_constant"] else "no weights, but activations:"
        print(f"{layer['name']}: {layer['energy_pj']:,.1f} pJ, of these in the array {layer['array_energy_pj']:,.1f}; "
              f"{layer['latency_cycles']:,.0f} cycles; {kind} {layer['weight_bits']:,.0f} bits")
    print(f"in all {sum(layer['energy_pj'] for layer in found['layers']):,.1f} pJ and "
          f"{sum(layer['latency_cycles'] for layer in found['layers']):,.0f} cycles of {found['clock_ns']:.2f} ns")


if __name__ == "__main__":
    main()
'''
