"""All that is known of an op stands in its row of the table, so that a new op, also of one's own, is one row."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_gconv import (
    map_model,
    open_bundle,
    read_back,
    restore_model,
    verify,
    write_bundle,
)
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.weights import MVM_OPS, BiasSlot, MvmOp, WeightSlot, find_weights, op_views, register_mvm_op
from onnx_gconv.weights.ops.mvm_ops import LOOKUP_OPS

ROW = MvmOp(
    "test.custom",
    "ScaledMatMul",
    (WeightSlot(1, 0, op_views.matmul_right, bias=BiasSlot(2, in_rows=True, beta="gain")),),
)


@pytest.fixture
def row(monkeypatch):
    """The row stands in the table for the time of a test."""
    monkeypatch.setitem(MVM_OPS, (ROW.domain, ROW.op_type), ROW)


@pytest.fixture
def model(parse, normal, tmp_path):
    """The file of a model with the custom op, which ONNX Runtime does not know; its weight and its bias."""

    def make(node="y = test.custom.ScaledMatMul <gain = 2.0> (x, W, c)"):
        weight, bias = normal(6, 4), 0.1 * normal(4, seed=1)
        parsed = parse(
            f"g (float[2,6] x) => (float y) {{ {node} }}", opsets='"" : 17, "test.custom" : 1', W=weight, c=bias
        )
        file = tmp_path / "model.onnx"
        save_model(parsed, file)
        return file, weight, bias

    return make


@pytest.mark.usefixtures("row")
def test_an_op_of_a_custom_domain_is_mapped_verified_handed_off_with_its_bias_in_rows_and_restored(model, tmp_path):
    file, weight, bias = model()
    mapped = map_model(file, granularity="channel").output

    report = verify(file, mapped)
    assert [(item.name, item.passed) for item in report.weights] == [("W", True)]
    assert report.violations == ()
    assert "ScaledMatMul" in report.outputs.not_compared

    [layer] = write_bundle(mapped, tmp_path / "bundle", (5, 3), bias_rows=2, formats=["fusion-pair"]).layers
    assert (layer.op_type, layer.bias, layer.bias_rows, layer.bias_reason) == ("ScaledMatMul", "c", 2, None)
    with open_bundle(tmp_path / "bundle") as bundle:
        bundle.verify_hashes()
        [read] = bundle.layers
        np.testing.assert_allclose(read.rebuilt_weight(), weight, atol=1e-6)
        np.testing.assert_allclose(read.rebuilt_bias().reshape(-1), 2.0 * bias, atol=1e-6)
        assert max(tile.record.inputs[1] for tile in read.tiles) == len(weight) + 2
    lines = (tmp_path / "bundle" / "fusion-pair" / "conductances.csv").read_text().splitlines()
    assert lines[1] == "AnalogLinear"

    restored = onnx.load(restore_model(mapped, tmp_path / "restored.onnx").output)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in restored.graph.initializer}
    np.testing.assert_allclose(arrays["W"], weight, atol=1e-6)
    np.testing.assert_array_equal(arrays["c"], bias)
    assert [(node.domain, node.op_type) for node in restored.graph.node] == [("test.custom", "ScaledMatMul")]


@pytest.mark.usefixtures("row")
def test_what_a_chip_made_of_a_custom_op_is_read_back_with_its_bias(model, tmp_path):
    file, _, bias = model()
    mapped = map_model(file).output
    write_bundle(mapped, tmp_path / "bundle", (5, 3), bias_rows=1, arrays="npz")
    with np.load(tmp_path / "bundle" / "conductances.npz") as targets:
        chip = {key: targets[key] + np.float32(0.1) for key in targets.files if key.endswith("/g_plus")}
        scale = targets["L000/scale"].item()
    np.savez(tmp_path / "chip.npz", **chip)
    read_back(mapped, tmp_path / "chip.npz", tmp_path / "measured.onnx", bundle=tmp_path / "bundle")
    measured = onnx.load(tmp_path / "measured.onnx")
    [found] = [onnx.numpy_helper.to_array(item) for item in measured.graph.initializer if item.name == "c"]
    np.testing.assert_allclose(found, bias + 0.1 / scale / 2.0, rtol=1e-4)


def test_an_op_without_a_row_is_no_mvm_op(model):
    report = map_model(model()[0], dry_run=True)
    assert report.mapped == ()
    assert [(item.name, item.reason) for item in report.skipped] == [("W", "unlisted_op")]


def test_an_op_of_the_same_name_in_another_domain_is_no_mvm_op(model):
    report = map_model(model("y = test.custom.Gemm (x, W, c)")[0], dry_run=True)
    assert report.mapped == ()


def test_a_hand_off_says_which_row_it_lacks_rather_than_to_leave_out_a_bias(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(MVM_OPS, (ROW.domain, ROW.op_type), ROW)
        file, *_ = model()
        mapped = map_model(file).output
    assert verify(file, mapped).weights[0].passed
    with pytest.raises(BundleError, match=r"'W' cannot be handed off: the op test\.custom\.ScaledMatMul .*register"):
        write_bundle(mapped, tmp_path / "bundle", (5, 3))
    assert not (tmp_path / "bundle").exists()


def test_a_row_is_registered_once(monkeypatch):
    monkeypatch.setitem(MVM_OPS, (ROW.domain, ROW.op_type), ROW)  # and goes in the end
    del MVM_OPS[ROW.domain, ROW.op_type]
    register_mvm_op(ROW)
    register_mvm_op(ROW)
    assert MVM_OPS[ROW.domain, ROW.op_type] is ROW
    other = MvmOp(ROW.domain, ROW.op_type, (WeightSlot(1, 0, op_views.matmul_left),))
    with pytest.raises(ConfigError, match=r"the table of MVM ops has a row for test\.custom\.ScaledMatMul already"):
        register_mvm_op(other)


@pytest.mark.parametrize(
    "slots",
    [
        (),
        (WeightSlot(1, 1, None),),
        (WeightSlot(1, 0, None), WeightSlot(1, 2, None)),
        (WeightSlot(1, 0, None, bias=BiasSlot(1)),),
        (WeightSlot(1, 0, None, bias=BiasSlot(0)),),
        (WeightSlot(1, 0, None, zero_point=1),),
        (WeightSlot(1, 0, None, zero_point=2, bias=BiasSlot(2)),),
        (WeightSlot(1, 0, None, bias=BiasSlot(2)), WeightSlot(2, 0, None)),
    ],
    ids=["no weight", "squared", "twice", "bias", "bias is activation", "zero point", "bias is zero point", "bias 2"],
)
def test_a_row_that_contradicts_itself_is_refused(slots):
    with pytest.raises(ConfigError, match=r"the row of the op a\.B gives it no weight, or one input two meanings"):
        MvmOp("a", "B", slots)


@pytest.mark.parametrize("row", [*MVM_OPS.values(), *LOOKUP_OPS.values()], ids=lambda row: row.name)
def test_what_a_row_says_of_a_bias_is_coherent(row):
    for slot in row.slots:
        assert row.slot(slot.index) is slot
        bias = slot.bias
        if bias is None:
            continue
        assert slot.view is not None, "what is not mapped needs no bias"
        assert bias.index is None or bias.index > max(item.index for item in row.slots) or len(row.slots) > 1
        assert not (bias.in_rows and slot.zero_point is not None), "it is added to sums of integer codes"
        assert bias.beta is None or bias.index is not None
        assert bias.output_axis == (-2 if slot.index == 0 else -1)
    assert row.convolution is None or len(row.slots) == 1


# The inputs that hold the biases, by op and weight slot, as the specifications of the ops have them.
BIASES = {
    "Gemm": {0: 2, 1: 2},
    "Conv": {1: 2},
    "ConvTranspose": {1: 2},
    "DeformConv": {1: 3},
    "CausalConvWithState": {1: 2},
    "com.microsoft.CausalConvWithState": {1: 2},
    "com.microsoft.VarlenCausalConvWithState": {1: 3},
    "com.microsoft.MatMulBlockQuantizedFp8Weight": {1: 4},
    "LSTM": {1: 3, 2: 3},
    "GRU": {1: 3, 2: 3},
    "RNN": {1: 3, 2: 3},
    "QLinearConv": {3: 8},
    "com.microsoft.FusedGemm": {0: 2, 1: 2},
    "com.microsoft.FusedConv": {1: 2},
    "com.microsoft.GemmFastGelu": {1: 2},
    "com.microsoft.GemmFloat8": {0: 2, 1: 2},
    "com.microsoft.Attention": {1: 2},
    "com.microsoft.PackedAttention": {1: 2},
    "com.microsoft.DecoderMaskedSelfAttention": {1: 2},
    "com.microsoft.DecoderAttention": {2: 4, 3: 4},
    "com.microsoft.LongformerAttention": {1: 2, 4: 5},
    "com.microsoft.MoE": {2: 3, 4: 5, 6: 7},
    "com.microsoft.QLinearConv": {3: 8},
    "com.microsoft.QGemm": {0: 6, 3: 6},
    "com.microsoft.QAttention": {1: 2},
    "com.microsoft.DynamicQuantizeLSTM": {1: 3, 2: 3},
    "com.microsoft.DynamicQuantizeMatMul": {1: 4},
    "com.microsoft.MatMulIntegerToFloat": {0: 6, 1: 6},
    "com.microsoft.MatMulNBits": {1: 5},
    "com.microsoft.MatMulNBitsMlp": {3: 5, 6: 8},
    "com.microsoft.MatMulNBitsQkv": {3: 5, 6: 8, 9: 11},
    "com.microsoft.QMoE": {2: 4, 5: 7, 8: 10},
}


def test_the_biases_of_ops_stand_where_their_specifications_say():
    rows = MVM_OPS.values()
    inputs = {row.name: {s.index: s.bias.index for s in row.slots if s.bias and s.bias.index} for row in rows}
    assert {name: slots for name, slots in inputs.items() if slots} == BIASES
    behind = {row.name for row in rows for slot in row.slots if slot.bias and slot.bias.index is None}
    assert behind == {"MatMul", "com.microsoft.FusedMatMul"}
    assert {row.name for row in rows if any(s.bias and s.bias.in_rows for s in row.slots)} == {
        *("Gemm", "Conv", "DeformConv", "MatMul"),
        *(f"com.microsoft.{op}" for op in ("FusedGemm", "GemmFastGelu", "FusedConv", "FusedMatMul")),
    }
    assert {row.name for row in rows if any(s.bias and s.bias.beta == "beta" for s in row.slots)} == {
        *("Gemm", "com.microsoft.FusedGemm", "com.microsoft.GemmFloat8")
    }


def test_the_positions_of_a_kernel_are_neighbouring_rows_or_columns(parse, normal):
    found = {}
    for op, shape in {"Conv": (8, 2, 3, 5), "ConvTranspose": (8, 2, 3, 5), "MatMul": (5, 4)}.items():
        attributes = "<group = 2>" if op != "MatMul" else ""
        model = parse(f"g (float[1, 4, 9, 5] x) => (float y) {{ y = {op} {attributes} (x, W) }}", W=normal(*shape))
        [consumer] = find_weights(model).weights[0].consumers
        row = MVM_OPS["", op]
        found[op] = row.kernel(consumer.view), row.bias_channels(consumer.view)
    assert found == {"Conv": ((15, 1), 8), "ConvTranspose": ((1, 15), 60), "MatMul": ((1, 1), 4)}
