"""Names that stand for no value, or are no text, and opsets that cannot be: one line that says which."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_gconv import ModelError, inspect_model
from onnx_gconv.files.models import load_model

N = helper.make_node


def write(path, nodes, *, opsets=(("", 17),)):
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in opsets], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def body(*nodes):
    return helper.make_graph(list(nodes), "body", [], [helper.make_value_info("o", onnx.TypeProto())])


NEG_X = body(N("Neg", ["x"], ["o"]))
NAMES = {
    "read by a node": ([N("MatMul", ["x", "V"], ["y"], name="m")],
                       "reads the value 'V', which nothing gives, in the node 'm'"),
    "read in a body": ([N("If", ["x"], ["y"], then_branch=body(N("Neg", ["a"], ["o"])), else_branch=NEG_X)],
                       "reads the value 'a', which nothing gives, in the node Neg"),
    "an output": ([N("Neg", ["x"], ["z"])], "has the output 'y', which nothing gives"),
    "an output of a body": ([N("If", ["x"], ["y"], then_branch=NEG_X, else_branch=body(N("Neg", ["x"], ["a"])))],
                            "has the output 'o', which nothing gives"),
    "given twice": ([N("Neg", ["x"], ["y"]), N("Abs", ["x"], ["y"])], "gives the value 'y' twice"),
    "a weight given again": ([N("Neg", ["x"], ["W"]), N("MatMul", ["x", "W"], ["y"])], "gives the value 'W' twice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_stands_for_no_value_or_for_two_is_refused(tmp_path, kind):
    nodes, message = NAMES[kind]
    with pytest.raises(ModelError) as found:
        load_model(write(tmp_path / "model.onnx", nodes))
    assert message in str(found.value)
    assert str(found.value).endswith("; export the model again")


def test_a_function_that_reads_what_nothing_gives_it_is_refused(tmp_path):
    path = write(tmp_path / "model.onnx", [N("own", ["x"], ["y"], domain="my.ops")], opsets=(("", 17), ("my.ops", 1)))
    model = onnx.load(path)
    nodes = [N("MatMul", ["a", "W"], ["r"])]  # functions do not see what is around them
    model.functions.append(helper.make_function("my.ops", "own", ["a"], ["r"], nodes, [helper.make_opsetid("", 17)]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"reads the value 'W', which nothing gives, in the node MatMul; export"):
        load_model(path)


def test_a_body_reads_what_the_graphs_around_it_give(tmp_path):
    inner = body(N("Neg", ["x"], ["n"]), N("If", ["x"], ["o"], then_branch=body(N("Neg", ["n"], ["o"])),
                                           else_branch=body(N("Neg", ["late"], ["o"]))))  # fmt: skip
    nodes = [N("If", ["x"], ["y"], then_branch=inner, else_branch=NEG_X), N("Neg", ["x"], ["late"])]
    assert len(load_model(write(tmp_path / "model.onnx", nodes)).graph) == 2


@pytest.mark.parametrize("version", [-1, 0, 2**31, 2**62])
def test_an_opset_that_cannot_be_is_refused(tmp_path, version):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])], opsets=(("", version),))
    with pytest.raises(ModelError, match=f"has the opset {version} of '', which does not exist; export the model"):
        load_model(path)


def test_a_model_of_ops_without_an_opset_is_refused(tmp_path):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"], name="m")], opsets=(("my.ops", 1),))
    with pytest.raises(
        ModelError, match=r"the node 'm' \(MatMul\) of ONNX's own ops, for which the model imports no opset; export"
    ):
        load_model(path)


def test_the_own_domain_may_be_called_by_its_other_name(tmp_path):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])], opsets=(("ai.onnx", 17),))
    assert len(load_model(path).graph) == 1


PLACES = {
    "a node": lambda model: model.graph.node[0],
    "a value": lambda model: model.graph.input[0],
    "a tensor": lambda model: model.graph.initializer[0],
    "a dimension": lambda model: model.graph.output[0].type.tensor_type.shape.dim[0],
    "metadata": lambda model: model.metadata_props.add(key="k", value="v"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_text_that_is_no_text_is_refused(tmp_path, place):
    path = write(tmp_path / "model.onnx", [N("MatMul", ["x", "W"], ["y"])])
    model = onnx.load(path)
    message = PLACES[place](model)
    setattr(message, {"a dimension": "dim_param", "metadata": "value"}.get(place, "name"), "good name")
    path.write_bytes(model.SerializeToString().replace(b"good name", b"bad \xff\xfename"[:9]))
    with pytest.raises(ModelError, match=r"has the text b'bad .*', which is no UTF-8; export or copy the model again"):
        load_model(path)


def test_zero_points_along_an_axis_that_the_codes_do_not_have_are_none(tmp_path):
    path = write(
        tmp_path / "model.onnx", [N("DequantizeLinear", ["Q", "s", "z"], ["w"], axis=2), N("MatMul", ["x", "w"], ["y"])]
    )
    model = onnx.load(path)
    for name, array in {
        "Q": np.ones((4, 4), np.int8),
        "s": np.ones(4, np.float32),
        "z": np.arange(4, dtype=np.int8),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())
    report = inspect_model(path)
    assert [weight.name for weight in report.mapped] == ["Q"]
    assert "its zero points do not follow its axes" in str(report.mapped[0].notes)


def test_a_text_of_an_op_that_is_no_text_is_refused(tmp_path):
    node = N("Einsum", ["x", "W"], ["y"], name="e", equation=b"b\xe9,io->ob")
    with pytest.raises(ModelError, match=r"the node 'e' \(Einsum\) whose attribute 'equation' is no UTF-8; export"):
        load_model(write(tmp_path / "model.onnx", [node]))
