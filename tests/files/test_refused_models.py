"""What is refused in a model wherever it stands: in functions, in their bodies, and beside the graph."""

from __future__ import annotations

import errno
import os

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnx_gconv.files.models
from onnx_gconv import ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model

N = helper.make_node
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]


def model_of(*nodes, functions=()):
    """A model from 'x' to 'y' with a weight 'W', and functions of one input."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")
    graph = helper.make_graph(list(nodes) or [N("MatMul", ["x", "W"], ["y"])], "g", ends[:1], ends[1:], [weight])
    made = [helper.make_function("my.ops", f"own{k}", ["c"], ["r"], f, OPSETS) for k, f in enumerate(functions)]
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, functions=made)


def body(*nodes, tensors=()):
    return helper.make_graph(list(nodes), "body", [], [helper.make_value_info("o", onnx.TypeProto())], list(tensors))


def with_branch(branch):
    """A model whose function has a condition with this branch."""
    other = body(N("Constant", [], ["o"], value_float=1.0))
    condition = N("If", ["c"], ["r"], name="choose", then_branch=branch, else_branch=other)
    return model_of(N("own0", ["x"], ["y"], domain="my.ops"), functions=[[condition]])


def refusal(path, model):
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as error:
        load_model(path)
    text = str(error.value)
    assert text.startswith(f"'{path}' ")
    return text.removeprefix(f"'{path}' ")


def short(name):
    """A tensor of two numbers that has one."""
    tensor = numpy_helper.from_array(np.ones(2, np.float32), name)
    tensor.raw_data = tensor.raw_data[:4]
    return tensor


SHORT = "has 4 values or bytes of data, but FLOAT [2] needs 8; export or copy the model again"


def test_a_sound_body_of_a_function_is_read(tmp_path):
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "t")
    model = with_branch(body(N("Identity", ["t"], ["o"]), tensors=[tensor]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert len(load_model(tmp_path / "m.onnx").functions) == 1


def test_damaged_tensors_of_a_body_of_a_function(tmp_path):
    initializer = with_branch(body(N("Identity", ["t"], ["o"]), tensors=[short("t")]))
    assert refusal(tmp_path / "m.onnx", initializer) == f"has a damaged tensor: tensor 't' {SHORT}"
    constant = with_branch(body(N("Constant", [], ["o"], value=short("v"))))
    assert refusal(tmp_path / "m.onnx", constant) == f"has a damaged tensor: tensor 'v' {SHORT}"


def test_a_node_of_a_body_of_a_function_whose_attribute_is_of_no_type(tmp_path):
    node = N("Neg", ["c"], ["o"], name="n")
    node.attribute.append(AttributeProto(name="odd"))
    assert refusal(tmp_path / "m.onnx", with_branch(body(node))) == (
        "has the node 'n' (Neg) whose attribute 'odd' is UNDEFINED; export the model again"
    )


def test_a_complex_number_needs_two_values_of_data(tmp_path):
    tensor = TensorProto(name="c", data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1, 2, 3, 4])
    model = model_of()
    model.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    numbers = load_model(tmp_path / "m.onnx").graph.initializers["c"].const_value.numpy()
    assert numbers.tolist() == [1 + 2j, 3 + 4j]
    del model.graph.initializer[-1].float_data[3:]
    assert refusal(tmp_path / "m.onnx", model) == (
        "has a damaged tensor: tensor 'c' has 3 values or bytes of data, but COMPLEX64 [2] needs 4; "
        "export or copy the model again"
    )


def test_a_text_of_a_quantization_annotation_that_is_no_text(tmp_path):
    for place in ("tensor_name", "value"):
        model = model_of()
        annotation = model.graph.quantization_annotation.add(tensor_name="W")
        entry = annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
        setattr(annotation if place == "tensor_name" else entry, place, "good name")
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString().replace(b"good name", b"bad \xffname"))
        with pytest.raises(ModelError) as error:
            load_model(path)
        assert str(error.value) == (
            f"'{path}' has the text b'bad \\xffname', which is no UTF-8; export or copy the model again"
        )


def test_an_input_of_a_type_that_nobody_knows(tmp_path):
    model = model_of()
    model.graph.input[0].type.tensor_type.elem_type = 99
    assert refusal(tmp_path / "m.onnx", model) == (
        "is not a valid ONNX model: 99 is not a valid DataType; export it again"
    )


def test_an_attribute_that_is_a_sparse_tensor(tmp_path):
    node = N("Own", ["x"], ["y"], domain="my.ops")
    node.attribute.append(AttributeProto(name="sparse", type=AttributeProto.SPARSE_TENSOR))
    text = refusal(tmp_path / "m.onnx", model_of(node))
    assert text.startswith("is not a valid ONNX model: ")
    assert text.endswith("; export it again")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EncodeError("Failed to serialize proto"), "Failed to serialize proto; write it with external data"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
    ],
    ids=["encode", "disk"],
)
def test_a_model_that_cannot_be_written_as_one_file(tmp_path, monkeypatch, error, said):
    (tmp_path / "m.onnx").write_bytes(model_of().SerializeToString())

    def fail(*_args, **_options):
        raise error

    model = load_model(tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_gconv.files.models.ir, "save", fail)
    with pytest.raises(ConfigError) as found:
        save_model(model, tmp_path / "out.onnx", external_data=False)
    assert str(found.value) == f"cannot write '{tmp_path / 'out.onnx'}': {said}"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
