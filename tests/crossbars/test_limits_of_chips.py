"""What a chip cannot hold: conductances out of the range, biases beyond its rows, and kernels larger than arrays."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv import converters, map_model, read_back, verify, write_bundle
from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.chip import Chip
from onnx_gconv.crossbars.defects import DefectMap
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from tests.handoff.chip import programmed


@pytest.mark.parametrize(
    ("device", "place", "value", "tile"),
    [("g_plus", (6, 9), 26.0, "L000/T0005"), ("g_minus", (0, 0), -0.5, "L000/T0000")],
)
def test_a_conductance_out_of_the_range_is_named_with_its_place(mapped, tmp_path, device, place, value, tile):
    source = mapped("Gemm")
    model = load_model(source)
    initializer = model.graph.initializers[f"W.{device}"]
    array = initializer.const_value.numpy().copy()
    array[place] = value
    initializer.const_value = ir.tensor(array, name=initializer.name)
    save_model(model, source)
    with pytest.raises(ModelError) as found:
        write_bundle(source, tmp_path / "out", (5, 4))
    assert str(found.value) == (
        f"'{source}': the weight 'W' cannot be handed off: {device} of input {place[0]}, output {place[1]} (tile {tile}"
        f") is {value:g} µS, out of the range of 0 .. 25 µS; map the model again"
    )
    assert not (tmp_path / "out").exists()


# Biases in rows


def bias_of(parse, weight, bias, converter=None, node="y = Gemm(x, W, c)"):
    model = parse(f"g (float[2,6] x) => (float y) {{ {node} }}", W=weight, c=bias)
    MapConductances(converter)(model)
    [layer] = layers_of(model, ArrayGeometry(8, 8, bias_rows=1), None)
    return layer.bias_rows


def test_a_bias_that_some_more_rows_would_hold(parse, normal):
    weight = np.clip(normal(6, 4), -1, 1)
    assert isinstance(bias_of(parse, weight, np.full(4, 0.5, np.float32)), BiasRows)
    assert bias_of(parse, weight, np.full(4, -2.5, np.float32)) == "1 row does not hold it; 3 rows would do"


def test_a_bias_beside_weights_that_are_all_far_from_0(parse, normal):
    converter = converters.SingleDeviceConductanceConverter()
    weight = 5 + np.clip(normal(6, 4), -1, 1)
    held = bias_of(parse, weight, np.full(4, 1.0, np.float32), converter)
    assert held == "1 row does not hold it; no number of rows would do"


def test_a_bias_that_its_node_multiplies_with_0_stays_as_it_is(parse, normal, tmp_path):
    model = parse("g (float[2,6] x) => (float y) { y = Gemm <beta = 0.0> (x, W, c) }", W=normal(6, 4), c=normal(4) / 10)
    save_model(model, tmp_path / "model.onnx")
    mapped = map_model(tmp_path / "model.onnx").output
    write_bundle(mapped, tmp_path / "model.gconv", (8, 8), bias_rows=1)
    programmed(tmp_path / "model.gconv", dropped=0).write(tmp_path / "measured.h5")
    read_back(mapped, tmp_path / "measured.h5", tmp_path / "measured.onnx")
    found = load_model(tmp_path / "measured.onnx").graph.initializers["c"].const_value.numpy()
    assert found.tolist() == model.graph.initializers["c"].const_value.numpy().tolist()
    verify(tmp_path / "model.onnx", tmp_path / "measured.onnx").raise_if_failed()


# Too few arrays


def refusal(model, geometry, arrays, count):
    document = {"format": "onnx_gconv.defects", "format_version": 1, "array_count": count, "arrays": arrays}
    chip = Chip(geometry, DefectMap.model_validate_json(json.dumps(document)), "defects.json")
    with pytest.raises(ConfigError) as found:
        chip.place(layers_of(model, geometry, None))
    return str(found.value)


def test_no_spare_lines_are_offered_at_which_a_kernel_would_not_fit(parse, normal):
    model = parse("g (float[1,3,6,6] x) => (float y) { y = Conv(x, W) }", W=normal(4, 3, 3, 2))
    MapConductances()(model)
    geometry = ArrayGeometry(8, 8, whole_kernels=True)
    arrays = [{"array": number, "unusable_rows": [0, 2, 4, 6]} for number in range(20)]
    text = refusal(model, geometry, arrays, 20)
    assert text.endswith("no spare rows and columns were found that would do; use a chip with more, larger or better "
                         "arrays")  # fmt: skip


def test_spare_lines_are_found_among_many_numbers_of_unusable_lines(parse):
    model = parse("g (float[2,40] x) => (float y) { y = MatMul(x, W) }", W=np.ones((40, 40), np.float32))
    MapConductances(converters.SingleDeviceConductanceConverter())(model)
    arrays = [{"array": number - 1, "unusable_rows": list(range(number))} for number in range(1, 30)]
    text = refusal(model, ArrayGeometry(40, 40), arrays, 29)
    remedy = re.search(r"--spare-rows (\d+) --spare-columns (\d+) \(", text)
    rows, columns = int(remedy[1]), int(remedy[2])
    assert columns == 0
    assert 20 > rows > 0
