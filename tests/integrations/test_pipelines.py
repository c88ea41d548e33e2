"""The mapping among passes of onnx-ir and around the optimizer of onnxscript, as the page about pipelines has it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxscript.optimizer
import pytest
from onnx import numpy_helper
from onnx_ir.passes import common

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.passes import CheckMapping, MapConductances

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "pipelines.md").read_text(encoding="utf-8")

COMMON = sorted(name for name in common.__all__ if name.endswith("Pass"))

# Of the weights W, V (equal to W), the one in a function, and the one in a Constant node.
WEIGHTS = 4

# Passes that find nothing to do in the model below.
IDLE = {
    "AddDefaultAttributesPass",
    "CheckerPass",
    "LiftSubgraphInitializersToMainGraphPass",
    "OutputFixPass",
    "RemoveInitializersFromInputsPass",
    "RemoveUnusedFunctionsPass",
    "TopologicalSortPass",
}


def busy_model():
    """A model in which most passes find something to do."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20, "local" : 1, "unused" : 1], producer_name: "tests">
        g (float[n, 16] x) => (float[n, 16] y) {
            a = MatMul (x, W)
            b = Identity (a)
            c = MatMul (b, V)
            d = local.dense (c)
            e = Constant <value: tensor = float[1, 1] {1.0}> ()
            f = MatMul (d, e_placeholder)
            r1 = Relu (f)
            r2 = Relu (f)
            nobody = Exp (a)
            y = Add (r1, r2)
        }
        <domain: "local", opset_import: ["" : 20]>
        dense (v) => (w) {
            k = Constant <value: tensor = float[1, 1] {1.0}> ()
            w = MatMul (v, k)
        }
        """
    )
    numbers = np.random.default_rng(3)
    weights = [numbers.normal(size=(16, 16)).astype(np.float32) for _ in range(3)]
    proto.graph.initializer.extend(numpy_helper.from_array(weights[0], name) for name in ("W", "V"))
    [constant] = [node for node in proto.graph.node if node.op_type == "Constant"]
    constant.output[0] = "e_placeholder"
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(weights[1], "e"))
    proto.functions[0].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(weights[2], "k"))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
        node.metadata_props.add(key="from", value="the tests")
    return ir.from_proto(proto)


@pytest.mark.parametrize("name", COMMON)
def test_the_mapping_comes_after_every_common_pass(name):
    original, model = busy_model(), busy_model()
    done = getattr(common, name)()(model)
    assert done.modified == (name not in IDLE)
    frees = name == "AddInitializersToInputsPass"
    result = MapConductances(freeze_inputs=frees)(done)
    joined = name in {"DeduplicateInitializersPass", "DeduplicateHashedInitializersPass"}
    assert len(result.report.mapped) == WEIGHTS - joined
    CheckMapping()(result)
    gconv.verify(original, result).raise_if_failed()


def test_weights_that_a_caller_may_replace_are_skipped_with_that_reason():
    result = MapConductances()(common.AddInitializersToInputsPass()(busy_model()))
    skipped = {item.name: item.reason for item in result.report.skipped if item.is_mvm}
    assert skipped == {"W": "overridable_input", "V": "overridable_input"}


@pytest.mark.parametrize("name", COMMON)
def test_the_mapping_stands_after_every_common_pass(name):
    model = busy_model()
    done = ir.passes.Sequential(MapConductances(), getattr(common, name)(), CheckMapping())(model)
    assert gconv.inspect_model(done).mvm_share == 1
    gconv.verify(busy_model(), done).raise_if_failed()


def test_the_page_names_passes_that_there_are():
    table = PAGE.split("| pass | before | after |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+Pass)`", table)) <= set(COMMON)


def linear_model(*, is_transposed):
    """A linear layer as an exporter writes it before it is optimized, or afterwards."""
    nodes = "t = Transpose <perm = [1, 0]> (weight)  y = MatMul (x, t)" if is_transposed else "y = MatMul (x, weight)"
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[n, 16] x) => (float[n, 8] y) {{ {nodes} }}"""
    )
    weight = np.random.default_rng(4).normal(size=(16, 8)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight.T.copy() if is_transposed else weight, "weight"))
    return ir.from_proto(proto)


def test_the_optimizer_comes_before_the_mapping():
    model = linear_model(is_transposed=True)
    onnxscript.optimizer.optimize(model)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    result = MapConductances()(model)
    CheckMapping()(result)
    [weight] = result.report.mapped
    assert weight.parameters == ("weight",)
    compared = gconv.verify(linear_model(is_transposed=True), result).outputs.comparisons
    assert len(compared) == 2
    assert all(item.passed for item in compared)


def test_the_optimizer_after_the_mapping_folds_it_away_and_all_say_so(tmp_path):
    model = linear_model(is_transposed=False)
    result = MapConductances()(model)
    onnxscript.optimizer.optimize(model)
    with pytest.raises(gconv.VerificationError, match="the mapping was folded away"):
        CheckMapping().call(model)
    report = gconv.inspect_model(result)
    assert (report.is_mapped, report.mvm_share) == (False, 0)
    assert "the mapping was folded away" in str(report).replace("\n", " ")
    verified = gconv.verify(linear_model(is_transposed=False), result)
    assert any("the mapping was folded away" in problem for problem in verified.problems)
    with pytest.raises(gconv.ModelError, match="is mapped already; restore it first, or map the original"):
        gconv.map_model(result, tmp_path / "again.onnx")


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
@pytest.mark.xdist_group("torch_integration")
def test_the_examples_of_the_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(model_path("digits_cnn.onnx"), "model.onnx")
    namespace: dict[str, object] = {}
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "pipelines.md", "exec"), namespace)  # noqa: S102 - that is the test
    assert namespace["report"].mvm_share == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.gconv.onnx", "model.onnx", "net.gconv.onnx"]
