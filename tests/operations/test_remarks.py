"""Reports say which weights hold one parameter, who reads a weight digitally, and what is skipped how often."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv.operations.operations import inspect_model, map_model, restore_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.passes.remarks import fidelity_warnings
from onnx_gconv.verification import verify

FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"

UNTIED = """g (int64[2] i) => (float[2,5] y) {
    [look_up] x = Gather(table, i)
    [head] y = MatMul(x, val_0)
}"""
TIED = """g (int64[2] i) => (float[2,5] y) {
    [look_up] x = Gather(table, i)
    [turn] T = Transpose <perm = [1, 0]> (table)
    [head] y = MatMul(x, T)
}"""


@pytest.fixture
def write(parse, tmp_path):
    """Writes a model; the parameters of initializers can be given by name."""

    def write_model(text, parameters=(), **initializers):
        model = parse(text, **initializers)
        for name, parameter in dict(parameters).items():
            model.graph.initializers[name].metadata_props[FOLDED_FROM] = repr([parameter])
        onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write_model


def text_of(report):
    return " ".join(str(report).split())


class TestSameSource:
    def test_a_table_that_a_transposed_copy_multiplies_with_is_told(self, write, normal):
        path = write(UNTIED, {"val_0": "table"}, table=normal(5, 4), val_0=np.ascontiguousarray(normal(5, 4).T))
        for report in (inspect_model(path), mapped := map_model(path), inspect_model(mapped.output)):
            sentence = "'table' is 'val_0' transposed: one parameter, held once on devices and once digitally."
            assert sentence in text_of(report)
            [weight] = report.to_json()["mapped"]
            assert weight["same_source_as"] == ({"name": "table", "graph": "", "relation": "transposed"},)

    def test_a_weight_that_is_stored_twice_is_told_once(self, write, normal):
        text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, W) b = MatMul(a, V) y = MatMul(b, U) }"
        report = inspect_model(write(text, W=normal(4, 4), V=normal(4, 4), U=np.ascontiguousarray(normal(4, 4).T)))
        sentence = (
            "'V' is 'W', 'U' is 'W' transposed: equal values, held 3 times on devices; one parameter, or several that "
            "were initialized alike."
        )
        assert text_of(report).count(sentence) == 1
        assert text_of(report).count("equal values") == 1
        assert list(report.to_json()["remarks"]) == [sentence]

    def test_others_are_compared_with_the_one_that_bears_the_parameters_name(self, write, normal):
        text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, val_0) y = MatMul(a, weight) }"
        parameters = {"val_0": "weight", "weight": "weight"}
        report = inspect_model(write(text, parameters, val_0=normal(4, 4), weight=normal(4, 4)))
        assert "'val_0' is 'weight': one parameter, held 2 times on devices." in text_of(report)

    def test_unrelated_weights_are_not_mentioned(self, write, normal):
        text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, W) y = MatMul(a, V) }"
        report = inspect_model(write(text, W=normal(4, 4), V=normal(4, 4, seed=1)))
        assert "equal values" not in text_of(report)
        assert report.to_json()["remarks"] == []

    def test_external_data_are_compared(self, write, normal, tmp_path):
        path = write(UNTIED, table=normal(5, 4), val_0=np.ascontiguousarray(normal(5, 4).T))
        model = onnx.load(path)
        onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
        assert "'table' is 'val_0' transposed" in text_of(map_model(tmp_path / "e.onnx"))


class TestScales:
    def test_those_that_a_conversion_to_float16_cuts_off_are_named(self, write, normal):
        text = "g (float[2,4] x) => (float y) { a = MatMul(x, W) b = MatMul(a, V) y = MatMul(b, U) }"
        path = write(
            text, W=normal(4, 4) * np.float32(1e-4), V=normal(4, 4, seed=1), U=normal(4, 4, seed=2) * np.float32(1e-3)
        )
        sentence = (
            "'W', 'U' have scales above 10,000 µS per unit of weight, at which onnxconverter-common's conversion to "
            "float16 cuts constants off: convert the model before you map it, or raise max_finite_val there."
        )
        for options in ({}, {"granularity": "channel"}):
            report = inspect_model(path, **options)
            assert sentence in text_of(report)
            assert report.to_json()["remarks"] == [sentence]
            assert report.to_json()["notes"] == []


class TestSharing:
    def test_the_readers_of_the_rebuilt_weight_are_named(self, write, normal):
        report = map_model(write(TIED, table=normal(5, 4)))
        assert "'table': Gather look_up reads the rebuilt weight like the MVM ops." in text_of(report)
        assert "Gather look_up rebuilt" in text_of(report)

    def test_the_readers_of_the_digital_copy_are_named(self, write, normal):
        path = write(TIED, table=normal(5, 4))
        planned, mapped = inspect_model(path, shared="split"), map_model(path, shared="split")
        for report in (planned, mapped, inspect_model(mapped.output)):
            assert "'table': Gather look_up reads the digital copy 'table.digital'." in text_of(report)
            assert "Gather look_up digital copy" in text_of(report)
            [weight] = report.to_json()["mapped"]
            assert weight["digital_copy"] == "table.digital"
            reads = {item["node"]: item["reads"] for item in weight["consumers"]}
            assert reads == {"look_up": "digital", "head": "rebuilt"}

    @pytest.mark.parametrize("external_data", [False, True])
    def test_a_split_model_is_verified_and_restored(self, write, normal, external_data):
        path = write(TIED.replace("float[2,5]", "float[2,50]"), table=normal(50, 40))
        mapped = map_model(path, shared="split", external_data=external_data)
        verify(path, mapped.output).raise_if_failed()
        restored = restore_model(mapped.output)
        weights = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(restored.output).graph.initializer}
        np.testing.assert_array_equal(weights["table.digital"], normal(50, 40))
        np.testing.assert_allclose(weights["table"], normal(50, 40), rtol=1e-6, atol=1e-6)


FOREIGN = '"" : 17, "foreign" : 1'


class TestCounts:
    TEXT = """g (float[2,4] x, int64[1] i) => (float y, float u) {
        a = MatMul(x, W)
        b = MatMul(a, V)
        C = foreign.Twist(S)
        y = MatMul(b, C)
        u = Gather(table, i)
    }"""

    @pytest.fixture
    def report(self, write, normal):
        weights = {name: normal(4, 4, seed=k) for k, name in enumerate("WVS")}
        path = write(self.TEXT, opsets=FOREIGN, **weights, table=normal(10, 4))
        return map_model(path, exclude=["V"])

    def test_weights_and_parameters_are_counted_by_reason(self, report):
        counts = report.to_json()
        assert (counts["mapped_weights"], counts["mapped_parameters"]) == (1, 16)
        assert (counts["skipped_mvm_weights"], counts["skipped_mvm_parameters"]) == (2, 32)
        assert counts["mvm_share"] == pytest.approx(1 / 3)
        by_reason = {item["reason"]: item for item in counts["skipped_by_reason"]}
        assert list(by_reason) == ["behind_other_nodes", "not_selected", "not_an_mvm_weight"]
        assert {name: (item["weights"], item["parameters"], item["is_mvm"]) for name, item in by_reason.items()} == {
            "behind_other_nodes": (1, 16, True),
            "not_selected": (1, 16, True),
            "not_an_mvm_weight": (1, 40, False),
        }
        assert by_reason["not_selected"]["explanation"] == "patterns or an override of the configuration leave it out"

    def test_the_table_shows_shares_of_the_parameters(self, report):
        lines = [" ".join(line.replace("│", " ").split()) for line in str(report).splitlines()]
        assert "mapped 1 16 33.3%" in lines
        assert "skipped: not_selected 1 16 33.3%" in lines

    def test_a_shape_that_is_not_known_is_counted_as_such(self, write, normal):
        text = "g (float[2,4] x) => (float y) { C = foreign.Join(S, T) y = MatMul(x, C) }"
        report = inspect_model(write(text, opsets=FOREIGN, S=normal(4), T=normal(4, seed=1)))
        [count] = report.skipped_by_reason
        assert (count.weights, count.parameters, count.unknown_shapes) == (1, 0, 1)
        assert "0 + ?" in str(report)
        assert "No weight is mapped." in str(report)

    def test_matrices_of_which_a_weight_of_unknown_shape_is_computed_are_counted(self, write, normal):
        text = "g (float[2,4] x) => (float y) { C = foreign.Join(S, T) y = MatMul(x, C) }"
        report = inspect_model(write(text, opsets=FOREIGN, S=normal(4, 4), T=normal(4, 4, seed=1)))
        [count] = report.skipped_by_reason
        assert (count.weights, count.parameters, count.unknown_shapes) == (2, 32, 0)

    def test_there_is_no_table_of_shares_if_nothing_is_skipped(self, write, normal):
        text = "g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, W) }"
        assert "share" not in str(map_model(write(text, W=normal(4, 4))))


def _sliced(bits, slice_bits):
    return {"name": "bit-sliced-pair", "bits": bits, "slice_bits": slice_bits}


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (
            {"levels": 3},
            "map with more levels than 3 (--levels), a scale for each channel (--granularity channel), or codes that",
        ),
        (
            {"levels": 3, "granularity": "channel"},
            "map with more levels than 3 (--levels), a scale for each channel of each tile (--granularity tile-channel",
        ),
        ({"levels": 3, "granularity": {"tile": "8x8"}}, "map with more levels than 3 (--levels), smaller tiles (--ti"),
        (
            {"levels": 4, "converter": "bit-sliced-pair"},
            "but devices have 4: map with slices of the bits that a device holds (--slice-bits 2)",
        ),
        (
            {"levels": 5, "converter": _sliced(8, 3)},
            "but devices have 5: map with slices of the bits that a device holds (--slice-bits 1)",
        ),
        (
            {"levels": [0, 0.5, 25], "converter": _sliced(8, 4)},
            "its slices need 16 equal levels: map with --levels 16.",
        ),
        ({"clipping": {"percentile": 60}}, "map with less clipping (--clip-percentile 99.9, or none)"),
        ({"clipping": {"value": 0.25}}, "map with clipping at more than 0.25 (--clip-value), or without"),
        ({"converter": _sliced(2, 1)}, "map with codes of more bits (--bits 8)"),
    ],
)
def test_weights_below_20_db_carry_a_warning_with_the_remedy(write, normal, options, remedy):
    model = write("g (float[2,16] x) => (float[2,16] y) { y = MatMul(x, W) }", W=normal(16, 16))
    report = map_model(model, **options)
    sqnr = report.mapped[0].loss.sqnr_db
    warning = (
        f"Warning: 'W' {sqnr:.1f} dB keeps less than 20 dB of signal to error, so that outputs may be far from the "
    )
    assert warning in text_of(report)
    assert remedy in text_of(report)
    verified = verify(model, report.output)
    assert any(note.startswith(warning) and remedy in note for note in verified.outputs.notes)
    assert "Note: Warning" not in text_of(verified)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"converter": _sliced(8, 4)}, "map with codes of more bits (--bits 12)"),
        ({"converter": _sliced(14, 4)}, "map with codes of more bits (--bits 16)"),
        ({"converter": _sliced(16, 4)}, "map with a scale for each channel (--granularity channel)"),
        ({"converter": _sliced(4, 2), "levels": 256}, "map with codes of more bits (--bits 8)"),
        ({"converter": _sliced(4, 3), "levels": 256}, "(--slice-bits 4)"),
        (
            {"clipping": {"percentile": 99.95}},
            "map with clipping at a percentile above 99.95 (--clip-percentile), or",
        ),
    ],
)
def test_the_remedy_is_no_setting_that_the_weight_has_already(write, options, remedy):
    weight = np.full((128, 128), 0.0038, np.float32)
    weight[0, :8] = 1  # a share of 0.0005 of all weights
    model = write("g (float[2,128] x) => (float[2,128] y) { y = MatMul(x, W) }", W=weight)
    [record] = map_model(model, **options).mapped
    loss = record.loss.model_copy(update={"sqnr_db": 10.0})  # of 16 bits, only a weight of gigabytes has so little
    [warning] = fidelity_warnings([record.model_copy(update={"loss": loss})])
    assert remedy in warning


def test_weights_of_20_db_and_more_carry_none(write, normal):
    model = write("g (float[2,16] x) => (float[2,16] y) { y = MatMul(x, W) }", W=normal(16, 16))
    report = map_model(model, levels=64)
    assert report.mapped[0].loss.sqnr_db > 20
    assert "Warning" not in text_of(report)


def test_a_note_on_several_weights_is_said_of_each_of_them(parse):
    model = parse(
        "g (uint8[2,8] x) => (int32[2,4] y, int32[2,4] z) { y = MatMulInteger(x, W) z = MatMulInteger(x, V) }",
        W=np.arange(32, dtype=np.int8).reshape(8, 4),
        V=np.arange(1, 33, dtype=np.int8).reshape(8, 4),
    )
    report = MapConductances(quantized="dequantized")(model).report
    said = "its codes are mapped, not the numbers that they stand for: the op itself reads the codes"
    assert f"each of 2 weights ('W', 'V'): {said}" in text_of(report)
