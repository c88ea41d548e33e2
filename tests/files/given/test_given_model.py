"""Models are taken as callers have them, and stay as they are."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.given import GivenModel, named_as_given
from onnx_gconv.files.given import given_model as module
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.tensors.streamed import all_elements

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def proto(weight=WEIGHT):
    graph = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], ["C"], name="constant", value=numpy_helper.from_array(WEIGHT.T.copy(), "c")
            ),
            helper.make_node("MatMul", ["x", "W"], ["h"], name="first"),
            helper.make_node("MatMul", ["h", "C"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "W")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    for tensor in (model.graph.initializer[0], model.graph.node[0].attribute[0].t):
        tensor.metadata_props.add(key="from", value=f"a note on {tensor.name}")
    return model


def with_external_data(folder):
    model = ir.from_proto(proto())
    save_model(model, folder / "m.onnx", external_data=True)
    return folder / "m.onnx"


def program(model):
    """As torch.onnx.ONNXProgram: it holds a model, and is no kind of it."""
    return SimpleNamespace(model=model)


def in_memory():
    return [
        proto(),
        ir.from_proto(proto()),
        program(ir.from_proto(proto())),
        ir.passes.PassResult(ir.from_proto(proto()), False),
    ]


@pytest.mark.parametrize(
    ("number", "label"),
    list(enumerate(["<onnx.ModelProto>", "<onnx_ir.Model>", "<SimpleNamespace>", "<PassResult>"])),
)
def test_a_model_in_memory_is_called_by_its_kind(number, label):
    given = GivenModel.of(in_memory()[number], "map_model")
    assert (str(given.label), given.file, given.files) == (label, None, [])


@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_is_called_by_its_path(tmp_path, as_text):
    path = with_external_data(tmp_path)
    given = GivenModel.of(str(path) if as_text else path, "map_model")
    assert (given.label, given.file, given.files) == (path, path, [path])


@pytest.mark.parametrize("number", range(4))
def test_what_is_loaded_may_be_changed_and_the_model_of_the_caller_stays(number):
    model = in_memory()[number]
    before = snapshot(model)
    loaded = GivenModel.of(model, "map_model").load()
    np.testing.assert_array_equal(all_elements(loaded.graph.initializers["W"].const_value), WEIGHT)
    weight = loaded.graph.initializers["W"]
    weight.name = "another"
    weight.const_value.metadata_props["from"] = "elsewhere"
    weight.const_value.doc_string = "a text"
    loaded.metadata_props["key"] = "value"
    for node in loaded.graph:
        node.name = f"{node.name}_"
    loaded.graph.inputs[0].shape = ir.Shape([1, 3])
    assert snapshot(model) == before


def snapshot(model):
    """All that a model holds, as bytes."""
    found = model if isinstance(model, onnx.ModelProto) else ir.to_proto(getattr(model, "model", model))
    return found.SerializeToString(deterministic=True)


@pytest.mark.parametrize("number", range(4))
def test_what_is_loaded_is_written_as_the_file_is(tmp_path, number):
    onnx.save(proto(), tmp_path / "m.onnx")
    loaded = GivenModel.of(in_memory()[number], "map_model").load()
    save_model(load_model(tmp_path / "m.onnx"), tmp_path / "from_file.onnx")
    save_model(loaded, tmp_path / "from_memory.onnx")
    assert (tmp_path / "from_file.onnx").read_bytes() == (tmp_path / "from_memory.onnx").read_bytes()
    written = onnx.load(tmp_path / "from_memory.onnx")
    tensors = [written.graph.initializer[0], written.graph.node[0].attribute[0].t]
    assert [[item.value for item in tensor.metadata_props] for tensor in tensors] == [["a note on W"], ["a note on c"]]


def test_elements_are_shared_and_not_copied():
    array = np.ones((8, 8), np.float32)
    model = ir.from_proto(proto())
    model.graph.initializers["W"].const_value = ir.Tensor(array, name="W")
    loaded = GivenModel.of(model, "map_model").load()
    assert np.shares_memory(loaded.graph.initializers["W"].const_value.numpy(), array)


def test_texts_stay_whole(tmp_path):
    model = proto()
    texts = TensorProto(name="texts", data_type=TensorProto.STRING, dims=[2, 1], string_data=[b"one\0", b"zwei"])
    texts.metadata_props.add(key="k", value="v")
    model.graph.initializer.append(texts)
    for given in (model, ir.from_proto(model)):
        loaded = GivenModel.of(given, "map_model").load()
        save_model(loaded, tmp_path / "m.onnx")
        found = onnx.load(tmp_path / "m.onnx").graph.initializer[1]
        assert list(found.string_data) == [b"one\0", b"zwei"]
        assert (list(found.dims), len(found.metadata_props)) == ([2, 1], 1)


def test_external_data_is_read_where_the_model_says(tmp_path):
    weight = np.arange(1200, dtype=np.float32).reshape(3, 400)
    save_model(ir.from_proto(proto(weight)), tmp_path / "m.onnx", external_data=True)
    loaded = GivenModel.of(ir.load(tmp_path / "m.onnx"), "map_model").load()
    tensor = loaded.graph.initializers["W"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(all_elements(tensor), weight)


def test_external_data_that_changes_meanwhile_is_seen(tmp_path):
    big = proto(np.zeros((3, 400), np.float32))
    save_model(ir.from_proto(big), tmp_path / "m.onnx", external_data=True)
    watched = WatchedFiles()
    loaded = GivenModel.of(ir.load(tmp_path / "m.onnx"), "map_model").load(watched)
    assert isinstance(loaded.graph.initializers["W"].const_value, ir.ExternalTensor)
    (tmp_path / "m.onnx.data").write_bytes(b"")
    with pytest.raises(ModelError, match="changed while it was read"):
        watched.check()


def test_external_data_that_is_missing_is_an_error_that_names_the_kind_of_model(tmp_path):
    save_model(ir.from_proto(proto(np.zeros((3, 400), np.float32))), tmp_path / "m.onnx", external_data=True)
    model = ir.load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"^'<onnx_ir.Model>': external data of tensor 'W' cannot be read"):
        GivenModel.of(model, "map_model").load()


def test_a_proto_without_its_external_data_is_refused(tmp_path):
    save_model(ir.from_proto(proto(np.zeros((3, 400), np.float32))), tmp_path / "m.onnx", external_data=True)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    with pytest.raises(ModelError) as caught:
        GivenModel.of(model, "map_model").load()
    assert str(caught.value) == (
        "'<onnx.ModelProto>': its tensor 'W' is in the file 'm.onnx.data', and an onnx.ModelProto does not say in "
        "which folder; give the path of the model, or load it with its external data"
    )


def test_a_damaged_proto_is_refused():
    model = proto()
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(ModelError) as caught:
        GivenModel.of(model, "map_model").load()
    assert str(caught.value) == "'<onnx.ModelProto>': it has two initializers named 'W' in graph 'g'; rename one"


def test_weights_that_are_missing_or_fakes_are_refused():
    model = ir.from_proto(proto())
    model.graph.initializers["W"].const_value = None
    with pytest.raises(ModelError, match="its initializer 'W' has no values; give the model with its weights"):
        GivenModel.of(model, "map_model").load()
    fake = ir.Tensor(WEIGHT)
    fake._raw = SimpleNamespace(fake_mode=None, shape=WEIGHT.shape)
    model.graph.initializers["W"].const_value = fake
    with pytest.raises(ModelError, match=r"its weight 'W' is a fake tensor .*apply_weights"):
        GivenModel.of(model, "map_model").load()


def test_nodes_in_no_order_are_refused_with_the_pass_that_sorts_them():
    model = ir.from_proto(proto())
    second = next(node for node in model.graph if node.name == "second")
    model.graph.remove(second)
    model.graph.insert_before(model.graph[0], second)
    with pytest.raises(ModelError) as caught:
        GivenModel.of(model, "map_model").load()
    assert str(caught.value) == (
        "'<onnx_ir.Model>': its node 'second' (MatMul) stands before the one that gives 'h', which it reads; "
        "onnx_ir.passes.common.TopologicalSortPass()(model) puts nodes in order"
    )
    ir.passes.common.TopologicalSortPass()(model)
    assert GivenModel.of(model, "map_model").load()


TAKEN = "the path of an ONNX model, what torch.onnx.export returns, an onnx_ir.Model or an onnx.ModelProto"


class Module:
    __module__ = "torch.nn.modules.module"


class Net(Module):
    pass


class ExportedProgram:
    __module__ = "torch.export.exported_program"


OF_A_MODULE = (
    "a torch module (Net) is no ONNX model: export it with torch.onnx.export(module, args), or export and map it in "
    "one call, onnx_gconv.integrations.torch.export(module, args, path)"
)
OF_AN_EXPORTED_PROGRAM = (
    "an ExportedProgram of torch.export is no ONNX model: torch.onnx.export(exported_program) makes one of it, and "
    "onnx_gconv.integrations.torch.export(exported_program, (), path) maps it, too"
)
OF_NOTHING = (
    "None is no model: exporters that write a file, such as torch.onnx.export(..., dynamo=False), return None; give "
    "the path of that file"
)
OF_A_GRAPH = "a graph is no model, because it has no opsets: give the model that holds the graph"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Net(), OF_A_MODULE),
        (ExportedProgram(), OF_AN_EXPORTED_PROGRAM),
        (None, OF_NOTHING),
        (b"model", "bytes are no model: give the path of their file, or onnx.load_model_from_string(bytes)"),
        (["m.onnx"], "a list is no model: give one model, and call again for each other one"),
        (proto().graph, OF_A_GRAPH),
        (ir.from_proto(proto()).graph, OF_A_GRAPH),
        (3, "an object of type int is no model"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_model_gets_the_right_call(given, why):
    with pytest.raises(ModelError) as caught:
        GivenModel.of(given, "map_model")
    assert str(caught.value) == f"{why}; map_model takes {TAKEN}"


def test_an_open_file_and_a_report_get_the_right_call(tmp_path):
    report = type("Report", (), {"__module__": "onnx_gconv.x", "output": Path("m")})()
    with (tmp_path / "m.onnx").open("wb") as file:
        for given, why in (
            (file, "an open file is no model: give its path"),
            (report, "a Report is no model, but says which one was written: give its `output`"),
        ):
            with pytest.raises(ModelError) as caught:
                GivenModel.of(given, "verify")
            assert str(caught.value) == f"{why}; verify takes {TAKEN}"


def test_what_is_written_of_a_model_in_memory_needs_a_place():
    given = GivenModel.of(proto(), "map_model")
    with pytest.raises(ConfigError) as caught:
        given.output(None, lambda path: path)
    assert str(caught.value) == "'<onnx.ModelProto>' is in memory and has no folder to write to; give an output, too"
    assert given.output("out.onnx", lambda path: path) == Path("out.onnx")
    assert given.output(None, lambda path: path.with_suffix(".x"), is_written=False)


def test_a_file_is_used_where_it_is(tmp_path):
    path = with_external_data(tmp_path)
    with GivenModel.of(path, "verify").on_disk() as file:
        assert file == path
    assert path.exists()


def test_a_model_in_memory_is_in_a_folder_that_is_removed():
    with GivenModel.of(ir.from_proto(proto()), "verify").on_disk() as file:
        onnx.checker.check_model(file)
    assert not file.parent.exists()


def test_the_folder_is_removed_when_something_fails():
    def fail():
        with GivenModel.of(ir.from_proto(proto()), "verify").on_disk() as file:
            places.append(file)
            raise ZeroDivisionError

    places = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert not places[0].parent.exists()


def test_a_model_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    model = ir.from_proto(proto())
    shape = ir.Shape([3, 4])
    model.graph.initializers["W"].const_value = ir.LazyTensor(fail, ir.DataType.FLOAT, shape, name="W")
    with pytest.raises(ConfigError, match="No space left"), GivenModel.of(model, "verify").on_disk():
        pass
    assert not list(tmp_path.iterdir())


def test_an_equal_model_in_memory_has_the_same_identity_and_another_one_has_not(tmp_path):
    monster = np.arange(3000, dtype=np.float32).reshape(3, 1000)
    identities = []
    for weight in (monster, monster.copy(), monster + 1):
        model = ir.from_proto(proto(weight))
        save_model(model, tmp_path / "m.onnx", external_data=True)
        for given in (proto(weight), ir.load(tmp_path / "m.onnx")):
            taken = GivenModel.of(given, "simulate")
            identities.append(taken.identity(taken.load()))
    assert identities[0] == identities[2]
    assert identities[1] == identities[3]
    assert identities[4] not in identities[:4]
    assert identities[5] not in identities[:4]


def test_messages_name_models_as_callers_know_them():
    with (
        pytest.raises(ModelError, match=r"^'<ONNXProgram>' is broken; '<ONNXProgram>.data' is there$"),
        named_as_given({"/folder/model.onnx": "<ONNXProgram>"}),
    ):
        raise ModelError("'/folder/model.onnx' is broken; '/folder/model.onnx.data' is there")
