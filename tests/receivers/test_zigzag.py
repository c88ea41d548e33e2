"""ZigZag runs on the folder that is written for it, and counts the weights of the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

CELLS = 2

COUNT = """
import json, logging, sys
from zigzag.parser.onnx.onnx_model_parser import ONNXModelParser
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage

logging.disable(logging.CRITICAL)
layers = []
for layer in ONNXModelParser(sys.argv[1], sys.argv[2]).run().topological_sort():
    if hasattr(layer, "constant_operands"):
        bits = {str(operand): size for operand, size in layer.operand_size_bit.items()}
        layers.append(["W" in [str(item) for item in layer.constant_operands], bits["W"], layer.total_mac_count])
array = AcceleratorParserStage.parse_accelerator(sys.argv[3]).operational_array
sizes = [array.wordline_dim_size, array.bitline_dim_size]
print(json.dumps([layers, sizes, [array.adc_resolution, array.bit_serial_precision, array.weight_precision]]))
"""


@pytest.fixture(scope="module")
def counted(zigzag, bundle):
    """What ZigZag makes of a model: whether it has weights, their bits and products, for each layer; and the array."""
    folder = bundle.path / "zigzag"

    def count(model):
        return zigzag("-c", COUNT, model, folder / "mapping.yaml", folder / "accelerator.yaml", as_json=True)

    return count


def products(model):
    """How many products the layers of a model have, by the shapes that onnx infers."""
    shapes = {
        item.name: [size.dim_value for size in item.type.tensor_type.shape.dim]
        for item in (*model.graph.value_info, *model.graph.output)
    }
    sizes = {item.name: list(item.dims) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"Conv", "Gemm"}:
            made, weight = shapes[node.output[0]], sizes[node.input[1]]
            # Each output of a Conv is the sum over one filter; that of a Gemm with transB, over one row.
            yield int(np.prod(made)) * int(np.prod(weight[1:]))


def test_all_weights_count_as_weights(counted, bundle, weights):
    layers, sizes, figures = counted(bundle.path / "zigzag/model.onnx")
    model = onnx.load(bundle.path / "zigzag/model.onnx")
    assert [is_weight for is_weight, _, _ in layers] == [True] * 5
    assert [bits for _, bits, _ in layers] == [CELLS * size for size in weights]
    assert sum(bits for _, bits, _ in layers) == CELLS * 34208
    assert [count for _, _, count in layers] == list(products(model))
    assert (sizes, figures) == ([32, 64], [6, 1, CELLS])


def test_in_the_mapped_model_they_do_not(counted, bundle, tmp_path):
    """With the same shapes: each weight is rebuilt by a node, as the activations are."""
    model = onnx.load(bundle.path / "model.onnx")
    for item in model.graph.input:
        item.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    for item in model.graph.output:
        item.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "mapped.onnx")
    layers, _, _ = counted(tmp_path / "mapped.onnx")
    assert [is_weight for is_weight, _, _ in layers] == [True, False, False, False, False]


def test_the_script_gives_energy_and_latency_of_each_layer(zigzag, bundle, weights):
    script = bundle.path / "zigzag/run.py"
    found = zigzag(script, "--json", "--lpf-limit", 4, as_json=True)
    assert [layer["weight_bits"] for layer in found["layers"]] == [CELLS * size for size in weights]
    assert all(layer["weights_are_constant"] for layer in found["layers"])
    for layer in found["layers"]:
        assert 0 < layer["array_energy_pj"] < layer["energy_pj"]
        assert layer["latency_cycles"] > 0
    # Of 512 inputs and 64 outputs on arrays of 64 rows, for two samples: a conversion for each part of the inputs, each
    # output, each of its two columns and each bit of an input. What else an array does is a small part of it.
    conversions = 2 * (512 // 64) * 64 * CELLS * 8
    converter_pj = (100 * 6 + 0.001 * 4**6) * 0.9**2 / 1000
    hidden = found["layers"][3]
    assert 1 < hidden["array_energy_pj"] / (conversions * converter_pj) < 1.3
    assert found["clock_ns"] > 0
    assert found["area_mm2"] > 0
    assert "weights 288 bits\n" in zigzag(script, "--lpf-limit", 4)
