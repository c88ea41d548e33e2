"""How one weight becomes conductances: each number against the initializers, the nodes and the tiles of the model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv import ConfigError, ModelError, explain_weight, map_model, open_bundle, program_model, write_bundle
from onnx_gconv.converters import SinglePairConductanceConverter, register_converter, registry
from onnx_gconv.converters.registry import CONVERTER_KINDS, ConverterRegistry
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.models import model_path
from tests.graphs import chain_model, external_tensor, model, tensors, value
from tests.packed_models import bnb4_model, matmul_model, quantized

CNN = model_path("digits_cnn.onnx")


def weights_of(path):
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


SCHEMES = {
    "single pair": {},
    "exact": {"converter": {"name": "single-pair", "exact": True}},
    "of a tile": {"granularity": {"kind": "tile", "tile": (4, 4)}, "g_min": 1.0},
    "of a channel, on levels": {"granularity": "channel", "levels": 16},
    "codes of levels": {"levels": 33, "storage": "codes"},
    "clipped": {"clipping": {"percentile": 90}},
    "one device": {"converter": "single-device"},
    "slices": {"converter": {"name": "bit-sliced-offset", "bits": 8, "slice_bits": 2}},
}


@pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES)
def test_the_numbers_are_those_of_the_mapped_model(options, tmp_path):
    mapped = map_model(CNN, tmp_path / "m.onnx", **options).output
    stored, originals, rng = weights_of(mapped), weights_of(CNN), np.random.default_rng(3)
    for name in ("stem.weight", "depthwise.weight", "hidden.weight"):
        array = originals[name]
        matrices = array.shape[0] if name == "depthwise.weight" else 1
        outputs = array.shape[0] // matrices
        rows = array.size // matrices // outputs
        matrix, row, column = (int(rng.integers(count)) for count in (matrices, rows, outputs))
        found = explain_weight(mapped, name, row, column, matrix=matrix, original=CNN)
        assert found == _but(explain_weight(CNN, name, row, column, matrix=matrix, **options), found)
        # Outputs are the first axis of all three; inputs are unrolled over the others.
        assert np.ravel_multi_index(found.element, array.shape) == (matrix * outputs + column) * rows + row
        assert found.value == array[found.element]
        for device in found.devices:
            held = stored[device.initializer][found.element]
            assert (held if device.code is None else device.code) == (
                device.conductance_us if device.code is None else held
            )
        total = sum(item.coefficient * item.conductance_us for item in found.devices) - found.record.offset_us
        assert found.rebuilt == pytest.approx(total / found.scale + found.zero, rel=1e-5, abs=1e-7)
        assert found.is_clipped or abs(found.error) <= found.bound
        assert f"{found.group.max_abs:.9g}" in str(found)


def _but(plain, mapped):
    """The explanation of the plain model, but for what tells it from that of the mapped one."""
    return replace(plain, model=mapped.model, is_mapped_now=False)


def test_the_group_is_what_shares_the_scale(tmp_path):
    weight = np.arange(24, dtype=np.float32).reshape(4, 6) - 7
    onnx.save(chain_model(*tensors({"w": weight})), tmp_path / "plain.onnx")
    found = explain_weight(tmp_path / "plain.onnx", "w", 2, 4, granularity={"kind": "tile", "tile": (2, 3)})
    assert (found.group.rows, found.group.columns) == ((2, 4), (3, 6))
    assert (found.group.minimum, found.group.maximum) == (weight[2:, 3:].min(), weight[2:, 3:].max())
    assert found.scale == pytest.approx(25 / weight[2:, 3:].max())
    assert "rows 2 to 3, columns 3 to 5" in str(found)


def test_without_a_cell_it_is_the_largest_element(tmp_path):
    weight = np.array([[0.5, -2.0], [1.0, 0.25]], np.float32)
    onnx.save(chain_model(*tensors({"w": weight})), tmp_path / "plain.onnx")
    found = explain_weight(tmp_path / "plain.onnx", "w")
    assert (found.row, found.column, found.value) == (0, 1, -2.0)
    assert [item.conductance_us for item in found.devices] == [0.0, 25.0]
    assert "(0 - 25) / 12.5" in str(found)


def test_the_tile_is_that_of_the_bundle(tmp_path):
    mapped = map_model(CNN, tmp_path / "m.onnx").output
    write_bundle(mapped, tmp_path / "bundle", array=(16, 16))
    bundle = open_bundle(tmp_path / "bundle")
    found = explain_weight(mapped, "hidden.weight", 37, 21, geometry=ArrayGeometry(16, 16))
    [tile] = [item for layer in bundle.layers for item in layer.tiles if item.id == found.tile.tile]
    for device in found.devices:
        assert tile.conductances()[device.device][found.tile.row, found.tile.column] == device.conductance_us


def test_integer_codes_are_told_less_their_zero_point(tmp_path):
    codes = np.array([[3, 130], [255, 7]], np.uint8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "", "zero"], ["y"], name="product")]
    ends = [value("x", onnx.TensorProto.UINT8, [1, 2])], [value("y", onnx.TensorProto.INT32, [1, 2])]
    made = model(nodes, *ends, tensors({"w": codes, "zero": np.uint8(128)}))
    found = explain_weight(made, "w", 1, 0)
    assert (found.value, found.zero_point, found.rebuilt, found.bound) == (127.0, 128.0, 127.0, 0.0)
    assert "round(" in str(found)


DECODED = {
    "MatMulBnb4": (bnb4_model(16, 6, block=16, is_normal=True), {}),
    "numbers of packed codes": (matmul_model(quantized(6, 32, bits=4, block=16)), {"quantized": "dequantized"}),
    "numbers of codes": (
        model(
            [helper.make_node("DequantizeLinear", ["C", "s"], ["W"]), helper.make_node("MatMul", ["x", "W"], ["y"])],
            [value("x", shape=[2, 3])],
            [value("y")],
            tensors({"C": np.array([[3, -7], [1, 127], [0, 5]], np.int8), "s": np.float32(0.5)}),
        ),
        {"quantized": "dequantized"},
    ),
    "a table": (
        model(
            [helper.make_node("Gather", ["W", "i"], ["y"])],
            [value("i", TensorProto.INT64, [2])],
            [value("y")],
            tensors({"W": np.array([[3, -7], [1, 2]], np.float32)}),
        ),
        {"include_ops": ["Gather"]},
    ),
}


@pytest.mark.parametrize("kind", DECODED)
def test_what_is_mapped_only_if_asked_for_or_decoded_has_its_original(kind, tmp_path):
    plain, options = DECODED[kind]
    mapped = map_model(plain, tmp_path / "m.onnx", **options).output
    found = explain_weight(plain, "W", **options)
    assert found.value is not None
    assert abs(found.error) <= found.bound < 1e-5 * abs(found.value)
    assert explain_weight(mapped, "W", original=plain) == _but(found, explain_weight(mapped, "W", original=plain))


def test_the_data_of_other_tensors_need_not_be_there(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    initializers = [*tensors({"W": np.array([[3, -7], [1, 2]], np.float32)}), external_tensor("b", [2], "b.bin")]
    onnx.save(model(nodes, [value("x", shape=[1, 2])], [value("y")], initializers), tmp_path / "plain.onnx")
    mapped = map_model(tmp_path / "plain.onnx").output
    found = explain_weight(mapped, "W", original=tmp_path / "plain.onnx")
    assert found.value == -7 == explain_weight(tmp_path / "plain.onnx", "W").value


def test_of_a_chip_nothing_is_promised(tmp_path):
    mapped = map_model(CNN, tmp_path / "m.onnx").output
    chip = program_model(mapped, tmp_path / "c.onnx", "pcm", time="1d", drift_compensation="global").output
    found = explain_weight(chip, "stem.weight", 1, 2, original=CNN)
    assert found.bound is None
    assert found.drift_factor != 1
    assert "of a simulated chip" in str(found)
    assert "nothing is promised" in str(found)
    assert "noise of readings" not in str(found)
    live = program_model(mapped, tmp_path / "l.onnx", "pcm", time="1d", read_noise="live").output
    said = " ".join(str(explain_weight(live, "stem.weight", 1, 2)).split())
    assert "without the noise of readings, which each run of the model draws anew" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stem.weigth",), "no mapped weight is called 'stem.weigth'; did you mean 'stem.weight'"),
        (
            ("stem.bias",),
            (
                "'stem.bias' is a bias: the node 'node_conv2d' (Conv) adds it to the product with the weight "
                "'stem.weight'. It is not mapped, since it multiplies no input; 'handoff --bias-rows' can put it into "
                "rows of the arrays; name the weight instead"
            ),
        ),
        (("val_6",), "'val_6' is a constant that the node 'node_Reshape_7' (Reshape) reads. It is not mapped, since"),
        (("image",), "'image' is an input of the model, not a weight"),
        (("relu_2",), "'relu_2' is no weight: the node 'node_relu_2' (Relu) computes it at run time"),
        (("stem.weight", 9, 0), "has no row 9: its matrix has 9 inputs (rows) by 16 outputs (columns), counted from 0"),
        (("stem.weight", 0, -1), "has no column -1"),
        (("stem.weight", 3), "an element has a row (input) and a column (output); give both, or neither"),
    ],
)
def test_wrong_places_are_told(arguments, message):
    with pytest.raises((ConfigError, ModelError), match=re.escape(f"'{CNN}': ") + ".*" + re.escape(message)):
        explain_weight(CNN, *arguments)


class _Narrow(SinglePairConductanceConverter):
    """A pair that uses half of the range."""

    name = "narrow"

    def scaling(self, statistics, dtype):
        return super().scaling(replace(statistics, maximum=2 * statistics.maximum, minimum=0.0), dtype)


class _Renamed(SinglePairConductanceConverter):
    """The same under another name."""

    name = "renamed"


class _Told(_Narrow):
    """A pair whose docstring has its rule::

    scale = (g_max - g_min) / (2 * max|W|)
    """

    name = "told"


@pytest.mark.parametrize(
    ("converter", "rule"),
    [
        (_Narrow, ()),  # what the class that it derives from says does not hold for it
        (_Renamed, explain_weight(CNN, "stem.weight").rule),
        (_Told, ("A pair whose docstring has its rule:", "    scale = (g_max - g_min) / (2 * max|W|)")),
    ],
)
def test_the_rule_is_that_of_the_converter_itself(converter, rule, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(list))
    register_converter(converter)
    assert explain_weight(CNN, "stem.weight", converter=converter()).rule == rule


@pytest.mark.parametrize("kind", CONVERTER_KINDS.values(), ids=CONVERTER_KINDS)
def test_each_converter_of_the_package_has_a_rule(kind):
    rising = np.linspace(0, 25, 5).tolist()
    falling = rising[::-1]
    settings = {"factors": [1, 3], "table": [rising, falling, rising, falling]}
    needed = {name: settings[name] for name in kind.needs}
    assert len(explain_weight(CNN, "stem.weight", converter=kind.build(needed, g_max=None, g_min=None)).rule) > 1


def test_what_fits_no_model_is_told(tmp_path):
    mapped = map_model(CNN, tmp_path / "m.onnx").output
    with pytest.raises(ConfigError, match="mapped already, so that levels would say nothing"):
        explain_weight(mapped, "stem.weight", levels=4)
    with pytest.raises(ConfigError, match="is not mapped, so that it is its own original"):
        explain_weight(CNN, "stem.weight", original=CNN)
    with pytest.raises(ModelError, match=r"digits_mlp.*has no weight 'stem.weight' of float32 \[16, 1, 3, 3\]"):
        explain_weight(mapped, "stem.weight", original=model_path("digits_mlp.onnx"))
    with pytest.raises(ModelError, match=r"the weight 'stem\.weight' is not mapped: patterns or an override"):
        explain_weight(CNN, "stem.weight", exclude=["stem*"])


def test_the_command_says_the_same(tmp_path):
    command = [sys.executable, "-m", "onnx_gconv", "explain", str(CNN), "hidden.weight", "3", "5", "--array", "16x16"]
    run = subprocess.run([*command, "--levels", "16", "--json"], capture_output=True, text=True, check=True)
    found = explain_weight(CNN, "hidden.weight", 3, 5, geometry=ArrayGeometry(16, 16), levels=16)
    assert json.loads(run.stdout) == json.loads(json.dumps(found.to_json()))


@pytest.mark.parametrize("number", ["-1", "-12"])
def test_a_negative_row_is_refused_in_one_line(number):
    command = [sys.executable, "-m", "onnx_gconv", "explain", str(CNN), "hidden.weight", number, "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"onnx-gconv: '{number}' is no row or column: rows and columns are counted from 0\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", said)


def test_an_original_whose_data_is_missing_is_the_one_that_is_named(tmp_path):
    model = onnx.load(CNN)
    onnx.save(model, tmp_path / "plain.onnx", save_as_external_data=True, location="plain.data", size_threshold=0)
    mapped = map_model(tmp_path / "plain.onnx", tmp_path / "m.onnx").output
    (tmp_path / "plain.data").unlink()
    with pytest.raises(ModelError, match=r"^'.*plain\.onnx': external data of tensor 'stem\.weight' cannot be read"):
        explain_weight(mapped, "stem.weight", original=tmp_path / "plain.onnx")
