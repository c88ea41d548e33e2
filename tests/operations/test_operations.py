"""Mapping, inspecting and restoring from file to file."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_gconv.configuration import Configuration
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError, ModelError, UnmappableWeightError
from onnx_gconv.models import model_path
from onnx_gconv.operations.operations import (
    check_configuration,
    default_mapped_path,
    default_restored_path,
    inspect_model,
    map_model,
    restore_model,
    survey_model,
)
from onnx_gconv.verification import verify
from tests import graphs
from tests.packed_models import matmul_model, quantized

CNN_WEIGHTS = ["stem.weight", "depthwise.weight", "pointwise.weight", "hidden.weight", "classifier.weight"]


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape or (16, 16)).astype(np.float32)


def write(path, *, data=None, op_type="MatMul", **weights):
    """A chain of nodes `node_NAME` that read the weights."""
    options = {} if data is None else {"save_as_external_data": True, "location": data, "size_threshold": 0}
    onnx.save(graphs.chain_model(*graphs.tensors(weights), op_type=op_type), path, **options)
    return path


def initializers(path):
    return {item.name: numpy_helper.to_array(item, str(path.parent)) for item in onnx.load(path).graph.initializer}


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if not f.is_dir()}


@pytest.fixture
def cnn(tmp_path):
    return Path(shutil.copyfile(model_path("digits_cnn.onnx"), tmp_path / "cnn.onnx"))


@pytest.fixture
def mlp(tmp_path):
    return write(tmp_path / "mlp.onnx", first=array(), second=array(seed=1))


# map_model


def test_every_weight_becomes_two_conductances_and_a_scale(mlp, tmp_path):
    before = initializers(mlp)
    map_model(mlp, tmp_path / "out.onnx", SinglePairConductanceConverter(g_max=40.0))
    after = initializers(tmp_path / "out.onnx")
    assert after.keys() == {f"{name}.{part}" for name in before for part in ("g_plus", "g_minus", "g_scale")}
    for name, weight in before.items():
        expected, params = SinglePairConductanceConverter(g_max=40.0).convert_to_conductances(weight)
        assert np.array_equal(after[f"{name}.g_plus"], expected[0])
        assert np.array_equal(after[f"{name}.g_minus"], expected[1])
        assert after[f"{name}.g_scale"] == params["scale_ratio"]


def test_without_a_converter_conductances_go_from_0_to_25_microsiemens(mlp):
    report = map_model(mlp)
    assert {weight.converter.name for weight in report.mapped} == {"SinglePairConductanceConverter"}
    assert report.mapped[0].converter.parameters == {"g_max": 25.0, "g_min": 0.0, "exact": False}
    mapped = initializers(report.output)
    assert math.isclose(max(mapped["first.g_plus"].max(), mapped["first.g_minus"].max()), 25.0, rel_tol=1e-6)


def test_without_an_output_the_mapped_model_goes_beside_the_model(mlp):
    report = map_model(mlp)
    assert report.output == mlp.with_name("mlp.gconv.onnx")
    assert report.files == (report.output,)
    assert report.output.exists()


@pytest.mark.parametrize(
    ("model", "mapped"),
    [("a/model.onnx", "a/model.gconv.onnx"), ("v1.2.onnx", "v1.2.gconv.onnx"), ("model", "model.gconv")],
)
def test_the_default_path_of_a_mapped_model_has_gconv_before_the_suffix(model, mapped):
    assert default_mapped_path(Path(model)) == Path(mapped)


@pytest.mark.parametrize(
    ("mapped", "restored"),
    [
        ("a/model.gconv.onnx", "a/model.restored.onnx"),
        ("model.onnx", "model.restored.onnx"),
        ("v1.2.gconv.onnx", "v1.2.restored.onnx"),
    ],
)
def test_the_default_path_of_a_restored_model_has_restored_instead(mapped, restored):
    assert default_restored_path(Path(mapped)) == Path(restored)


def test_paths_may_be_text(mlp, tmp_path):
    report = map_model(str(mlp), str(tmp_path / "out.onnx"))
    assert report.output == tmp_path / "out.onnx"
    assert inspect_model(str(tmp_path / "out.onnx")).is_mapped
    assert restore_model(str(tmp_path / "out.onnx"), str(tmp_path / "back.onnx")).output == tmp_path / "back.onnx"


def test_the_input_is_not_changed(tmp_path):
    source = write(tmp_path / "in.onnx", data="in.onnx.data", w=array())
    before = content(tmp_path)
    map_model(source)
    restore_model(tmp_path / "in.gconv.onnx")
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before


def test_the_report_says_what_was_mapped_and_what_was_written(cnn):
    report = map_model(cnn, external_data=True)
    assert [weight.name for weight in report.mapped] == CNN_WEIGHTS
    assert report.model == cnn
    assert not report.is_mapped
    assert report.files == (cnn.with_name("cnn.gconv.onnx"), cnn.with_name("cnn.gconv.onnx.data"))
    assert report.mapped_parameters == sum(math.prod(weight.shape) for weight in report.mapped)
    assert report.mvm_share == 1.0


@pytest.mark.parametrize("external_data", [False, True])
def test_external_data_is_as_asked_for(mlp, external_data):
    files = map_model(mlp, external_data=external_data).files
    assert len(files) == 1 + external_data


def test_a_model_with_external_data_is_mapped_to_one_with_external_data(tmp_path):
    source = write(tmp_path / "in.onnx", data="in.data", w=array())
    files = map_model(source).files
    assert [file.name for file in files] == ["in.gconv.onnx", "in.gconv.onnx.data"]


def test_a_mapped_model_with_external_data_is_restored_to_one_with_external_data(tmp_path):
    mapped = map_model(write(tmp_path / "in.onnx", w=array()), external_data=True).output
    assert [file.name for file in restore_model(mapped).files] == ["in.restored.onnx", "in.restored.onnx.data"]


@pytest.mark.parametrize(
    ("include", "exclude", "mapped"),
    [
        (["first"], [], ["first"]),
        (["node_f*"], [], ["first"]),
        ([], ["second"], ["first"]),
        (["*"], ["node_first"], ["second"]),
        (["first", "second"], [], ["first", "second"]),
        (["[fs]*"], ["s*"], ["first"]),
    ],
)
def test_patterns_choose_the_weights_by_their_names_or_those_of_their_nodes(mlp, include, exclude, mapped):
    report = map_model(mlp, include=include, exclude=exclude)
    assert [weight.name for weight in report.mapped] == mapped
    assert {item.name for item in report.skipped} == {"first", "second"} - set(mapped)
    assert {item.reason for item in report.skipped} <= {"not_selected"}
    untouched = initializers(report.output)
    for item in report.skipped:
        assert np.array_equal(untouched[item.name], initializers(mlp)[item.name])


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("operation", [map_model, inspect_model])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_names(mlp, operation, option):
    with pytest.raises(ConfigError, match=r"'fisrt'.*did you mean 'first'"):
        operation(mlp, **{option: ["fisrt"]})
    assert [item.name for item in mlp.parent.iterdir()] == ["mlp.onnx"]


def test_progress_tells_of_scanning_and_of_writing(mlp):
    calls = []
    map_model(mlp, external_data=True, progress=lambda *call: calls.append(call))
    scans = [call[1:] for call in calls if call[0] == "scan"]
    writes = [call[1:] for call in calls if call[0] == "write"]
    assert len(scans) + len(writes) == len(calls)
    assert scans[-1] == (2048, 2048)
    assert writes[-1] == (4096 + 8, 4096 + 8)
    assert [done for done, _ in scans] == sorted(done for done, _ in scans)
    assert [done for done, _ in writes] == sorted(done for done, _ in writes)


def test_the_same_model_is_mapped_to_the_same_bytes_twice(tmp_path):
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        source = write(folder / "in.onnx", data="in.data", **{f"w{k}": array(seed=k) for k in range(6)})
        map_model(source)
        found.append(content(folder))
    assert found[0] == found[1]


# dry_run


def test_a_dry_run_writes_nothing_and_reports_the_same(cnn):
    before = content(cnn.parent)
    dry = map_model(cnn, dry_run=True)
    assert content(cnn.parent) == before
    assert dry.output is None
    assert dry.files == ()
    assert dry.manifest == map_model(cnn).manifest


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path):
    source = write(tmp_path / "in.onnx", w=np.full((4, 4), np.nan, np.float32))
    with pytest.raises(UnmappableWeightError, match=r"in\.onnx': the weight 'w' has the value nan"):
        map_model(source, dry_run=True)


def test_a_dry_run_on_a_mapped_model_says_that_it_is_mapped(mlp):
    with pytest.raises(ModelError, match=r"mlp\.gconv\.onnx': the model is mapped already"):
        map_model(map_model(mlp).output, dry_run=True)


# Configurations


OVERRIDES = """
[defaults]
converter = { name = "n-pair", factors = [1, 3] }

[[overrides]]
weight = "second"
converter = "offset"
levels = 16

[[overrides]]
node = "node_third"
skip = true
"""


@pytest.fixture
def configured(tmp_path):
    """A model of three layers, and a configuration in which each is another case."""
    (tmp_path / "gconv.toml").write_text(OVERRIDES, encoding="utf-8")
    source = write(tmp_path / "in.onnx", first=array(), second=array(seed=1), third=array(seed=2))
    return source, tmp_path / "gconv.toml"


def converters(report):
    return {weight.name: weight.converter.name for weight in report.mapped}


def test_each_weight_is_mapped_as_the_configuration_says(configured):
    source, config = configured
    report = map_model(source, config=config)
    expected = {"first": "NPairConductanceConverter", "second": "OffsetConductanceConverter"}
    assert converters(report) == converters(inspect_model(source, config=str(config))) == expected
    details = {item.name: item.detail for item in report.skipped}
    assert details == {"third": f"skipped by overrides[1] of '{config}'"}
    assert verify(source, report.output).passed


def test_arguments_win_over_the_configuration_but_not_over_what_it_skips(configured):
    source, config = configured
    report = map_model(source, converter=SinglePairConductanceConverter(), config=config, granularity="channel")
    assert set(converters(report)) == {"first", "second"}
    assert set(converters(report).values()) == {"SinglePairConductanceConverter"}


def test_a_configuration_may_be_an_object(configured):
    source, _ = configured
    configuration = Configuration.of({"overrides": [{"op": "MatMul", "converter": "two-sided-pair"}]})
    report = map_model(source, config=configuration, dry_run=True)
    assert set(converters(report).values()) == {"TwoSidedPairConductanceConverter"}


def test_a_converter_may_be_a_name(mlp):
    assert set(converters(map_model(mlp, converter="offset")).values()) == {"OffsetConductanceConverter"}


def test_a_configuration_is_checked_with_and_without_a_model(configured):
    source, config = configured
    assert check_configuration(config).matches is None
    report = check_configuration(config, source)
    assert (report.matches, report.mapped, report.left_out) == ((1, 1), 2, 1)


def test_an_unknown_argument_is_a_type_error(mlp):
    with pytest.raises(TypeError, match="there is no option 'granularty'"):
        map_model(mlp, granularty="channel")


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_mlp.onnx"])
def test_the_survey_finds_the_weights_that_mapping_decides_about(name):
    assert [weight.name for weight in survey_model(model_path(name)).weights] == [
        weight.name for weight in inspect_model(model_path(name)).mapped
    ]


# inspect_model


def test_inspecting_a_plain_model_shows_what_mapping_would_do(cnn):
    before = content(cnn.parent)
    report = inspect_model(cnn, SinglePairConductanceConverter(g_max=10.0), exclude=["hidden*"])
    assert content(cnn.parent) == before
    assert not report.is_mapped
    assert report.output is None
    expected = map_model(cnn, None, SinglePairConductanceConverter(g_max=10.0), exclude=["hidden*"])
    assert report.manifest == expected.manifest


def test_inspecting_a_mapped_model_shows_its_own_mapping(cnn):
    mapped = map_model(cnn, None, SinglePairConductanceConverter(g_max=10.0))
    report = inspect_model(mapped.output)
    assert report.is_mapped
    assert report.manifest == mapped.manifest
    assert report.mapped[0].converter.parameters["g_max"] == 10.0


def test_inspecting_lists_a_weight_that_cannot_be_mapped_with_its_value(tmp_path):
    source = write(tmp_path / "in.onnx", good=array(), bad=np.full((16, 16), np.inf, np.float32))
    report = inspect_model(source)
    assert [weight.name for weight in report.mapped] == ["good"]
    (item,) = report.skipped
    assert (item.name, item.reason, item.is_mvm) == ("bad", "refused_values", True)
    assert "inf at flat index 0" in item.detail


def test_inspecting_a_model_without_weights_is_no_error(tmp_path):
    report = inspect_model(write(tmp_path / "in.onnx", op_type="Add", w=array()))
    assert report.mapped == ()
    assert report.mvm_share is None


# restore_model


@pytest.mark.parametrize("external_data", [False, True])
def test_an_exact_mapping_is_restored_to_the_very_weights(cnn, external_data):
    mapped = map_model(cnn, None, SinglePairConductanceConverter(exact=True), external_data=external_data)
    report = restore_model(mapped.output)
    assert report.output == cnn.with_name("cnn.restored.onnx")
    before, after = initializers(cnn), initializers(report.output)
    assert after.keys() == before.keys()
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_a_restored_model_has_no_trace_of_the_mapping(cnn):
    report = restore_model(map_model(cnn).output)
    original, restored = onnx.load(cnn), onnx.load(report.output)
    assert [node.SerializeToString() for node in restored.graph.node] == [
        node.SerializeToString() for node in original.graph.node
    ]
    assert [item.name for item in restored.graph.initializer] == [item.name for item in original.graph.initializer]
    assert [(item.key, item.value) for item in restored.metadata_props] == [
        (item.key, item.value) for item in original.metadata_props
    ]


def test_the_report_of_restoring_names_the_weights_and_the_files(cnn):
    mapped = map_model(cnn).output
    report = restore_model(mapped, external_data=True)
    assert report.restored == tuple(CNN_WEIGHTS)
    assert report.model == mapped
    assert report.files == (cnn.with_name("cnn.restored.onnx"), cnn.with_name("cnn.restored.onnx.data"))


def test_a_restored_model_can_be_mapped_again(cnn):
    restored = restore_model(map_model(cnn).output).output
    assert [weight.name for weight in map_model(restored).mapped] == CNN_WEIGHTS


def test_progress_tells_of_writing_restored_weights(mlp):
    calls = []
    restore_model(map_model(mlp).output, external_data=True, progress=lambda *call: calls.append(call))
    assert {call[0] for call in calls} == {"write"}
    assert calls[-1] == ("write", 2048, 2048)


# Messages name the file


def test_a_model_that_is_mapped_already_is_refused_by_name(mlp):
    mapped = map_model(mlp).output
    with pytest.raises(ModelError, match=r"mlp\.gconv\.onnx': the model is mapped already; restore it first"):
        map_model(mapped)


def test_a_model_with_nothing_to_map_is_refused_by_name(tmp_path):
    source = write(tmp_path / "in.onnx", op_type="Add", w=array())
    with pytest.raises(ModelError, match=r"in\.onnx': has no weight that can be mapped; `onnx-gconv inspect` says why"):
        map_model(source)
    assert [item.name for item in tmp_path.iterdir()] == ["in.onnx"]


def test_the_first_reason_why_nothing_is_mapped_is_told(tmp_path):
    weight = quantized(7, 64, block=32)
    model = matmul_model(replace(weight, stored=weight.stored[:, :1]))
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(ModelError) as found:
        map_model(tmp_path / "in.onnx")
    assert str(found.value).endswith(
        "`onnx-gconv inspect` says why. 'W': its shape does not fit the op that reads it; layer (MatMulNBits) reads "
        "bytes of [7, 1, 16], but N = 7, K = 64, bits = 4, block_size = 32 need [7, 2, 16]"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name_with_its_value_and_place(tmp_path, value):
    weight = array()
    weight[1, 3] = value
    source = write(tmp_path / "in.onnx", w=weight)
    with pytest.raises(
        UnmappableWeightError, match=rf"in\.onnx': the weight 'w' has the value {value} at flat index 19"
    ):
        map_model(source)
    assert [item.name for item in tmp_path.iterdir()] == ["in.onnx"]


def test_the_remedy_for_a_weight_that_is_not_finite_works(tmp_path):
    source = write(tmp_path / "in.onnx", good=array(), bad=np.full((16, 16), np.nan, np.float32))
    assert [weight.name for weight in map_model(source, exclude=["bad"]).mapped] == ["good"]


def test_a_plain_model_cannot_be_restored(mlp):
    with pytest.raises(ModelError, match=r"mlp\.onnx': the model carries no mapping"):
        restore_model(mlp)
    assert [item.name for item in mlp.parent.iterdir()] == ["mlp.onnx"]


def test_a_mapping_that_lost_a_conductance_cannot_be_restored(mlp):
    mapped = map_model(mlp).output
    model = onnx.load(mapped)
    (lost,) = (item for item in model.graph.initializer if item.name == "second.g_minus")
    lost.name = "renamed"
    onnx.save(model, mapped)
    with pytest.raises(ModelError, match=r"mlp\.gconv\.onnx' reads the value 'second\.g_minus', which nothing gives"):
        restore_model(mapped)
    assert not mlp.with_name("mlp.restored.onnx").exists()


@pytest.mark.parametrize("device", ["g_plus", "g_minus"])
def test_a_mapping_whose_conductances_have_another_shape_cannot_be_restored(mlp, device):
    mapped = map_model(mlp).output
    model = onnx.load(mapped)
    (changed,) = (item for item in model.graph.initializer if item.name == f"second.{device}")
    changed.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(changed)[:4], changed.name))
    onnx.save(model, mapped)
    with pytest.raises(ModelError, match=r"mlp\.gconv\.onnx'.*'second"):
        restore_model(mapped)
    assert not mlp.with_name("mlp.restored.onnx").exists()


@pytest.mark.parametrize("operation", [map_model, inspect_model, restore_model])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, operation):
    (tmp_path / "in.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"in\.onnx' is not an ONNX model"):
        operation(tmp_path / "in.onnx")


@pytest.mark.parametrize("operation", [map_model, restore_model])
def test_an_output_that_cannot_be_written_is_found_before_the_model_is_read(tmp_path, operation):
    with pytest.raises(ConfigError, match=r"out\.onnx': the folder .* does not exist"):
        operation(tmp_path / "missing.onnx", tmp_path / "no" / "out.onnx")


# Inputs are never modified


@pytest.fixture
def external(tmp_path):
    return write(tmp_path / "in.onnx", data="out.onnx.data", w=array(), v=array(seed=1))


def assert_input_untouched(folder, before):
    after = content(folder)
    assert {name: after.get(name) for name in ("in.onnx", "out.onnx.data")} == before


def test_the_input_is_never_the_output(mlp):
    before = content(mlp.parent)
    with pytest.raises(ConfigError, match="is the input"):
        map_model(mlp, mlp)
    with pytest.raises(ConfigError, match="is the input"):
        restore_model(mlp, mlp)
    assert content(mlp.parent) == before


@pytest.mark.parametrize("external_data", [False, True])
def test_the_data_file_of_the_input_is_kept_when_the_output_replaces_another_model_that_uses_it(
    external, external_data
):
    before = content(external.parent)
    shutil.copyfile(external, external.with_name("out.onnx"))
    map_model(external, external.with_name("out.onnx"), external_data=external_data)
    assert_input_untouched(external.parent, before)


@pytest.mark.parametrize("external_data", [False, True])
def test_the_data_file_of_a_mapped_input_is_kept_when_a_restored_model_replaces_another_that_uses_it(
    tmp_path, external_data
):
    source = write(tmp_path / "plain.onnx", w=array())
    mapped = map_model(source, tmp_path / "out.onnx", external_data=True).output
    shutil.copyfile(mapped, tmp_path / "in.onnx")
    before = {name: data for name, data in content(tmp_path).items() if name in ("in.onnx", "out.onnx.data")}
    restore_model(tmp_path / "in.onnx", tmp_path / "out.onnx", external_data=external_data)
    assert_input_untouched(tmp_path, before)


@pytest.mark.parametrize("external_data", [False, True])
def test_the_data_file_of_the_input_is_never_the_output(external, external_data):
    before = content(external.parent)
    with pytest.raises(ConfigError, match=r"out\.onnx\.data"):
        map_model(external, external.with_name("out.onnx.data"), external_data=external_data)
    assert content(external.parent) == before


def test_the_data_file_of_a_mapped_input_is_never_the_output(external):
    mapped = map_model(external, external_data=True)
    before = content(external.parent)
    with pytest.raises(ConfigError, match=r"in\.gconv\.onnx\.data"):
        restore_model(mapped.output, mapped.files[1])
    assert content(external.parent) == before
