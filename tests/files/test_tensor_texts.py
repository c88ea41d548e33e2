"""What a file says about its tensors is there once, however often it is written, and comes back with a weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_gconv import map_model, restore_model
from onnx_gconv.files.models import load_into_memory, load_model, save_model


@pytest.fixture
def told(tmp_path):
    """A model whose tensors, one in an attribute, have a text and metadata."""
    rng = np.random.default_rng(0)
    weights = {"W": rng.normal(size=(16, 16)), "b": rng.normal(size=16), "K": rng.normal(size=(16, 16))}
    tensors = {name: numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()}
    for name, tensor in tensors.items():
        tensor.doc_string = f"text of {name}"
        tensor.metadata_props.add(key="origin", value=name)
    nodes = [
        helper.make_node("Constant", [], ["K"], value=tensors["K"]),
        helper.make_node("Gemm", ["x", "W", "b"], ["h"]),
        helper.make_node("MatMul", ["h", "K"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensors["W"], tensors["b"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def texts(path):
    model = onnx.load(path)
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    return {
        tensor.name: (tensor.doc_string, [(entry.key, entry.value) for entry in tensor.metadata_props])
        for tensor in (*model.graph.initializer, *constants)
        if tensor.doc_string or tensor.metadata_props
    }


def expected(*names):
    return {name: (f"text of {name}", [("origin", name)]) for name in names}


@pytest.mark.parametrize("external_data", [False, True])
def test_texts_of_tensors_survive_mapping_and_restoring(told, tmp_path, external_data):
    assert texts(told) == expected("W", "b", "K")
    map_model(told, tmp_path / "mapped.onnx", external_data=external_data)
    assert texts(tmp_path / "mapped.onnx") == expected("b")
    restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx", external_data=external_data)
    assert texts(tmp_path / "plain.onnx") == expected("W", "b", "K")


@pytest.mark.parametrize("external_data", [False, True])
def test_texts_of_tensors_are_there_once_however_often_they_are_written(told, external_data):
    for number in range(3):
        save_model(load_model(told), copy := told.with_name(f"copy{number}.onnx"), external_data=external_data)
        told = copy
        assert texts(told) == expected("W", "b", "K")
    if external_data:
        model = load_model(told)
        load_into_memory(model)
        save_model(model, told.with_name("inline.onnx"), external_data=False)
        assert texts(told.with_name("inline.onnx")) == expected("W", "b", "K")


def test_a_weight_without_texts_gets_none(told, tmp_path):
    model = onnx.load(told)
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    onnx.save(model, told)
    map_model(told, tmp_path / "mapped.onnx")
    restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx")
    assert texts(tmp_path / "plain.onnx") == expected("K")
