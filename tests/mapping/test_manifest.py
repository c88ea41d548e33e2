"""The manifest is read back as it was written; one that cannot be trusted is refused with the place that is wrong."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import Decoding, SinglePairConductanceConverter
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import (
    MANIFEST_KEY,
    ConverterRecord,
    Manifest,
    read_manifest,
    remove_manifest,
    write_manifest,
)

DOCUMENT = {
    "format": "onnx_gconv.mapping",
    "format_version": 1,
    "tool": "onnx_gconv 0.1.0",
    "unit": "uS",
    "weights": [
        {
            "name": "W",
            "graph": "choose.then_branch",
            "moved_from": None,
            "dtype": "float16",
            "shape": [2, 3],
            "stored_as": "initializer",
            "sources": [],
            "converter": {
                "name": "SinglePairConductanceConverter",
                "parameters": {"g_max": 25.0, "g_min": 0.0, "exact": False},
            },
            "granularity": "tensor",
            "axis": None,
            "tiling": None,
            "clipping": None,
            "levels": None,
            "loss": None,
            "compute_dtype": "float32",
            "conductances": [
                {"name": "W.g_plus", "device": "g_plus", "coefficient": 1.0},
                {"name": "W.g_minus", "device": "g_minus", "coefficient": -1.0},
            ],
            "offset_us": 0.5,
            "scale": {
                "name": "W.g_scale",
                "value": 25.0,
                "form": "number",
                "shape": [],
                "minimum": None,
                "maximum": None,
                "consumer": None,
            },
            "zero": 0.25,
            "rounded": False,
            "zero_point": None,
            "max_abs": 1.0,
            "notes": ["unusual"],
            "consumers": [
                {
                    "node": "layer",
                    "op_type": "MatMul",
                    "domain": "",
                    "slot": 1,
                    "graph": "choose.then_branch",
                    "is_mvm": True,
                    "path": [{"op": "transpose", "argument": [1, 0]}],
                    "matrix_view": {
                        "rows": 2,
                        "columns": 3,
                        "matrices": 1,
                        "split_shape": [2, 3],
                        "matrix_axes": [],
                        "row_axes": [0],
                        "column_axes": [1],
                        "factor": 1.0,
                        "columns_per_channel": 1,
                    },
                    "reads": "rebuilt",
                },
                {
                    "node": "",
                    "op_type": "Gather",
                    "domain": "",
                    "slot": 0,
                    "graph": "",
                    "is_mvm": False,
                    "path": [],
                    "matrix_view": None,
                    "reads": "digital",
                },
            ],
            "parameters": ["encoder.lin.weight"],
            "modules": ["encoder.lin"],
            "same_source_as": [{"name": "U", "graph": "", "relation": "transposed"}],
            "digital_copy": "W.digital",
            "measured": {
                "source": "chip.h5",
                "cells": 8,
                "measured": 7,
                "max_abs_error": 0.25,
                "rms_error": 0.125,
                "saturated": True,
            },
        }
    ],
    "skipped": [
        {
            "name": "V",
            "shape": None,
            "graph": "",
            "reason": "behind_other_nodes",
            "detail": "Transpose",
            "is_mvm": True,
            "consumers": ["mm (MatMul)[1]"],
            "parameters": ["encoder.emb.weight"],
            "same_source_as": [],
        }
    ],
    "notes": [],
}

# Manifests of version 1 that were written before these keys existed are still read.
OPTIONAL_OF_WEIGHTS = ["parameters", "modules", "same_source_as", "digital_copy", "measured"]
OPTIONAL_OF_SKIPPED = ["parameters", "same_source_as"]


@pytest.fixture
def model(parse):
    return parse("g (float x) => (float y) { y = Identity(x) }")


def changed(*path, value):
    """The document with another value at a path; without it if the value is None."""
    document = json.loads(json.dumps(DOCUMENT))
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document)


def read(model, text):
    model.metadata_props[MANIFEST_KEY] = text
    return read_manifest(model)


class TestReadingAndWriting:
    def test_a_manifest_is_the_documented_json(self, model):
        write_manifest(model, Manifest.model_validate(DOCUMENT))
        assert json.loads(model.metadata_props["onnx_gconv"]) == DOCUMENT

    def test_a_manifest_that_lacks_optional_keys_is_read(self, model):
        document = json.loads(json.dumps(DOCUMENT))
        for key in OPTIONAL_OF_WEIGHTS:
            del document["weights"][0][key]
        for key in OPTIONAL_OF_SKIPPED:
            del document["skipped"][0][key]
        for consumer in document["weights"][0]["consumers"]:
            del consumer["reads"]
        manifest = read(model, json.dumps(document))
        assert manifest.weights[0].parameters == manifest.weights[0].modules == manifest.skipped[0].parameters == ()
        assert {consumer.reads for consumer in manifest.weights[0].consumers} == {"rebuilt"}
        assert manifest.weights[0].digital_copy is None

    def test_a_manifest_is_read_back_as_it_was_written(self, model):
        manifest = Manifest.model_validate(DOCUMENT)
        write_manifest(model, manifest)
        assert read_manifest(model) == manifest

    def test_a_manifest_survives_saving_and_loading_the_model(self, model, tmp_path):
        write_manifest(model, Manifest.model_validate(DOCUMENT))
        ir.save(model, tmp_path / "model.onnx")
        assert read_manifest(ir.load(tmp_path / "model.onnx")) == Manifest.model_validate(DOCUMENT)

    def test_numbers_are_read_back_bit_by_bit(self, model):
        scale = 25 / 0.7300000190734863
        text = changed("weights", 0, "scale", "value", value=scale)
        assert read(model, text).weights[0].scale.value == scale

    def test_a_model_without_a_manifest_has_none(self, model):
        assert read_manifest(model) is None

    def test_a_removed_manifest_is_gone(self, model):
        model.metadata_props["of somebody else"] = "stays"
        write_manifest(model, Manifest.model_validate(DOCUMENT))
        remove_manifest(model)
        assert read_manifest(model) is None
        assert model.metadata_props == {"of somebody else": "stays"}

    def test_keys_that_this_version_does_not_know_are_ignored(self, model):
        text = changed("weights", 0, "colour", value="green")
        assert read(model, text) == Manifest.model_validate(DOCUMENT)


class TestDamage:
    @pytest.mark.parametrize("version", [4, 99, "1.5"])
    def test_a_newer_format_version_is_refused_with_what_to_do(self, model, version):
        with pytest.raises(
            ModelError, match=rf"format version '?{version}'?, this version reads 1, 2 and 3; use the version"
        ):
            read(model, changed("format_version", value=version))

    def test_a_newer_format_version_is_named_even_if_its_weights_look_different(self, model):
        document = {**DOCUMENT, "format_version": 4, "weights": {"W": "elsewhere"}}
        with pytest.raises(ModelError, match="format version 4"):
            read(model, json.dumps(document))

    @pytest.mark.parametrize("text", ["", "{", "not json", "\x00", json.dumps(DOCUMENT)[:200]])
    def test_what_is_no_json_is_refused(self, model, text):
        with pytest.raises(ModelError, match=r"the manifest in metadata 'onnx_gconv' is damaged: the document: "):
            read(model, text)

    @pytest.mark.parametrize("text", ["[]", "null", "3", '"text"'])
    def test_json_that_is_no_object_is_refused(self, model, text):
        with pytest.raises(ModelError, match="the manifest in metadata 'onnx_gconv' is damaged: "):
            read(model, text)

    @pytest.mark.parametrize(
        ("path", "value", "place"),
        [
            (("weights",), None, "weights"),
            (("format",), "onnx_gconv.other", "format"),
            (("unit",), "S", "unit"),
            (("weights", 0, "name"), None, r"weights\.0\.name"),
            (("weights", 0, "name"), 7, r"weights\.0\.name"),
            (("weights", 0, "shape"), ["two"], r"weights\.0\.shape\.0"),
            (("weights", 0, "conductances"), [], r"weights\.0\.conductances"),
            (("weights", 0, "scale", "value"), 0.0, r"weights\.0\.scale\.value"),
            (("weights", 0, "scale", "value"), -1.0, r"weights\.0\.scale\.value"),
            (("weights", 0, "scale", "value"), float("inf"), r"weights\.0\.scale\.value"),
            (("weights", 0, "max_abs"), float("nan"), r"weights\.0\.max_abs"),
            (("weights", 0, "compute_dtype"), "int8", r"weights\.0\.compute_dtype"),
            (("weights", 0, "granularity"), "row", r"weights\.0\.granularity"),
            (("weights", 0, "name"), "", r"weights\.0\.name"),
            (("weights", 0, "scale", "consumer"), 2, r"weights\.0: its scale follows consumer 2, but it has 2"),
            (("weights", 0, "clipping"), {"percentile": None, "value": None}, r"weights\.0\.clipping: it has neither"),
            (("weights", 0, "consumers", 0, "matrix_view", "rows"), 0, r"weights\.0\.consumers\.0\.matrix_view\.rows"),
            (("weights", 0, "scale", "form"), "tiles", r"weights\.0\.scale: .*several numbers has no minimum or"),
            (("weights", 0, "scale"), {"name": "s", "value": None}, r"weights\.0\.scale: .*one number has no value"),
            (("weights",), 2 * DOCUMENT["weights"], r"weights: the weight 'W' is there twice"),
            (("skipped", 0, "reason"), None, r"skipped\.0\.reason"),
        ],
    )
    def test_a_wrong_or_missing_entry_is_refused_with_its_place(self, model, path, value, place):
        with pytest.raises(ModelError, match=rf"the manifest in metadata 'onnx_gconv' is damaged: {place}"):
            read(model, changed(*path, value=value))

    def test_levels_that_there_cannot_be_are_refused_when_they_are_asked_for(self, model):
        levels = {"count": 1, "uniform": True, "g_min": 0.0, "g_max": 25.0, "values": None, "storage": "float"}
        [record] = read(model, changed("weights", 0, "levels", value=levels)).weights
        with pytest.raises(ModelError, match=r"^the manifest has wrong levels: .*2"):
            _ = record.levels.levels

    def test_an_unknown_type_of_a_weight_is_refused(self, model):
        text = changed("weights", 0, "dtype", value="float99")
        with pytest.raises(ModelError, match=r"float99|dtype"):
            _ = read(model, text).weights[0].ir_dtype


class TestRecords:
    @pytest.fixture
    def record(self):
        return Manifest.model_validate(DOCUMENT).weights[0]

    def test_a_weight_says_how_its_conductances_become_weights(self, record):
        assert record.decoding(np.float32([25.0]), np.float32([0.25])) == Decoding(
            coefficients=(1.0, -1.0), offset_us=0.5, scale=25.0, zero=0.25
        )

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("float16", ir.DataType.FLOAT16),
            ("bfloat16", ir.DataType.BFLOAT16),
            ("float32", ir.DataType.FLOAT),
            ("float64", ir.DataType.DOUBLE),
        ],
    )
    def test_a_weight_says_its_type(self, record, name, expected):
        assert record.model_copy(update={"dtype": name}).ir_dtype == expected

    def test_a_weight_says_the_type_of_its_conductances(self, record):
        assert record.ir_compute_dtype == ir.DataType.FLOAT
        assert record.model_copy(update={"compute_dtype": "float64"}).ir_compute_dtype == ir.DataType.DOUBLE

    @pytest.mark.parametrize(
        "converter",
        [
            SinglePairConductanceConverter(),
            SinglePairConductanceConverter(88.199997, 9.0),
            SinglePairConductanceConverter(0.1 + 0.2, exact=True),
        ],
        ids=repr,
    )
    def test_a_converter_is_built_again_from_its_record(self, converter):
        record = ConverterRecord.model_validate_json(ConverterRecord.of(converter).model_dump_json())
        assert record.converter() == converter

    def test_an_unknown_converter_is_refused(self):
        record = ConverterRecord(name="ForeignConductanceConverter", parameters={})
        with pytest.raises(ModelError, match="'ForeignConductanceConverter', which this version does not know"):
            record.converter()

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"g_max": -1.0}, "g_max should be a positive value"),
            ({"g_max": "wide"}, "g_max should be a number"),
            ({"g_max": 25.0, "colour": "green"}, "colour"),
            ({"g_max": 25.0}, "g_min is missing"),
            ({"g_min": 0.0, "g_max": None}, "g_max"),
        ],
    )
    def test_wrong_parameters_of_a_converter_are_refused(self, parameters, message):
        record = ConverterRecord(name="SinglePairConductanceConverter", parameters=parameters)
        with pytest.raises(ModelError, match=rf"wrong parameters for 'SinglePairConductanceConverter': .*{message}"):
            record.converter()

    def test_records_cannot_be_changed(self, record):
        with pytest.raises(ValueError, match="frozen"):
            record.name = "V"
