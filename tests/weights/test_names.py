"""Parameters and modules are read from what exporters leave behind, and nothing is made of garbage."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_gconv.weights.names import enclosing_modules, modules_of, op_type_of, parameters_of

FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"
OLDER_FOLDED_FROM = "pkg.onnxscript.optimizer.constant_folding.folded_from"
SCOPES = "pkg.torch.onnx.name_scopes"
KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


def folded(text, key=FOLDED_FROM):
    return ir.Value(name="val_0", metadata_props={key: text})


def node(name="n", scopes=None, op_type="MatMul", domain=""):
    return ir.Node(domain, op_type, [], name=name, metadata_props={} if scopes is None else {SCOPES: scopes})


@pytest.mark.parametrize("key", [FOLDED_FROM, OLDER_FOLDED_FROM])
def test_a_folded_constant_has_the_parameter_it_was_folded_from(key):
    assert parameters_of(folded("['encoder.lin.weight']", key)) == ("encoder.lin.weight",)


@pytest.mark.parametrize(
    ("names", "parameters"),
    [
        ("['rnn.weight_ih_l0', 'val_10', 'val_8', 'zeros']", ("rnn.weight_ih_l0",)),
        ("['b.weight', 'a.weight', 'b.weight']", ("a.weight", "b.weight")),
        ("['scalar_tensor_default', 'scale', 'val_27']", ("scale",)),
        ("['val_1', 'val_2']", ()),
        ("['val', 'valve_1']", ("val", "valve_1")),
    ],
)
def test_intermediate_results_of_the_exporter_are_no_parameters(names, parameters):
    assert parameters_of(folded(names)) == parameters


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "[",
        "nonsense",
        "{}",
        "5",
        "[1, None]",
        "__import__('os')",
        r"['\ud800']",
        "[" * 10000,
        "'" + "a" * 10**6 + "'",
    ],
)
def test_garbage_names_nothing(garbage):
    assert parameters_of(folded(garbage)) == ()
    assert modules_of(node(scopes=garbage)) == ()


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("PARAMETER", ("W",)), ("InputKind.PARAMETER", ("W",)), ("BUFFER", ("W",)), ("USER_INPUT", ()), ("", ())],
)
def test_an_initializer_that_is_a_parameter_bears_its_name(kind, parameters):
    assert parameters_of(ir.Value(name="W", metadata_props={KIND: kind})) == parameters


def test_the_modules_of_a_node_are_in_its_metadata_without_the_root_and_the_operation():
    scopes = "['', 'encoder', 'encoder.layers.0', 'encoder.layers.0.lin', 'linear_1']"
    assert modules_of(node(scopes=scopes)) == ("encoder", "encoder.layers.0", "encoder.layers.0.lin")


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("/encoder/layers.0/lin/MatMul", ("encoder", "encoder.layers.0", "encoder.layers.0.lin")),
        ("/features/features.1/conv/conv.0/Conv", ("features", "features.1", "features.1.conv", "features.1.conv.0")),
        ("/MatMul", ()),
        ("MatMul_3", ()),
        ("model/dense/MatMul", ()),
        ("", ()),
    ],
)
def test_the_modules_of_a_node_are_in_its_name_if_that_is_a_path(name, modules):
    assert modules_of(node(name)) == modules


def test_metadata_counts_more_than_the_name():
    assert modules_of(node("/a/MatMul", "['', 'b', 'matmul']")) == ("b",)


def test_modules_are_enclosed_by_lists_that_are_never_called():
    assert enclosing_modules(["encoder", "encoder.layers.0"]) == ("encoder", "encoder.layers", "encoder.layers.0")


def test_op_types_of_other_domains_are_qualified():
    assert op_type_of(node(op_type="Conv")) == "Conv"
    assert op_type_of(node(op_type="FusedConv", domain="com.microsoft")) == "com.microsoft.FusedConv"
