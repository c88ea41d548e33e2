"""Equal initializers that another tool has let stand for each other leave a mapping as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass

from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, MeasuredConductances, ReplaceConductances, RestoreWeights

CHAIN = "g (float[2,6] x) => (float[2,6] y) { [a] h = MatMul(x, W) [b] k = MatMul(h, V) [c] y = MatMul(k, U) }"
OPTIONS = {
    "default": {},
    "exact": {"converter": {"name": "single-pair", "exact": True}},
    "offset of tiles": {"converter": "offset", "granularity": {"tile": "4x3"}},
    "one device of channels": {"converter": "single-device", "granularity": "channel"},
    "codes": {"levels": 32, "storage": "codes"},
    "codes in a table": {"levels": [0.0, 1.0, 5.0, 25.0], "storage": "codes"},
    "pairs": {"converter": {"name": "n-pair", "factors": [1, 3]}},
}


@pytest.fixture
def weights(normal):
    """W and V are equal, and all are positive, so that all negative devices are at zero."""
    return {"W": np.abs(normal(6, 6)), "V": np.abs(normal(6, 6)), "U": 3 * np.abs(normal(6, 6, seed=1))}


def joined(parse, weights, *, nodes=False, **options):
    model = parse(CHAIN, **weights)
    MapConductances(**options)(model)
    before = [*model.graph.initializers]
    assert DeduplicateInitializersPass()(model).modified
    assert len(model.graph.initializers) < len(before)
    if nodes:
        assert CommonSubexpressionEliminationPass()(model).modified
    return model


def chain_of(model):
    """The weights that the three products read, as constants of a restored model."""
    return [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == "MatMul"]


@pytest.mark.parametrize("nodes", [False, True], ids=["initializers", "nodes too"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_joined_arrays_are_a_sound_mapping_that_is_handed_off_and_restored(parse, weights, options, nodes):
    alone = parse(CHAIN, **weights)
    MapConductances(**options)(alone)
    model = joined(parse, weights, nodes=nodes, **options)
    assert CheckMapping().violations(model) == ()
    layers = layers_of(model, ArrayGeometry(4, 4), None)
    for ours, theirs in zip(layers, layers_of(alone, ArrayGeometry(4, 4), None), strict=True):
        assert ours.record == theirs.record
        for one, other in zip(ours.mapped.tensors, theirs.mapped.tensors, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    RestoreWeights()(alone)
    RestoreWeights()(model)
    assert {node.op_type for node in model.graph} == {"MatMul"}
    for ours, theirs in zip(chain_of(model), chain_of(alone), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(model.graph.initializers) == (2 if nodes else 3)


def measured(record, number):
    tensors = tuple(
        ir.tensor(np.full(record.shape, 2.0 + number + device / 8, record.compute_dtype))
        for device in range(len(record.conductances))
    )
    return MeasuredConductances(tensors, "chip.h5", 36, 36, max_abs_error=99.0, rms_error=1.0)


@pytest.mark.parametrize("options", [OPTIONS["default"], OPTIONS["codes"], OPTIONS["pairs"]], ids=str)
@pytest.mark.parametrize("of", [("W", "V", "U"), ("V",)], ids=str)
def test_measured_conductances_of_one_weight_are_not_those_of_another(parse, weights, options, of):
    model = joined(parse, weights, **options)
    records = {record.name: record for record in read_manifest(model).weights}
    plain = joined(parse, weights, **options)
    RestoreWeights()(plain)
    targets = dict(zip(records, chain_of(plain), strict=True))
    ReplaceConductances({("", name): measured(records[name], number) for number, name in enumerate(of)})(model)
    assert CheckMapping().violations(model) == ()
    for name, found in zip(records, restored_weights(model), strict=True):
        record = records[name]
        if name not in of:
            np.testing.assert_array_equal(found, targets[name])
            continue
        total = sum(
            item.coefficient * (2.0 + of.index(name) + device / 8) for device, item in enumerate(record.conductances)
        )
        np.testing.assert_allclose(found, np.full(record.shape, total / record.scale.value), rtol=1e-6)


def restored_weights(model):
    RestoreWeights()(model)
    return chain_of(model)


def test_measurements_of_weights_with_the_same_nodes_are_refused(parse, weights, serialized):
    model = joined(parse, weights, nodes=True)
    before = serialized(model)
    [record] = [item for item in read_manifest(model).weights if item.name == "V"]
    message = "'V' cannot be replaced: another tool has joined the nodes that rebuild it and 'W'"
    with pytest.raises(ModelError, match=message):
        ReplaceConductances({("", "V"): measured(record, 0)})(model)
    assert serialized(model) == before


def test_a_conductance_of_another_weight_is_not_taken_for_one_that_is_there(parse, normal):
    """Both are under their names, so that none has been joined with the other."""
    model = parse(CHAIN, W=normal(6, 6), V=normal(6, 6, seed=1), U=normal(6, 6, seed=2))
    MapConductances()(model)
    sub = next(node for node in model.graph if node.op_type == "Sub")
    sub.replace_input_with(1, model.graph.initializers["V.g_minus"])
    [violation] = CheckMapping().violations(model)
    assert violation.message == ("the nodes compute +1*W.g_plus -1*V.g_minus instead of +1*W.g_plus -1*W.g_minus")


def test_equal_zero_points_that_were_joined_are_found(parse):
    codes = np.array([[0, 50], [100, 150]], np.uint8)
    nodes = "y = MatMulInteger(x, W, n, p) z = MatMulInteger(x, V, n, q)"
    model = parse(
        f"g (uint8[2,2] x) => (int32[2,2] y, int32[2,2] z) {{ {nodes} }}",
        W=codes,
        V=codes.T.copy(),
        n=np.uint8(0),
        p=np.uint8(50),
        q=np.uint8(50),
    )
    MapConductances()(model)
    DeduplicateInitializersPass(size_limit=1 << 10)(model)
    assert "V.g_zero_point" not in model.graph.initializers
    assert CheckMapping().violations(model) == ()
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["V"].const_value.numpy(), codes.T)


def test_codes_that_others_decode_too_stay_when_one_weight_is_measured_and_go_when_all_are(parse, weights):
    options = {"converter": {"name": "single-pair"}, **OPTIONS["codes"]}
    weights = {**weights, "V": np.abs(weights["V"] - 1)}  # of equal devices at zero, and others that are not
    model = joined(parse, weights, nodes=True, **options)
    decoded = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(decoded) == 4  # three of weights, and one of all that is at zero
    records = {record.name: record for record in read_manifest(model).weights}
    ReplaceConductances({("", "W"): measured(records["W"], 0)})(model)
    assert len([node for node in model.graph if node.op_type == "DequantizeLinear"]) == 3
    rest = {("", name): measured(records[name], number) for number, name in enumerate("VU")}
    ReplaceConductances(rest)(model)
    assert CheckMapping().violations(model) == ()
    assert [node.op_type for node in model.graph] == ["Sub", "Div", "MatMul"] * 3
    assert not [name for name in model.graph.initializers if "code" in name]
