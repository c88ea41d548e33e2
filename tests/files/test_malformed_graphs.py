"""Graphs that compute nothing, and nodes that are not what their op says: one line that names them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_gconv import ModelError
from onnx_gconv.files.graph_order import first_cycle
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.operations import map_model

N = helper.make_node


def write(path, nodes, *, opsets=(("", 17),)):
    weight = np.eye(4, dtype=np.float32)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "W")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in opsets], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def body(*nodes):
    return helper.make_graph(list(nodes), "body", [], [helper.make_value_info("o", onnx.TypeProto())])


CYCLES = {
    "activations": ([N("Add", ["x", "b"], ["a"], name="one"), N("Add", ["a", "x"], ["b"], name="two")],
                    "nodes need the outputs of each other: 'two' (Add), 'one' (Add)"),
    "a weight": ([N("Transpose", ["b"], ["a"]), N("Transpose", ["a"], ["b"]), N("MatMul", ["x", "b"], ["y"])],
                 "nodes need the outputs of each other: Transpose of 'b', Transpose of 'a'"),
    "one node": ([N("Add", ["x", "a"], ["a"], name="one"), N("MatMul", ["a", "W"], ["y"])],
                 "a node needs its own output: 'one' (Add)"),
    "through a body": ([N("If", ["c"], ["a"], name="branch", then_branch=body(N("Neg", ["b"], ["o"])),
                          else_branch=body(N("Neg", ["x"], ["o"]))), N("Neg", ["a"], ["b"], name="two")],
                       "nodes need the outputs of each other"),
    "many": ([N("Neg", [f"h{(k + 1) % 9}"], [f"h{k}"], name=f"n{k}") for k in range(9)], "(Neg) and others"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CYCLES)
def test_a_cycle_is_refused_with_its_nodes(tmp_path, kind):
    nodes, message = CYCLES[kind]
    with pytest.raises(ModelError) as found:
        load_model(write(tmp_path / "model.onnx", nodes))
    assert f"{tmp_path / 'model.onnx'}' has a cycle, in which" in str(found.value)
    assert message in str(found.value)
    assert str(found.value).endswith("; export the model again")


def test_nodes_in_another_order_are_no_cycle(tmp_path):
    nodes = [N("MatMul", ["a", "W"], ["y"]), N("Neg", ["x"], ["a"])]
    assert len(load_model(write(tmp_path / "model.onnx", nodes)).graph) == 2


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 11), max_size=3), min_size=1, max_size=12))
def test_a_cycle_is_found_if_and_only_if_nodes_cannot_be_put_in_order(reads):
    """Against the plain way: take away nodes that need none of the others until none is left, or none can go."""
    nodes = [N("Sum", [f"v{k}" for k in inputs], [f"v{number}"]) for number, inputs in enumerate(reads)]
    left = {number: {k for k in inputs if k < len(reads)} for number, inputs in enumerate(reads)}
    while free := {number for number, needed in left.items() if not needed & left.keys()}:
        for number in free:
            del left[number]
    cycle = first_cycle(helper.make_graph(nodes, "g", [], []))
    assert bool(cycle) == bool(left)
    for node, following in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
        assert node.output[0] in following.input


def attribute(node, name, **value):
    node.attribute.append(helper.make_attribute(name, value["value"]))
    return node


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [4, 4]
)
NODES = {
    "of another type": (attribute(N("Gemm", ["x", "W"], ["y"], name="g"), "transB", value=1.0),
                        "the node 'g' (Gemm) whose attribute 'transB' is FLOAT, but should be INT"),
    "without a name": (attribute(N("Transpose", ["W"], ["t"]), "perm", value=1),
                       "the node Transpose of 't' whose attribute 'perm' is INT, but should be INTS"),
    "without a type": (N("MatMul", ["x", "W"], ["y"], name="m"),
                       "the node 'm' (MatMul) whose attribute 'q' is UNDEFINED"),
    "without outputs": (N("Identity", ["W"], [], name="i"), "the node 'i' (Identity) without the 1 outputs that"),
    "with a sparse value": (N("Constant", [], ["C"], name="c", sparse_value=SPARSE),
                            "the node 'c' (Constant) whose value is sparse, which onnx-ir does not read; make it d"),
    "without a value": (N("Constant", [], ["C"], name="c"), "the node 'c' (Constant) with 0 attributes, of which"),
}  # fmt: skip
NODES |= {
    "without inputs": (N("Cast", [], ["t"], name="c", to=1), "the node 'c' (Cast) without the 1 inputs that it"),
    "with a gap for an input": (N("MatMul", ["x", ""], ["t"], name="m"), "the node 'm' (MatMul) without the 2 inputs"),
    "a constant of nothing": (attribute(N("Constant", [], ["C"], name="c"), "velue", value=1.0),
                              "the node 'c' (Constant) with the attribute 'velue', which holds no value"),
}  # fmt: skip
NODES["without a type"][0].attribute.append(onnx.AttributeProto(name="q"))


@pytest.mark.parametrize("kind", NODES)
def test_a_node_that_is_not_what_its_op_says_is_refused(tmp_path, kind):
    node, message = NODES[kind]
    with pytest.raises(ModelError) as found:
        load_model(write(tmp_path / "model.onnx", [node, N("MatMul", ["x", "W"], ["y"])]))
    assert message in str(found.value)
    assert str(found.value).endswith("; export the model again")


def test_inputs_that_may_be_left_out_are_not_missed(tmp_path):
    kinds = {
        "i": onnx.TensorProto.INT64,
        "k": onnx.TensorProto.BOOL,
        "go": onnx.TensorProto.BOOL,
        "s": onnx.TensorProto.INT64,
    }
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()]
    steps = [N("Identity", ["k"], ["go"]), N("Identity", ["i"], ["s"])]
    again = helper.make_graph(steps, "again", ends[:2], ends[2:])
    nodes = [N("Loop", ["", ""], ["counts"], name="loop", body=again), N("MatMul", ["x", "W"], ["y"])]
    assert len(load_model(write(tmp_path / "model.onnx", nodes)).graph) == 2


def test_values_that_are_made_of_maps_are_refused_with_what_to_do(tmp_path):
    path = write(
        tmp_path / "model.onnx", [N("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])]
    )
    model = onnx.load(path)
    maps = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    model.graph.output[0].CopyFrom(helper.make_value_info("z", helper.make_sequence_type_proto(maps)))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"the value 'z' that is made of maps, .*: valid, but not supported, .*'zipmap': False"
    ):
        load_model(path)


@pytest.mark.parametrize("rest", [b"", b"\x00" * 100, bytes(range(256)) * 4])
def test_a_model_in_the_format_of_onnx_runtime_is_called_so(tmp_path, rest):
    (tmp_path / "model.ort").write_bytes(b"\x18\x00\x00\x00ORTM" + rest)
    with pytest.raises(
        ModelError, match=r"model.ort' is in ONNX Runtime's own format \(.ort\), .*; map the .onnx file before"
    ):
        load_model(tmp_path / "model.ort")


def test_a_real_model_of_onnx_runtime_is_called_so(tmp_path):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(path, options)
    with pytest.raises(ModelError, match="is in ONNX Runtime's own format"):
        load_model(tmp_path / "model.ort")


def test_ops_that_onnx_does_not_know_may_have_any_attributes(tmp_path):
    node = attribute(N("Gemm", ["x", "W"], ["y"], domain="my.ops"), "transB", value=1.0)
    assert len(load_model(write(tmp_path / "model.onnx", [node], opsets=(("", 17), ("my.ops", 1)))).graph) == 1


def test_a_tensor_of_more_axes_than_numpy_knows_is_refused(tmp_path):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])])
    model = onnx.load(path)
    model.graph.initializer[0].dims[:] = [1] * 63 + [4, 4]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"tensor 'W' has the shape .*, and axes 64 or fewer; export or copy"):
        load_model(path)


def test_a_cast_to_a_type_that_does_not_exist_is_no_weight(tmp_path):
    from onnx_gconv import inspect_model

    nodes = [N("Cast", ["W"], ["w"], to=99), N("MatMul", ["x", "w"], ["y"], name="m")]
    report = inspect_model(write(tmp_path / "model.onnx", nodes))
    assert report.mapped == ()
    assert [item.name for item in report.skipped] == ["w"] or [item.name for item in report.skipped] == ["W"]


def test_a_name_that_is_too_long_for_a_file_is_refused(tmp_path):
    from onnx_gconv import ConfigError, map_model

    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])])
    with pytest.raises(ConfigError, match="File name too long; choose another name"):
        map_model(path, tmp_path / ("n" * 300))


def test_elements_in_the_field_of_another_type_are_none(tmp_path):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])])
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.uint64_data.extend(range(16))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"tensor 'W' has 0 values or bytes of data, but FLOAT \[4, 4\] needs 16; export"
    ):
        load_model(path)


def test_a_node_with_two_attributes_of_one_name_is_refused(tmp_path):
    """onnx-ir keeps one of them; what stood in the other one would be lost."""
    branch = {name: body(N("MatMul", ["x", "W"], ["o"])) for name in ("then_branch", "else_branch")}
    node = N("If", ["c"], ["y"], name="branch", **branch)
    node.attribute.add().CopyFrom(node.attribute[0])
    with pytest.raises(
        ModelError, match=r"has the node 'branch' \(If\) with two attributes '\w+_branch', of which one"
    ):
        load_model(write(tmp_path / "model.onnx", [node]))


def test_what_onnx_ir_reads_and_does_not_write_is_one_line(tmp_path):
    node = N("MatMul", ["x", "W"], ["y"], name="mm")
    node.device_configurations.add()
    path = write(tmp_path / "model.onnx", [node])
    proto = onnx.load(path)
    proto.ir_version = 11  # the first one with device configurations
    path.write_bytes(proto.SerializeToString())
    for act in (map_model, lambda source: save_model(load_model(source), tmp_path / "out.onnx")):
        with pytest.raises(ModelError) as found:
            act(path)
        assert "onnx-ir cannot write the model again: Cannot serialize a NodeDeviceConfiguration" in str(found.value)
        assert str(found.value).endswith("; export the model again")
        assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
