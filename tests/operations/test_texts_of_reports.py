"""What reports say of schemes, of clipping, and of converters that others wrote; and what is found in old models."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv import inspect_model, map_model
from onnx_gconv.configuration import Configuration
from onnx_gconv.configuration.settings import ModelSettings
from onnx_gconv.converters import TwoSidedPairConductanceConverter, registry
from onnx_gconv.converters.registry import ConverterRegistry, register_converter
from onnx_gconv.files.models import save_model
from onnx_gconv.operations.operations import check_configuration, survey_model


@pytest.fixture
def source(parse, normal, tmp_path):
    text = "g (float[2,6] x) => (float y) { h = MatMul(x, A) y = MatMul(h, B) }"
    save_model(parse(text, A=normal(6, 4), B=normal(4, 5, seed=1)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def text_of(report):
    return " ".join(str(report).split())


def test_clipped_weights_are_counted_in_the_table_beside_those_that_are_not(source):
    config = Configuration.of({"overrides": [{"match": "A", "clipping": {"percentile": 75.0}}]})
    report = map_model(source, config=config)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in str(report).splitlines() if "│" in line]
    assert "clipped" in str(report)
    assert [(row[0], row[5]) for row in rows] == [("A", "6"), ("B", "-")]
    assert rows[1][4] == "-"  # nothing was lost of it
    assert "clipped at 75 %" in text_of(report)


def test_clipping_at_a_value_and_tables_of_levels_are_told(source):
    levels = [0.0, 1.0, 5.0, 25.0]
    report = map_model(source, clipping={"value": 0.5}, levels=levels)
    assert "clipped at |W| = 0.5, 4 levels of a table" in text_of(report)


def test_several_pairs_bits_and_exactness_are_told(source):
    assert "pairs with factors 1, 2.5" in text_of(map_model(source, None, {"name": "n-pair", "factors": [1, 2.5]}))
    sliced = map_model(source, None, {"name": "bit-sliced-pair", "bits": 6, "slice_bits": 2})
    assert "6 bits in slices of 2" in text_of(sliced)
    assert "0 to 25 µS, exact" in text_of(map_model(source, None, {"name": "single-pair", "exact": True}))


def test_parameters_of_a_converter_that_somebody_else_wrote_are_told_as_they_are(source, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(list))

    @register_converter
    class Doubled(TwoSidedPairConductanceConverter):
        name = "doubled"

        def __init__(self, g_max=None, g_min=None, *, share=0.5):
            super().__init__(g_max, g_min)
            self.share = share

        def manifest_parameters(self):
            return {**super().manifest_parameters(), "share": self.share}

    text = text_of(map_model(source, None, Doubled(share=0.25)))
    assert "Doubled, 0 to 25 µS, share = 0.25, of " in text


def test_conductances_of_half_precision_come_with_a_remark(parse, normal, tmp_path):
    model = parse("g (float16[2,6] x) => (float16 y) { y = MatMul(x, A) }", A=normal(6, 4, dtype=np.float16))
    save_model(model, tmp_path / "half.onnx")
    remark = "ONNX Runtime rebuilds weights from conductances of half precision in every run"
    assert remark in text_of(map_model(tmp_path / "half.onnx", conductance_dtype="weight"))
    assert remark not in text_of(map_model(tmp_path / "half.onnx"))


def test_a_configuration_without_faults_is_told_as_text(tmp_path):
    (tmp_path / "gconv.toml").write_text('[[overrides]]\nmatch = "A*"\ngranularity = "channel"\n')
    assert str(check_configuration(tmp_path / "gconv.toml")).splitlines() == [
        f"Nothing is wrong with {tmp_path / 'gconv.toml'}",
        "  overrides[0]  match A*  ->  granularity",
    ]


# What a configuration decides about


def test_weights_of_an_old_model_are_found_at_the_opset_to_which_it_is_raised(parse, normal, tmp_path):
    text = "g (float[2,6] x, float[6,4] W) => (float[2,4] y) { y = MatMul(x, W) }"
    save_model(parse(text, opsets='"" : 6', ir_version=3, W=normal(6, 4)), tmp_path / "old.onnx")
    survey = survey_model(tmp_path / "old.onnx", ModelSettings(upgrade_opset=True))
    assert [weight.name for weight in survey.weights] == ["W"]


def test_weights_of_local_functions_are_found_unless_they_are_to_be_left(parse, normal, tmp_path):
    text = """g (float[2,6] x) => (float y) { y = own.f(x, W) }
    <domain: "own", opset_import: ["" : 17]>
    f (a, w) => (b) { b = MatMul(a, w) }"""
    model = parse(text, opsets='"" : 17, "own" : 1', W=normal(6, 4))
    (tmp_path / "m.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    assert [weight.name for weight in survey_model(tmp_path / "m.onnx").weights] == ["W"]
    assert survey_model(tmp_path / "m.onnx", ModelSettings(inline_functions=False)).weights == ()


def test_a_converter_of_a_package_that_is_not_there_is_told_with_where_it_is_from(source):
    mapped = map_model(source).output
    model = onnx.load(mapped)
    [entry] = model.metadata_props
    document = json.loads(entry.value)
    origin = {"package": "their-package", "version": "1.0", "module": "theirs"}
    document["weights"][0]["converter"].update(name="Theirs", origin=origin)
    entry.value = json.dumps(document)
    onnx.save(model, mapped)
    report = inspect_model(mapped)
    assert [weight.name for weight in report.mapped] == ["A", "B"]
    lines = [line for line in str(report).splitlines() if line.startswith("Converter: ")]
    assert "Theirs" in lines[0]
    assert "their-package" in text_of(report)
    assert "SinglePairConductanceConverter, 0 to 25 µS (B)" in text_of(report)
