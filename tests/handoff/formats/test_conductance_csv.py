"""Tables of conductances hold the matrices of each device, rounded to five decimals."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff import write_bundle
from onnx_gconv.handoff.formats import layer_conductances, number_table
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

HALF_OF_THE_LAST_DIGIT = 5e-6

SCHEMES = {
    "single pair": MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)),
    "n pair": MappingScheme(converters.NPairConductanceConverter([1.0, 2.0])),
    "single device": MappingScheme(converters.SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0)),
    "offset": MappingScheme(converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0), Granularity("tile", (6, 3))),
    "codes": MappingScheme(
        converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
        levels=ConductanceLevels.uniform(16, 1.0, 40.0),
        storage="codes",
    ),
    "channel": MappingScheme(converters.SinglePairConductanceConverter(), Granularity("channel")),
}

OPS = [
    "MatMul", "MatMul of a batch", "MatMul of a transposed weight", "Gemm transB", "one output", "Conv",
    "Conv of a kernel in another order", "grouped Conv", "depthwise Conv", "ConvTranspose", "LSTM",
]  # fmt: skip


def matrices(layer):
    """For each device the matrices [matrices, inputs, outputs], put together from the tiles."""
    view = layer.record.matrix_view
    whole = {device.name: np.empty((view.matrices, view.rows, view.columns)) for device in layer.record.devices}
    for tile in layer.tiles:
        for name, part in tile.conductances().items():
            whole[name][tile.record.matrix, slice(*tile.record.inputs), slice(*tile.record.outputs)] = part
    return whole


def begin(layer, matrix):
    return layer.record.id if layer.record.matrix_view.matrices == 1 else f"{layer.record.id}_M{matrix}"


def read(folder, layer):
    """The same from the files."""
    return {
        device.name: np.array(
            [
                np.loadtxt(folder / f"{begin(layer, matrix)}_{device.name}.csv", delimiter=",", ndmin=2)
                for matrix in range(layer.record.matrix_view.matrices)
            ]
        )
        for device in layer.record.devices
    }


def assert_are_the_matrices(bundle):
    for layer in bundle.layers:
        found = read(bundle.path / "csv", layer)
        for name, expected in matrices(layer).items():
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=HALF_OF_THE_LAST_DIGIT * (1 + 1e-9))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("external_data", [False, True])
def test_files_of_every_op_are_its_matrices(handed_off, op, external_data):
    assert_are_the_matrices(handed_off(op, external_data=external_data, formats=["csv"]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_of_every_mapping_are_its_matrices(handed_off, scheme):
    assert_are_the_matrices(handed_off("Gemm", scheme=SCHEMES[scheme], formats=["csv"]))


@pytest.mark.parametrize("block_cells", [4, 33, 1 << 21])
@pytest.mark.parametrize("op", ["Gemm transB", "Conv", "one output"])
def test_files_are_what_numpy_writes_however_much_is_read_at_once(handed_off, tmp_path, monkeypatch, op, block_cells):
    monkeypatch.setattr(layer_conductances, "_BLOCK_CELLS", block_cells)
    monkeypatch.setattr(number_table, "_TEXT_CELLS", 3)
    bundle = handed_off(op, formats=["csv"])
    [layer] = bundle.layers
    for name, [matrix] in matrices(layer).items():
        np.savetxt(tmp_path / "theirs.csv", matrix, delimiter=",", fmt="%10.5f")
        assert (bundle.path / "csv" / f"L000_{name}.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_a_matrix_of_a_convolution_is_that_of_its_weight_with_outputs_as_columns(handed_off):
    """As ``W.reshape(outputs, -1).T``."""
    bundle = handed_off("Conv", formats=["csv"])
    plus = bundle.layers[0].conductances()["g_plus"]
    found = np.loadtxt(bundle.path / "csv" / "L000_g_plus.csv", delimiter=",")
    np.testing.assert_allclose(found, plus.reshape(len(plus), -1).T, rtol=0, atol=HALF_OF_THE_LAST_DIGIT * (1 + 1e-9))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_and_scales_give_the_weights(handed_off, scheme):
    bundle = handed_off("grouped Conv", scheme=SCHEMES[scheme], formats=["csv"])
    [layer] = bundle.layers
    record, found = layer.record, read(bundle.path / "csv", layer)
    with (bundle.path / "csv" / "scales.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    scale, zero = np.empty((2, *found[record.devices[0].name].shape))
    for line in lines:  # later pieces overwrite the rest of those before them
        assert line["name"] == begin(layer, int(line["matrix"]))
        place = int(line["matrix"]), slice(int(line["first_input"]), None), slice(int(line["first_output"]), None)
        scale[place], zero[place] = float(line["scale_us"]), float(line["zero"])
    total = sum(device.coefficient * found[device.name] for device in record.devices) - record.offset_us
    expected = layer.rebuilt_weight().reshape(record.matrix_view.matrices, record.matrix_view.columns, -1)
    atol = HALF_OF_THE_LAST_DIGIT * sum(abs(device.coefficient) for device in record.devices) / scale.min()
    np.testing.assert_allclose(total / scale + zero, expected.transpose(0, 2, 1), rtol=1e-5, atol=1.1 * atol)


def test_the_report_says_that_numbers_are_rounded(mapped):
    report = write_bundle(mapped("Gemm"), array=(5, 4), formats=["csv"], dry_run=True)
    assert "csv: numbers have five decimals, which moves conductances by up to 5e-06 µS" in report.notes


def test_devices_whose_range_five_decimals_cannot_hold_are_an_error_before_anything_is_written(mapped, tmp_path):
    """Of devices of some pS, every number in the files would be 0."""
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=9e-4))
    with pytest.raises(
        ConfigError, match=r"'W' cannot be written as csv: its devices reach 0 .. 0.0009 µS, .* at least 0.001 µS"
    ):
        write_bundle(mapped("Gemm", scheme=scheme), tmp_path / "out", (5, 4), formats=["csv"])
    assert not (tmp_path / "out").exists()


def test_devices_with_a_hundred_steps_of_the_last_decimal_are_written(handed_off):
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=1e-3))
    assert_are_the_matrices(handed_off("Gemm", scheme=scheme, formats=["csv"]))
