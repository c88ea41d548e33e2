"""Manifests that contradict themselves, or the graph, are refused with what they say before a layer is made of them."""

from __future__ import annotations

import json

import pytest

from onnx_gconv.crossbars.checked_weights import checked_weights
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import BundleError, ModelError
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.passes import MapConductances

DENSE = "g (float[2,6] x) => (float y) { [mm] y = MatMul(x, W) }"
SHARE = "the manifest contradicts itself about which elements share a scale: "
MATRICES = "the manifest contradicts itself about the matrices of the weight 'W': "


def mapped(parse, weight, text=DENSE, **options):
    model = parse(text, W=weight)
    assert MapConductances(**options)(model).modified
    return model


def change(model, edit):
    """Change what the manifest says of the only weight."""
    document = json.loads(model.metadata_props[MANIFEST_KEY])
    edit(document["weights"][0])
    model.metadata_props[MANIFEST_KEY] = json.dumps(document)


def problem(model):
    [checked] = checked_weights(read_manifest(model), model)
    return checked.problem


def refusal(model, error=ModelError):
    with pytest.raises(error) as found:
        layers_of(model, ArrayGeometry(4, 4), None)
    return str(found.value)


def of_number(weight):
    weight.update(granularity="channel", tiling={"partition": "equal", "row_starts": [0], "column_starts": [0]})
    weight["tiling"].update(rows=None, columns=None)


CONTRADICTIONS = {
    "no pieces": (
        {},
        lambda weight: weight.update(granularity="channel"),
        "it has no tiling",
    ),
    "one number": ({}, of_number, "a scale for each channel has the form broadcast, but not number"),
    "other tiles": (
        {"granularity": {"tile": "3x2"}},
        lambda weight: weight["tiling"].update(rows=6, columns=1),
        "the pieces of rows and columns are not those of its granularity",
    ),
    "another axis": (
        {"granularity": "channel"},
        lambda weight: weight.update(axis=0),
        "it varies along the axis 1, but not 0",
    ),
    "tiles without a size": (
        {"granularity": {"tile": "3x2"}},
        lambda weight: weight["tiling"].update(rows=None, columns=None),
        "granularity tile needs the size of a tile, as rows (inputs) by columns (outputs)",
    ),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_about_scales(parse, normal, kind):
    options, edit, said = CONTRADICTIONS[kind]
    model = mapped(parse, normal(6, 4), **options)
    assert problem(model) is None
    change(model, edit)
    assert problem(model) == f"{SHARE}{said}"
    assert refusal(model) == (
        f"the weight 'W' cannot be handed off: {SHARE}{said}; hand off the model as it was mapped"
    )


def test_scales_of_channels_where_nothing_reads_matrices(parse, normal):
    model = mapped(parse, normal(6, 1), granularity="channel")
    [node] = [node for node in model.graph if node.name == "mm"]
    node.replace_input_with(1, node.inputs[0])
    change(model, lambda weight: weight.update(consumers=[]))
    assert problem(model) == f"{SHARE}no reader has matrices"


def test_parameters_that_the_converter_does_not_take(parse, normal):
    model = mapped(parse, normal(6, 4))
    change(model, lambda weight: weight["converter"]["parameters"].update(g_max=-1.0))
    said = (
        "the manifest has wrong parameters for 'SinglePairConductanceConverter': g_max should be a positive value, "
        "but it is -1.0 µS"
    )
    assert problem(model) == said
    assert refusal(model) == f"the weight 'W' cannot be handed off: {said}; hand off the model as it was mapped"


def test_a_converter_of_a_package_that_is_not_there(parse, normal):
    model = mapped(parse, normal(6, 4))
    origin = {"package": "their-package", "version": "1.0", "module": "theirs"}
    change(model, lambda weight: weight["converter"].update(name="Theirs", origin=origin))
    assert problem(model) is None  # its nodes are checked all the same
    text = refusal(model)
    assert text.startswith("the weight 'W' ")
    assert "their-package" in text


# Of an op that nothing is known of here, nothing says what it reads.


def of_unknown_op(parse, weight, edit):
    model = mapped(parse, weight)
    [node] = [node for node in model.graph if node.name == "mm"]
    node.op_type, node.domain = "Own", "my.ops"
    model.opset_imports["my.ops"] = 1
    change(model, lambda entry: entry["consumers"][0].update(op_type="Own", domain="my.ops"))
    change(model, lambda entry: edit(entry["consumers"][0]))
    assert problem(model) is None
    return model


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda reader: reader["matrix_view"].update(rows=3), "it has 1 of 3x4, but its axes give 1 of 6x4"),
        (
            lambda reader: reader["matrix_view"].update(split_shape=[3, 8]),
            "it has 1 of 6x4, but its axes give 1 of 3x8",
        ),
        (
            lambda reader: reader["matrix_view"].update(column_axes=[9]),
            "the axes [0, 9] are not each of 2 axes once",
        ),
        (
            lambda reader: reader["matrix_view"].update(split_shape=[7, 4]),
            "the shape [7, 4] does not have the 24 elements of the weight",
        ),
        (
            lambda reader: reader.update(path=[{"op": "transpose", "argument": [0, 5]}]),
            "the axes [0, 5] are not each of 2 axes once",
        ),
    ],
)
def test_matrices_that_the_weight_does_not_have(parse, normal, edit, said):
    model = of_unknown_op(parse, normal(6, 4), edit)
    assert refusal(model) == f"{MATRICES}{said}; map the model again"


def test_an_op_of_which_nothing_is_known_is_named_with_the_remedy(parse, normal):
    model = of_unknown_op(parse, normal(6, 4), lambda _reader: None)
    assert refusal(model, BundleError) == (
        "the weight 'W' cannot be handed off: the op my.ops.Own that reads it is unknown, and so is its bias; add its "
        "row to the table of MVM ops (onnx_gconv.weights.register_mvm_op)"
    )


def test_a_weight_whose_matrices_cut_its_axes_is_named_with_the_remedy(parse, normal):
    text = "g (float[2,8] x) => (float y) { s = Constant <value_ints = [8, 3]> () r = Reshape(W, s) y = MatMul(x, r) }"
    model = mapped(parse, normal(6, 4), text)
    assert problem(model) is None
    assert refusal(model, BundleError) == (
        "the weight 'W' cannot be handed off: no node reads it as matrices of whole axes; "
        "map the model without it (--exclude)"
    )
