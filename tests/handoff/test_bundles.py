"""What a bundle holds: the stored conductances, cut into tiles, and all that rebuilds the weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.pairs import in_pairs

ALL_OPS = [
    "MatMul", "MatMul of a batch", "MatMul of a transposed weight", "Gemm", "Gemm transB", "one output", "Conv",
    "Conv of a kernel in another order", "grouped Conv", "depthwise Conv", "ConvTranspose", "grouped ConvTranspose",
    "LSTM",
]  # fmt: skip

CONVERTERS = {
    "single pair": converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
    "n pair": converters.NPairConductanceConverter([1.0, 2.0, 3.0]),
    "single device": converters.SingleDeviceConductanceConverter(),
    "two-sided pair": converters.TwoSidedPairConductanceConverter(g_max=40.0, g_min=1.0),
    "offset": converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0),
    "bit-sliced pair": converters.BitSlicedPairConductanceConverter(bits=8, slice_bits=4),
    "bit-sliced offset": converters.BitSlicedOffsetConductanceConverter(bits=8, slice_bits=4, g_min=1.0),
}

GRANULARITIES = {
    "tensor": Granularity(),
    "channel": Granularity("channel"),
    "tile equal": Granularity("tile", (5, 4), "equal"),
    "tile max": Granularity("tile", (6, 3), "max"),
    "tile channel": Granularity("tile_channel", (6, 4)),
}

PAIR = CONVERTERS["single pair"]


def assert_is_the_mapping(bundle):
    """Tiles put together are the stored conductances, and rebuild the weights that the mapped model rebuilds."""
    model = load_model(bundle.path / "model.onnx")
    manifest, values = read_manifest(model), ModelValues(model)
    assert [layer.record.weight for layer in bundle.layers] == [record.name for record in manifest.weights]
    plain = {tensor.name: tensor for tensor in onnx.load(bundle.path / "plain.onnx").graph.initializer}
    for layer, record in zip(bundle.layers, manifest.weights, strict=True):
        located = locate(record, values)
        found = layer.conductances()
        for item, tensor in zip(record.conductances, located.tensors, strict=True):
            np.testing.assert_array_equal(found[item.device], tensor.numpy().astype(layer.record.array_dtype))
        rebuilt = layer.rebuilt_weight()
        assert rebuilt.tobytes() == located.rebuilt.numpy().tobytes()
        assert rebuilt.tobytes() == ir.from_proto(plain[record.name]).tobytes()
    bundle.verify_hashes()


@pytest.mark.parametrize("partition", ["max", "equal"])
@pytest.mark.parametrize("op", ALL_OPS)
def test_tiles_of_every_op_are_the_stored_conductances(handed_off, op, partition):
    assert_is_the_mapping(handed_off(op, partition=partition))


@pytest.mark.parametrize("op", ["MatMul", "Gemm transB", "grouped Conv", "ConvTranspose", "LSTM"])
def test_tiles_are_the_same_from_external_data_and_in_npz(handed_off, op):
    bundle = handed_off(op, external_data=True, arrays="npz")
    assert bundle.arrays_path.name == "conductances.npz"
    assert_is_the_mapping(bundle)


@pytest.mark.parametrize(
    ("op", "converter", "granularity"),
    in_pairs(["Gemm transB", "grouped ConvTranspose"], CONVERTERS, GRANULARITIES),
)
def test_every_converter_and_granularity_comes_back(handed_off, op, converter, granularity):
    scheme = MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity])
    assert_is_the_mapping(handed_off(op, scheme=scheme))


@pytest.mark.parametrize(
    "levels", [ConductanceLevels.uniform(16, 1.0, 40.0), ConductanceLevels.uniform(300, 1.0, 40.0)]
)
@pytest.mark.parametrize("storage", ["float", "codes"])
def test_codes_of_levels_stand_beside_the_conductances(handed_off, levels, storage):
    bundle = handed_off("Conv", scheme=MappingScheme(PAIR, levels=levels, storage=storage))
    assert_is_the_mapping(bundle)
    for tile in bundle.layers[0].tiles:
        if storage == "float":
            assert tile.codes() is None
            continue
        for device, codes in tile.codes().items():
            assert codes.dtype == levels.code_dtype
            np.testing.assert_array_equal(levels.decode(codes, np.dtype(np.float32)), tile.conductances()[device])


def test_a_table_of_levels_comes_back(handed_off):
    levels = ConductanceLevels.of_table([0.0, 1.0, 4.0, 10.0, 25.0])
    scheme = MappingScheme(converters.SinglePairConductanceConverter(), levels=levels, storage="codes")
    assert_is_the_mapping(handed_off("Gemm", scheme=scheme))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, "bfloat16"])
def test_weights_of_other_types_come_back(parse, tmp_path, normal, dtype):
    dtype = ir.DataType.BFLOAT16.numpy() if dtype == "bfloat16" else np.dtype(dtype)
    name = ir.DataType.from_numpy(dtype).name.lower()
    model = parse(f"g ({name if name != 'double' else 'double'}[2, 13] x) => ({name} y) {{ y = MatMul(x, W) }}",
                  W=normal(13, 10).astype(dtype))  # fmt: skip
    MapConductances(conductance_dtype="weight")(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.layers[0].record.array_dtype == ("float64" if dtype == np.float64 else "float32")
        assert_is_the_mapping(bundle)


def test_integer_codes_come_back(parse, tmp_path):
    codes = np.random.default_rng(0).integers(0, 255, (13, 10)).astype(np.uint8)
    model = parse(
        "g (uint8[2, 13] x) => (int32 y) { y = MatMulInteger(x, W, a, b) }",
        W=codes, a=np.array(3, np.uint8), b=np.arange(120, 130).astype(np.uint8),
    )  # fmt: skip
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.layers[0].record.zero_point is not None
        np.testing.assert_array_equal(bundle.layers[0].rebuilt_weight(), codes)
        assert_is_the_mapping(bundle)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_tile_knows_the_scales_of_its_cells(handed_off, granularity):
    bundle = handed_off("Gemm", (4, 7), scheme=MappingScheme(PAIR, GRANULARITIES[granularity]))
    layer = bundle.layers[0]
    weight = layer.rebuilt_weight()  # [inputs, outputs]
    for tile in layer.tiles:
        scale, found = tile.scale(), tile.conductances()
        rows = np.diff([*scale.row_starts, tile.shape[0]])
        columns = np.diff([*scale.column_starts, tile.shape[1]])
        per_cell = np.repeat(np.repeat(scale.values, rows, 0), columns, 1)
        part = weight[slice(*tile.record.inputs), slice(*tile.record.outputs)]
        np.testing.assert_array_equal((found["g_plus"] - found["g_minus"]) / per_cell, part)


def test_keys_in_the_file_are_the_ids_and_devices_and_hashes_are_those_of_the_bytes(handed_off):
    bundle = handed_off("Gemm")
    [layer] = bundle.manifest.layers
    with h5py.File(bundle.arrays_path) as file:
        dataset = file["L000/T0001/g_plus"]
        assert dataset.chunks is None
        assert dataset.dtype == np.dtype("<f4")
        assert layer.tiles[1].id == "L000/T0001"
        assert layer.tiles[1].conductances[0].key == "L000/T0001/g_plus"
        assert layer.tiles[1].conductances[0].sha256 == hashlib.sha256(dataset[()].tobytes()).hexdigest()


def test_the_manifest_names_nodes_bias_factor_and_how_the_weight_unrolls(handed_off):
    [layer] = handed_off("Gemm").manifest.layers
    assert (layer.nodes[0].op_type, layer.nodes[0].slot) == ("Gemm", 1)
    assert layer.bias.initializer == "c"
    assert layer.matrix_view.factor == 0.5
    assert layer.unroll == (
        "reshape it to [13, 10]; one of matrices; rows are axis 0; columns are axis 1; the slowest first, all in "
        "row-major order"
    )


def test_the_bias_of_a_following_add_is_found(parse, tmp_path, normal):
    model = parse("g (float[2, 13] x) => (float y) { p = MatMul(x, W) y = Add(c, p) }", W=normal(13, 10), c=normal(10))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.manifest.layers[0].bias.initializer == "c"


@pytest.mark.parametrize("op", ALL_OPS)
def test_the_plain_model_has_weights_as_initializers_and_passes_the_checker(handed_off, op):
    bundle = handed_off(op)
    plain = onnx.load(bundle.path / "plain.onnx")
    onnx.checker.check_model(plain)
    assert not {node.op_type for node in plain.graph.node} & {"Sub", "Div"}
    assert MANIFEST_KEY not in {entry.key for entry in plain.metadata_props}
    assert {layer.weight for layer in bundle.manifest.layers} <= {tensor.name for tensor in plain.graph.initializer}


@pytest.mark.parametrize("external_data", [False, True])
def test_the_model_in_the_bundle_is_the_mapped_model_byte_by_byte(handed_off, tmp_path, external_data):
    bundle = handed_off("Conv", external_data=external_data)
    source = (tmp_path / "model.gconv.onnx").read_bytes()
    assert (bundle.path / "model.onnx").read_bytes() == source
    assert bundle.manifest.source.sha256 == hashlib.sha256(source).hexdigest()
    names = {file.path for file in bundle.manifest.files}
    assert ("model.gconv.onnx.data" in names) is external_data


def test_equal_bundles_have_equal_bytes(mapped, tmp_path):
    source = mapped("Conv")
    for kind in ("hdf5", "npz"):
        for name in ("a", "b"):
            write_bundle(source, tmp_path / name, (5, 4), arrays=kind, csv=True, overwrite=True)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


LAYOUTS = ["separate_arrays", "adjacent_columns", "interleaved_rows"]


@pytest.mark.parametrize("written", LAYOUTS)
@pytest.mark.parametrize("asked", LAYOUTS)
def test_a_tile_stands_on_physical_arrays_in_every_pair_layout(handed_off, written, asked):
    bundle = handed_off("Gemm", (6, 6), scheme=MappingScheme(PAIR), pair_layout=written)
    assert_is_the_mapping(bundle)
    for tile in bundle.layers[0].tiles:
        plus, minus = tile.conductances().values()
        arrays = tile.physical_arrays(asked)
        high, wide = tile.shape
        if asked == "separate_arrays":
            found = [array.targets[:high, :wide] for array in arrays]
        elif asked == "adjacent_columns":
            [array] = arrays
            found = [array.targets[:high, k : 2 * wide : 2] for k in range(2)]
        else:
            [array] = arrays
            found = [array.targets[k : 2 * high : 2, :wide] for k in range(2)]
        np.testing.assert_array_equal(found, [plus, minus])
        for array in arrays:
            assert asked != written or array.targets.shape == (6, 6)
            assert (array.targets[~array.is_used] == 1.0).all()  # g_min
        assert sum(array.is_used.sum() for array in arrays) == 2 * high * wide


def test_the_number_of_arrays_counts_devices_and_shared_arrays(mapped):
    source = mapped("Gemm", scheme=MappingScheme(CONVERTERS["n pair"]))  # six devices for 13 x 10 weights
    separate = write_bundle(source, array=(7, 5), dry_run=True)
    assert (separate.tiles, separate.arrays) == (4, 24)
    assert separate.utilization == 13 * 10 * 6 / (24 * 35)
    adjacent = write_bundle(source, array=(7, 10), pair_layout="adjacent_columns", dry_run=True)
    assert (adjacent.tiles, adjacent.arrays) == (4, 12)


def test_a_dry_run_writes_nothing(mapped, tmp_path):
    source = mapped("Conv")
    before = sorted(tmp_path.iterdir())
    report = write_bundle(source, array=(5, 4), dry_run=True)
    assert report.output is None
    assert [layer.weight for layer in report.layers] == ["W"]
    assert sorted(tmp_path.iterdir()) == before


def test_the_csv_has_a_line_for_every_device_of_every_cell(handed_off):
    levels = ConductanceLevels.uniform(16, 1.0, 40.0)
    bundle = handed_off("Conv", scheme=MappingScheme(PAIR, levels=levels, storage="codes"), csv=True)
    header, *lines = (bundle.path / "targets.csv").read_text().splitlines()
    assert header == "tile,device,row,column,input,output,target_us,code"
    assert len(lines) == 2 * 7 * 3 * 3 * 2
    [layer] = bundle.layers
    tiles = {tile.id: tile for tile in layer.tiles}
    for line in lines:
        name, device, row, column, first, second, target, code = line.split(",")
        tile = tiles[name]
        cell = int(row), int(column)
        assert (int(first) - tile.record.inputs[0], int(second) - tile.record.outputs[0]) == cell
        assert np.float32(target) == tile.conductances()[device][cell]
        assert int(code) == tile.codes()[device][cell]


def test_whole_kernels_stay_whole(handed_off):
    bundle = handed_off("Conv", (8, 8), whole_kernels=True)
    assert all(tile.inputs[0] % 6 == 0 for tile in bundle.manifest.layers[0].tiles)
    transposed = handed_off("ConvTranspose", (8, 8), whole_kernels=True)
    assert all(tile.outputs[0] % 6 == 0 for tile in transposed.manifest.layers[0].tiles)
    assert_is_the_mapping(transposed)


def test_a_kernel_that_does_not_fit_is_an_error_that_names_the_weight(mapped):
    with pytest.raises(ConfigError, match=r"the weight 'W' of Conv: a kernel of 6 rows .* an array of 5x4 holds 5"):
        write_bundle(mapped("Conv"), array=(5, 4), whole_kernels=True)


def test_a_preset_gives_tolerance_and_array(mapped, tmp_path):
    source = mapped("Gemm", scheme=MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)))
    write_bundle(source, tmp_path / "out", preset="rram-neurram")
    with open_bundle(tmp_path / "out") as bundle:
        assert (bundle.geometry.rows, bundle.geometry.columns) == (256, 256)
        assert bundle.manifest.preset.name == "rram-neurram"
        assert bundle.manifest.preset.tolerance_us == 1.0


def test_conductances_that_the_preset_does_not_reach_are_an_error(mapped):
    with pytest.raises(
        ConfigError, match=r"'W' is mapped to 0 .. 25 µS, but devices of preset 'rram-neurram' reach 1 "
    ):
        write_bundle(mapped("Gemm"), preset="rram-neurram")


@pytest.mark.parametrize("array", ["64x64", 64, (64,), (64, 64.0), (64, 64, 1)])
def test_a_size_of_arrays_that_is_no_pair_of_whole_numbers_is_an_error(mapped, array):
    with pytest.raises(ConfigError, match=r"the size of an array is .*, but should be two whole numbers"):
        write_bundle(mapped("Gemm"), array=array)


def test_without_a_size_of_the_arrays_there_is_no_bundle(mapped):
    with pytest.raises(
        ConfigError, match=r"the size of an array is missing; give it as rows .* such as --array 256x256 "
    ):
        write_bundle(mapped("Gemm"))


def test_weights_in_bodies_are_layers_too(parse, tmp_path, normal):
    model = parse(
        """g (bool c, float[2, 4] x) => (float y) {
            y = If (c) <
                then_branch = a () => (float p) { p = MatMul(x, V) },
                else_branch = b () => (float q) { q = MatMul(x, U) }
            >
        }""",
        V=normal(4, 3), U=normal(4, 3, seed=1),
    )  # fmt: skip
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert {layer.record.weight for layer in bundle.layers} == {"U", "V"}
        assert {layer.record.nodes[0].graph for layer in bundle.layers} == {"If#0.then_branch", "If#0.else_branch"}
        plain = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in onnx.load(bundle.path / "plain.onnx").graph.initializer
        }
        for layer in bundle.layers:
            np.testing.assert_array_equal(layer.rebuilt_weight(), plain[layer.record.weight])


def test_a_data_file_behind_a_link_keeps_the_name_that_the_model_knows(mapped, tmp_path):
    source = mapped("Conv", external_data=True)
    (tmp_path / "blobs").mkdir()
    data = source.with_name("model.gconv.onnx.data")
    data.rename(tmp_path / "blobs" / "1f3a")
    data.symlink_to(tmp_path / "blobs" / "1f3a")
    write_bundle(source, tmp_path / "out", (5, 4))
    assert not (tmp_path / "out" / data.name).is_symlink()
    with open_bundle(tmp_path / "out") as bundle:
        assert_is_the_mapping(bundle)


def test_a_data_file_with_a_name_of_the_bundle_is_an_error(mapped, tmp_path):
    source = mapped("Conv", external_data=True)
    model = load_model(source)
    save_model(model, tmp_path / "plain.onnx", external_data=True, inputs=[source])
    with pytest.raises(
        ConfigError, match=r"'plain.onnx.data' has a name that the bundle needs; map the model to another"
    ):
        write_bundle(tmp_path / "plain.onnx", tmp_path / "out", (5, 4))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [4000])
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(mapped, tmp_path, kind, limit):
    source = mapped("Conv")
    before = sorted(tmp_path.iterdir())
    code = f"""
        import resource
        from onnx_gconv.errors import ConfigError
        from onnx_gconv.handoff import write_bundle
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            write_bundle({str(source)!r}, {str(tmp_path / "out")!r}, (5, 4), arrays={kind!r})
        except ConfigError as error:
            print(error)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith(f"cannot write '{tmp_path / 'out'}'")
    assert found.stdout.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
