"""What a manifest says of a weight is derived from the graph again: one that lies is refused before anybody uses it."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import DualPairConductanceConverter, OffsetConductanceConverter
from onnx_gconv.crossbars.checked_weights import checked_weights
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, MeasuredConductances, ReplaceConductances, RestoreWeights

GROUPED = "g (float[1,4,1,1] x) => (float y) { [c] y = Conv <group = 2> (x, W) }"
WEIGHT = (np.array([1, 10, 100, 1000])[:, None] * np.array([1.0, 0.5])).astype(np.float32).reshape(4, 2, 1, 1)


@pytest.fixture(scope="module")
def mapped(parse):
    """A grouped convolution with a scale for each output channel."""
    model = parse(GROUPED, W=WEIGHT)
    MapConductances(granularity="channel")(model)
    return model


def with_lie(model, edit):
    """A copy of a mapped model whose manifest is changed."""
    lying, document = model.clone(), json.loads(model.metadata_props[MANIFEST_KEY])
    edit(document["weights"][0])
    lying.metadata_props[MANIFEST_KEY] = json.dumps(document)
    return lying


def consumer(**fields):
    return lambda weight: weight["consumers"][0].update(fields)


def view(**fields):
    return lambda weight: weight["consumers"][0]["matrix_view"].update(fields)


def both_views(weight):
    twice = copy.deepcopy(weight["consumers"][0])
    weight["consumers"].append({**twice, "node": "d"})


MATRICES = "2 matrices of 2x2 (axes [0], [2, 3, 4], [1] of [2, 2, 2, 1, 1]"
SAYS = f"the manifest says that node c (Conv) reads it at input 1 as {MATRICES}"
DOES = f"but it does at input 1 as {MATRICES})"
SHARE = "the manifest contradicts itself about which elements share a scale:"
OFFSET = {"name": "OffsetConductanceConverter", "parameters": {"g_max": 25.0, "g_min": 0.0, "levels": None}}
NO_SHAPE = "the manifest gives the scale a shape of [4, 1, 1, 1] that does not fit"
TURNED = [{"op": "transpose", "argument": [1, 0, 2, 3]}]

LIES = {
    "another slot": (consumer(slot=0), "the manifest says that node c (Conv) reads it at input 0 as 2 matrices of 2x2"),
    "a slot before the first": (consumer(slot=-1), "slot"),
    "another node and slot": (
        consumer(node="d", slot=0),
        "the manifest says that node d (Conv) reads it at input 0 as",
    ),
    "a reader that is none": (
        both_views,
        "the manifest says that node d (Conv) reads it at input 1 as 2 matrices of 2x2",
    ),
    "no reader": (
        lambda weight: weight.update(consumers=[], granularity="tensor"),
        "its scale follows consumer 0, but it has 0 consumers, numbered from 0",
    ),
    "rows for columns": (view(row_axes=[1], column_axes=[2, 3, 4]), NO_SHAPE),
    "one matrix": (view(matrix_axes=[], column_axes=[0, 1], matrices=1, columns=4), NO_SHAPE),
    "a path": (consumer(path=TURNED), NO_SHAPE),
    "pieces": (lambda weight: weight["tiling"].update(row_starts=[0, 1], column_starts=[0]), NO_SHAPE),
    "a factor": (view(factor=2.0), f"{SAYS}, times 2), {DOES}"),
    "columns of a channel": (view(columns_per_channel=2), f"{SAYS}, 2 columns a channel), {DOES}"),
    "an axis": (
        lambda weight: weight.update(axis=1),
        f"{SHARE} it varies along the axis 0, but not 1",
    ),
    "a granularity": (
        lambda weight: weight.update(granularity="tensor"),
        f"{SHARE} with granularity tensor all do, but it names pieces",
    ),
    "tiles": (
        lambda weight: weight["tiling"].update(rows=1, columns=1),
        f"{SHARE} granularity channel has no tiles",
    ),
    "a device": (
        lambda weight: weight["conductances"][0].update(device="top"),
        "the manifest names the devices top, g_minus",
    ),
    "a coefficient": (
        lambda weight: weight["conductances"][0].update(coefficient=2.0),
        "the nodes compute +1*W.g_plus",
    ),
    "an offset": (lambda weight: weight.update(offset_us=1.0), "the nodes compute +1*W.g_plus -1*W.g_minus instead of"),
    "a converter": (
        lambda weight: weight["converter"].update(OFFSET),
        "the manifest names the devices g_plus, g_minus, but OffsetConductanceConverter has g",
    ),
    "a name": (lambda weight: weight.update(name="V"), "the graph calls the rebuilt weight 'W'"),
    "a scale": (
        lambda weight: weight["scale"].update(name="W.g_plus"),
        "it is divided by 'W.g_scale', but the manifest names 'W.g_plus'",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_a_violation_and_nothing_is_restored_handed_off_or_read_back(mapped, serialized, lie):
    edit, message = LIES[lie]
    lying = with_lie(mapped, edit)
    first, *_ = map(str, CheckMapping().violations(lying))
    assert message in first or (lie == "another slot" and "does not read the rebuilt weight" in first)
    before = serialized(lying)
    with pytest.raises(ModelError) as restoring:
        RestoreWeights()(lying)
    with pytest.raises(ModelError):
        layers_of(lying, ArrayGeometry(4, 4), None)
    name = json.loads(lying.metadata_props[MANIFEST_KEY])["weights"][0]["name"]
    reading_back = ReplaceConductances({("", name): measured(2, (4, 2, 1, 1))})
    with pytest.raises(ModelError):
        reading_back(lying)
    assert message in str(restoring.value)
    assert serialized(lying) == before


def measured(devices, shape):
    tensors = tuple(ir.tensor(np.full(shape, 3.0, np.float32)) for _ in range(devices))
    return MeasuredConductances(tensors, "chip.h5", 8, 8, max_abs_error=1.0, rms_error=1.0)


def test_no_matrix_view_that_is_consistent_in_itself_gives_another_weight(mapped):
    shape = json.loads(mapped.metadata_props[MANIFEST_KEY])["weights"][0]["consumers"][0]["matrix_view"]["split_shape"]
    count = accepted = 0
    for axes in itertools.permutations(range(5)):
        for a, b in [(1, 4), (1, 3), (0, 3), (2, 4), (1, 2)]:
            groups = axes[:a], axes[a:b], axes[b:]
            matrices, rows, columns = (math.prod(shape[axis] for axis in group) for group in groups)
            for starts in ((0, 1), (0, 2), (0, 1, 2, 3)):
                if starts[-1] >= columns or matrices * len(starts) != 4:
                    continue

                def edit(weight, *, groups=groups, sizes=(matrices, rows, columns), starts=starts):
                    names = ("matrix_axes", "row_axes", "column_axes")
                    view(**dict(zip(names, map(list, groups), strict=True)))(weight)
                    view(**dict(zip(("matrices", "rows", "columns"), sizes, strict=True)))(weight)
                    weight["tiling"]["column_starts"] = list(starts)

                lying = with_lie(mapped, edit)
                count += 1
                [checked] = checked_weights(read_manifest(lying), lying)
                if checked.problem is None:
                    accepted += 1
                    np.testing.assert_allclose(checked.mapped.rebuilt.numpy(), WEIGHT, rtol=1e-6)
    assert count > 50
    assert accepted == 1


def test_a_reader_that_the_manifest_leaves_out_is_named(parse, normal):
    model = parse(
        "g (float[2,4] x) => (float y, float z) { [a] y = MatMul(x, W) [b] z = Gemm <transB = 1> (x, W) }",
        W=normal(4, 4),
    )
    MapConductances()(model)
    lying = with_lie(model, lambda weight: weight["consumers"].pop())
    message = (
        "node b (Gemm) reads it as a matrix of 4x4 (axes [], [1], [0] of [4, 4]), of which the manifest says nothing"
    )
    assert [str(item) for item in CheckMapping().violations(lying)] == [f"'W': {message}"]


def test_a_weight_that_the_manifest_leaves_out_is_named(parse, normal):
    model = parse(
        "g (float[2,4] x) => (float y) { [a] h = MatMul(x, W) [b] y = MatMul(h, V) }",
        W=normal(4, 4),
        V=normal(4, 4, seed=1),
    )
    MapConductances()(model)
    document = json.loads(model.metadata_props[MANIFEST_KEY])
    document["weights"].pop()
    model.metadata_props[MANIFEST_KEY] = json.dumps(document)
    message = "node 'V/gconv_Div' (Div) rebuilds a weight with 'V.g_scale', which the manifest does not name"
    assert [str(item) for item in CheckMapping().violations(model)] == [message]
    for use in (RestoreWeights(), lambda mapped: layers_of(mapped, ArrayGeometry(4, 4), None)):
        with pytest.raises(ModelError, match=r"rebuilds a weight with 'V\.g_scale'"):
            use(model)


@pytest.mark.parametrize(
    "graph",
    [
        "[a] t = Transpose(W) [b] y = MatMul(x, t)",
        "[a] y = MatMul(W, x)",
        "[a] h = MatMul(x, W) [b] k = Gemm <transB = 1> (x, W) y = Add(h, k)",
        "[a] h = MatMul(x, W) i = Constant <value_ints = [0]> () g = Gather(W, i) y = Add(h, g)",
        '[a] y = Einsum <equation = "ab,bc->ac"> (x, W)',
    ],
)
@pytest.mark.parametrize("options", [{}, {"granularity": "channel"}, {"granularity": {"tile": "3x2"}}], ids=str)
def test_what_mapping_writes_is_derivable(parse, normal, graph, options):
    model = parse(f"g (float[4,4] x) => (float y) {{ {graph} }}", W=normal(4, 4))
    MapConductances(**options)(model)
    assert [item.problem for item in checked_weights(read_manifest(model), model)] == [None]


def test_the_bias_of_a_node_that_another_tool_has_renamed_is_found(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { [a] y = Gemm(x, W, c) }", W=normal(4, 4), c=normal(4))
    MapConductances()(model)
    [*_, node] = model.graph
    node.name = "renamed"
    [layer] = layers_of(model, ArrayGeometry(8, 8, bias_rows=1), None)
    assert (layer.bias.name, layer.consumers[0].node) == ("c", "renamed")


def first_problem(model):
    return next((item.problem for item in checked_weights(read_manifest(model), model) if item.problem), None)


def test_pieces_of_columns_elsewhere_are_a_lie_though_there_are_as_many(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { y = MatMul(x, W) }", W=normal(4, 6))
    MapConductances(granularity={"tile": "4x2"})(model)
    assert first_problem(model) is None
    for starts in ({"column_starts": [0, 1, 4]}, {"column_starts": [0, 2, 5]}):
        lying = with_lie(model, lambda weight, starts=starts: weight["tiling"].update(starts))
        assert first_problem(lying) == "'W/gconv_Gather' expands 'W.g_scale' by other pieces than the manifest names"


def test_pieces_of_rows_elsewhere_are_a_lie_though_there_are_as_many(parse, normal):
    model = parse("g (float[2,6] x) => (float y) { y = MatMul(x, W) }", W=normal(6, 4))
    MapConductances(granularity={"tile": "2x4"})(model)
    lying = with_lie(model, lambda weight: weight["tiling"].update(row_starts=[0, 1, 4]))
    found = first_problem(lying)
    assert found == "'W/gconv_Gather_1' expands 'W.g_scale_tiles' by other pieces than the manifest names"


def test_parameters_that_give_other_coefficients_are_a_lie(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { y = MatMul(x, W) }", W=normal(4, 4))
    MapConductances(DualPairConductanceConverter([1.0, 3.0]))(model)
    assert first_problem(model) is None
    lying = with_lie(model, lambda weight: weight["converter"]["parameters"].update(f_lst=[1.0, 2.0]))
    name = "DualPairConductanceConverter"
    assert (
        first_problem(lying) == f"its coefficients or its offset are not those of {name} with the parameters it names"
    )


def test_parameters_that_give_another_offset_are_a_lie(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { y = MatMul(x, W) }", W=normal(4, 4))
    MapConductances(OffsetConductanceConverter(g_max=40.0, g_min=1.0))(model)
    assert first_problem(model) is None
    lying = with_lie(model, lambda weight: weight["converter"]["parameters"].update(g_min=2.0))
    name = "OffsetConductanceConverter"
    assert (
        first_problem(lying) == f"its coefficients or its offset are not those of {name} with the parameters it names"
    )


def test_pieces_of_a_weight_with_one_scale_are_a_lie(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { y = MatMul(x, W) }", W=normal(4, 4))
    MapConductances()(model)
    tiling = {"rows": None, "columns": None, "partition": "equal", "row_starts": [0], "column_starts": [0]}
    lying = with_lie(model, lambda weight: weight.update(tiling=tiling))
    assert first_problem(lying) == f"{SHARE} with granularity tensor all do, but it names pieces"


@pytest.mark.parametrize(
    ("name", "is_known"), [("W", True), ("W_1", True), ("W_27", True), ("W_x", False), ("W1", False)]
)
def test_the_rebuilt_weight_has_its_name_or_that_with_a_number(parse, normal, name, is_known):
    model = parse("g (float[2,4] x) => (float y) { y = MatMul(x, W) }", W=normal(4, 4))
    MapConductances()(model)
    [matmul] = [node for node in model.graph if node.op_type == "MatMul"]
    matmul.inputs[1].name = name
    said = f"the graph calls the rebuilt weight '{name}'; the manifest was changed, or another tool renamed it"
    assert first_problem(model) == (None if is_known else said)


def test_a_path_that_is_left_out_is_a_lie_where_the_shape_allows_it(parse, normal):
    model = parse("g (float[2,4] x) => (float y) { t = Transpose(W) [b] y = MatMul(x, t) }", W=normal(4, 4))
    MapConductances()(model)
    assert first_problem(model) is None
    lying = with_lie(model, consumer(path=[]))
    assert "the manifest says that node b (MatMul) reads it at input 1 as a matrix of 4x4" in first_problem(lying)


def test_tables_that_are_looked_up_have_readers_if_they_were_mapped(parse, normal):
    model = parse("g (int64[2] i) => (float y) { [a] y = Gather(E, i) }", E=normal(9, 4))
    MapConductances(include_ops=["Gather"])(model)
    assert first_problem(model) is None
    lying = with_lie(model, consumer(slot=1))
    assert "the manifest says that node a (Gather) reads it at input 1" in first_problem(lying)


def test_readers_of_a_digital_copy_are_no_readers_of_the_weight(parse, normal):
    text = "g (float[2,4] x, int64[1] i) => (float y) { h = MatMul(x, W) [r] k = Gather(W, i) y = Add(h, k) }"
    model = parse(text, W=normal(4, 4))
    MapConductances(shared="split")(model)
    assert [item.reads for item in read_manifest(model).weights[0].consumers] == ["rebuilt", "digital"]
    assert first_problem(model) is None
