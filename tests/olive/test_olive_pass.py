"""The pass in workflows that run in this process: options, external data, what Olive is told, and errors."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from olive.hardware import DEFAULT_CPU_ACCELERATOR
from olive.model import CompositeModelHandler, ONNXModelHandler, PyTorchModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.resource_path import find_all_resources

from onnx_gconv import inspect_model, map_model, verify
from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.integrations.olive import MappingPassError, OnnxGConv
from onnx_gconv.integrations.olive_options import pass_options


def make_pass(**options):
    return create_pass_from_dict(OnnxGConv, options, disable_search=True)


def data_files(model):
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def levels_of(model):
    return inspect_model(model).mapped[0].levels.count


# Options


def test_olive_sees_every_option_with_its_sentence_and_none_of_them_has_to_be_given():
    parameters = OnnxGConv.default_config(DEFAULT_CPU_ACCELERATOR)
    assert parameters.keys() == pass_options().keys()
    for name, option in pass_options().items():
        assert parameters[name].description == option.sentence
        assert (parameters[name].required, parameters[name].default_value) == (False, None)


def test_options_reach_the_mapping(folder, network, workflow):
    network(folder / "in.onnx")
    options = {"g_max": 40.0, "g_min": 1.0, "granularity": "channel", "overrides": [{"op": "MatMul", "levels": 16}]}
    workflow({"model_path": "in.onnx"}, options)
    [weight] = inspect_model("out/model.onnx").mapped
    assert weight.converter.parameters == {"g_max": 40.0, "g_min": 1.0, "exact": False}
    assert (weight.granularity, weight.levels.count) == ("channel", 16)


def test_options_may_stand_in_a_table_of_their_own_and_ask_for_their_default(folder, network, workflow):
    network(folder / "in.onnx")
    table = {"levels": 16, "g_max": "DEFAULT_VALUE"}
    workflow({"model_path": "in.onnx"}, passes={"conductances": {"type": "onnxgconv", "config": table}})
    assert levels_of("out/model.onnx") == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"g_maks": 4.0}, "there is no option 'g_maks'; did you mean g_max"),
        ({"g_max": "40"}, "g_max: should be a number, but it is '40'"),
        ({"storage": "codes"}, "storage: codes need levels; "),
        ({"config_file": "none.toml"}, "'none.toml' cannot be read: No such file or directory; "),
    ],
)
def test_a_wrong_option_ends_the_workflow_before_any_pass_runs(folder, network, workflow, options, message):
    network(folder / "in.onnx")
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        workflow(
            {"model_path": "in.onnx"},
            passes={"first": {"type": "OnnxIODataTypeConverter"}, "conductances": {"type": "OnnxGConv", **options}},
        )
    assert not list(folder.glob(".olive-cache/*/runs/*/models/*.onnx"))


def test_what_is_to_be_searched_needs_a_search(folder, network, workflow):
    network(folder / "in.onnx")
    searched = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": [4, 16]}
    with pytest.raises(ConfigError, match=r"^levels: it is to be searched, but the workflow has no search_strategy, "):
        workflow({"model_path": "in.onnx"}, {"levels": searched})


def test_every_value_that_is_searched_is_checked_before_the_search():
    searched = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": [4, 1]}
    with pytest.raises(ConfigError, match=r"^levels: should be a number of levels, at least two, .* but it is 1$"):
        OnnxGConv.get_config_params(DEFAULT_CPU_ACCELERATOR, {"levels": searched})


def test_patterns_that_are_names_of_files_too_stay_patterns(folder, network, workflow):
    network(folder / "in.onnx")
    (folder / "W").mkdir()
    workflow({"model_path": "in.onnx"}, {"include": ["W"]})
    assert [weight.name for weight in inspect_model("out/model.onnx").mapped] == ["W"]


def test_a_configuration_file_that_has_changed_is_read_again(folder, network, workflow):
    network(folder / "in.onnx")
    for levels in (16, 64):
        (folder / "gconv.toml").write_text(f"[defaults]\nlevels = {levels}\n", encoding="utf-8")
        workflow({"model_path": "in.onnx"}, {"config_file": "gconv.toml"})
        assert levels_of("out/model.onnx") == levels


# External data


@pytest.mark.parametrize(
    "model",
    [{"model_path": "source", "onnx_file_name": "network.onnx"}, {"model_path": "source/network.onnx"}],
    ids=["folder", "file"],
)
@pytest.mark.parametrize(("option", "files"), [(None, {"network.gconv.onnx.data"}), (False, set())])
def test_a_model_with_external_data_is_whole_where_olive_puts_it(folder, network, workflow, model, option, files):
    network(folder / "source" / "network.onnx", data_file="weights.bin")
    workflow(model, {"save_as_external_data": option})
    assert data_files("out/model.onnx") == files
    assert verify("source/network.onnx", "out/model.onnx").passed
    (folder / "source").rename(folder / "gone")
    (folder / ".olive-cache").rename(folder / "cache")
    assert verify("gone/network.onnx", "out/model.onnx").passed


def test_a_model_in_the_current_folder_is_not_taken_for_the_one_that_is_meant(folder, network, workflow):
    """Olive takes the name of a file in the folder of a model for that of one in the current folder."""
    network(folder / "source" / "network.onnx", data_file="weights.bin")
    for name in ("network.onnx", "network.gconv.onnx"):
        network(folder / name, W=np.zeros((8, 16), np.float32))
    passes = {"conductances": {"type": "OnnxGConv"}, "next": {"type": "OnnxIODataTypeConverter"}}
    workflow({"model_path": "source", "onnx_file_name": "network.onnx"}, passes=passes)
    assert verify("source/network.onnx", "out/model.onnx").passed


def test_a_small_model_gets_a_data_file_if_it_is_to_have_one(folder, network, workflow):
    network(folder / "in.onnx", rows=5)
    workflow({"model_path": "in.onnx"}, {"save_as_external_data": True})
    assert data_files("out/model.onnx") == {"in.gconv.onnx.data"}
    assert verify("in.onnx", "out/model.onnx").passed


PEAK = """
import resource, sys
from onnx_gconv.integrations.olive import OnnxGConv
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
found = create_pass_from_dict(OnnxGConv, {}, disable_search=True).run(ONNXModelHandler("source", "network.onnx"), "out")
print(found.model_path, peak() - before)
"""


def test_a_model_above_the_threshold_of_olive_streams_from_file_to_file(folder, network):
    """Olive's own passes would hold more than 1.5 GiB of tensors in memory here. Most are of an embedding."""
    network(folder / "source" / "network.onnx", data_file="weights.bin")
    model = onnx.load("source/network.onnx", load_external_data=False)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.dims[0] = rows = 27 << 20
    places = {entry.key: entry for entry in table.external_data}
    places["offset"].value, places["length"].value = str(1 << 16), str(64 * rows)
    onnx.save(model, "source/network.onnx")
    with (folder / "source" / "weights.bin").open("r+b") as data:
        data.truncate((1 << 16) + 64 * rows)  # a hole, which takes no space
    found = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True, timeout=600)
    path, kilobytes = found.stdout.split()[-2:]
    assert int(kilobytes) < 200_000
    assert data_files(path) == {"network.gconv.onnx.data"}
    assert (folder / "out" / "network.gconv.onnx.data").stat().st_size > 64 * rows
    assert [weight.name for weight in inspect_model(path).mapped] == ["W"]
    (folder / "out" / "network.gconv.onnx.data").unlink()


# What Olive is told


def test_the_report_is_in_the_attributes_beside_those_of_the_model(folder, network):
    handler = ONNXModelHandler(str(network(folder / "in.onnx")), model_attributes={"task": "digits"})
    attributes = make_pass(levels=16).run(handler, str(folder / "out")).model_attributes
    assert attributes["task"] == "digits"
    report = attributes["onnx_gconv"]
    assert (report["mapped_weights"], report["mapped_parameters"], report["mvm_share"]) == (1, 128, 1.0)
    assert [(weight["name"], weight["shape"]) for weight in report["mapped"]] == [("W", [8, 16])]
    assert report["mapped"][0]["loss"]["sqnr_db"] > 10
    assert str(folder) not in json.dumps(report)
    assert handler.model_attributes == {"task": "digits"}


def test_the_report_of_a_large_weight_is_small(folder, network):
    handler = ONNXModelHandler(str(network(folder / "in.onnx", W=np.ones((8, 16), np.float32))))
    small = make_pass(granularity="channel").run(handler, str(folder / "small")).model_attributes
    handler = ONNXModelHandler(
        str(network(folder / "in2.onnx", W=np.ones((8, 4000), np.float32), table=np.ones((5, 4000), np.float32)))
    )
    large = make_pass(granularity="channel").run(handler, str(folder / "large")).model_attributes
    assert len(json.dumps(large)) < len(json.dumps(small)) + 20


def test_texts_that_are_too_long_for_olive_are_in_parts(folder, network):
    """Before it evaluates a model, Olive asks of each text whether a file has it as its path; it fails of long ones."""
    model = onnx.load(network(folder / "in.onnx"))
    model.graph.node[0].input[1] = model.graph.initializer[0].name = name = "µ" * 300
    onnx.save(model, "in.onnx")
    attributes = make_pass(levels=2).run(ONNXModelHandler("in.onnx"), str(folder / "out")).model_attributes
    find_all_resources(attributes)
    report = attributes["onnx_gconv"]
    assert "".join(report["mapped"][0]["name"]) == name
    [remark] = report["remarks"]
    assert "".join(remark).startswith(f"Warning: '{name}' ")


def messages(caplog):
    return {record.getMessage() for record in caplog.records if record.name == "olive.onnx_gconv"}


def test_the_table_and_what_is_skipped_go_to_the_log_of_olive(folder, network, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("olive"), "propagate", True)
    handler = ONNXModelHandler(str(network(folder / "in.onnx")))
    with caplog.at_level(logging.INFO, logger="olive"):
        make_pass().run(handler, str(folder / "out"))
    [message] = messages(caplog)
    assert "1 weight mapped" in message
    caplog.clear()
    two = onnx.load("in.onnx")
    two.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "V"], ["other"]))
    two.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 16), np.float32), "V"))
    two.graph.output.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [3, 16]))
    onnx.save(two, "two.onnx")
    with caplog.at_level(logging.WARNING, logger="olive"):
        make_pass(exclude=["V"]).run(ONNXModelHandler("two.onnx"), str(folder / "two"))
    assert messages(caplog) == {
        "1 of 2 weights of MVM ops are not mapped; model_attributes.onnx_gconv.skipped in model_config.json says why"
    }


def test_what_was_said_of_sessions_is_kept(folder, network):
    settings = {"session_options": {"intra_op_num_threads": 1}}
    handler = ONNXModelHandler(str(network(folder / "in.onnx")), inference_settings=settings, use_ort_extensions=True)
    found = make_pass().run(handler, str(folder / "out"))
    assert (found.inference_settings, found.use_ort_extensions) == (settings, True)


def test_files_beside_the_model_go_with_it(folder, network):
    network(folder / "source" / "in.onnx")
    np.savez(folder / "source" / "adapters.npz", a=np.ones(3))
    attributes = {"additional_files": [str(folder / "source" / "adapters.npz")]}
    handler = ONNXModelHandler(
        "source", "in.onnx", constant_inputs_file_name="adapters.npz", model_attributes=attributes
    )
    found = make_pass().run(handler, str(folder / "out"))
    assert found.constant_inputs_path == str(folder / "out" / "adapters.npz")
    assert found.model_attributes["additional_files"] == [str(folder / "out" / "adapters.npz")]


def test_each_part_of_a_composite_model_is_mapped(folder, network):
    parts = [network(folder / "encoder.onnx"), network(folder / "two" / "decoder.onnx", data_file="weights.bin")]
    composite = CompositeModelHandler([ONNXModelHandler(str(part)) for part in parts], ["encoder", "decoder"])
    found = make_pass().run(composite, str(folder / "out"))
    for part, (_, mapped) in zip(parts, found.get_model_components(), strict=True):
        assert verify(part, mapped.model_path).passed


# Errors


def test_errors_are_of_a_kind_that_olive_does_not_swallow():
    assert issubclass(MappingPassError, ValueError)
    assert issubclass(MappingPassError, GconvError)


def test_a_model_that_is_mapped_already_is_refused(folder, network, workflow):
    map_model(network(folder / "in.onnx"), "mapped.onnx")
    with pytest.raises(MappingPassError, match=r"mapped.onnx': the model is mapped already; restore it first"):
        workflow({"model_path": "mapped.onnx"})


def test_a_model_of_another_kind_is_refused(folder):
    handler = PyTorchModelHandler(model_loader=lambda _path: None)
    message = "the model is a PyTorchModel, and only ONNX models are mapped; put OnnxConversion before it"
    with pytest.raises(MappingPassError, match=f"^{message}$"):
        make_pass().run(handler, str(folder / "out"))


def test_a_model_without_its_adapters_is_refused(folder, network):
    network(folder / "source" / "in.onnx")
    np.savez(folder / "source" / "adapters.npz", a=np.ones(3))
    handler = ONNXModelHandler("source", "in.onnx", external_initializers_file_name="adapters.npz")
    with pytest.raises(
        MappingPassError, match=r"lacks the weights that ONNX Runtime is to be given from 'adapters.npz'"
    ):
        make_pass().run(handler, str(folder / "out"))


def test_a_folded_mapping_is_recognized(folder, network, workflow):
    network(folder / "in.onnx")
    passes = {"conductances": {"type": "OnnxGConv"}, "folding": {"type": "OnnxPeepholeOptimizer"}}
    workflow({"model_path": "in.onnx"}, passes=passes)
    found = verify("in.onnx", "out/model.onnx")
    assert not found.passed
    assert "the mapping was folded away" in str(found)
