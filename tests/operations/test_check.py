"""The check of a mapped model alone: what it says, to people and to CI, and what it does not need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from onnx_gconv import ModelError, VerificationError, check_model, map_model, program_model, verify
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.models import model_path
from onnx_gconv.passes import CheckMapping


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The mapped network for digits; not to be changed."""
    return map_model(model_path("digits_cnn.onnx"), tmp_path_factory.mktemp("mapped") / "cnn.gconv.onnx").output


@pytest.fixture
def copy(mapped, tmp_path):
    return shutil.copyfile(mapped, tmp_path / mapped.name)


def changed(path, change):
    model = load_model(path)
    change(model.graph.initializers)
    save_model(model, path.with_name("changed.onnx"))
    return path.with_name("changed.onnx")


def test_models_in_memory_are_checked_too(mapped):
    for model in (onnx.load(mapped), load_model(mapped)):
        report = check_model(model)
        assert report.passed
        assert str(report.model).startswith("<onnx")
    with pytest.raises(ModelError, match="check_model takes"):
        check_model(7)


def test_a_mapping_that_stands_passes(mapped):
    report = check_model(mapped)
    assert report.passed
    assert (len(report.weights), report.arrays, report.folded, report.remedy) == (5, 10, (), None)
    assert str(report) == (
        f"PASSED: the mapping of {mapped} holds: 5 weights in 10 arrays of conductances, structure, manifest and "
        "values."
    )
    report.raise_if_failed()


def test_a_model_of_a_chip_passes(mapped, tmp_path):
    program_model(mapped, tmp_path / "chip.onnx", "pcm", read_noise="live")
    assert check_model(tmp_path / "chip.onnx").passed


def test_a_conductance_that_no_device_has_fails(copy):
    def change(initializers):
        tensor = initializers["hidden.weight.g_plus"].const_value
        values = tensor.numpy().copy()
        values.flat[7] = 26.0
        initializers["hidden.weight.g_plus"].const_value = type(tensor)(
            onnx.numpy_helper.from_array(values, tensor.name)
        )

    report = check_model(changed(copy, change))
    [sentence, remedy] = str(report).splitlines()
    assert sentence == (
        f"FAILED: {report.model}: 'hidden.weight': 'hidden.weight.g_plus' has 26.0 µS at flat index 7, outside 0 to "
        "25 µS"
    )
    assert remedy.startswith("What to do: take the model as it was mapped, or map the original again")
    assert report.to_json()["weights"][3]["problems"] == [sentence.split(": ", 3)[3]]
    with pytest.raises(VerificationError, match=r"outside 0 to 25 µS; take the model as it was mapped"):
        report.raise_if_failed()


def test_it_finds_what_the_pass_finds(copy):
    model = load_model(copy)
    model.graph.node("hidden.weight/gconv_Div").op_type = "Mul"
    save_model(model, copy.with_name("changed.onnx"))
    report = check_model(copy.with_name("changed.onnx"))
    assert report.violations == CheckMapping().violations(load_model(copy.with_name("changed.onnx"))) != ()


def test_a_model_that_was_never_mapped_fails_and_is_told_so():
    report = check_model(model_path("digits_cnn.onnx"))
    assert (report.passed, report.is_mapped, report.is_plain, report.weights) == (False, False, True, ())
    assert "FAILED: " in str(report)
    assert "digits_cnn.onnx: the model carries no mapping: it was never mapped, or a later tool" in str(report)
    assert "What to do: map it with `onnx-gconv map`" in str(report)


def test_what_cannot_be_restored_is_not_said_to_be(copy):
    model = onnx.load(copy)
    for name in ("stem.weight", "hidden.weight"):
        for node in [node for node in model.graph.node if node.output[0] in {name, f"{name}.g_difference"}]:
            model.graph.node.remove(node)
        for item in [item for item in model.graph.initializer if item.name.startswith(f"{name}.g_")]:
            model.graph.initializer.remove(item)
    shape = {"stem.weight": (16, 1, 3, 3), "hidden.weight": (64, 512)}
    for name, size in shape.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(size, np.float32), name))
    onnx.save(model, copy)
    report = check_model(copy)
    assert report.folded == ("stem.weight", "hidden.weight")
    assert report.remedy.endswith("or make a plain model of this one with `onnx-gconv restore`")
    [tensor] = [item for item in model.graph.initializer if item.name == "hidden.weight"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "hidden.weight"))
    onnx.save(model, copy)
    report = check_model(copy)
    assert report.folded == ("stem.weight",)
    assert report.remedy == "map the original again, after all other tools (docs/other-tools.md)"


def test_of_many_problems_the_first_are_shown_and_all_are_in_the_json(tmp_path, parse, normal):
    count = 25
    chain = " ".join(f"v{index + 1} = MatMul(v{index}, W{index})" for index in range(count))
    weights = {f"W{index}": normal(4, 4, seed=index) for index in range(count)}
    save_model(parse(f"g (float[2,4] v0) => (float[2,4] v{count}) {{ {chain} }}", **weights), tmp_path / "m.onnx")
    map_model(tmp_path / "m.onnx", tmp_path / "mapped.onnx")
    model = onnx.load(tmp_path / "mapped.onnx")
    for node in model.graph.node:
        if node.op_type == "Sub":
            node.op_type = "Add"
    onnx.save(model, tmp_path / "broken.onnx")
    report = check_model(tmp_path / "broken.onnx")
    assert len(str(report).splitlines()) == 22
    assert "FAILED: and 5 more, all of which --json lists" in str(report)
    assert len(report.to_json()["violations"]) == count
    with pytest.raises(VerificationError, match=r"\(and 22 more\)"):
        report.raise_if_failed()


def test_a_manifest_of_no_weight_does_not_pass(copy):
    model = onnx.load(copy)
    [entry] = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "weights": []})
    for node in [node for node in model.graph.node if node.op_type in {"Sub", "Div"}]:
        model.graph.node.remove(node)
    onnx.save(model, copy.with_name("empty.onnx"))
    report = check_model(made_whole(copy.with_name("empty.onnx")))
    assert [str(item) for item in report.violations] == ["the manifest names no weight; nothing is mapped"]
    assert not report.is_mapped


def made_whole(path):
    """A model whose weights are initializers again, without a word of it."""
    model = onnx.load(path)
    tensors = {item.name: item for item in model.graph.initializer}
    for name in [name.removesuffix(".g_plus") for name in tensors if name.endswith(".g_plus")]:
        tensors[f"{name}.g_plus"].name = name
    onnx.save(model, path)
    return path


def test_a_model_that_cannot_be_read_is_no_report(tmp_path):
    (tmp_path / "none.onnx").write_bytes(b"\x00garbage")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        check_model(tmp_path / "none.onnx")


def test_it_needs_neither_onnx_runtime_nor_what_maps(mapped):
    """What takes longer to import than a small model takes to check."""
    program = (
        "import sys; from onnx_gconv import check_model; check_model(sys.argv[1]).raise_if_failed()\n"
        "print(sorted(set(sys.modules) & {'onnxruntime', 'h5py', 'matplotlib', 'pandas', 'torch', "
        "'onnx_gconv.configuration', 'onnx_gconv.passes.map_conductances', 'onnx_gconv.operations.operations'}))"
    )
    command = [sys.executable, "-c", program, str(mapped)]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout == "[]\n"


def test_its_xml_has_a_case_for_each_weight(copy):
    names = re.findall(r'<testcase classname="[^"]*" name="([^"]*)"', check_model(copy).to_junit(1.5))
    weights = ("stem", "depthwise", "pointwise", "hidden", "classifier")
    assert names == ["mapping as a whole", *(f"mapping of {name}.weight" for name in weights)]


def test_weights_are_called_by_their_parameters(tmp_path):
    model = load_model(model_path("digits_mlp.onnx"))
    weights = [value for name, value in model.graph.initializers.items() if name.endswith("weight")]
    for number, weight in enumerate(weights):  # exporters invent names, and note parameters
        weight.metadata_props["pkg.onnxscript.optimizer.folded_from"] = repr([weight.name])
        weight.name = f"val_{number}"
    mapped = map_model(model, tmp_path / "m.onnx").output
    report = check_model(mapped)
    assert "mapping of hidden1.weight (val_0 in the model)" in report.to_junit()
    assert list(report.to_frame()["known_as"]) == ["hidden1.weight", "hidden2.weight", "classifier.weight"]
    assert "weight hidden1.weight (val_0 in the model)" in verify(model, mapped).to_junit()
