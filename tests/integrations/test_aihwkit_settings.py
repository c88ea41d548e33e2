"""What a trained model of aihwkit says of its chip, and what has no equivalent."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from aihwkit.inference import (
    GlobalDriftCompensation,
    PCMLikeNoiseModel,
)
from aihwkit.inference.compensation.drift import GlobalDriftCompensationWithExactReference, PerColumnDriftCompensation
from aihwkit.inference.converter.base import BaseConductanceConverter
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter
from aihwkit.inference.converter.fusion import FusionConductanceConverter
from aihwkit.inference.noise.custom import StateIndependentNoiseModel
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.pcm import CustomDriftPCMLikeNoiseModel
from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.parameters.enums import (
    AnalogMVType,
    BoundManagementType,
    NoiseManagementType,
    RPUDataType,
    WeightModifierType,
    WeightNoiseType,
)
from torch import nn

from onnx_gconv.devices.registry import device_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.integrations.aihwkit import settings_from
from tests.integrations.analog_twins import config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")


def settings_of(settings, *, inputs=6, outputs=4):
    torch.manual_seed(0)
    return settings_from(convert_to_analog(nn.Sequential(nn.Linear(inputs, outputs)), settings).eval())


def with_noise(noise):
    settings = config()
    settings.noise_model = noise
    return settings_of(settings)


POWER_LAW = {"prog_noise_scale": 0.5, "drift_scale": 2.0, "read_noise_scale": 0.25, "t_0": 30.0, "t_read": 1e-6}
OURS = {"programming_scale": 0.5, "drift_scale": 2.0, "read_scale": 0.25, "t_0": 30.0, "t_read": 1e-6}
DRIFT = {"g_lst": [0.0, 10.0, 20.0], "nu_mean_lst": [0.1, 0.08, 0.05], "nu_std_lst": [0.03, 0.02, 0.01]}


@pytest.mark.parametrize(
    ("noise", "device", "expected"),
    [
        (PCMLikeNoiseModel(g_max=20.0, **POWER_LAW), "pcm", {"g_max": 20.0, "g_min": 0.0, **OURS}),
        (
            CustomDriftPCMLikeNoiseModel(DRIFT, g_max=20.0, **POWER_LAW),
            "pcm-custom-drift",
            {"g_us": DRIFT["g_lst"], "nu_mean": DRIFT["nu_mean_lst"], "nu_spread": DRIFT["nu_std_lst"], "g_max": 20.0}
            | {"g_min": 0.0, **OURS},
        ),
        (HermesNoiseModel(num_devices=1, **POWER_LAW), "pcm-hermes-1", {"g_max": 10.35, "g_min": 0.0, **OURS}),
        (HermesNoiseModel(num_devices=2, **POWER_LAW), "pcm-hermes-2", {"g_max": 20.7, "g_min": 0.0, **OURS}),
        (
            StateIndependentNoiseModel(
                prog_coeff=[0.3, 0.0, 0.0], drift_nu_mean=0.2, drift_nu_std=0.02, g_max=30.0, **POWER_LAW
            ),
            "state-independent",
            {"g_max": 30.0, "g_min": 0.0, "sigma_us": 0.3, "nu_mean": 0.2, "nu_spread": 0.02, **OURS},
        ),
        (
            ReRamWan2022NoiseModel(g_max=40.0, noise_scale=0.5),
            "reram-wan2022",
            {"g_max": 40.0, "g_min": 0.0, "noise_scale": 0.5},
        ),
        (
            ReRamCMONoiseModel(acceptance_range=2, prog_noise_scale=0.5, read_noise_scale=0.25, drift_scale=2.0),
            "reram-cmo",
            {"g_max": 88.199997, "g_min": 9.0, "acceptance_percent": 2.0}
            | {"programming_scale": 0.5, "drift_scale": 2.0, "read_scale": 0.25},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_noise_models_become_device_models(noise, device, expected):
    found = with_noise(noise)
    assert (found.device, dict(found.device_settings), found.notes) == (device, expected, ())
    made = device_model(found.device, **found.device_settings)
    scheme = found.configuration.scheme()
    assert (scheme.converter.g_max, scheme.converter.g_min) == (made.g_max, made.g_min)


def test_coefficients_of_ones_own_are_named():
    own = PCMLikeNoiseModel()
    own.prog_coeff = [0.1, 0.2, 0.3]
    found = with_noise(own)
    assert found.device == "pcm"
    [note] = found.notes
    assert note == (
        "layer '0': prog_coeff = [0.1, 0.2, 0.3] of PCMLikeNoiseModel has no equivalent: the device has "
        "[0.26348, 1.965, -1.1731]"
    )


class OwnNoise(PCMLikeNoiseModel):
    """Whatever it does otherwise."""


class OwnConverter(BaseConductanceConverter):
    """Whatever it does."""

    g_max, g_min = 5.0, 0.0


def test_a_noise_model_of_ones_own_leaves_the_device_to_choose():
    found = with_noise(OwnNoise(g_max=5.0))
    assert found.chip == {"drift_compensation": "tile"}
    assert found.configuration.scheme().converter.g_max == 5
    [note] = found.notes
    assert note == (
        "layer '0': the noise model OwnNoise has no equivalent: choose a device for simulate and program_model"
    )


def test_a_converter_of_ones_own_is_refused():
    expected = (
        "the layer '0' has the converter OwnConverter, which has no equivalent; aihwkit's own have one: "
        "SinglePairConductanceConverter, NPairConductanceConverter, DualPairConductanceConverter, "
        "CustomPairConductanceConverter, SingleDeviceConductanceConverter, FusionConductanceConverter. Map with a "
        "converter of your own, registered with onnx_gconv.converters.register_converter"
    )
    noise = PCMLikeNoiseModel()
    noise.g_converter = OwnConverter()
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        with_noise(noise)


def test_the_fusion_converter_has_a_scale_for_each_output():
    noise = PCMLikeNoiseModel()
    noise.g_converter = FusionConductanceConverter(g_max=40)
    found = with_noise(noise)
    scheme = found.configuration.scheme()
    assert (scheme.converter.g_max, scheme.granularity.kind, found.drift_compensation) == (40, "tile_channel", "global")
    assert [note.partition(":")[0] for note in found.notes] == [
        "weights have a scale for each output",
        "layer '0'",
    ]


def test_a_model_without_a_noise_model_gets_pairs():
    settings = config()
    model = convert_to_analog(nn.Sequential(nn.Linear(6, 4)), settings)
    for tile in model.analog_tiles():
        del tile.rpu_config.noise_model, tile.rpu_config.drift_compensation
    found = settings_from(model)
    assert found.chip == {"drift_compensation": "none"}
    assert found.notes == (
        "layer '0': no converter: single pairs with the default range of 0 to 25 \u00b5S are taken",
        "layer '0': no noise model: choose a device for simulate and program_model",
    )


EXACT = (
    "GlobalDriftCompensationWithExactReference: here the reference is what the chip gives after programming, not the "
    "ideal weights"
)
COLUMN = (
    "PerColumnDriftCompensation: a factor for each output needs a scale for each output, and the tiles have one scale "
    "each; drift is compensated with one factor for each tile"
)


@pytest.mark.parametrize(
    ("compensation", "expected", "notes"),
    [
        (None, "none", ()),
        (GlobalDriftCompensation(), "tile", ()),
        (GlobalDriftCompensationWithExactReference(), "tile", (EXACT,)),
        (PerColumnDriftCompensation(), "tile", (COLUMN,)),
    ],
    ids=["none", "global", "exact", "column"],
)
def test_drift_compensation(compensation, expected, notes):
    settings = config()
    settings.drift_compensation = compensation
    found = settings_of(settings)
    assert (found.drift_compensation, found.notes) == (expected, notes)


def test_drift_is_compensated_for_each_output_if_all_outputs_have_the_same_largest_weight():
    settings = config(omega=1.0, columnwise=True)
    settings.drift_compensation = PerColumnDriftCompensation()
    found = settings_of(settings)
    assert (found.drift_compensation, found.notes) == ("column", ())
    assert found.configuration.scheme().granularity.kind == "tile_channel"


def test_layers_of_other_devices_are_named():
    def of_layer(name, _, settings):
        if name == "1":
            settings.noise_model = PCMLikeNoiseModel(g_max=10.0)
            settings.drift_compensation = None
        return settings

    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    found = settings_from(convert_to_analog(net, config(), specific_rpu_config_fun=of_layer))
    assert found.device_settings["g_max"] == 25
    assert found.drift_compensation == "tile"
    [override] = found.configuration.overrides
    assert (override.parameter, override.device.g_max) == (("1.weight",), 10)
    device, compensation = found.notes
    assert device == (
        "layer '1': the device pcm (g_max = 10.0, g_min = 0.0, programming_scale = 1.0, drift_scale = 1.0, "
        "read_scale = 1.0, t_0 = 20.0, t_read = 2.5e-07) differs from most; pcm is used for all"
    )
    assert (
        compensation == "layer '1': drift compensation None differs from most; GlobalDriftCompensation is used for all"
    )


def test_a_limit_that_there_is_not_is_the_largest_layer():
    settings = config()
    settings.mapping.max_output_size = 0
    found = settings_of(settings, inputs=30, outputs=700)
    assert found.array == (512, 700)
    assert found.configuration.scheme().granularity.tile == (512, 700)
    settings.mapping.max_input_size = 0
    found = settings_of(settings, inputs=30, outputs=700)
    assert (found.array, found.handoff) == (None, {})
    assert found.configuration.scheme().granularity.tile == (30, 700)


def test_scales_are_those_of_the_tiles():
    settings = config(4, omega=0.5, columnwise=True, learned="tensor")
    model = convert_to_analog(nn.Sequential(nn.Linear(6, 5)), settings)
    for number, tile in enumerate(model.analog_tiles()):
        tile.out_scaling_alpha.data[:] = 1.5 + number
    [found] = settings_from(model).layers
    assert found.tiles == (((3, 3), (3, 2)), ((3, 3), (3, 2)))
    assert found.parameters == ("0.pieces.0.weight", "0.pieces.1.weight")
    expected = [[scale for tile in row for scale in tile.get_scales().tolist()] for row in model[0].analog_module.array]
    assert [list(row) for row in found.scales] == expected


def test_converters_of_inputs_and_outputs_are_data_and_notes():
    settings = config(4, perfect=False)
    forward = settings.forward
    forward.inp_res, forward.out_res = 1 / (2**7 - 2), 2**9 - 2
    forward.out_noise = 0.04
    settings.pre_post.input_range.enable = True
    model = convert_to_analog(nn.Sequential(nn.Linear(7, 3)), settings)
    for number, tile in enumerate(model.analog_tiles()):
        tile.set_input_range(2.0 + number)
        # aihwkit's torch tiles refuse it, its compiled ones do not.
        tile.rpu_config.forward.w_noise = 0.01
        tile.rpu_config.forward.w_noise_type = WeightNoiseType.ADDITIVE_CONSTANT
    found = settings_from(model)
    [layer] = found.layers
    assert layer.input_ranges == (2.0, 3.0)
    assert (layer.dac_steps, layer.dac_bits, layer.dac_bound) == (126, 7, 1)
    assert (layer.adc_steps, layer.adc_bits, layer.adc_bound) == (510, 9, 12)
    assert found.notes == (
        "layer '0': input ranges: the twin does not clip its inputs",
        "layer '0': 126 steps of inputs (DAC), 7 bits: the twin does not round them",
        "layer '0': a bound of 1 of inputs (DAC): the twin does not clip them",
        "layer '0': 510 steps of outputs (ADC), 9 bits: the twin does not round them",
        "layer '0': a bound of 12 of outputs (ADC): the twin does not clip them",
        "layer '0': out_noise = 0.04: products of the twin have no such error",
        "layer '0': w_noise = 0.01 (ADDITIVE_CONSTANT): products of the twin have no such error",
        "layer '0': noise_management ABS_MAX: the twin needs none, as it does not round or clip",
        "layer '0': bound_management ITERATIVE: the twin needs none, as it does not round or clip",
    )


def test_perfect_products_have_no_converters():
    [layer] = settings_of(config()).layers
    assert (layer.dac_steps, layer.dac_bits, layer.dac_bound, layer.adc_steps) == (None, None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "note"),
    [
        ("inp_noise", 0.1, "inp_noise = 0.1: products of the twin have no such error"),
        ("ir_drop", 1.0, "ir_drop = 1: products of the twin have no such error"),
        ("out_nonlinearity", 0.2, "out_nonlinearity = 0.2: products of the twin have no such error"),
        ("out_scale", 2.0, "out_scale = 2: outputs of the twin are not multiplied by it"),
        ("mv_type", AnalogMVType.SPLIT_MODE, "mv_type SPLIT_MODE: the twin multiplies in one pass"),
    ],
)
def test_errors_of_products_are_notes(name, value, note):
    model = convert_to_analog(nn.Sequential(nn.Linear(6, 4)), ideal_but_not_perfect())
    for tile in model.analog_tiles():
        setattr(tile.rpu_config.forward, name, value)
    assert settings_from(model).notes == (f"layer '0': {note}",)


def ideal_but_not_perfect():
    settings = config(perfect=False)
    forward = settings.forward
    forward.inp_res = forward.out_res = forward.inp_bound = forward.out_bound = -1
    forward.out_noise = 0.0
    forward.noise_management, forward.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    return settings


def test_a_note_is_given_once_for_all_its_layers():
    model = convert_to_analog(nn.Sequential(*(nn.Linear(3, 3) for _ in range(6))), ideal_but_not_perfect())
    for tile in model.analog_tiles():
        modifier = tile.rpu_config.modifier
        modifier.type, modifier.enable_during_test = WeightModifierType.ADD_NORMAL, True
    [note] = settings_from(model).notes
    assert note == (
        "layers '0', '1', '2', '3' and 2 more: modifier ADD_NORMAL with enable_during_test: the twin has the weights "
        "without it"
    )


def test_weights_of_half_precision_are_mapped_in_float32():
    settings = config()
    settings.runtime.data_type = RPUDataType.HALF
    [note] = settings_of(settings).notes
    assert note == (
        "layer '0': weights are float16, in which aihwkit computes conductances, too: here they are computed in float32"
    )


def test_the_conductances_of_one_scale_for_each_output_are_those_of_one_scale():
    # Which is why drift may be compensated for each output where all have the same largest weight.
    settings = config(omega=1.0, columnwise=True)
    settings.drift_compensation = PerColumnDriftCompensation()
    scheme = settings_of(settings).configuration.scheme()
    weights = np.float32([[0.5, -1.0], [1.0, 0.25]])
    whole, _ = SinglePairConductanceConverter().convert_to_conductances(torch.from_numpy(weights))
    for number, row in enumerate(weights):
        (g_plus, g_minus), _ = scheme.converter.convert_to_conductances(row)
        np.testing.assert_array_equal(g_plus, whole[0][number].numpy())
        np.testing.assert_array_equal(g_minus, whole[1][number].numpy())


def test_toml_has_the_notes_as_comments():
    text = settings_of(config(perfect=False)).toml()
    notes = [line for line in text.splitlines() if line.startswith("#")]
    assert len(notes) == 7
    assert notes[0] == "# layer '0': 126 steps of inputs (DAC), 7 bits: the twin does not round them"
    assert "[defaults]\n" in text
    assert math.isclose(settings_of(config(perfect=False)).layers[0].dac_bits, 7)
