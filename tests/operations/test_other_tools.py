"""What other tools leave of a mapped model is what docs/other-tools.md says, and all commands say the truth of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes import common

from onnx_gconv import (
    ModelError,
    SinglePairConductanceConverter,
    check_model,
    inspect_model,
    map_model,
    program_model,
    restore_model,
    verify,
    write_bundle,
)
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import CheckMapping

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "other-tools.md").read_text(encoding="utf-8")

# One worker imports the tools once.
pytestmark = [
    pytest.mark.xdist_group("other_tools"),
    pytest.mark.filterwarnings("ignore"),  # of the tools
]


def onnxslim(model):
    return pytest.importorskip("onnxslim").slim(model)


def onnxsim(model):
    return pytest.importorskip("onnxsim").simplify(model)[0]


def onnxoptimizer(model):
    return pytest.importorskip("onnxoptimizer").optimize(model)


def graphsurgeon(model):
    surgeon = pytest.importorskip("onnx_graphsurgeon")
    return surgeon.export_onnx(surgeon.import_onnx(model).cleanup().toposort())


def graphsurgeon_folding(model):
    surgeon = pytest.importorskip("onnx_graphsurgeon")
    return surgeon.export_onnx(surgeon.import_onnx(model).fold_constants().cleanup())


def onnxscript_optimizer(model):
    return pytest.importorskip("onnxscript.optimizer").optimize(model)


def saved_at(level):
    def optimize(model, folder):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(folder / "saved.onnx")
        options.log_severity_level = 3  # it warns that the file may depend on this machine
        options.intra_op_num_threads = 1
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(folder / "saved.onnx")

    return optimize


def merged_with_another(model):
    """With the same model mapped otherwise, which has another manifest."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    [entry] = [item for item in other.metadata_props if item.key == "onnx_gconv"]
    entry.value = entry.value.replace("SinglePair", "DualPair")
    first, second = onnx.compose.add_prefix(model, "a_"), onnx.compose.add_prefix(other, "b_")
    return onnx.compose.merge_models(first, second, io_map=[])


def merged_without_metadata(model):
    del model.metadata_props[:]
    first, second = onnx.compose.add_prefix(model, "a_"), onnx.compose.add_prefix(model, "b_")
    return onnx.compose.merge_models(first, second, io_map=[])


def extracted(model, folder):
    onnx.save(model, folder / "whole.onnx")
    onnx.utils.extract_model(folder / "whole.onnx", folder / "part.onnx", ["x"], ["y"])
    return onnx.load(folder / "part.onnx")


def with_shapes(model):
    return onnx.shape_inference.infer_shapes(model)


def with_pass(rewrite):
    def run(model):
        return ir.to_proto(rewrite(ir.from_proto(model)).model)

    return run


LEVELS = ort.GraphOptimizationLevel
TOOLS = {
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxoptimizer": onnxoptimizer,
    "onnx-graphsurgeon: cleanup": graphsurgeon,
    "onnx-graphsurgeon: fold_constants": graphsurgeon_folding,
    "onnxscript.optimizer": onnxscript_optimizer,
    "onnxruntime, saved at level disabled": saved_at(LEVELS.ORT_DISABLE_ALL),
    "onnxruntime, saved at level basic": saved_at(LEVELS.ORT_ENABLE_BASIC),
    "onnxruntime, saved at level extended": saved_at(LEVELS.ORT_ENABLE_EXTENDED),
    "onnxruntime, saved at level all": saved_at(LEVELS.ORT_ENABLE_ALL),
    "onnx.shape_inference": with_shapes,
    "onnx.version_converter": lambda model: onnx.version_converter.convert_version(model, 21),
    "onnx.compose.add_prefix": lambda model: onnx.compose.add_prefix(model, "a_"),
    "onnx.compose.merge_models": merged_with_another,
    "onnx.compose.merge_models, without metadata": merged_without_metadata,
    "onnx.utils.extract_model": extracted,
    **{
        f"onnx_ir: {rewrite.__name__}": with_pass(rewrite())
        for rewrite in (
            common.DeduplicateInitializersPass,
            common.DeduplicateHashedInitializersPass,
            common.CommonSubexpressionEliminationPass,
            common.LiftConstantsToInitializersPass,
            common.ClearMetadataAndDocStringPass,
        )
    },
}
LEFT = {
    tool: left for tool, _, left in re.findall(r"^\| (on[^|]+?) \| ([^|]+?) \| ([^|]+?) \|", PAGE, flags=re.MULTILINE)
}


def test_the_page_has_a_row_for_each_tool():
    assert list(LEFT) == list(TOOLS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, parse, normal):
    """A plain model of two weights, whose exact scales are equal, and the mapped one."""
    folder = tmp_path_factory.mktemp("other_tools")
    text = "g (float[2,16] x) => (float[2,8] y) { [a] h = MatMul(x, W) [r] k = Relu(h) [b] y = Gemm(k, V, c) }"
    w, v = normal(16, 12), normal(12, 8, seed=1)
    weights = {"W": w / np.abs(w).max(), "V": v / np.abs(v).max(), "c": normal(8)}
    save_model(parse(text, opsets='"" : 18', ir_version=9, **weights), folder / "plain.onnx")
    map_model(folder / "plain.onnx", folder / "mapped.onnx", SinglePairConductanceConverter(exact=True))
    return folder


@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_tool_leaves_is_what_the_page_says_and_the_commands_say_so(folder, tmp_path, tool):
    run, left = TOOLS[tool], LEFT[tool]
    model = onnx.load(folder / "mapped.onnx")
    if left == "nothing written":
        with pytest.raises(ValueError, match="metadata"):
            run(model)
        return
    onnx.save(applied(run, model, tmp_path), tmp_path / "left.onnx")
    CHECKS[left](folder / "plain.onnx", tmp_path / "left.onnx")


DRAWN_ONCE = {
    "onnxslim",
    "onnx-graphsurgeon: fold_constants",
}
JOINED_WITH_THE_PRODUCT = {"onnxruntime, saved at level extended", "onnxruntime, saved at level all"}


@pytest.mark.parametrize(
    "tool", [tool for tool in TOOLS if LEFT[tool] in {"stands", "folded", "folded, manifest lost"}]
)
def test_nodes_that_draw_readings_stand_unless_a_tool_draws_once_and_the_commands_say_so(folder, tmp_path, tool):
    if not (chip := folder / "chip.onnx").exists():
        program_model(folder / "mapped.onnx", chip, "pcm", time="1d", read_noise="live")
    onnx.save(applied(TOOLS[tool], onnx.load(chip), tmp_path), tmp_path / "left.onnx")
    drawing = [node for node in onnx.load(tmp_path / "left.onnx").graph.node if node.op_type == "RandomNormalLike"]
    assert len(drawing) == (0 if tool in DRAWN_ONCE else 4)
    if tool in DRAWN_ONCE or tool in JOINED_WITH_THE_PRODUCT:
        assert messages(tmp_path / "left.onnx")
        assert not verify(folder / "plain.onnx", tmp_path / "left.onnx").passed
    else:
        assert messages(tmp_path / "left.onnx") == []
        verify(folder / "plain.onnx", tmp_path / "left.onnx").raise_if_failed()
        assert inspect_model(tmp_path / "left.onnx").broken == ()
        restore_model(tmp_path / "left.onnx", tmp_path / "restored.onnx")


TAKE_AS_MAPPED = (
    "What to do: take the model as it was mapped, or map the original again, after all other tools "
    "(docs/other-tools.md)."
)


def applied(run, model, folder):
    return run(model) if run.__code__.co_argcount == 1 else run(model, folder)


def messages(file):
    return [str(item) for item in CheckMapping().violations(load_model(file))]


def restored_outputs_are_those_of(plain, file):
    restore_model(file, file.with_name("restored.onnx"))
    for name in ("W", "V"):
        original, restored = (
            next(item for item in onnx.load(path).graph.initializer if item.name == name)
            for path in (plain, file.with_name("restored.onnx"))
        )
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(original), onnx.numpy_helper.to_array(restored))


def what_check_says(file):
    """What the report of a check says, and that its document for CI fails as it does."""
    report = check_model(file)
    assert ('failures="0"' in report.to_junit()) == report.passed
    assert "100" not in str(report)
    return str(report).replace(f"FAILED: {file}: ", "FAILED: ")


def stands(plain, file):
    assert messages(file) == []
    assert what_check_says(file).startswith("PASSED: ")
    report = inspect_model(file)
    assert (report.is_mapped, len(report.mapped), report.broken) == (True, 2, ())
    is_joined = not {"W.g_scale", "V.g_scale"} <= set(load_model(file).graph.initializers)
    assert [note for note in report.notes if "has joined or renamed initializers of" in note] == list(report.notes)
    assert len(report.notes) == is_joined
    verify(plain, file).raise_if_failed()
    restored_outputs_are_those_of(plain, file)
    assert len(write_bundle(file, file.with_name("bundle"), (16, 16)).layers) == 2


def folded(plain, file):
    assert all("the mapping was folded away" in message for message in messages(file))
    assert len(messages(file)) == 2
    assert what_check_says(file) == (
        "FAILED: the mapping was folded away by another tool: 2 of 2 weights are plain initializers again (W, V)\n"
        "What to do: map the original again, after all other tools (docs/other-tools.md), or make a plain model of "
        "this one with `onnx-gconv restore`."
    )
    report = inspect_model(file)
    assert (report.is_mapped, report.mapped, len(report.broken), report.mvm_share) == (False, (), 2, 0)
    assert not (found := verify(plain, file)).passed
    assert "the mapping was folded away" in found.problems[0]
    refused("the mapping was folded away", write_bundle, file, file.with_name("bundle"), (16, 16))
    refused("the model is mapped already; restore it first", map_model, file)
    restored_outputs_are_those_of(plain, file)
    assert map_model(file.with_name("restored.onnx"), file.with_name("again.onnx")).mvm_share == 1


def manifest_lost(plain, file):
    [message] = messages(file)
    assert re.fullmatch(r"the manifest is gone, but node '.*' still rebuilds a weight; .*", message)
    assert what_check_says(file) == f"FAILED: {message}\n{TAKE_AS_MAPPED}"
    assert not (found := verify(plain, file)).passed
    assert message in found.problems
    for use in (map_model, inspect_model):
        refused(r"is mapped already \(node '.*' rebuilds a weight\), but another tool removed its manifest", use, file)
    lost = "the mapping has lost its manifest: node '.*' .* still rebuilds a weight"
    refused(lost, restore_model, file, file.with_name("restored.onnx"))
    refused(lost, write_bundle, file, file.with_name("bundle"), (16, 16))


def plain_again(plain, file):
    [message] = messages(file)
    assert message.startswith("the model carries no mapping")
    remedy = "map it with `onnx-gconv map`; if it was mapped, map it after all other tools (docs/other-tools.md)"
    assert what_check_says(file) == f"FAILED: {message}\nWhat to do: {remedy}."
    assert not verify(plain, file).passed
    assert inspect_model(file).mvm_share == 1  # of what mapping would do
    verify(file, map_model(file, file.with_name("again.onnx")).output).raise_if_failed()


def renamed(plain, file):
    assert any("is gone; another tool removed or renamed it" in message for message in messages(file))
    assert what_check_says(file).endswith(f"which the manifest does not name\n{TAKE_AS_MAPPED}")
    report = inspect_model(file)
    assert (report.is_mapped, report.mapped, len(report.broken)) == (False, (), 2)
    assert "which the manifest does not name" in report.notes[0]
    assert not verify(plain, file).passed
    refused("is gone; another tool removed or renamed it", restore_model, file, file.with_name("restored.onnx"))
    refused("is gone; another tool removed or renamed it", write_bundle, file, file.with_name("bundle"), (16, 16))


def refused(message, function, *arguments):
    with pytest.raises(ModelError, match=message):
        function(*arguments)


CHECKS = {
    "stands": stands,
    "folded": folded,
    "manifest lost": manifest_lost,
    "folded, manifest lost": plain_again,
    "renamed": renamed,
}


@pytest.mark.parametrize(
    "tool", ["onnxslim", "onnxsim", "onnxscript.optimizer", "onnxruntime, saved at level basic", "onnxoptimizer"]
)
def test_level_codes_stay(folder, tmp_path, tool):
    left = with_codes(folder, tmp_path, tool)
    assert messages(left) == []
    assert inspect_model(left).is_mapped


def with_codes(folder, tmp_path, tool):
    map_model(folder / "plain.onnx", tmp_path / "mapped.onnx", levels=64, storage="codes")
    onnx.save(applied(TOOLS[tool], onnx.load(tmp_path / "mapped.onnx"), tmp_path), tmp_path / "left.onnx")
    return tmp_path / "left.onnx"


def test_a_division_that_onnxruntime_makes_a_factor_of_a_product_is_named(folder, tmp_path):
    left = with_codes(folder, tmp_path, "onnxruntime, saved at level extended")
    assert messages(left) == ["'W': the initializer 'W.g_scale' is gone; another tool removed or renamed it"]
    report = inspect_model(left)
    assert ([item.name for item in report.mapped], [item.name for item, _ in report.broken]) == (["V"], ["W"])


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim", "onnxscript.optimizer"])
def test_equal_weights_that_a_tool_has_folded_and_joined_are_restored(tmp_path, parse, normal, tool):
    text = "g (float[2,16] x) => (float[2,16] y) { [a] h = MatMul(x, W) [r] k = Relu(h) [b] y = MatMul(k, V) }"
    save_model(parse(text, opsets='"" : 18', ir_version=9, W=normal(16, 16), V=normal(16, 16)), tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx", SinglePairConductanceConverter(exact=True))
    onnx.save(TOOLS[tool](onnx.load(tmp_path / "mapped.onnx")), tmp_path / "left.onnx")
    assert restore_model(tmp_path / "left.onnx", tmp_path / "restored.onnx").folded == ("W", "V")
    model = load_model(tmp_path / "restored.onnx")
    for node in model.graph:
        if node.op_type == "MatMul":
            np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), normal(16, 16))


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim", "onnxscript.optimizer"])
def test_a_weight_that_was_folded_together_with_its_transposition_is_known_as_folded(tmp_path, parse, normal, tool):
    text = "g (float[2,8] x) => (float[2,4] y) { t = Transpose <perm = [1, 0]> (W) [a] h = MatMul(x, t) y = Relu(h) }"
    save_model(parse(text, opsets='"" : 18', ir_version=9, W=normal(4, 8)), tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    onnx.save(TOOLS[tool](onnx.load(tmp_path / "mapped.onnx")), tmp_path / "left.onnx")
    [message] = messages(tmp_path / "left.onnx")
    assert re.fullmatch(
        r"'W': the mapping was folded away: '\w+' is a plain initializer again and 'W.g_plus' is gone; "
        "mapping has to be the last step, after all constant folding",
        message,
    )
    assert restore_model(tmp_path / "left.onnx", tmp_path / "restored.onnx").folded == ("W",)


def test_a_model_whose_nodes_and_manifest_say_nothing_any_more_is_known_by_its_names(folder, tmp_path):
    model = load_model(folder / "mapped.onnx")
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    save_model(model, tmp_path / "left.onnx")
    manifest_lost(folder / "plain.onnx", tmp_path / "left.onnx")
