#!/usr/bin/env bash
# Guess: ZigZag takes a weight that nodes compute from constants for a weight, as every runtime that folds constants
# does, or says that it does not. Seen: zigzag-dse 3.9.1 counts predecessors only. A weight behind Sub and Div (a pair of
# conductances and a scale) is an activation, with the bits of activations, and the estimated energy is another one. A
# bias from a Constant node makes an activation of the weight beside it. Nothing is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install zigzag-dse==3.9.1 six==1.17.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import zigzag
from onnx import TensorProto, helper, numpy_helper
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.onnx_model_parser import ONNXModelParserStage
from zigzag.stages.results.reduce_stages import MinimalEDPStage, SumStage
from zigzag.stages.workload_iterator import WorkloadStage

logging.disable(logging.CRITICAL)
inputs = Path(zigzag.__file__).parent / "inputs"


def constant(name, *shape):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def save(name, nodes, constants):
    """x -> MatMul by V -> Relu -> Gemm by W, whose weight has 4 bits and whose input has 8."""
    values = {"h": [8, 64], "r": [8, 64], "W": [64, 32], "b": [32]}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "V"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["r"]), *nodes,
         helper.make_node("Gemm", ["r", "W", "b"], ["y"], name="second", weight_size=4, act_size=8)],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 32])], [constant("V", 16, 64), *constants],
        value_info=[helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), name)


def second_layer(name):
    """Which of its operands are constants, the bits of its weights, and its energy."""
    stages = [
        ONNXModelParserStage, AcceleratorParserStage, SumStage, WorkloadStage, MinimalEDPStage,
        SpatialMappingGeneratorStage, MinimalEDPStage, TemporalMappingGeneratorStage, CostModelStage,
    ]
    stage = MainStage(
        list_of_callables=stages, workload=name, accelerator=str(inputs / "hardware/tpu_like.yaml"),
        mapping=str(inputs / "mapping/default.yaml"), loma_lpf_limit=4, loma_show_progress_bar=False,
        nb_mappings_generated=3, access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType("uneven"),
    )
    [cost] = [cost for cost, _ in stage.run()[0][1] if cost.layer.name == "second"]
    bits = {str(operand): size for operand, size in cost.layer.operand_size_bit.items()}
    return [str(operand) for operand in cost.layer.constant_operands], bits["W"], round(float(cost.energy_total))


pair = [helper.make_node("Sub", ["G+", "G-"], ["d"]), helper.make_node("Div", ["d", "s"], ["W"])]
bias = [helper.make_node("Constant", [], ["b"], value=constant("b", 32))]
save("plain.onnx", [], [constant("W", 64, 32), constant("b", 32)])
save("pair.onnx", pair, [constant("G+", 64, 32), constant("G-", 64, 32), constant("s"), constant("b", 32)])
save("bias.onnx", bias, [constant("W", 64, 32)])
found = {name: second_layer(f"{name}.onnx") for name in ("plain", "pair", "bias")}
print(f"zigzag-dse {version('zigzag-dse')}: constant operands, bits of the {64 * 32} weights of 4 bits, energy in pJ")
for name, (constants, bits, energy) in found.items():
    print(f"{name:5}: {constants}, {bits}, {energy}")
assert found["plain"][:2] == (["W"], 8192), "it behaves otherwise now"
assert all(found[name][:2] == ([], 16384) for name in ("pair", "bias")), "it behaves otherwise now"
assert found["pair"][2] != found["plain"][2], "it behaves otherwise now"
PYTHON
