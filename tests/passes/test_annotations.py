"""Nodes that rebuild a weight stand on the devices of those that read it, and what is lost is told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_gconv
from tests.packed_models import matmul_model, quantized

LAYER = "layer_ann"
RNG = np.random.default_rng(2)


def model_of(nodes, **arrays):
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], initializers)
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    configuration = found.configuration.add(name="two", num_devices=2)
    configuration.device.extend(["a", "b"])
    return found


def node(op_type, inputs, output, name, **metadata):
    found = helper.make_node(op_type, inputs, [output], name)
    for key, text in metadata.items():
        found.metadata_props.add(key=key, value=text)
    return found


def shard(of_node, *names, stage=None):
    of_device = of_node.device_configurations.add(configuration_id="two")
    if stage is not None:
        of_device.pipeline_stage = stage
    for name in names:
        of_device.sharding_spec.add(tensor_name=name).device.extend([0, 1])


def mapped(model, folder, **options):
    onnx.save(model, folder / "model.onnx")
    report = onnx_gconv.map_model(folder / "model.onnx", folder / "mapped.onnx", **options)
    onnx_gconv.verify(folder / "model.onnx", folder / "mapped.onnx").raise_if_failed()
    onnx.checker.check_model(found := onnx.load(folder / "mapped.onnx"))
    return report, {item.name: item for item in found.graph.node}


def metadata(item):
    return {entry.key: entry.value for entry in item.metadata_props}


def weight(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_weights_are_rebuilt_in_the_layer_that_reads_them(tmp_path):
    model = model_of(
        [
            node("MatMul", ["x", "V"], "h", "first", layer_ann="gpu.0", other="kept"),
            node("MatMul", ["h", "W"], "y", "second", layer_ann="gpu.1"),
        ],
        V=weight(4, 4),
        W=weight(4, 4),
    )
    report, nodes = mapped(model, tmp_path)
    assert report.manifest.notes == ()
    layers = {name: metadata(item).get(LAYER) for name, item in nodes.items()}
    assert {layers[name] for name in layers if name.startswith("V/") or name == "first"} == {"gpu.0"}
    assert {layers[name] for name in layers if name.startswith("W/") or name == "second"} == {"gpu.1"}
    assert metadata(nodes["first"])["other"] == "kept"
    onnx_gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    assert [metadata(item) for item in onnx.load(tmp_path / "restored.onnx").graph.node] == [
        metadata(item) for item in model.graph.node
    ]


def test_a_weight_of_two_layers_is_rebuilt_in_the_first_and_the_report_says_so(tmp_path):
    model = model_of(
        [
            node("MatMul", ["x", "W"], "h", "first", layer_ann="gpu.0"),
            node("MatMul", ["h", "W"], "y", "second", layer_ann="gpu.1"),
        ],
        W=weight(4, 4),
    )
    report, nodes = mapped(model, tmp_path)
    assert metadata(nodes["W/gconv_Div"])[LAYER] == "gpu.0"
    assert report.manifest.notes == ("'W' is rebuilt in the layer 'gpu.0' (layer_ann), and read in 'gpu.1', too",)


def test_what_computed_a_weight_leaves_its_metadata_to_what_rebuilds_it(tmp_path):
    nodes = [
        node("Neg", ["A"], "B", "negation", note="of the first"),
        node("Exp", ["B"], "W", "exponential", note="of the last", layer_ann="cpu"),
        node("MatMul", ["x", "W"], "y", "product"),
    ]
    shard(nodes[0], "A")
    report, found = mapped(model_of(nodes, A=weight(4, 4)), tmp_path)
    assert metadata(found["W/gconv_Div"])["note"] == "of the last"
    assert metadata(found["W/gconv_Sub"])[LAYER] == "cpu"
    assert report.manifest.notes == (
        "nodes that computed 'W' are gone, and so is their metadata 'note'",
        "nodes that computed 'W' are gone, and so is how they were sharded: negation (Neg)",
    )


@pytest.mark.parametrize("granularity", ["tensor", "channel", {"kind": "tile", "tile": "2x3"}])
def test_values_of_the_shape_of_a_weight_are_sharded_as_it_is(tmp_path, granularity):
    product = node("MatMul", ["x", "W"], "y", "product")
    shard(product, "W", "x", stage=1)
    _, nodes = mapped(model_of([product], W=weight(4, 4)), tmp_path, granularity=granularity)
    for name, values in (("W/gconv_Sub", ["W.g_plus", "W.g_minus", "W.g_difference"]), ("W/gconv_Div", ["W"])):
        [of_device] = nodes[name].device_configurations
        assert (of_device.configuration_id, of_device.pipeline_stage) == ("two", 1)
        found = [spec.tensor_name for spec in of_device.sharding_spec]
        assert set(values) <= set(found)
        assert all(list(spec.device) == [0, 1] for spec in of_device.sharding_spec)
    [of_device] = nodes["product"].device_configurations
    assert [spec.tensor_name for spec in of_device.sharding_spec] == ["W", "x"]


def test_a_digital_copy_is_sharded_as_the_weight_and_packed_codes_are_told(tmp_path):
    lookup, product = node("Add", ["x", "W"], "h", "lookup"), node("MatMul", ["h", "W"], "y", "product")
    for item in (lookup, product):
        shard(item, "W")
    model = model_of([lookup, product], W=weight(4, 4))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    _, nodes = mapped(model, tmp_path, shared="split")
    specs = {
        name: [spec.tensor_name for item in nodes[name].device_configurations for spec in item.sharding_spec]
        for name in ("lookup", "product")
    }
    assert specs == {"lookup": ["W.digital"], "product": ["W"]}

    packed = matmul_model(quantized(4, 32))
    packed.ir_version = 11
    packed.configuration.add(name="two", num_devices=2).device.extend(["a", "b"])
    shard(packed.graph.node[0], "W")
    report, nodes = mapped(packed, tmp_path)
    assert [spec.tensor_name for spec in nodes["layer"].device_configurations[0].sharding_spec] == ["W"]
    [note] = report.manifest.notes
    assert note == (
        "the nodes that rebuild 'W' are not sharded over devices, as their values have other shapes; those that read "
        "it are, as before"
    )
