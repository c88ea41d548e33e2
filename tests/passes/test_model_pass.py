"""What passes take, what they say to who gives something else, and the reports that they give."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import onnx_ir as ir
import pytest

import onnx_gconv as gconv
from onnx_gconv.mapping import read_manifest
from onnx_gconv.models import model_path
from onnx_gconv.passes import (
    CheckMapping,
    InlineWeightFunctions,
    MapConductances,
    MappingResult,
    RaiseOpset,
    ReplaceConductances,
    RestoreResult,
    RestoreWeights,
)

OTHERS = [CheckMapping(), RestoreWeights(), ReplaceConductances({}), InlineWeightFunctions(), RaiseOpset()]


@pytest.fixture
def model():
    return ir.load(model_path("digits_mlp.onnx"))


def test_a_pass_takes_a_model_a_result_and_what_holds_a_model(model):
    result = MapConductances()(model)
    assert result.model is model
    program = SimpleNamespace(model=model)
    assert CheckMapping()(program).model is model
    assert RestoreWeights()(result).model is model
    assert read_manifest(model) is None


TAKES = "takes an onnx_ir.Model, or what torch.onnx.export returns"


@pytest.mark.parametrize("single", [MapConductances(), *OTHERS], ids=lambda item: type(item).__name__)
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("m.onnx", "'m.onnx' is a path: onnx_ir.load(path) reads the model, and map_model maps from file to file"),
        (
            onnx.ModelProto(),
            (
                "an onnx.ModelProto is not changed in place: onnx_ir.from_proto(proto) makes a model of it, and "
                "onnx_ir.to_proto(result.model) gives it back"
            ),
        ),
        (None, "None is no model: exporters that write a file, such as torch.onnx.export(..., dynamo=False), return "),
        (7, "an object of type int is no model"),
    ],
    ids=["path", "proto", "None", "int"],
)
def test_what_no_pass_takes_gets_the_right_call(single, given, why):
    with pytest.raises(gconv.ModelError) as caught:
        single(given)
    assert str(caught.value).startswith(why)
    assert str(caught.value).endswith(f"; the pass {type(single).__name__} {TAKES}")


def test_the_result_of_a_mapping_has_the_report(model):
    result = MapConductances(granularity="channel", exclude=["hidden1.*"])(model)
    assert isinstance(result, MappingResult)
    assert isinstance(result, ir.passes.PassResult)
    assert result.modified
    assert result.report.is_mapped
    assert [weight.name for weight in result.report.mapped] == ["hidden2.weight", "classifier.weight"]
    assert [item.name for item in result.report.skipped if item.is_mvm] == ["hidden1.weight"]
    assert result.report.manifest == read_manifest(model)
    assert "2 weights mapped" in str(result.report)
    assert "Written" not in str(result.report)
    assert (str(result.report.model), result.report.output, result.report.files) == ("<onnx_ir.Model>", None, ())


def test_the_report_of_a_mapping_says_what_map_model_says(model, tmp_path):
    of_file = gconv.map_model(model_path("digits_mlp.onnx"), tmp_path / "m.onnx", levels=64)
    assert MapConductances(levels=64)(model).report.manifest == of_file.manifest


def test_a_model_with_nothing_to_map_has_a_report_that_says_why():
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Relu", [x])
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="g"), ir_version=10)
    result = MapConductances()(model)
    assert not result.modified
    assert not result.report.is_mapped
    assert "The model has no weights of MVM ops." in str(result.report)


def test_the_result_of_restoring_has_the_report(model):
    restored = RestoreWeights()(MapConductances()(model))
    assert isinstance(restored, RestoreResult)
    assert restored.report.restored == ("hidden1.weight", "hidden2.weight", "classifier.weight")
    assert (restored.report.folded, restored.report.output, restored.report.files) == ((), None, ())
    assert str(restored.report) == "3 weights restored."
    assert restored.report.to_json()["output"] is None


@pytest.mark.parametrize("together", [ir.passes.Sequential, lambda *passes: ir.passes.PassManager(passes)])
def test_passes_run_together_and_the_model_tells_what_their_result_does_not(model, together):
    expected = MapConductances().preview(model)
    result = together(ir.passes.common.CheckerPass(), MapConductances(), CheckMapping())(model)
    assert result.modified
    assert result.model is model
    assert not hasattr(result, "report")  # onnx-ir makes a result of its own
    report = gconv.inspect_model(result)
    assert report.manifest == expected
    assert report.is_mapped


def test_a_functional_pass_maps_a_copy_and_gives_the_report(model):
    result = ir.passes.functionalize(MapConductances())(model)
    assert result.model is not model
    assert read_manifest(model) is None
    assert result.report.mvm_share == 1


def test_a_mapped_model_is_not_mapped_again_by_a_second_step(model):
    twice = ir.passes.PassManager([MapConductances()], steps=2, early_stop=False)
    with pytest.raises(ir.passes.PassError, match="An error occurred at step 1") as caught:
        twice(model)
    cause = caught.value.__cause__.__cause__
    assert isinstance(cause, gconv.ModelError)
    assert str(cause) == "the model is mapped already; restore it first, or map the original"
