"""Manifests that name things twice, or by names that others have, are refused with what they say."""

from __future__ import annotations

import json

import onnx
import pytest

from onnx_gconv import ModelError, map_model, restore_model
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import CheckMapping


@pytest.fixture
def mapped(tmp_path, parse, normal):
    model = parse(
        "g (float[2,4] x) => (float[2,4] y) { h = MatMul(x, W)  k = MatMul(h, V)  y = Mul(k, B) }",
        W=normal(4, 4),
        V=normal(4, 4, seed=1),
        B=normal(4, 4, seed=2)[:2],
    )
    save_model(model, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    return tmp_path / "mapped.onnx"


def change(path, edit):
    model = onnx.load(path)
    [entry] = [item for item in model.metadata_props if item.key == "onnx_gconv"]
    manifest = json.loads(entry.value)
    edit(manifest["weights"])
    entry.value = json.dumps(manifest)
    onnx.save(model, path)


def one_initializer(weights):
    weights[0]["conductances"][1]["name"] = "W.g_plus"


def one_device(weights):
    weights[0]["conductances"][1]["device"] = "g_plus"


def two_owners(weights):
    weights[1]["conductances"][0]["name"] = "W.g_plus"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (one_initializer, "the initializer 'W.g_plus' stands for two of its conductances"),
        (one_device, "the device 'g_plus' stands for two of its conductances"),
        (two_owners, "the initializer 'W.g_plus' belongs to 'W' and to 'V'"),
    ],
)
def test_what_is_named_twice_is_refused(mapped, tmp_path, edit, message):
    change(mapped, edit)
    with pytest.raises(ModelError, match=message):
        restore_model(mapped, tmp_path / "restored.onnx")
    [violation] = CheckMapping().violations(load_model(mapped))
    assert message in str(violation)
    assert not (tmp_path / "restored.onnx").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda weight: weight["conductances"][0].update(coefficient=1e308),
        lambda weight: weight.update(offset_us=-1e300),
        lambda weight: weight.update(zero=1e39),
        lambda weight: weight["scale"].update(value=1e40),
    ],
)
def test_numbers_that_the_type_of_the_computation_does_not_hold_are_refused(mapped, tmp_path, edit):
    change(mapped, lambda weights: edit(weights[0]))
    with pytest.raises(ModelError, match=r"the number -?1e\+\d+ is beyond float32, in which the weight is computed"):
        restore_model(mapped, tmp_path / "restored.onnx")


@pytest.mark.parametrize("name", ["B", "h", "x"])
def test_a_weight_that_has_the_name_of_another_value_is_not_restored(mapped, tmp_path, name):
    """The restored weight would take the place of that value."""
    change(mapped, lambda weights: weights[0].update(name=name))
    with pytest.raises(ModelError, match=f"'{name}' cannot be restored: the graph calls the rebuilt weight 'W'"):
        restore_model(mapped, tmp_path / "restored.onnx")


def test_a_converter_of_other_devices_than_the_manifest_names_is_a_violation(mapped):
    change(mapped, lambda weights: weights[0]["conductances"][0].update(device="top"))
    [violation] = CheckMapping().violations(load_model(mapped))
    assert "the manifest names the devices top, g_minus, but SinglePairConductanceConverter has g_plus, g_minus" in str(
        violation
    )


@pytest.mark.parametrize("damage", ["reads its own output", "has one input", "has no output"])
def test_nodes_that_cannot_compute_a_weight_are_a_violation(mapped, damage):
    model = load_model(mapped)
    sub = next(node for node in model.graph if node.op_type == "Sub")
    if damage == "reads its own output":
        sub.replace_input_with(0, sub.outputs[0])
    elif damage == "has one input":
        sub.resize_inputs(1)
    else:
        div = next(node for node in model.graph if node.op_type == "Div")
        for node, index in list(div.outputs[0].uses()):
            node.replace_input_with(index, model.graph.initializers["B"])
        div.resize_outputs(0)
    found = [str(item) for item in CheckMapping().violations(model)]
    assert any(
        "computes with its own output" in text or "lacks an input" in text or "'W.g_minus' should be read by" in text
        for text in found
    ), found
