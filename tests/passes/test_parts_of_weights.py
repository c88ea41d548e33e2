"""Queries, keys and values in one weight: each with a scale, tiles and a factor against drift of its own."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_gconv
from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle
from onnx_gconv.mapping import read_manifest, write_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import CheckMapping
from tests.packed_models import matmul_model, quantized, saved

SIZES = (8, 4, 4)
NAMES = ("query", "key", "value")
STRETCHES = ((0, 8), (8, 12), (12, 16))


def projections():
    """Six inputs, sixteen outputs; keys are a hundredth of the queries, values half of them."""
    weight = np.random.default_rng(3).normal(size=(6, 16)).astype(np.float32)
    weight[:, 8:12] *= 0.01
    weight[:, 12:] *= 0.5
    return weight


def attention(folder, weight=None):
    """Packed projections with a bias, for an attention of four heads that share keys and values by twos."""
    weight = projections() if weight is None else weight
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"], "qkv"),
        helper.make_node("Add", ["p", "c"], ["b"], "bias"),
        helper.make_node("Split", ["b", "sizes"], ["q", "k", "v"], "split", axis=-1),
        helper.make_node("Attention", ["q", "k", "v"], ["y"], "attention", q_num_heads=4, kv_num_heads=2),
    ]
    arrays = {"W": weight, "c": np.ones(16, np.float32), "sizes": np.array(SIZES, np.int64)}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, size]) for name, size in (("x", 6), ("y", 8))]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return saved(model, folder)


def mapped(folder, source=None, **options):
    source = attention(folder) if source is None else source
    report = onnx_gconv.map_model(source, folder / "mapped.onnx", **options)
    onnx.checker.check_model(onnx.load(folder / "mapped.onnx"))
    assert onnx_gconv.verify(source, folder / "mapped.onnx").passed
    return report.mapped[0], folder / "mapped.onnx"


def arrays(path):
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def test_each_part_has_the_whole_range_of_conductances(tmp_path):
    record, path = mapped(tmp_path)
    stored, weight = arrays(path), projections()
    assert [(part.name, part.columns) for part in record.parts] == list(zip(NAMES, SIZES, strict=True))
    said = record.scale
    assert (record.granularity, said.form, said.shape, record.axis) == ("tensor", "broadcast", (1, 16), 1)
    for first, stop in STRETCHES:
        scale = np.float32(25) * (np.float32(1) / np.abs(weight[:, first:stop]).max())
        assert (stored["W.g_scale"][0, first:stop] == scale).all()
        pair = [stored[f"W.{device}"][:, first:stop] for device in ("g_plus", "g_minus")]
        np.testing.assert_allclose(max(map(np.max, pair)), 25, rtol=1e-6)
    rebuilt = (stored["W.g_plus"] - stored["W.g_minus"]) / stored["W.g_scale"]
    assert (np.abs(rebuilt - weight) <= 2e-7 * np.abs(weight).max(axis=0)).all()


def test_exact_parts_come_back_bit_by_bit(tmp_path):
    _, path = mapped(tmp_path, converter={"name": "single-pair", "exact": True})
    onnx_gconv.restore_model(path, tmp_path / "plain.onnx")
    assert (arrays(tmp_path / "plain.onnx")["W"] == projections()).all()


def test_a_weight_can_be_one_matrix_and_scales_of_channels_do_not_change(tmp_path):
    whole, _ = mapped(tmp_path, parts="none")
    assert (whole.parts, whole.scale.form, whole.tiling) == ((), "number", None)
    assert "parts" not in json.loads(whole.model_dump_json())
    _, path = mapped(tmp_path, granularity="channel", parts="none")
    without = arrays(path)
    record, path = mapped(tmp_path, granularity="channel")
    assert len(record.parts) == 3
    assert without.keys() == arrays(path).keys()
    assert all((array == without[name]).all() for name, array in arrays(path).items())


@pytest.mark.parametrize("kind", ["tile", "tile-channel"])
def test_tiles_end_where_parts_do(tmp_path, kind):
    record, _ = mapped(tmp_path, granularity={"kind": kind, "tile": "4x6"})
    starts = (0, 4, 8, 12) if kind == "tile" else tuple(range(16))
    assert (record.tiling.row_starts, record.tiling.column_starts) == ((0, 3), starts)


def test_parts_can_be_given(tmp_path):
    file = tmp_path / "gconv.toml"
    file.write_text('[[overrides]]\nweight = "W"\nparts = [12, 4]\n')
    record, _ = mapped(tmp_path, config=file)
    assert [(part.name, part.columns) for part in record.parts] == [("part0", 12), ("part1", 4)]
    file.write_text('[[overrides]]\nweight = "W"\nparts = [12, 8]\n')
    with pytest.raises(ConfigError) as refused:
        onnx_gconv.map_model(attention(tmp_path), tmp_path / "mapped.onnx", config=file)
    message = "line 3: overrides[0].parts: the parts 12 + 8 have 20 outputs, but the weight 'W' of qkv (MatMul) has 16"
    assert message in str(refused.value)
    with pytest.raises(
        ConfigError, match=r'parts: should be "auto", "none" or a list of two or more numbers of outputs'
    ):
        onnx_gconv.map_model(attention(tmp_path), tmp_path / "mapped.onnx", parts=[16])


def test_packed_codes_in_parts_come_back_bit_by_bit(tmp_path):
    model = matmul_model(quantized(16, 32, points="packed"))
    model.graph.node[0].output[0] = "p"
    model.graph.node.append(helper.make_node("Split", ["p"], ["a", "b"], axis=-1, num_outputs=2))
    model.graph.node.append(helper.make_node("Add", ["a", "b"], ["y"]))
    source = saved(model, tmp_path)
    for options in ({}, {"levels": "weight", "storage": "codes"}):
        record, path = mapped(tmp_path, source, **options)
        assert [part.columns for part in record.parts] == [8, 8]
        onnx_gconv.restore_model(path, tmp_path / "plain.onnx")
        assert (arrays(tmp_path / "plain.onnx")["W"] == arrays(source)["W"]).all()


def test_a_tile_of_a_bundle_holds_one_part_and_all_come_back(tmp_path):
    _, path = mapped(tmp_path)
    report = onnx_gconv.write_bundle(path, tmp_path / "bundle", (4, 6), bias_rows=1)
    [layer] = open_bundle(tmp_path / "bundle").layers
    assert [(part.full_name, part.outputs) for part in layer.parts] == [
        (f"W/{name}", outputs) for name, outputs in zip(NAMES, STRETCHES, strict=True)
    ]
    assert [[tile.record.outputs for tile in part.tiles[: len(part.tiles) // 2]] for part in layer.parts] == [
        [(0, 6), (6, 8)], [(8, 12)], [(12, 16)],
    ]  # fmt: skip
    for part in layer.parts:
        assert all(len(np.unique(tile.scale().values)) == 1 for tile in part.tiles)
    rebuilt = locate(layer_record := read_manifest(load_model(path)).weights[0], ModelValues(load_model(path)))
    assert (layer.rebuilt_weight() == rebuilt.rebuilt.numpy()).all()
    assert layer_record.parts
    assert (
        "L000: 3 matrices side by side, none of which shares a tile with another: W/query (8 outputs), "
        "W/key (4 outputs), W/value (4 outputs)."
    ) in " ".join(str(report).split())
    assert json.loads(json.dumps(report.to_json()))["layers"][0]["parts"] == [
        ["W/query", 8],
        ["W/key", 4],
        ["W/value", 4],
    ]
    [targets] = (tmp_path / "bundle").glob("*.h5")
    onnx_gconv.read_back(path, targets, tmp_path / "measured.onnx", bundle=tmp_path / "bundle", as_if_measured=True)
    measured, stored = arrays(tmp_path / "measured.onnx"), arrays(path)
    assert all((measured[f"W.{device}"] == stored[f"W.{device}"]).all() for device in ("g_plus", "g_minus"))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_drift_of_each_part_is_compensated_on_its_own(tmp_path, granularity):
    record, path = mapped(tmp_path, granularity=granularity)
    quiet = {"settings": {"read_scale": 0.0}, "seed": 1}
    chips = {}
    for name, options in {"start": {}, "day": {"time": "1d"}}.items():
        onnx_gconv.program_model(path, tmp_path / "chip.onnx", "pcm", **options, **quiet)
        chips[name] = arrays(tmp_path / "chip.onnx")
    onnx_gconv.program_model(path, tmp_path / "chip.onnx", "pcm", time="1d", drift_compensation="global", **quiet)
    found, stored = arrays(tmp_path / "chip.onnx")["W.g_scale"], arrays(path)["W.g_scale"]
    before, after = (np.abs(chip["W.g_plus"] - chip["W.g_minus"].astype(float)) for chip in chips.values())
    for part in (slice(*outputs) for outputs in STRETCHES):
        factor = before[:, part].sum() / after[:, part].sum()
        np.testing.assert_allclose((stored / found)[0, part], factor, rtol=1e-6)
    [programmed] = read_manifest(load_model(tmp_path / "chip.onnx")).weights
    assert len(programmed.measured.factors) == (3 if granularity == "tensor" else 16)
    assert programmed.parts == record.parts
    assert onnx_gconv.verify(tmp_path / "model.onnx", tmp_path / "chip.onnx").passed


def test_a_manifest_that_contradicts_its_parts_is_refused(tmp_path):
    _, path = mapped(tmp_path)
    model = load_model(path)
    manifest = read_manifest(model)
    [weight] = manifest.weights
    part = weight.parts[0]
    write_manifest(model, manifest.model_copy(update={"weights": (weight.model_copy(update={"parts": (part,)}),)}))
    save_model(model, tmp_path / "wrong.onnx")
    with pytest.raises(GconvError, match="its parts have 8 columns, but its matrices 16"):
        onnx_gconv.restore_model(tmp_path / "wrong.onnx", tmp_path / "plain.onnx")


def test_a_scale_that_differs_within_a_part_is_damage(tmp_path):
    _, path = mapped(tmp_path)
    model = load_model(path)
    scale = model.graph.initializers["W.g_scale"]
    changed = np.array(scale.const_value.numpy())
    changed[0, [0, -1]] = changed[0, [-1, 0]]
    scale.const_value = ir.tensor(changed, name=scale.name)
    with pytest.raises(GconvError, match=r"the scale 'W.g_scale' is not the same for all columns of a part"):
        CheckMapping()(model)
