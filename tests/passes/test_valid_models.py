"""What is written after a rewrite is a valid model that ONNX Runtime runs, however names and outputs are shared."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_gconv import ModelError, map_model, restore_model, verify
from onnx_gconv.files.models import save_model

SPLIT = "g (float[2,4] x, bool c) => (float[2,3] y{more}) {{ W, b = Split <axis = 0> (P, parts) {nodes} }}"


def split(normal, nodes, more=""):
    text = SPLIT.format(nodes=nodes, more=more)
    return text, {"P": normal(5, 3), "parts": np.int64([4, 1])}


BODY = """g (float[2,3] x, bool c) => (float[2,3] y) {{
    h = MatMul(x, W)
    y = If (c) <then_branch = t () => (float[2,3] o) {then}, else_branch = e () => (float[2,3] p) {{ p = Neg(h) }}>
}}"""


@pytest.fixture
def checked(tmp_path, parse):
    """Maps and restores a model, and checks that each file is valid and runs with the same outputs."""

    def run(path, model):
        onnx.checker.check_model(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = {"x": np.random.default_rng(0).normal(size=(2, model.graph.inputs[0].shape[1])).astype(np.float32)}
        names = {item.name for item in session.get_inputs()}
        found = [session.run(None, feeds | ({"c": np.array(flag)} if "c" in names else {})) for flag in (True, False)]
        return [array for outputs in found for array in outputs]

    def check(text, opsets='"" : 17', ir_version=10, **options_and_weights):
        options = options_and_weights.pop("options", {})
        model = parse(text, opsets=opsets, ir_version=ir_version, **options_and_weights)
        source = tmp_path / "model.onnx"
        save_model(model, source)
        report = map_model(source, tmp_path / "mapped.onnx", **options)
        restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
        expected = run(source, model)
        for name in ("mapped.onnx", "restored.onnx"):
            for ours, theirs in zip(run(tmp_path / name, model), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        verify(source, tmp_path / "mapped.onnx").raise_if_failed()
        return [item.name for item in report.mapped]

    return check


@pytest.mark.parametrize(
    ("nodes", "more", "options", "mapped"),
    [
        ("h = MatMul(x, W) y = Add(h, b)", "", {}, ["W"]),  # the other output is a bias
        ("h = MatMul(x, W) y = Identity(h) z = Neg(b)", ", float[1,3] z", {}, ["W"]),  # somebody else reads it
        ("y = MatMul(x, W)", ", float[1,3] b", {}, ["W"]),  # it is a graph output
        ("h = MatMul(x, W) t = Transpose <perm = [1, 0]> (b) k = MatMul(h, t) y = Mul(h, k)", "", {"exclude": ["b"]},
         ["W"]),  # it is a weight that is left out
        ("h = MatMul(x, W) t = Transpose <perm = [1, 0]> (b) k = MatMul(h, t) y = Mul(h, k)", "", {}, ["W", "b"]),
    ],
)  # fmt: skip
def test_one_output_of_a_node_is_mapped_and_another_stays(checked, normal, nodes, more, options, mapped):
    text, weights = split(normal, nodes, more)
    assert checked(text, options=options, **weights) == mapped


def test_a_weight_in_a_body_may_have_the_name_of_one_around_it(checked, parse, normal, tmp_path):
    """onnx.parser has no initializers of bodies, so that the body gets its own by hand."""
    for left_out in ((), ("node_inner",), ("node_outer",)):
        model = parse(BODY.format(then="{ o = MatMul(h, V) }"), W=normal(3, 3), V=normal(3, 3, seed=1))
        proto = onnx.ModelProto.FromString(serialized(model))
        outer, branch = proto.graph.node
        inner = next(item.g for item in branch.attribute if item.name == "then_branch")
        outer.name, inner.node[0].name = "node_outer", "node_inner"
        tensor = next(item for item in proto.graph.initializer if item.name == "V")
        tensor.name = inner.node[0].input[1] = "W"
        inner.initializer.append(tensor)
        proto.graph.initializer.remove(tensor)
        source = tmp_path / "model.onnx"
        onnx.save(proto, source)
        report = map_model(source, tmp_path / "mapped.onnx", exclude=left_out)
        assert [item.name for item in report.mapped] == ["W"] * (2 - len(left_out))
        restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
        for name in ("mapped.onnx", "restored.onnx"):
            onnx.checker.check_model(tmp_path / name)
            onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        verify(source, tmp_path / "mapped.onnx").raise_if_failed()


def serialized(model):
    import onnx_ir as ir

    return ir.to_proto(model).SerializeToString()


def test_weights_of_one_name_in_two_branches_keep_it(parse, normal, tmp_path):
    text = """g (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <then_branch = t () => (float[2,3] o) { W = Identity(A) o = MatMul(x, W) },
                    else_branch = e () => (float[2,3] p) { W = Neg(B) p = MatMul(x, W) }>
    }"""
    save_model(parse(text, A=normal(3, 3), B=normal(3, 3, seed=1)), tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    onnx.checker.check_model(tmp_path / "mapped.onnx")
    verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx").raise_if_failed()


@pytest.mark.parametrize("external_data", [False, True])
def test_how_a_weight_is_sharded_over_devices_holds_for_the_rebuilt_and_the_restored_one(
    parse, normal, tmp_path, external_data
):
    proto = onnx.ModelProto.FromString(
        serialized(parse("g (float[2,6] x) => (float[2,4] y) { y = MatMul(x, W) }", opsets='"" : 23', ir_version=11,
                         W=normal(6, 4)))
    )  # fmt: skip
    configuration = proto.configuration.add(name="two", num_devices=2)
    configuration.device.extend(["a", "b"])
    of_node = proto.graph.node[0].device_configurations.add(configuration_id="two")
    for name in ("W", "x"):
        of_node.sharding_spec.add(tensor_name=name).device.extend([0, 1])
    onnx.save(proto, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx", external_data=external_data)
    restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    for file in ("mapped.onnx", "restored.onnx"):
        [node] = [node for node in onnx.load(tmp_path / file).graph.node if node.op_type == "MatMul"]
        assert [spec.tensor_name for spec in node.device_configurations[0].sharding_spec] == ["W", "x"]


@pytest.mark.parametrize("depth", [0, 1])
def test_an_opaque_type_which_would_be_lost_is_refused(parse, normal, tmp_path, depth):
    proto = onnx.ModelProto.FromString(
        serialized(parse("g (float[2,6] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(6, 4)))
    )
    kind = onnx.TypeProto()
    opaque = kind.opaque_type if not depth else kind.sequence_type.elem_type.opaque_type
    opaque.domain, opaque.name = "my.ops", "Tokens"
    proto.graph.input.append(onnx.helper.make_value_info("t", kind))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"'t' of the opaque type 'my.ops.Tokens', which would be lost; cut the nodes"):
        map_model(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "nodes",
    [
        "s = SequenceConstruct(A, B) w = SequenceAt(s, i)",
        "o = Optional(A) w = OptionalGetElement(o)",
        "o = Optional(A) t = OptionalGetElement(o) w = Identity(t)",
    ],
)
def test_a_weight_that_comes_through_a_sequence_or_an_optional_keeps_its_shape(checked, normal, nodes):
    text = f"g (float[2,3] x) => (float[2,6] y) {{ {nodes} h = MatMul(x, w) y = MatMul(h, C) }}"
    weights = {"A": normal(3, 4), "B": normal(4, 5, seed=1), "C": normal(4, 6, seed=2), "i": np.array(0)}
    used = {name: array for name, array in weights.items() if re.search(rf"\b{name}\b", nodes) or name == "C"}
    names = checked(text, **used)
    assert len(names) == 2
    assert "C" in names
