"""A layer computed tile by tile, as a chip does: partial sums, concatenation, digital scale, offset, zero and bias."""

from __future__ import annotations

import json

import h5py
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented  # noqa: A004 - the runtime calls it that

from onnx_gconv import converters
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.weights import find_weights
from onnx_gconv.weights.ops.mvm_ops import LOOKUP_OPS, MVM_OPS
from tests.handoff.op_graph import OPSETS
from tests.handoff.op_graphs import CORE, NOT_RUNNABLE, OP_GRAPHS
from tests.handoff.rounded import Rounded
from tests.handoff.simulated_models import simulated_outputs
from tests.handoff.simulated_products import MICROSOFT
from tests.handoff.tile_products import tiled_layers
from tests.scheme_choices import CONVERTERS, GRANULARITIES

# Bounds of float32 arithmetic have to be narrower than that, as a part of the largest output, to mean something.
NARROW = 1e-4


def assert_tiles_are_the_stored_conductances(folder, layers):
    tensors = {item.name: item for item in onnx.load(folder / "model.onnx").graph.initializer}
    for layer in layers:
        for name, conductances in layer.stored().items():
            stored = numpy_helper.to_array(tensors[name])
            assert stored.dtype == conductances.dtype
            np.testing.assert_array_equal(conductances, stored)


def assert_weights_come_back(folder):
    plain = {item.name: numpy_helper.to_array(item) for item in onnx.load(folder / "plain.onnx").graph.initializer}
    with open_bundle(folder) as bundle:
        for layer in bundle.layers:
            assert layer.rebuilt_weight().tobytes() == plain[layer.record.weight].tobytes()


def assert_tiles_compute_what_the_model_computes(folder, layers, run, feeds):
    model = (folder / "model.onnx").read_bytes()
    simulated = simulated_outputs(folder, layers, feeds)
    wrong = {}
    for value, expected in zip(onnx.load_from_string(model).graph.output, run(model, **feeds), strict=True):
        y = simulated.pop(value.name)
        assert y.shape == expected.shape, value.name
        largest = np.abs(y.value).max()
        assert np.isfinite(expected).all()
        assert y.error.max() < NARROW * largest, f"the bound of {value.name} says nothing"
        distance = np.abs(y.value - expected)
        if not np.all(distance <= y.error):
            wrong[value.name] = f"{distance.max() / largest:.3g} of the largest, allowed {y.error.max() / largest:.3g}"
    assert not wrong, f"the model computes something else than its tiles compute: {wrong}"


@pytest.fixture
def mapped(parse, tmp_path):
    """Writes a mapped model."""

    def make(example, scheme=None):
        model = parse(example.text, opsets=OPSETS, **example.constants)
        assert MapConductances(scheme=scheme, include_ops=["Gather"])(model).modified
        save_model(model, tmp_path / "mapped.onnx")
        return tmp_path / "mapped.onnx"

    return make


@pytest.mark.parametrize("op", OP_GRAPHS)
def test_tiles_of_every_op_compute_what_the_layer_computes(mapped, tmp_path, run, op):
    source = mapped(OP_GRAPHS[op])
    for partition, kind in (("max", "hdf5"), ("equal", "npz")):
        folder = tmp_path / partition
        write_bundle(source, folder, (5, 4), partition=partition, arrays=kind)
        layers = tiled_layers(folder)
        assert_tiles_are_the_stored_conductances(folder, layers)
        assert_weights_come_back(folder)
        assert_tiles_compute_what_the_model_computes(folder, layers, run, OP_GRAPHS[op].feeds)


# Where tiles begin depends on the partition, and where scales do on the granularity, but neither on the converter: each
# partition meets each granularity, with every other converter.
SCHEMES = [
    (converter, granularity, ("max", "equal")[(number + other) % 2])
    for number, converter in enumerate(CONVERTERS)
    for other, granularity in enumerate(GRANULARITIES)
]


@pytest.mark.parametrize(("converter", "granularity", "partition"), SCHEMES)
def test_tiles_of_every_converter_and_granularity_compute_what_the_layers_compute(
    mapped, tmp_path, run, converter, granularity, partition
):
    source = mapped(CORE, MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity]))
    folder = tmp_path / "out"
    write_bundle(source, folder, (7, 3), partition=partition)
    layers = tiled_layers(folder)
    assert_tiles_are_the_stored_conductances(folder, layers)
    assert_weights_come_back(folder)
    assert_tiles_compute_what_the_model_computes(folder, layers, run, CORE.feeds)


def test_every_converter_is_among_those_whose_tiles_compute():
    assert {type(converter).__name__ for converter in CONVERTERS.values()} == set(converters.CONVERTERS)


@pytest.mark.parametrize("op", ["Gemm", "grouped Conv", "ConvTranspose", "LSTM", "Attention", "QLinearMatMul"])
def test_a_single_wrong_conductance_is_seen(mapped, tmp_path, run, op):
    write_bundle(mapped(OP_GRAPHS[op]), tmp_path / "out", (5, 4))
    path = tmp_path / "out" / "conductances.h5"
    [*_, place] = (layer["id"] for layer in json.loads((tmp_path / "out/manifest.json").read_text())["layers"])
    with h5py.File(path, "r+") as file:
        file[f"{place}/T0001/g_plus"][1, 2] += 0.5  # of 25 µS
    layers = tiled_layers(tmp_path / "out")
    with pytest.raises(AssertionError, match="tiles compute"):
        assert_tiles_compute_what_the_model_computes(tmp_path / "out", layers, run, OP_GRAPHS[op].feeds)


@pytest.mark.parametrize("op", NOT_RUNNABLE)
def test_tiles_of_ops_that_cannot_be_run_are_the_stored_conductances(mapped, tmp_path, run, parse, op):
    example, reason = NOT_RUNNABLE[op]
    with pytest.raises(NotImplemented, match=reason):  # else outputs of this op can be compared, too
        run(parse(example.text, opsets=OPSETS, **example.constants), **example.feeds)
    for partition in ("max", "equal"):
        write_bundle(mapped(example), tmp_path / partition, (5, 4), partition=partition)
        assert_tiles_are_the_stored_conductances(tmp_path / partition, tiled_layers(tmp_path / partition))
        assert_weights_come_back(tmp_path / partition)


# For each weight its bias, of ops that cannot be run; those of all others take part in what tiles compute.
BIASES = {
    "GemmFastGelu": {"W": "c"},
    "GemmFloat8": {"W": "c"},
    "GemmFloat8 on the left": {"W": None},
    "RouterGateUpProj": {"W": None},
    "MatMulBlockQuantizedFp8Weight": {"W": "c"},
    "PackedAttention": {"W": "c"},
    "DecoderMaskedSelfAttention": {"W": "c"},
    "DecoderAttention": {"W": "c", "V": "c"},
    "LongformerAttention": {"W": "c", "V": "d"},
    "MoE with a third product": {"W": "c", "V": "d", "U": "e"},
}


@pytest.mark.parametrize("op", NOT_RUNNABLE)
def test_the_manifest_names_the_bias_of_each_weight(mapped, tmp_path, op):
    write_bundle(mapped(NOT_RUNNABLE[op][0]), tmp_path / "out", (5, 4))
    entries = [layer.entry for layer in tiled_layers(tmp_path / "out")]
    assert {entry["weight"]: entry["bias"] and entry["bias"]["initializer"] for entry in entries} == BIASES[op]


# Ops that pack their weights as nodes cannot, which are not mapped: there are no tiles.
PACKED = {
    (MICROSOFT, "MatMulBnb4"),
    (MICROSOFT, "MatMulBlockQuantizedFp4Weight"),
    (MICROSOFT, "MatMulFpQ4"),
    (MICROSOFT, "MatMulPacked"),
    (MICROSOFT, "MoEPacked"),
    (MICROSOFT, "QOrderedMatMul"),
    (MICROSOFT, "NhwcConv"),
    (MICROSOFT, "NhwcFusedConv"),
    ("com.microsoft.nchwc", "Conv"),
}


def test_every_slot_of_the_table_of_ops_has_a_graph(parse):
    found = set()
    for example in (*OP_GRAPHS.values(), *(example for example, _ in NOT_RUNNABLE.values())):
        model = parse(example.text, opsets=OPSETS, **example.constants)
        for weight in find_weights(model, lookups=["Gather"]).weights:
            found |= {(item.node.domain, item.node.op_type, item.slot) for item in weight.consumers}
    rows = (MVM_OPS | LOOKUP_OPS).values()
    slots = [(row, slot) for row in rows for slot in row.slots if slot.view is not None]
    expected = {(row.domain, row.op_type, slot.index) for row, slot in slots if slot.packed is None}
    expected.remove(
        ("", "CausalConvWithState", 1)
    )  # of a newer opset than the graphs; that of com.microsoft is the same
    assert found == expected  # the tiles of packed codes are those of test_packed_layers.py
    assert {(row.domain, row.op_type) for row in rows for slot in row.slots if slot.view is None} == PACKED


def test_functions_of_the_runtime_are_as_good_as_the_bounds_have_it(parse, run):
    x = np.linspace(-30, 30, 60001).astype(np.float32)
    text = "g (float[60001] x, float[60001, 2] z) => (float t, float s, float p) { %s }"
    model = parse(text % "t = Tanh(x) s = Sigmoid(x) p = Softmax(z)")
    pairs = np.stack([x, np.zeros_like(x)], axis=1)
    found = run(model, x=x, z=pairs)
    expected = Rounded.exact(x).tanh(), Rounded.exact(x).sigmoid(), Rounded.exact(pairs).softmax()
    for output, bound in zip(found, expected, strict=True):
        assert np.all(np.abs(output - bound.value) <= bound.error)
