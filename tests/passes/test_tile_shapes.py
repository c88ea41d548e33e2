"""The shapes that scales of tiles are expanded to are where every runtime reads them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from onnx_gconv import map_model
from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

CONV = "g (float[1,16,4,4] x) => (float y) { y = Conv(x, W) }"


@pytest.fixture
def conv(parse, normal):
    return parse(CONV, W=normal(32, 16, 1, 1))


@pytest.fixture
def mapped(conv):
    MapConductances(granularity={"tile": "8x16"})(conv)
    return conv


def target_shape(model):
    [reshape] = [node for node in model.graph if node.op_type == "Reshape"]
    return reshape.inputs[1]


def test_a_model_whose_initializers_are_all_in_external_data_runs(conv, tmp_path):
    save_model(conv, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx", granularity={"tile": "8x16"})
    whole = onnx.load(tmp_path / "mapped.onnx")
    onnx.save(whole, tmp_path / "all.onnx", save_as_external_data=True, location="all.data", size_threshold=0)
    x = np.ones((1, 16, 4, 4), np.float32)
    plain, mapped = (
        ort.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("model.onnx", "all.onnx")
    )
    np.testing.assert_allclose(mapped, plain, rtol=1e-4, atol=1e-4)


def test_the_shape_is_in_a_node_that_goes_with_the_mapping(mapped):
    node = target_shape(mapped).producer()
    assert (node.op_type, target_shape(mapped).name) == ("Constant", "W.g_shape")
    assert CheckMapping().violations(mapped) == ()
    RestoreWeights()(mapped)
    assert [node.op_type for node in mapped.graph] == ["Conv"]
    assert list(mapped.graph.initializers) == ["W"]


def test_models_with_the_shape_in_an_initializer_are_read_as_before(mapped):
    """As older versions wrote them."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(mapped)
    assert "W.g_shape" in mapped.graph.initializers
    assert CheckMapping().violations(mapped) == ()
    RestoreWeights()(mapped)
    assert list(mapped.graph.initializers) == ["W"]


@pytest.mark.parametrize(("opset", "is_in_node"), [(8, False), (9, True)])
def test_nodes_hold_shapes_only_where_the_opset_lets_them_hold_integers(parse, normal, opset, is_in_node):
    text = CONV.replace("float y", "float[1,32,4,4] y")
    model = parse(text, opsets=f'"" : {opset}', ir_version=4, W=normal(32, 16, 1, 1))
    MapConductances(granularity={"tile": "8x16"})(model)
    assert (target_shape(model).producer() is not None) == is_in_node
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert CheckMapping().violations(model) == ()


def test_another_shape_is_a_broken_mapping(mapped):
    wrong = ir.tensor(np.array([32, 1, 16, 1], np.int64), name="wrong")
    target_shape(mapped).producer().attributes.add(ir.AttrTensor("value", wrong))
    [violation] = CheckMapping().violations(mapped)
    assert violation.message == "'W/gconv_Reshape' does not give 'W.g_scale_expanded_1' the shape of the weight"
    with pytest.raises(ModelError, match="the shape of the weight"):
        RestoreWeights()(mapped)


def test_a_saved_model_holds_its_mapping(mapped, tmp_path):
    save_model(mapped, tmp_path / "mapped.onnx", external_data=True)
    assert CheckMapping().violations(load_model(tmp_path / "mapped.onnx")) == ()
