"""What AccelForge reads is what the layers compute, and how often devices and inputs have which value."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from onnx_gconv import converters, map_model
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.passes import MapConductances
from onnx_gconv.runtime.session import run_model
from onnx_gconv.schemes.scheme import MappingScheme


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def written(parse, folder, text, *, scheme=None, opsets='"" : 17', inputs=None, options=None, **arrays):
    """A bundle for AccelForge, and what stands in its files."""
    model = parse(text, opsets=opsets, **arrays)
    save_model(model, folder / "plain.onnx")
    MapConductances(scheme=scheme or MappingScheme())(model)
    save_model(model, folder / "mapped.onnx")
    report = write_bundle(
        folder / "mapped.onnx", folder / "out", (64, 32), formats=["accelforge"], inputs=inputs, **(options or {})
    )
    return report, folder / "out/accelforge"


def read(folder, name):
    return yaml.safe_load((folder / name).read_text())


def einsums(folder):
    """For each einsum its tensors with their indices, and the sizes of its variables, by AccelForge's own syntax."""
    for item in read(folder, "workload.yaml")["workload"]["einsums"]:
        tensors = {
            name: [index.split(":")[-1].strip() for index in indices.split(",")]
            for name, indices in re.findall(r"([A-Za-z_]\w*)\[([^\]]*)\]", item["einsum"])
        }
        bounds = (re.fullmatch(r"0 <= (\w+) < (\d+)", text) for text in item["iteration_space_shape"])
        sizes = {match[1]: int(match[2]) for match in bounds}
        yield item["renames"], tensors, sizes


def computed(tensors, sizes, output, given, weight):
    """The einsum, product by product, of a padded input and a weight, both in the order of its indices."""
    total = np.zeros([sizes[index] for index in tensors[output]])
    known = dict(zip(sizes, np.indices(list(sizes.values())).reshape(len(sizes), -1), strict=True))
    place = {name: tuple(eval(index, {}, known) for index in indices) for name, indices in tensors.items()}  # noqa: S307
    input_name, weight_name = (next(name for name in tensors if name.startswith(begin)) for begin in ("I_", "W_"))
    np.add.at(total, place[output], given[place[input_name]].astype(np.float64) * weight[place[weight_name]])
    return total


CONV = """g (float[1, 4, 7, 6] x) => (float y) {
    y = Conv <group = 2, strides = [2, 1], dilations = [1, 2], pads = [1, 1, 1, 2]> (x, W) }"""


def test_a_convolution_is_the_einsum_that_onnxruntime_computes(parse, tmp_path):
    """With strides, dilations, padding and groups."""
    weight, x = normal(6, 2, 3, 3), normal(1, 4, 7, 6, seed=2)
    _, folder = written(parse, tmp_path, CONV, W=weight, inputs={"x": x})
    [(renames, tensors, sizes)] = einsums(folder)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 2))).reshape(1, 2, 2, 9, 9)
    found = computed(tensors, sizes, renames["output"], padded, weight.reshape(2, 3, 2, 3, 3))
    expected = run_model(tmp_path / "plain.onnx", {"x": x}, "none")["y"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "x", "weight", "as_rows"),
    [
        ("float[2, 3, 5] x) => (float y) { y = MatMul (x, W) }", (2, 3, 5), (5, 4), lambda x: x.reshape(6, 5)),
        ("float[2, 5] x) => (float y) { y = Gemm <transB = 1> (x, W) }", (2, 5), (4, 5), lambda x: x),
        ("float[3, 2, 5] x) => (float y) { y = MatMul (x, W) }", (3, 2, 5), (3, 5, 4), lambda x: x),
    ],
)
def test_a_product_is_the_einsum_that_onnxruntime_computes(parse, tmp_path, text, x, weight, as_rows):
    weight, x = normal(*weight), normal(*x, seed=2)
    _, folder = written(parse, tmp_path, f"g ({text}", W=weight, inputs={"x": x})
    [(renames, tensors, sizes)] = einsums(folder)
    matrix = weight.T if "transB" in text else weight
    found = computed(tensors, sizes, renames["output"], as_rows(x), matrix)
    expected = run_model(tmp_path / "plain.onnx", {"x": x}, "none")["y"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


LEVELS = MappingScheme(
    converters.NPairConductanceConverter([1.0, 4.0], g_max=40.0, g_min=4.0), levels=ConductanceLevels.uniform(16, 4, 40)
)


@pytest.mark.parametrize("scheme", [MappingScheme(), LEVELS], ids=["analog", "levels of two pairs"])
def test_histograms_count_the_conductances_of_the_bundle(parse, tmp_path, scheme):
    text, x = "g (float[2, 40] x) => (float y) { y = MatMul (x, W) }", np.abs(normal(2, 40, seed=2))
    report, folder = written(parse, tmp_path, text, scheme=scheme, W=normal(40, 50), inputs={"x": x})
    found = read(folder, "L000.yaml")["variables"]
    with open_bundle(tmp_path / "out") as bundle:
        record = bundle.layers[0].record
        conductances = bundle.layers[0].conductances()
    low, high = record.g_min, record.g_max
    bins = 16 if scheme is LEVELS else 256
    assert len(found["conductance_hists"]) == len(conductances)
    for counts, values in zip(found["conductance_hists"], conductances.values(), strict=True):
        step = (high - low) / (bins - 1)
        edges = low + step * (np.arange(bins + 1) - 0.5)
        np.testing.assert_array_equal(counts, np.histogram(values.astype(np.float64), edges)[0])
    weights = sum(item.coefficient * conductances[item.name].astype(np.float64) for item in record.devices)
    bits = 8  # without levels; with them, (1 + 4) * 2 * 15 + 1 = 151 weights need eight bits as well
    reach = sum(abs(item.coefficient) for item in record.devices) / 2 * (high - low)
    edges = reach / 127 * (np.arange(2**bits) - 127.5)
    np.testing.assert_array_equal(found["weights_hist"], np.histogram(weights, edges)[0])
    edges = x.max() / 127 * (np.arange(256) - 127.5)
    np.testing.assert_array_equal(found["inputs_hist"], np.histogram(x.astype(np.float64), edges)[0])
    assert sum(found["inputs_hist"][:127]) == 0
    why = "because devices have no uniform levels, or more than 256"
    note = f"accelforge: histograms of conductances have 256 bins, {why}: L000"
    assert (note in report.notes) == (scheme is not LEVELS)
    assert (
        f"CELLS = {{'L000': ({len(conductances)}, {4 if scheme is LEVELS else 8}, 'cell.yaml')}}"
        in (folder / "load.py").read_text()
    )
    cell = (folder / "cell.yaml").read_text()
    off = 1e6 / low if low else 1e12
    for name, ohm in (("On", 1e6 / high), ("Off", off)):  # in AccelForge's own pattern, which ends at a plus sign
        number = re.search(rf"^-Resistance{name} \(ohm\):\s*([a-zA-Z0-9.-]+)", cell, re.MULTILINE)
        assert float(number[1]) == pytest.approx(ohm, rel=1e-8)


def test_each_range_of_devices_has_a_cell_and_each_reader_an_einsum(parse, tmp_path):
    text = """g (float[2, 6] x) => (float y, float z) {
        a = MatMul (x, W)  y = MatMul (a, V)  b = Relu (x)  z = MatMul (b, W) }"""
    model = parse(text, opsets='"" : 17', W=normal(6, 5), V=normal(5, 3))
    save_model(model, tmp_path / "plain.onnx")
    (tmp_path / "map.toml").write_text('[[overrides]]\nmatch = "V"\ndevice = { g_max = 40.0 }\n')
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx", config=tmp_path / "map.toml")
    report = write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (64, 32), formats=["accelforge"], bits=(4, 8))
    folder = tmp_path / "out/accelforge"
    cells = [(folder / name).read_text() for name in ("cell.yaml", "cell_2.yaml")]
    assert ["-ResistanceOn (ohm): 40000\n" in cells[0], "-ResistanceOn (ohm): 25000\n" in cells[1]] == [True, True]
    assert sorted(renames["output"] for renames, _, _ in einsums(folder)) == ["O_L000", "O_L000_2", "O_L001"]
    found = read(folder, "L000.yaml")["variables"]
    assert "inputs_hist" not in found
    assert len(found["weights_hist"]) == 15
    note = "histograms of inputs are not in it, because no inputs were given; give some with --inputs: L000, L001"
    assert f"accelforge: {note}" in report.notes


def test_what_is_no_known_product_is_left_out_or_refused(mapped, parse, tmp_path):
    report, folder = written(
        parse, tmp_path, "g (float[1, 3, 4, 4] x) => (float y) { t = ConvTranspose (x, W)  y = Conv (t, V) }",
        W=normal(3, 2, 2, 2), V=normal(5, 2, 3, 3),
    )  # fmt: skip
    reason = "it is a weight of ConvTranspose, whose number of products this format does not know"
    assert f"accelforge: not written, because {reason}: L000" in report.notes
    assert [renames["output"] for renames, _, _ in einsums(folder)] == ["O_L001"]
    assert not (folder / "L000.yaml").exists()
    with pytest.raises(ConfigError, match=r"no layer can be written for AccelForge \(.*ConvTranspose.*\); leave"):
        write_bundle(mapped("ConvTranspose"), tmp_path / "none", (64, 64), formats=["accelforge"])
    fine = MappingScheme(levels=ConductanceLevels.uniform(1 << 16, 0, 25))
    with pytest.raises(ConfigError, match=r"a bin for each number of 17 bits, as many as .* give; give fewer bits"):
        write_bundle(mapped("Gemm", scheme=fine), tmp_path / "none", (64, 64), formats=["accelforge"])


def test_activations_that_are_not_finite_have_no_histogram(parse, tmp_path):
    """The second layer gets infinity from the first one."""
    text = "g (float[1,4] x) => (float[1,2] y) { t = MatMul(x, V) y = MatMul(t, W) }"
    x = np.full((1, 4), 3e38, np.float32)
    report, folder = written(parse, tmp_path, text, V=np.ones((4, 3), np.float32), W=normal(3, 2), inputs={"x": x})
    note = "histograms of inputs are not in it, because activations are not finite in the run: L001"
    assert note in str(report).replace("\n", " ")
    assert sum(read(folder, "L000.yaml")["variables"]["inputs_hist"]) == x.size
    assert "inputs_hist" not in read(folder, "L001.yaml")["variables"]


@pytest.mark.parametrize("format_name", ["accelforge", "zigzag"])
def test_a_run_of_no_sample_is_refused(parse, tmp_path, format_name):
    model = parse("g (float[batch,4] x) => (float[batch,3] y) { y = MatMul(x, W) }", W=normal(4, 3))
    MapConductances(scheme=MappingScheme())(model)
    save_model(model, tmp_path / "mapped.onnx")
    for options in ({"inputs": {"x": np.zeros((0, 4), np.float32)}}, {"dims": {"batch": 0}}):
        with pytest.raises(ConfigError, match="'W': its activations are empty in the run, which needs at least one sa"):
            write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (8, 8), formats=[format_name], **options)
        assert not (tmp_path / "out").exists()
