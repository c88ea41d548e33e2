"""plain.onnx, for compilers that know nothing of conductances: the model as it was, with the rebuilt weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import write_bundle
from onnx_gconv.passes import MapConductances, RestoreWeights
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.op_graph import OPSETS, codes, graph, uniform
from tests.handoff.op_graphs import CORE, NOT_RUNNABLE, OP_GRAPHS
from tests.handoff.simulated_models import simulated_outputs
from tests.handoff.tile_products import tiled_layers

# Originals that have nodes themselves of the kinds that rebuild weights: these stay.
WITH_SUCH_NODES = {
    "MatMul behind DequantizeLinear": graph(
        "d = DequantizeLinear <axis = 1> (W, s) y = MatMul(x, d)", uniform(2, 13), W=codes(13, 10), s=uniform(10)
    ),
    "MatMul between Sub and Div": graph(
        "t = Sub(x, s) p = MatMul(t, W) y = Div(p, s)", uniform(2, 13), W=uniform(13, 10), s=np.float32(0.3)
    ),
}

RUNNABLE = {**OP_GRAPHS, **WITH_SUCH_NODES}

LEVELS = ConductanceLevels.uniform(256, 1.0, 40.0)
PAIR = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)

SCHEMES = {
    "a pair": MappingScheme(),
    "codes of levels": MappingScheme(PAIR, levels=LEVELS, storage="codes"),
    "codes of levels by tiles": MappingScheme(PAIR, Granularity("tile", (5, 4)), levels=LEVELS, storage="codes"),
    "bit slices": MappingScheme(
        converters.BitSlicedOffsetConductanceConverter(bits=8, slice_bits=4, g_min=1.0), Granularity("channel")
    ),
    "a device against a reference": MappingScheme(
        converters.SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0), Granularity("tile_channel", (6, 4))
    ),
    "an offset": MappingScheme(converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0)),
}


def parsed(parse, example):
    return parse(example.text, opsets=OPSETS, **example.constants)


def with_output_shapes(model, outputs):
    """The parser takes an output without a shape for a scalar, which the checker's inference would contradict."""
    for value, array in zip(model.graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(array.shape)
    return model


@pytest.fixture
def handed_off(tmp_path):
    """Maps a model and hands it off."""

    def make(model, scheme=None):
        assert MapConductances(scheme=scheme, include_ops=["Gather"])(model).modified
        save_model(model, tmp_path / "mapped.onnx")
        write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4))
        return tmp_path / "out"

    return make


def assert_is_plain(folder, original):
    """Nodes, inputs and initializers are those of the original, and nothing tells of conductances."""
    path = folder / "plain.onnx"
    onnx.checker.check_model(path, full_check=True)
    plain, before = onnx.load(path), ir.to_proto(original)
    assert plain.graph.node == before.graph.node
    assert plain.graph.input == before.graph.input
    assert plain.graph.output == before.graph.output
    assert sorted(item.name for item in plain.graph.initializer) == sorted(
        item.name for item in before.graph.initializer
    )
    assert plain.opset_import == before.opset_import
    assert b"gconv" in (folder / "model.onnx").read_bytes()
    content = path.read_bytes()
    for trace in (b"gconv", b"g_plus", b"g_minus", b"g_scale"):  # names of nodes and values, and metadata
        assert trace not in content


def restored(path):
    model = load_model(path)
    RestoreWeights()(model)
    return model


def assert_computes_what_the_restored_model_does(folder, run, feeds):
    for optimization in ("none", "all"):
        found, expected = (
            run(model, optimization, **feeds)
            for model in (load_model(folder / "plain.onnx"), restored(folder / "model.onnx"))
        )
        assert [array.tobytes() for array in found] == [array.tobytes() for array in expected], optimization


def assert_computes_what_the_mapped_model_does(folder, run, feeds):
    """Bit by bit where the runtime computes the weights beforehand, and so runs the same kernels."""
    mapped, plain = (load_model(folder / name) for name in ("model.onnx", "plain.onnx"))
    layers = tiled_layers(folder)
    has_codes = any(layer.entry["levels"] is not None for layer in layers)
    for optimization in ("none", "all"):
        found, expected = (run(model, optimization, **feeds) for model in (plain, mapped))
        if optimization == "all" and not has_codes:
            assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]
        else:  # sums of products are added up in another order
            simulated = simulated_outputs(folder, layers, feeds)
            for value, first, second in zip(plain.graph.outputs, found, expected, strict=True):
                assert np.all(np.abs(first - second.astype(np.float64)) <= 2 * simulated[value.name].error)


@pytest.mark.parametrize("op", RUNNABLE)
def test_the_plain_model_is_the_original_and_computes_what_the_mapped_one_does(parse, run, handed_off, op):
    example = RUNNABLE[op]
    outputs = run(parsed(parse, example), **example.feeds)
    original, model = (with_output_shapes(parsed(parse, example), outputs) for _ in range(2))
    folder = handed_off(model)
    assert_is_plain(folder, original)
    assert_computes_what_the_restored_model_does(folder, run, example.feeds)
    if op not in WITH_SUCH_NODES:
        assert_computes_what_the_mapped_model_does(folder, run, example.feeds)


@pytest.mark.parametrize("op", NOT_RUNNABLE)
def test_the_plain_model_of_ops_that_cannot_be_run_is_the_original(parse, handed_off, op):
    example, _ = NOT_RUNNABLE[op]
    assert_is_plain(handed_off(parsed(parse, example)), parsed(parse, example))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_plain_model_of_every_scheme_is_the_original_and_computes_what_the_mapped_one_does(
    parse, run, handed_off, scheme
):
    outputs = run(parsed(parse, CORE), **CORE.feeds)
    original, model = (with_output_shapes(parsed(parse, CORE), outputs) for _ in range(2))
    folder = handed_off(model, SCHEMES[scheme])
    assert_is_plain(folder, original)
    assert_computes_what_the_restored_model_does(folder, run, CORE.feeds)
    assert_computes_what_the_mapped_model_does(folder, run, CORE.feeds)
