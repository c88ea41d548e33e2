"""A device model of pairs: both devices of a pair fit together however they are read, written or simulated."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import onnx_gconv as gconv
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.devices.registry import device_model
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import MapConductances
from onnx_gconv.runtime.session import run_model
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.simulation import program_model, simulate
from onnx_gconv.simulation.bench import RANDOM_INPUTS
from onnx_gconv.simulation.chips import simulated_tensor
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedOfPairs, SimulatedTensor, in_memory
from onnx_gconv.simulation.chips.streams import ChipStreams
from tests.scheme_choices import CONVERTERS

AFM = device_model("pcm-afm2025")
PAIR_180 = gconv.SinglePairConductanceConverter(g_max=180.0)


def simulated(signed, dtype=np.float32, model=AFM):
    """The targets and the devices of both polarities."""
    targets = [np.maximum(each, 0).astype(dtype) for each in (signed, -signed)]
    streams = partial(ChipStreams(3).generator, ("", "W"))
    of_pairs = [
        SimulatedOfPairs(
            model,
            0.0,
            partial(streams, number),
            partners=ir.tensor(targets[1 - number]),
            is_plus=number == 0,
            streams_of_pairs=partial(streams, 0),
        )
        for number in range(2)
    ]
    return targets, of_pairs


def signed_targets(count):
    return np.random.default_rng(0).uniform(-180, 180, count).astype(np.float32)


@given(data=st.data())
def test_any_part_is_that_of_the_whole_and_fits_its_partner(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_tensor, "BLOCK_ELEMENTS", 16)
        patch.setattr(simulated_tensor, "CHUNK_ELEMENTS", 64)
        signed = signed_targets(data.draw(st.integers(1, 200))) * data.draw(st.sampled_from([0.05, 1.0]))
        targets, devices = simulated(signed)
        tensors = [SimulatedTensor(ir.tensor(array), each) for array, each in zip(targets, devices, strict=True)]
        whole = [tensor.numpy() for tensor in tensors]
        assert not ((whole[0] > 0) & (whole[1] > 0)).any()
        assert (np.maximum(*whole)[np.abs(signed) > 100] > 0).all()
        start = data.draw(st.integers(0, signed.size - 1))
        stop = data.draw(st.integers(start + 1, signed.size))
        for tensor, all_of_it in zip(tensors, whole, strict=True):
            parts = np.concatenate([part.copy() for part in tensor.chunks(start, stop)])
            assert np.array_equal(parts, all_of_it[start:stop])
        for array, each, all_of_it in zip(targets, devices, whole, strict=True):
            assert np.array_equal(in_memory(array, each, keeps_programmed=False).read_us, all_of_it)


def test_half_precision_is_computed_in_float32_and_rounded():
    signed = signed_targets(500).astype(np.float16)
    halves, devices = simulated(signed, np.float16)
    exact, in_float32 = simulated(signed.astype(np.float32))
    for half, each, array, other in zip(halves, devices, exact, in_float32, strict=True):
        found = SimulatedTensor(ir.tensor(half), each).numpy()
        assert np.array_equal(found, SimulatedTensor(ir.tensor(array), other).numpy().astype(np.float16))


class Odd(type(AFM)):
    name = "odd"

    def program_pair(self, plus_us, minus_us, _):
        return plus_us, minus_us


def test_a_model_of_ones_own_that_programs_no_devices_is_named():
    targets, [plus, _] = simulated(signed_targets(10), model=Odd())
    with pytest.raises(gconv.ConfigError, match=r"^device odd: `program` gives a ndarray, but no Devices$"):
        SimulatedTensor(ir.tensor(targets[0]), plus).numpy()


# Models


@pytest.fixture
def files(parse, normal, tmp_path):
    """Writes a model and how it is mapped."""

    def build(converter=PAIR_180, granularity="channel", *, external=False, **scheme):
        text = "g (float[2,9] x) => (float[2,4] y) { h = MatMul(x, W) a = Relu(h) y = Gemm <transB = 1> (a, V, b) }"
        constants = {"W": normal(9, 7), "V": normal(4, 7, seed=1), "b": normal(4, seed=2)}
        save_model(parse(text, **constants), tmp_path / "plain.onnx")
        model = load_model(tmp_path / "plain.onnx")
        MapConductances(scheme=gconv.MappingScheme(converter, Granularity(granularity), **scheme))(model)
        save_model(model, tmp_path / "mapped.onnx", external_data=external)
        return tmp_path / "plain.onnx", tmp_path / "mapped.onnx"

    return build


def located(path):
    model = load_model(path)
    values = ModelValues(model)
    return {record.name: locate(record, values) for record in read_manifest(model).weights}


@pytest.mark.parametrize("device", ["pcm-afm2025", "stuck pairs"])
@pytest.mark.parametrize("external", [False, True], ids=["in one file", "external data"])
def test_a_chip_as_a_model_is_the_trial_of_its_seed(files, tmp_path, normal, external, device):
    settings = {"stuck_low": 0.05, "stuck_high": 0.05} if device == "stuck pairs" else {}
    plain, mapped = files(external=external)
    x = normal(2, 9, seed=3)
    np.savez(tmp_path / "x.npz", x=x)
    options = {"settings": settings, "drift_compensation": "global", "seed": 1}
    report = simulate(mapped, "pcm-afm2025", times=["0s", "1h"], repeats=2, inputs=tmp_path / "x.npz", **options)
    program_model(mapped, tmp_path / "chip.onnx", "pcm-afm2025", time="1h", chip=1, **options)
    outputs = [run_model(tmp_path / name, {"x": x}, "all")["y"].astype(float) for name in ("chip.onnx", "mapped.onnx")]
    expected = 10 * math.log10(np.square(outputs[1]).sum() / np.square(outputs[0] - outputs[1]).sum())
    assert report.times[1].values[1] == pytest.approx(expected, abs=1e-3)
    onnx.checker.check_model(tmp_path / "chip.onnx", full_check=True)
    assert gconv.verify(plain, tmp_path / "chip.onnx").passed
    if not settings:
        for weight in located(tmp_path / "chip.onnx").values():
            plus, minus = (tensor.numpy() for tensor in weight.tensors)
            assert ((plus == 0) | (minus == 0)).all()
            assert max(plus.max(), minus.max()) > 100
    assert report.notes == ()


@pytest.mark.parametrize("granularity", ["channel", "tile_channel"])
def test_weights_of_a_chip_have_the_published_errors(parse, tmp_path, granularity):
    """Each output has a largest weight of its own, which is 180 µS; all others of a column are one part of it."""
    parts, largest = np.array([0.5, 0.01, 0.1, 0.25, 0.9]), np.array([1.0, 0.1, 3.0, 0.01, 0.5])
    weight = np.tile(parts * largest, (5000, 1)).astype(np.float32)
    weight[::2] *= -1
    weight[::500] = largest  # one in each tile of 512 inputs or fewer
    text = "g (float[1,5000] x) => (float[1,5] y) { y = MatMul(x, W) }"
    model = parse(text, W=weight)
    tile = (512, 5) if granularity == "tile_channel" else None
    MapConductances(scheme=gconv.MappingScheme(PAIR_180, Granularity(granularity, tile)))(model)
    save_model(model, tmp_path / "mapped.onnx")
    report = program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", "pcm-afm2025", seed=2)
    assert report.notes == ()
    found = located(tmp_path / "chip.onnx")["W"].rebuilt.numpy().astype(np.float64)
    low = [2.939751381126213e-05, -0.00371581208142707, 0.22419685954327148, 2.5797410660159494]
    high = [1.2329755395573392e-05, -0.003054993405157235, 0.2453487119885723, 2.110295720240385]
    others = np.arange(5000) % 500 != 0
    for column, (part, most) in enumerate(zip(parts, largest, strict=True)):
        g = 180 * part
        errors = found[others, column] / most * 180 * np.sign(weight[others, column]) - g
        sigma = np.polyval(high if g > 52.5 else low, g)
        assert scipy.stats.kstest(errors / sigma, "norm").pvalue > 1e-4


@pytest.mark.parametrize("converter", sorted(set(CONVERTERS) - {"single pair", "exact"}))
def test_weights_without_pairs_of_which_one_device_is_told_0_are_refused(files, tmp_path, converter):
    _, mapped = files(CONVERTERS[converter], "tensor")
    message = (
        f"'{mapped}': the weight 'W' is mapped with {type(CONVERTERS[converter]).__name__}, but the device model "
        "describes pairs in which one target is 0 \u00b5S; map with --converter single-pair --g-min 0, or choose "
        "another device"
    )
    for use in (partial(program_model, mapped, tmp_path / "chip.onnx"), partial(simulate, mapped)):
        with pytest.raises(gconv.ConfigError) as raised:
            use("pcm-afm2025")
        assert str(raised.value) == message
    assert not (tmp_path / "chip.onnx").exists()


@pytest.mark.parametrize(
    ("converter", "granularity"), [(PAIR_180, "tensor"), (gconv.SinglePairConductanceConverter(), "channel")]
)
def test_weights_that_are_scaled_otherwise_than_in_the_fit_are_noted(files, tmp_path, converter, granularity):
    _, mapped = files(converter, granularity)
    note = (
        "the figures of the device pcm-afm2025 are for weights of the granularity channel or tile_channel with a g_max "
        "of 180 \u00b5S; 2 of 2 weights are mapped otherwise, such as 'W'; map with --granularity channel --g-max 180"
    )
    assert program_model(mapped, tmp_path / "chip.onnx", "pcm-afm2025").notes == (note,)
    assert simulate(mapped, "pcm-afm2025", times=["0s"], repeats=1).notes == (RANDOM_INPUTS, note)


def test_levels_and_exact_scales_are_single_pairs_too(files, tmp_path):
    exact = gconv.SinglePairConductanceConverter(g_max=180.0, exact=True)
    coded = {"levels": ConductanceLevels.uniform(16, 0, 180), "storage": "codes"}
    for converter, options in ((exact, {}), (PAIR_180, coded)):
        plain, mapped = files(converter, **options)
        program_model(mapped, tmp_path / "chip.onnx", "pcm-afm2025", seed=1)
        assert gconv.verify(plain, tmp_path / "chip.onnx").passed


def test_a_plain_model_is_mapped_to_the_range_of_the_pairs(files):
    plain, mapped = files()
    options = {"times": ["0s"], "repeats": 1}
    report = simulate(plain, "pcm-afm2025", mapping={"granularity": "channel"}, **options)
    assert report.times == simulate(mapped, "pcm-afm2025", **options).times
    note, _ = report.notes
    assert "SinglePairConductanceConverter of 0 to 180 \u00b5S" in note
