"""Files for IBM's Fusion chip are those of aihwkit, and aihwkit takes them back.

aihwkit's export asks for tiles of its C++ library, which needs the torch that it was built with; its tiles in Python,
which hold the same weights, stand in for them.
"""

from __future__ import annotations

import csv
from collections import OrderedDict

import numpy as np
import onnx_ir as ir
import pytest
import torch
from aihwkit.exceptions import FusionExportError
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter as TheirSinglePair
from aihwkit.inference.converter.fusion import FusionConductanceConverter
from aihwkit.nn import AnalogConv2d, AnalogLinear, AnalogSequential
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile
from aihwkit.utils import export
from aihwkit.utils.export import (
    _fusion_get_csv_header,
    _fusion_load_csv,
    _fusion_save_csv,
    fusion_export,
    fusion_import,
)

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.handoff.formats import fusion as fusion_module
from onnx_gconv.handoff.formats import layer_conductances
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

EPS = float(np.finfo(np.float32).eps)
FIRST = np.array([[1.0, 0.2], [0.3, -0.4]], np.float32)
SECOND = np.array([[-0.5, 0.6], [0.7, -1.0]], np.float32)


@pytest.fixture(autouse=True)
def tiles_in_python(monkeypatch):
    monkeypatch.setattr(export, "InferenceTile", TorchInferenceTile)


def config():
    """Layers of one tile, whose weights are those of the model."""
    found = TorchInferenceRPUConfig()
    found.mapping.max_input_size = found.mapping.max_output_size = 0
    found.mapping.weight_scaling_omega = 0.0
    found.mapping.weight_scaling_columnwise = False
    return found


def analog(*weights):
    """aihwkit's model of weights [outputs, inputs], or [outputs, inputs, height, width]."""
    layers = []
    for weight in weights:
        if weight.ndim == 2:
            layer = AnalogLinear(weight.shape[1], weight.shape[0], bias=False, rpu_config=config())
        else:
            layer = AnalogConv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False, rpu_config=config())
        layer.set_weights(torch.from_numpy(weight.reshape(len(weight), -1)))
        layers.append(layer)
    return AnalogSequential(*layers)


def renamed(model, **names):
    """Names with dots, which the text of a model cannot have."""
    for name, new in names.items():
        value = model.graph.initializers.pop(name)
        value.name = new
        model.graph.register_initializer(value)


def handed_off(parse, folder, weights, scheme, name, **options):
    """The folder of a format of a chain of layers, whose weights are named as PyTorch names them."""
    nodes = [
        f"v{k + 1} = {'Gemm <transB = 1>' if weight.ndim == 2 else 'Conv'} (v{k}, W{k})"
        for k, weight in enumerate(weights)
    ]
    shape = ", ".join("NCHW"[: weights[0].ndim])
    model = parse(
        f"g (float[{shape}] v0) => (float v{len(weights)}) {{ {' '.join(nodes)} }}",
        **{f"W{k}": weight for k, weight in enumerate(weights)},
    )
    renamed(model, **{f"W{k}": f"{k}.weight" for k in range(len(weights))})
    MapConductances(scheme=scheme)(model)
    save_model(model, folder / "mapped.onnx")
    write_bundle(folder / "mapped.onnx", folder / "out", (3, 2), formats=[name], **options)
    return folder / "out" / name


def normal(*shape, seed=0):
    found = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return found / np.float32(2 * np.abs(found).max())


def for_the_chip(g_max=40.0):
    return MappingScheme(converters.SinglePairConductanceConverter(g_max=g_max), Granularity("channel"))


def numbers(path):
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    return dict(zip(lines[5], (np.array(line, np.float64) for line in lines[6:]), strict=True))


CHAINS = {
    "two Linear": (normal(5, 7), normal(4, 5, seed=1)),
    "Conv": (normal(7, 3, 3, 2),),
    "two Conv": (normal(7, 3, 3, 2), normal(2, 7, 1, 1, seed=1)),
    "one output": (normal(1, 5),),
}


@pytest.mark.parametrize("chain", [*CHAINS, "fixture"])
@pytest.mark.parametrize(("g_max", "g_min"), [(1.0, 0.0), (40.0, 0.0), (25.0, 0.5)])
def test_pairs_are_the_file_of_aihwkit_byte_by_byte(parse, tmp_path, chain, g_max, g_min):
    weights = CHAINS.get(chain, (FIRST, SECOND))
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=g_max, g_min=g_min))
    folder = handed_off(parse, tmp_path, weights, scheme, "fusion-pair")
    fusion_export(analog(*weights), TheirSinglePair(g_max=g_max, g_min=g_min), str(tmp_path / "theirs.csv"))
    assert (folder / "conductances.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_pairs_are_all_g_plus_and_then_all_g_minus(parse, tmp_path):
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=1.0))
    folder = handed_off(parse, tmp_path, (FIRST, SECOND), scheme, "fusion-pair")
    found = numbers(folder / "conductances.csv")
    np.testing.assert_allclose(found["0"], [1.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found["1"], [0.0, 0.6, 0.7, 0.0, 0.5, 0.0, 0.0, 1.0], rtol=1e-6)


def test_magnitudes_and_signs_of_the_chip(parse, tmp_path):
    folder = handed_off(parse, tmp_path, (FIRST, SECOND), for_the_chip(), "fusion")
    found, signs = numbers(folder / "conductances.csv"), numbers(folder / "signs.csv")
    np.testing.assert_allclose(found["0"], [40.0, 8.0, 30.0, 40.0], rtol=1e-6)
    np.testing.assert_allclose(found["1"], [100 / 3, 40.0, 28.0, 40.0], rtol=1e-6)
    np.testing.assert_array_equal(signs["0"], [1, 1, 1, -1])
    np.testing.assert_array_equal(signs["1"], [-1, 1, 1, -1])
    assert "1,1,1,-1\r\n" in (folder / "signs.csv").read_bytes().decode()


@pytest.mark.parametrize("chain", CHAINS)
def test_magnitudes_are_written_as_aihwkit_writes_these_numbers(parse, tmp_path, chain):
    weights = CHAINS[chain]
    folder = handed_off(parse, tmp_path, weights, for_the_chip(), "fusion")
    values = OrderedDict()
    with open_bundle(tmp_path / "out") as bundle:
        for number, (layer, weight) in enumerate(zip(bundle.layers, weights, strict=True)):
            plus, minus = layer.conductances().values()
            assert plus.shape == weight.shape  # [outputs, inputs, ...], as PyTorch has it
            values[str(number)] = np.maximum(plus, minus).reshape(-1).tolist()
    _fusion_save_csv(str(tmp_path / "theirs.csv"), values, _fusion_get_csv_header(analog(*weights)))
    assert (folder / "conductances.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("g_max", [10.0, 40.0])
def test_magnitudes_are_those_of_the_converter_of_aihwkit_up_to_roundings(parse, tmp_path, chain, g_max):
    """It divides g_max by max|W|; a single pair multiplies g_max by the rounded reciprocal."""
    weights = CHAINS[chain]
    folder = handed_off(parse, tmp_path, weights, for_the_chip(g_max), "fusion")
    theirs, _, _ = fusion_export(analog(*weights), FusionConductanceConverter(g_max))
    found = numbers(folder / "conductances.csv")
    assert list(found) == list(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(found[name], values, rtol=2 * EPS)


@pytest.mark.parametrize("chain", CHAINS)
def test_aihwkit_takes_magnitudes_back_from_the_file(parse, tmp_path, chain):
    weights = CHAINS[chain]
    folder = handed_off(parse, tmp_path, weights, for_the_chip(), "fusion")
    model = analog(*weights)
    originals = {
        str(number): [{"original_weights": torch.from_numpy(weight.reshape(len(weight), -1))}]
        for number, weight in enumerate(weights)
    }
    for layer in model:
        layer.set_weights(torch.zeros(layer.get_weights()[0].shape))
    fusion_import(str(folder / "conductances.csv"), model, originals)
    for layer, weight in zip(model, weights, strict=True):
        np.testing.assert_allclose(layer.get_weights()[0].numpy().reshape(weight.shape), weight, rtol=0, atol=1e-6)


def test_aihwkit_takes_magnitudes_back_by_the_names_of_layers_between_digital_ones(parse, tmp_path):
    """Digital modules count in the numbers of aihwkit's header; README.txt says how to do without it."""
    weights = CHAINS["two Linear"]
    model = parse(
        "g (float[N, 7] x) => (float y) { h = Gemm <transB = 1> (x, a) r = Relu(h) y = Gemm <transB = 1> (r, b) }",
        a=weights[0], b=weights[1],
    )  # fmt: skip
    renamed(model, a="0.weight", b="2.weight")
    MapConductances(scheme=for_the_chip())(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4), formats=["fusion"])
    path = tmp_path / "out" / "fusion" / "conductances.csv"
    first, second = analog(*weights)
    theirs = AnalogSequential(first, torch.nn.ReLU(), second)
    originals = {
        name: [{"original_weights": torch.from_numpy(weight)}] for name, weight in zip("02", weights, strict=True)
    }
    with pytest.raises(FusionExportError, match="Header line mismatch"):
        fusion_import(str(path), theirs, originals)
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    values = OrderedDict(zip(lines[5], ([float(text) for text in line] for line in lines[6:]), strict=True))
    first.set_weights(torch.zeros(5, 7))
    fusion_import(values, theirs, originals)
    for layer, weight in zip((first, second), weights, strict=True):
        np.testing.assert_allclose(layer.get_weights()[0].numpy(), weight, rtol=0, atol=1e-6)


def test_aihwkit_loads_pairs_by_the_header_of_its_own_model(parse, tmp_path):
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=1.0))
    folder = handed_off(parse, tmp_path, (FIRST, SECOND), scheme, "fusion-pair")
    header = _fusion_get_csv_header(analog(FIRST, SECOND))
    loaded = _fusion_load_csv(str(folder / "conductances.csv"), header)
    np.testing.assert_allclose(loaded["0"], [1.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.4], rtol=1e-6)


@pytest.mark.parametrize("scheme", [for_the_chip(), MappingScheme(converters.SinglePairConductanceConverter())])
def test_magnitudes_signs_and_scales_give_the_weights(parse, tmp_path, scheme):
    weight = normal(7, 3, 3, 2)
    weight[2, 1] = 0.0
    folder = handed_off(parse, tmp_path, (weight,), scheme, "fusion")
    value, sign = (numbers(folder / name)["0"] for name in ("conductances.csv", "signs.csv"))
    with (folder / "scales.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["name"] for line in lines} == {"0"}
    starts = [int(line["first_output"]) for line in lines]
    scales = np.repeat([float(line["scale_us"]) for line in lines], np.diff([*starts, len(weight)]))
    rebuilt = (value * sign).reshape(len(weight), -1) / scales[:, None]
    np.testing.assert_allclose(rebuilt.reshape(weight.shape), weight, rtol=4 * EPS)
    assert (sign.reshape(weight.shape)[2, 1] == 0).all()


@pytest.mark.parametrize("block_cells", [5, 40])
@pytest.mark.parametrize("name", ["fusion", "fusion-pair"])
@pytest.mark.parametrize("external_data", [False, True])
def test_the_file_does_not_depend_on_how_much_is_read_at_once(
    mapped, tmp_path, monkeypatch, name, block_cells, external_data
):
    source = mapped("Conv", scheme=for_the_chip(), external_data=external_data)
    files = []
    for target in ("a", "b"):
        write_bundle(source, tmp_path / target, (5, 4), formats=[name])
        files.append((tmp_path / target / name / "conductances.csv").read_bytes())
        monkeypatch.setattr(layer_conductances, "_BLOCK_CELLS", block_cells)
        monkeypatch.setattr(fusion_module, "_TEXT_CELLS", 3)
    assert files[0] == files[1]


def test_each_matrix_is_a_layer_of_its_own(mapped, tmp_path):
    write_bundle(mapped("grouped Conv", scheme=for_the_chip()), tmp_path / "out", (5, 4), formats=["fusion"])
    lines = (tmp_path / "out" / "fusion" / "conductances.csv").read_bytes().decode().splitlines()
    assert lines[:6] == ["1,2,3", ",".join(["AnalogConv2d"] * 3), "36,36,36", "3,3,3", "12,12,12", "W[0],W[1],W[2]"]
    with open_bundle(tmp_path / "out") as bundle:
        plus, minus = bundle.layers[0].conductances().values()
    whole = (plus + minus).reshape(3, -1)  # the groups follow each other in a weight [outputs, inputs of a group, ...]
    np.testing.assert_array_equal([np.array(line.split(","), np.float32) for line in lines[6:]], whole)


@pytest.mark.parametrize(
    ("op", "classes"),
    [
        ("MatMul", {"AnalogLinear"}),
        ("Conv", {"AnalogConv2d"}),
        ("ConvTranspose", {"ConvTranspose"}),
        ("LSTM", {"AnalogLinear"}),
    ],
)
def test_classes_are_those_of_aihwkit_or_the_op_where_it_has_none(mapped, tmp_path, op, classes):
    write_bundle(mapped(op, scheme=for_the_chip()), tmp_path / "out", (5, 4), formats=["fusion"])
    lines = (tmp_path / "out" / "fusion" / "conductances.csv").read_text().splitlines()
    assert set(lines[1].split(",")) == classes


def test_layers_of_one_name_get_names_of_their_own(parse, tmp_path):
    model = parse(
        "g (float[N, 2] x) => (float y) { h = Gemm <transB = 1> (x, a) y = Gemm <transB = 1> (h, b) }",
        a=FIRST,
        b=SECOND,
    )
    renamed(model, a="fc", b="fc.weight")
    MapConductances(scheme=for_the_chip())(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4), formats=["fusion"])
    assert list(numbers(tmp_path / "out" / "fusion" / "conductances.csv")) == ["L000:fc", "L001:fc"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("fc", "fc.weight", "L000:fc"), ["L000:L000:fc", "L001:fc", "L002:L000:fc"]),
        (("fc[0]", "fc", "other"), ["L000:fc[0]", "L001:fc[0]", "fc[1]", "other"]),
    ],
)
def test_a_name_that_another_one_becomes_is_still_its_own(parse, tmp_path, names, expected):
    """aihwkit's reader keeps one of several layers with one name, and says nothing."""
    several = "[0]" in names[0]
    model = parse(
        """g (float[2, 2, 2] x) => (float p, float q, float r) {
            p = MatMul(x, a) q = MatMul(x, b) r = MatMul(x, c)
        }""",
        a=FIRST, b=np.stack([FIRST, SECOND]) if several else SECOND, c=FIRST * 2,
    )  # fmt: skip
    renamed(model, **dict(zip("abc", names, strict=True)))
    MapConductances(scheme=for_the_chip())(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (5, 4), formats=["fusion"])
    path = tmp_path / "out" / "fusion" / "conductances.csv"
    assert list(numbers(path)) == expected
    header = "".join(path.read_text().splitlines(keepends=True)[:5])
    assert list(_fusion_load_csv(str(path), header)) == expected
    with (path.parent / "scales.csv").open(newline="") as file:
        assert list(dict.fromkeys(line["name"] for line in csv.DictReader(file))) == expected


CUT_BY_DEFAULT = "aihwkit cuts a layer of more than 512 inputs or outputs into tiles"


@pytest.mark.parametrize(("inputs", "outputs"), [(513, 2), (2, 513), (512, 512)])
@pytest.mark.parametrize("name", ["fusion", "fusion-pair", "csv"])
def test_layers_that_aihwkit_cuts_by_default_are_named(parse, tmp_path, name, inputs, outputs):
    model = parse(f"g (float[N, {inputs}] x) => (float y) {{ y = MatMul(x, W) }}", W=normal(inputs, outputs))
    MapConductances(scheme=for_the_chip())(model)
    save_model(model, tmp_path / "mapped.onnx")
    report = write_bundle(tmp_path / "mapped.onnx", array=(64, 64), formats=[name], dry_run=True)
    found = [note for note in report.notes if CUT_BY_DEFAULT in note]
    tiles = TorchInferenceRPUConfig().mapping
    is_cut = inputs > tiles.max_input_size or outputs > tiles.max_output_size
    assert len(found) == int(is_cut and name != "csv")
    assert all(note.endswith("here it is whole: L000") for note in found)


PAIR_FROM_1 = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
N_PAIR = converters.NPairConductanceConverter([1.0, 2.0])
SINGLE_DEVICE = converters.SingleDeviceConductanceConverter(g_max=40.0)


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        (
            "fusion",
            MappingScheme(PAIR_FROM_1),
            r"leaves the other at 0 µS, .* to 2 devices of 1 .. 40 µS; map .* --g-min 0",
        ),
        ("fusion", MappingScheme(N_PAIR), "NPairConductanceConverter maps the weight to 4 devices of 0 .. 25 µS"),
        (
            "fusion",
            for_the_chip(9.0),
            "the chip's g_max is 10 .. 40 µS, but that of the weight is 9 µS; map with another",
        ),
        ("fusion", for_the_chip(41.0), "10 .. 40 µS, but that of the weight is 41 µS"),
        (
            "fusion",
            MappingScheme(converters.SinglePairConductanceConverter(), Granularity("tile", (5, 4))),
            "one scale for each output, but with the granularity tile an output has 3; map with --granularity channel",
        ),
        ("fusion-pair", MappingScheme(N_PAIR), r"one pair of devices, but .* to 4 devices .* choose csv or npy"),
        ("fusion-pair", MappingScheme(SINGLE_DEVICE), "one pair of devices, but SingleDeviceConductanceConverter"),
    ],
)
def test_what_the_file_cannot_hold_is_an_error_before_anything_is_written(mapped, tmp_path, name, scheme, message):
    source = mapped("Gemm", scheme=scheme)
    for dry_run in (False, True):
        with pytest.raises(
            ConfigError, match=rf"model.gconv.onnx': the weight 'W' cannot be written as {name}: .*{message}"
        ):
            write_bundle(source, tmp_path / "out", (5, 4), formats=[name], dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_a_pair_of_which_both_devices_conduct_is_no_magnitude(mapped, tmp_path):
    source = mapped("Gemm", scheme=for_the_chip())
    model = load_model(source)
    minus = model.graph.initializers["W.g_minus"]
    minus.const_value = ir.tensor(np.full(minus.shape.numpy(), 1.0, np.float32), name="W.g_minus")
    save_model(model, tmp_path / "changed.onnx")
    with pytest.raises(ModelError, match=r"'W' cannot be written as fusion: both devices of a pair are above 0 µS"):
        write_bundle(tmp_path / "changed.onnx", tmp_path / "out", (5, 4), formats=["fusion"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("storage", ["float", "codes"])
def test_levels_are_written_as_conductances(mapped, tmp_path, storage):
    levels = ConductanceLevels.uniform(16, 0.0, 30.0)
    scheme = MappingScheme(converters.SinglePairConductanceConverter(30.0), levels=levels, storage=storage)
    report = write_bundle(mapped("Gemm", scheme=scheme), tmp_path / "out", (5, 4), formats=["fusion"])
    found = numbers(tmp_path / "out" / "fusion" / "conductances.csv")["W"]
    assert set(found) <= set(range(0, 31, 2))
    assert any("codes of levels are not in it" in note for note in report.notes) is (storage == "codes")
