"""What callers in Python say beside a configuration: the options are the settings, and contradict nothing."""

from __future__ import annotations

import re
from typing import Literal, get_origin, get_type_hints

import onnx_ir as ir
import pytest

from onnx_gconv import inspect_model, map_model
from onnx_gconv.configuration import Configuration, DeviceSettings, ModelSettings, WeightSettings
from onnx_gconv.configuration.options import MappingOptions, configuration_of
from onnx_gconv.converters import NPairConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.devices.presets import preset, presets
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme


@pytest.fixture
def model(parse, normal):
    return parse(
        "g (float[2,3] x) => (float[2,4] y) { a = MatMul(x, W) y = MatMul(a, V) }", W=normal(3, 4), V=normal(4, 4)
    )


def scheme(converter=None, config=None, **options):
    return configuration_of(config, converter, options).scheme()


def test_the_options_are_the_settings():
    """The converter is a parameter of its own."""
    settings = [*WeightSettings.model_fields, *ModelSettings.model_fields, *DeviceSettings.model_fields]
    assert sorted([*MappingOptions.__annotations__, "converter"]) == sorted(settings)


def test_what_may_be_chosen_is_what_the_settings_check():
    types = get_type_hints(MappingOptions)
    for settings in (WeightSettings, ModelSettings):
        for name, field in settings.model_fields.items():
            if get_origin(field.annotation) is Literal:
                assert types[name] == field.annotation | None, name
            if field.annotation is bool:
                assert types[name] == bool | None, name


def test_the_range_and_the_preset_are_options_as_on_the_command_line():
    assert scheme(g_max=40.0, g_min=1.0).converter == SinglePairConductanceConverter(40.0, 1.0)
    n_pair = {"name": "n-pair", "factors": [1, 3]}
    assert scheme(n_pair, g_max=10.0).converter == NPairConductanceConverter([1, 3], g_max=10.0)
    device = preset("pcm-joshi")
    assert scheme(preset="pcm-joshi").converter.g_max == device.g_max
    narrowed = scheme(preset="pcm-joshi", g_max=20.0).converter
    assert (narrowed.g_min, narrowed.g_max) == (device.g_min, 20.0)
    assert scheme(preset="pcm-joshi") == scheme(device="pcm-joshi")
    assert scheme(preset="isaac", granularity="tile").granularity.tile == preset("isaac").array


@pytest.mark.parametrize("converter", [None, SinglePairConductanceConverter(25e-6), "two-sided-pair"])
def test_a_range_that_may_be_in_siemens_gets_a_question(converter):
    given = {} if isinstance(converter, SinglePairConductanceConverter) else {"g_max": 25e-6}
    question = "conductances up to 2.5e-05 µS are below a nanosiemens; is that siemens? Then give 25, in µS, or unit"
    with pytest.raises(ConfigError, match=re.escape(question)):
        scheme(converter, **given)
    assert scheme(converter, **given, unit="uS").converter.g_max == 25e-6
    with pytest.raises(ConfigError, match="below a nanosiemens"):
        scheme(levels=[0.0, 1e-6, 2e-6])


def test_siemens_are_converted_digit_by_digit():
    assert scheme(g_max=25e-6, g_min=1e-7, unit="S").converter == SinglePairConductanceConverter(25.0, 0.1)
    assert scheme(preset="pcm-joshi", g_max=2e-5, unit="S").converter.g_min == preset("pcm-joshi").g_min


def test_siemens_that_say_nothing_or_too_much_are_refused():
    assert scheme(g_max=0.02, unit="S").converter.g_max == 20000.0
    with pytest.raises(ConfigError, match="neither is given with it; give them in siemens, or leave the unit out"):
        scheme(unit="S")
    with pytest.raises(ConfigError, match=r"g_min = 1 siemens is far more .* is that µS\? .* \(1 µS are 1e-06 siemens"):
        scheme(g_max=25e-6, g_min=1.0, unit="S")


SLICED = [item for item in presets() if item.levels is not None]


@pytest.mark.parametrize("item", SLICED, ids=lambda item: item.name)
@pytest.mark.parametrize("options", [{}, {"levels": "preset"}])
def test_slices_have_the_bits_that_cells_of_a_preset_hold(item, options):
    converter = item.converter or "bit-sliced-pair"
    found = scheme(converter, preset=item.name, **options).converter
    assert (found.natural_levels, found.bits) == (item.levels, 8)
    if item.converter is not None:  # it is the default, and its settings need not name it
        assert scheme(preset=item.name, **options).converter == found
        assert scheme({"bits": 6}, preset=item.name, **options).converter.bits == 6
    fewer = {"name": converter, "slice_bits": 1}
    assert scheme(fewer, preset=item.name, **options).converter.natural_levels == 2


def test_slices_that_cells_of_a_preset_cannot_hold_are_refused():
    message = (
        "slices of 4 bits need 16 levels, but cells of preset 'isaac' have 4; take slice_bits = 2, or give the range"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        scheme({"slice_bits": 4}, preset="isaac")


def test_settings_without_a_name_are_those_of_the_default_converter():
    assert scheme({"exact": True}).converter == SinglePairConductanceConverter(exact=True)
    with pytest.raises(ConfigError, match="converter: slice_bits needs the converter bit-sliced-pair or"):
        scheme({"slice_bits": 2})
    with pytest.raises(ConfigError, match="converter: exact needs the converter single-pair, not bit-sliced-offset"):
        scheme({"exact": True}, preset="isaac")


def test_a_range_replaces_the_device_of_a_configuration():
    configuration = Configuration.of({"defaults": {"device": {"g_max": 40.0, "g_min": 1.0}}})
    assert scheme(config=configuration, g_max=30.0).converter == SinglePairConductanceConverter(30.0)


@pytest.mark.parametrize(
    ("converter", "options", "message"),
    [
        (None, {"device": "pcm-joshi", "g_max": 20.0}, "g_max: device says which devices there are, too; "),
        (
            None,
            {"device": {"g_max": 20.0}, "preset": "pcm-joshi"},
            "preset: device says which devices there are, too; ",
        ),
        (
            SinglePairConductanceConverter(),
            {"g_max": 20.0},
            "g_max: the device has g_max = 20 µS, but the converter is an",
        ),
        (SinglePairConductanceConverter(), {"preset": "isaac"}, "preset: the device has g_min = "),
        (None, {"g_max": "20"}, "g_max: should be a number, but it is '20'"),
        (None, {"g_max": 1.0, "g_min": 2.0}, "g_max, g_min: g_min should be smaller than g_max, but g_min=2.0"),
        (None, {"preset": "no-such"}, "preset: "),
        ("triple", {}, "converter: there is no converter 'triple'; "),
        (
            {"name": "offset", "bits": 3},
            {},
            "converter: bits needs the converter bit-sliced-pair or bit-sliced-offset, ",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(converter, options, message):
    with pytest.raises(ConfigError) as error:
        scheme(converter, **options)
    assert str(error.value).startswith(message)


def test_an_object_and_its_own_range_do_not_contradict_each_other():
    assert scheme(SinglePairConductanceConverter(40.0, 1.0), g_max=40.0).converter.g_min == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gmax", "there is no option 'gmax'; did you mean g_max"),
        ("color", "there is no option 'color'; there are allow_lossy_integers, clipping, conductance_dtype, device, "),
    ],
)
def test_an_unknown_option_is_refused_everywhere(tmp_path, model, name, message):
    ir.save(model, tmp_path / "in.onnx")
    calls = (
        lambda **options: map_model(tmp_path / "in.onnx", **options),
        lambda **options: inspect_model(tmp_path / "in.onnx", **options),
        MapConductances,
    )
    for call in calls:
        with pytest.raises(TypeError) as error:
            call(**{name: 3})
        assert str(error.value).startswith(message)


# MapConductances takes what map_model takes


def test_the_pass_takes_the_options_of_map_model(tmp_path, model):
    ir.save(model, tmp_path / "in.onnx")
    options = {"g_max": 30.0, "granularity": {"tile": "2x2"}, "levels": 16, "storage": "codes", "exclude": ["V"]}
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx", "offset", **options)
    in_memory = ir.load(tmp_path / "in.onnx")
    MapConductances("offset", **options)(in_memory)
    assert read_manifest(in_memory) == read_manifest(ir.load(tmp_path / "out.onnx"))


def test_options_of_the_pass_win_over_its_configuration(tmp_path, model):
    (tmp_path / "gconv.toml").write_text('[defaults]\ngranularity = "channel"\n[model]\nexclude = ["V"]\n')
    MapConductances(configuration=tmp_path / "gconv.toml", granularity="tensor", g_max=30.0)(model)
    [record] = read_manifest(model).weights
    assert (record.name, record.granularity, record.converter.parameters["g_max"]) == ("W", "tensor", 30.0)


def test_a_scheme_goes_with_options_for_the_model_alone(model):
    MapConductances(scheme=MappingScheme(granularity=Granularity("channel")), exclude=["V"])(model)
    [record] = read_manifest(model).weights
    assert (record.name, record.granularity) == ("W", "channel")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"granularity": "tensor"},
            "granularity: the scheme says how weights are mapped; make one with that granularity",
        ),
        ({"g_max": 20.0}, "g_max: the scheme says how weights are mapped; make one with that g_max"),
        ({"converter": "offset"}, "give a converter or a scheme, which has a converter, but not both"),
        (
            {"configuration": Configuration()},
            "give a configuration or a scheme, which says how all weights are mapped, bu",
        ),
    ],
)
def test_a_scheme_and_what_says_the_same_are_refused(arguments, message):
    with pytest.raises(ConfigError) as error:
        MapConductances(scheme=MappingScheme(), **arguments)
    assert str(error.value).startswith(message)


def test_the_pass_raises_no_opset():
    with pytest.raises(
        ConfigError, match="upgrade_opset: this pass leaves the opset as it is; let RaiseOpset run before"
    ):
        MapConductances(upgrade_opset=True)
    MapConductances(configuration=Configuration(model=ModelSettings(upgrade_opset=True)), upgrade_opset=False)
