"""The nodes that rebuild a weight compute, for every converter there can be, what its decoding says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.converters import Decoding
from onnx_gconv.mapping.nodes import rebuild_nodes
from onnx_gconv.mapping.unique_names import UniqueNames

COEFFICIENTS = st.sampled_from([1.0, -1.0, 3.0, 0.3, -0.3]) | st.floats(-4, 4).filter(bool)


@st.composite
def decodings(draw):
    return Decoding(
        coefficients=tuple(draw(st.lists(COEFFICIENTS, min_size=1, max_size=6))),
        offset_us=draw(st.just(0.0) | st.floats(0.1, 10)),
        scale=draw(st.floats(0.01, 1000)),
        zero=draw(st.just(0.0) | st.floats(-2, 2)),
    )


def conductances(decoding, dtype=np.float32, shape=(2, 3), seed=0):
    arrays = np.random.default_rng(seed).uniform(0, 25, size=(len(decoding.coefficients), *shape)).astype(dtype)
    return [ir.tensor(array, name=f"G{number}") for number, array in enumerate(arrays)]


def rebuild(decoding, tensors, dtype):
    """What rebuilds a weight, and a model that gives out nothing but that weight."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 17}, name="g")
    model = ir.Model(graph, ir_version=10)
    rebuilt = rebuild_nodes("W", tensors, decoding, dtype=dtype, scale_name="W.g_scale", names=UniqueNames(model))
    graph.extend(rebuilt.nodes)
    for value in rebuilt.initializers:
        graph.initializers.add(value)
    graph.outputs.append(rebuilt.value)
    return rebuilt, model


def ops(decoding, dtype=ir.DataType.FLOAT):
    rebuilt, _ = rebuild(decoding, conductances(decoding), dtype)
    return [node.op_type for node in rebuilt.nodes]


@settings(max_examples=150)
@given(decoding=decodings(), wide=st.booleans(), seed=st.integers(0, 100))
def test_onnx_runtime_computes_the_decoding_bit_by_bit(run, decoding, wide, seed):
    dtype = np.dtype(np.float64 if wide else np.float32)
    tensors = conductances(decoding, dtype, seed=seed)
    _, model = rebuild(decoding, tensors, ir.DataType.from_numpy(dtype))
    [found] = run(model, "none")
    assert found.tobytes() == decoding.decode([tensor.numpy() for tensor in tensors], dtype).tobytes()


@settings(max_examples=30)
@given(decoding=decodings(), seed=st.integers(0, 100))
def test_onnx_runtime_folds_the_nodes_to_the_same_weights(run, decoding, seed):
    tensors = conductances(decoding, seed=seed)
    _, model = rebuild(decoding, tensors, ir.DataType.FLOAT)
    assert run(model, "all")[0].tobytes() == run(model, "none")[0].tobytes()


def test_a_single_pair_is_one_sub_and_one_div():
    assert ops(Decoding((1.0, -1.0), 0.0, 2.0, 0.0)) == ["Sub", "Div"]


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (Decoding((1.0,), 0.0, 2.0, 0.0), ["Div"]),
        (Decoding((1.0,), 9.0, 2.0, 0.0), ["Sub", "Div"]),
        (Decoding((1.0,), 9.0, 2.0, -1.0), ["Sub", "Div", "Add"]),
        (Decoding((-1.0,), 0.0, 2.0, 0.0), ["Mul", "Div"]),
        (Decoding((1.0, 1.0), 0.0, 2.0, 0.0), ["Add", "Div"]),
        (Decoding((1.0, -1.0, 3.0, -3.0), 0.0, 2.0, 0.0), ["Sub", "Mul", "Add", "Mul", "Add", "Div"]),
    ],
)
def test_only_the_nodes_that_are_needed_are_emitted(decoding, expected):
    assert ops(decoding) == expected
    assert ops(decoding, ir.DataType.FLOAT16) == [*expected, "Cast"]


@given(decoding=decodings(), half=st.booleans())
def test_every_value_has_a_name_of_its_own_and_a_type_and_a_shape(decoding, half):
    dtype = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    rebuilt, _ = rebuild(decoding, conductances(decoding), dtype)
    outputs = [node.outputs[0] for node in rebuilt.nodes]
    names = [value.name for value in (*rebuilt.initializers, *outputs)] + [node.name for node in rebuilt.nodes]
    assert len(set(names)) == len(names)
    assert {value.shape.numpy() for value in outputs} == {(2, 3)}
    assert {value.dtype for value in (*rebuilt.initializers, *outputs[:-1])} <= {ir.DataType.FLOAT}
    assert (rebuilt.value.name, rebuilt.value.dtype, rebuilt.value) == ("W", dtype, outputs[-1])


@given(decoding=decodings())
def test_every_node_and_initializer_says_its_weight_and_its_role(decoding):
    rebuilt, _ = rebuild(decoding, conductances(decoding), ir.DataType.FLOAT16)
    for holder in (*rebuilt.initializers, *rebuilt.nodes):
        assert holder.metadata_props["onnx_gconv.weight"] == "W"
    count = len(decoding.coefficients)
    roles = [value.metadata_props["onnx_gconv.role"] for value in rebuilt.initializers]
    assert roles[: count + 1] == ["conductance"] * count + ["scale"]
    assert set(roles[count + 1 :]) <= {"factor", "offset", "zero"}
    roles = [node.metadata_props["onnx_gconv.role"] for node in rebuilt.nodes]
    assert set(roles) <= {"product", "difference", "rebuild", "zero", "cast"}
    assert roles.count("rebuild") == roles.count("cast") == 1


def test_constants_say_their_unit():
    rebuilt, _ = rebuild(Decoding((3.0,), 9.0, 2.0, -1.0), conductances(Decoding((3.0,), 0, 1, 0)), ir.DataType.FLOAT)
    said = [value.metadata_props for value in rebuilt.initializers]
    assert {text["onnx_gconv.role"]: text.get("onnx_gconv.unit") for text in said} == {
        "conductance": "uS",
        "scale": "uS per unit of weight",
        "factor": None,
        "offset": "uS",
        "zero": "unit of weight",
    }


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 1, 3)])
def test_weights_of_any_shape_are_rebuilt(run, shape):
    decoding = Decoding((1.0, -1.0), 0.0, 2.0, 0.0)
    tensors = conductances(decoding, shape=shape)
    _, model = rebuild(decoding, tensors, ir.DataType.FLOAT)
    np.testing.assert_array_equal(run(model, "none")[0], (tensors[0].numpy() - tensors[1].numpy()) / 2)


@pytest.mark.parametrize("count", [1, 3])
def test_there_has_to_be_one_conductance_for_each_coefficient(count):
    tensors = conductances(Decoding((1.0,) * count, 0.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="zip"):
        rebuild(Decoding((1.0, -1.0), 0.0, 2.0, 0.0), tensors, ir.DataType.FLOAT)
