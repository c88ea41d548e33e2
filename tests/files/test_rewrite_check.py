"""A rewritten model that nobody could load is not written, and no weight is read to know that."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import ModelError, map_model, restore_model
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.files.rewrite_check import RewriteCheck
from onnx_gconv.operations import operations
from onnx_gconv.passes import MapConductances, RestoreWeights

DENSE = "g (float[2,30] x) => (float[2,40] y) { [mm] y = MatMul(x, W) }"
OUR_FAULT = "; this is a fault of onnx_gconv, please report it with the model"


@pytest.fixture
def dense(parse, normal):
    return parse(DENSE, W=normal(30, 40))


def problem(check, model):
    with pytest.raises(ModelError) as error:
        check.require_sound(model)
    text = str(error.value)
    assert text.startswith("the model that would be written is damaged, so that nothing was written: ")
    assert text.endswith(OUR_FAULT)
    return text.removesuffix(OUR_FAULT).partition("written: ")[2]


def value(name, dtype=ir.DataType.FLOAT, shape=(2, 40)):
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def test_a_model_that_was_mapped_and_restored_is_sound(dense):
    check = RewriteCheck(dense)
    MapConductances()(dense)
    check.require_sound(dense)
    RestoreWeights()(dense)
    check.require_sound(dense)
    assert check.note is None


def test_a_name_that_is_defined_twice(dense):
    check = RewriteCheck(dense)
    dense.graph.append(ir.Node("", "Relu", [dense.graph.inputs[0]], outputs=[value("y")]))
    assert problem(check, dense) == "the name 'y' is defined twice in the main graph"


def test_a_name_that_is_defined_twice_in_a_body(parse, normal):
    model = parse(
        """g (bool c, float[2,3] x) => (float[2,3] y) {
            [choose] y = If (c) <
                then_branch = t () => (float[2,3] a) { a = MatMul(x, W) },
                else_branch = e () => (float[2,3] b) { b = Neg(x) }
            >
        }""",
        W=normal(3, 3),
    )
    check = RewriteCheck(model)
    check.require_sound(model)
    body = next(iter(model.graph)).attributes["else_branch"].as_graph()
    body.append(ir.Node("", "Relu", [model.graph.inputs[1]], outputs=[value("b", shape=(2, 3))]))
    assert problem(check, model) == "the name 'b' is defined twice in the else_branch of node 'choose' (If)"


def test_an_output_that_is_gone_or_another_one(dense):
    check = RewriteCheck(dense)
    [y] = dense.graph.outputs
    y.name = "z"
    assert problem(check, dense) == "its outputs were 'y', but would be 'z'"
    y.name = "y"
    y.shape = ir.Shape((2, 41))
    assert problem(check, dense) == "its output 'y' would have another type or shape"


def test_an_input_that_is_gone_unless_it_was_the_default_of_an_initializer(dense):
    w = dense.graph.initializers["W"]
    dense.graph.inputs.append(w)
    check = RewriteCheck(dense)
    dense.graph.inputs.pop()
    check.require_sound(dense)
    dense.graph.inputs.append(value("extra"))
    assert problem(check, dense) == "its inputs were 'x', but would be 'x', 'extra'"
    dense.graph.inputs.clear()
    assert problem(check, dense) == "its inputs were 'x', but would be none"


@pytest.mark.parametrize("size", [4, 40], ids=["small", "large"])
def test_an_initializer_that_is_the_default_of_an_input_is_defined_once(parse, normal, size):
    model = parse(f"g (float[2,{size}] x) => (float[2,{size}] y) {{ y = MatMul(x, W) }}", W=normal(size, size))
    model.graph.inputs.append(model.graph.initializers["W"])
    check = RewriteCheck(model)
    assert check.note is None
    check.require_sound(model)


def test_what_the_checker_of_onnx_refuses(dense):
    check = RewriteCheck(dense)
    [matmul] = dense.graph
    other = value("missing", shape=(30, 40))
    matmul.replace_input_with(1, other)
    assert "onnx.checker refuses it: " in problem(check, dense)
    assert "missing" in problem(check, dense)


def test_types_that_do_not_fit_if_they_did_before(dense):
    check = RewriteCheck(dense)
    dense.graph.initializers["W"].const_value = ir.tensor(np.ones((31, 40), np.float32), name="W")
    assert "onnx.checker refuses it: " in problem(check, dense)


def test_a_model_that_the_checker_refuses_already_is_rewritten_with_a_note(parse, normal, tmp_path):
    model = parse(DENSE, W=normal(30, 40))
    model.graph.append(ir.Node("", "Frobnicate", [model.graph.inputs[0]], name="odd", outputs=[value("z")]))
    save_model(model, tmp_path / "odd.onnx")
    report = map_model(tmp_path / "odd.onnx", tmp_path / "mapped.onnx")
    [note] = report.notes
    assert note.startswith("onnx.checker refuses the model as it was given: ")
    assert "Frobnicate" in note
    assert f"Note: {note}" in " ".join(str(report).split())
    assert report.to_json()["notes"] == [note]
    assert load_model(tmp_path / "mapped.onnx").metadata_props["onnx_gconv"].find("checker") == -1
    restored = restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx")
    assert restored.notes == (note,)
    assert f"Note: {note}." in str(restored)


class UnreadTensor:
    """A tensor of 4 TB that cannot be read."""

    dtype = ir.DataType.FLOAT
    shape = ir.Shape((1 << 20, 1 << 20))
    nbytes = 4 << 40
    size = 1 << 40
    doc_string = None
    raw = None

    def __init__(self, name):
        self.name, self.metadata_props, self.meta = name, {}, {}

    def numpy(self):
        raise AssertionError("it was read")

    tobytes = __array__ = __dlpack__ = __dlpack_device__ = numpy


def test_no_weight_is_read_however_large_it_is(parse):
    model = parse("g (float[1,1048576] x) => (float[1,1048576] y) { y = MatMul(x, W) }", W=np.ones((1, 1), np.float32))
    weight = model.graph.initializers["W"]
    weight.const_value, weight.shape = UnreadTensor("W"), UnreadTensor.shape
    check = RewriteCheck(model)
    check.require_sound(model)
    assert isinstance(weight.const_value, UnreadTensor)
    [y] = model.graph.outputs
    y.name = "z"
    assert problem(check, model) == "its outputs were 'y', but would be 'z'"


def test_bodies_whose_weights_share_a_name_are_checked_too(parse):
    text = """g (bool c, float[1,70] x) => (float[1,70] y) {
        y = If (c) <
            then_branch = t () => (float[1,70] a) { a = MatMul(x, W) },
            else_branch = e () => (float[1,70] b) { b = MatMul(x, W) }
        >
    }"""
    model = parse(text, W=np.eye(70, dtype=np.float32))
    [choose] = model.graph
    for attribute in choose.attributes.values():
        body = attribute.as_graph()
        own = ir.Value(name="W", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((70, 70)))
        own.const_value = ir.tensor(np.eye(70, dtype=np.float32), name="W")
        body.initializers.add(own)
        [node] = body
        node.replace_input_with(1, own)
    check = RewriteCheck(model)
    MapConductances()(model)
    check.require_sound(model)


def test_constants_of_nodes_are_not_read_either(parse):
    model = parse(
        """g (bool c, float[1,70] x) => (float[1,70] y) {
            K = Constant <value = float[1,1] {1}> ()
            h = MatMul(x, K)
            y = If (c) <
                then_branch = t () => (float[1,70] a) { L = Constant <value = float[1,1] {1}> () a = MatMul(h, L) },
                else_branch = e () => (float[1,70] b) { L = Constant <value = float[1,1] {1}> () b = MatMul(h, L) }
            >
        }"""
    )
    tensor = UnreadTensor("K")
    tensor.shape = ir.Shape((70, 70))
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Constant":
                node.attributes.add(ir.AttrTensor("value", tensor))
    check = RewriteCheck(model)
    assert check.note is None
    check.require_sound(model)
    assert next(iter(model.graph)).attributes["value"].as_tensor() is tensor


def test_texts_among_the_initializers_do_not_matter(parse, normal):
    model = parse(DENSE, W=normal(30, 40))
    names = ir.StringTensor(np.full(100, b"a long text of a vocabulary", object), shape=ir.Shape((100,)), name="names")
    model.graph.initializers.add(
        ir.Value(name="names", type=ir.TensorType(ir.DataType.STRING), shape=ir.Shape((100,)), const_value=names)
    )
    check = RewriteCheck(model)
    assert check.note is None
    check.require_sound(model)


@pytest.mark.parametrize("command", ["map", "restore"])
def test_nothing_is_written_where_a_rewrite_fails_the_check(dense, tmp_path, monkeypatch, command):
    save_model(dense, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")

    def damaging(rewrite):
        def call(self, model):
            result = rewrite(self, model)
            model.graph.outputs[0].name = "renamed"
            return result

        return call

    changed = operations.MapConductances if command == "map" else operations.RestoreWeights
    monkeypatch.setattr(changed, "call", damaging(changed.call))
    run, source = (map_model, "model.onnx") if command == "map" else (restore_model, "mapped.onnx")
    with pytest.raises(ModelError) as error:
        run(tmp_path / source, tmp_path / "output.onnx")
    assert str(error.value) == (
        f"'{tmp_path / source}': the model that would be written is damaged, so that nothing was written: its outputs "
        f"were 'y', but would be 'renamed'{OUR_FAULT}"
    )
    assert not (tmp_path / "output.onnx").exists()


def failing(error):
    def compute():
        raise error

    return ir.LazyTensor(compute, ir.DataType.FLOAT, ir.Shape((2, 3)), name="W")


@pytest.mark.parametrize("error", [ModelError("the data of 'W' is gone"), ZeroDivisionError("no number")], ids=repr)
def test_a_small_weight_that_cannot_be_computed_says_why_if_that_is_known(parse, normal, error):
    model = parse("g (float[1,2] x) => (float[1,3] y) { y = MatMul(x, W) }", W=normal(2, 3))
    model.graph.initializers["W"].const_value = failing(error)
    expected = ModelError if isinstance(error, ModelError) else ir.serde.SerdeError
    with pytest.raises(expected) as found:
        RewriteCheck(model)
    assert (str(found.value) == str(error)) == isinstance(error, ModelError)


def test_what_another_tool_makes_of_a_sound_model_is_what_is_kept_from_then_on(dense):
    check = RewriteCheck(dense)
    dense.graph.append(ir.Node("", "Frobnicate", [dense.graph.inputs[0]], outputs=[value("z")]))
    assert "Frobnicate" in problem(check, dense)
    check.renew(dense)
    assert check.note.startswith("onnx.checker refuses the model as it was given: ")
    check.require_sound(dense)


def test_a_model_that_was_refused_as_it_was_given_keeps_its_note_when_another_tool_mends_it(dense):
    odd = ir.Node("", "Frobnicate", [dense.graph.inputs[0]], outputs=[value("z")])
    dense.graph.append(odd)
    check = RewriteCheck(dense)
    note = check.note
    assert "Frobnicate" in note
    dense.graph.remove(odd, safe=True)
    check.renew(dense)
    assert check.note == note


def test_an_input_that_was_listed_twice_before_is_no_fault_of_the_rewriting(dense):
    dense.graph.inputs.append(dense.graph.inputs[0])
    check = RewriteCheck(dense)
    MapConductances()(dense)
    check.require_sound(dense)
