"""Defaults, overrides in their order, and settings on top decide how every weight is mapped."""

from __future__ import annotations

import pytest

from onnx_gconv.configuration import Configuration, ModelSettings, WeightSettings
from onnx_gconv.configuration.options import configuration_of
from onnx_gconv.converters import (
    NPairConductanceConverter,
    OffsetConductanceConverter,
    SinglePairConductanceConverter,
)
from onnx_gconv.converters.registry import CONVERTER_KINDS
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.devices.presets import preset as preset_of
from onnx_gconv.devices.presets import presets
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.weights import SkipReason, find_weights

TEXT = """g (float[2,4] x, float[1,4,8,8] image) => (float y, float z) {
    a = MatMul(x, first)
    b = MatMul(a, second)
    y = Gemm(b, head)
    z = Conv(image, stem)
}"""


@pytest.fixture
def survey(parse, normal):
    model = parse(TEXT, first=normal(4, 4), second=normal(4, 4), head=normal(4, 4), stem=normal(4, 4, 3, 3))
    names = ["/encoder/first/MatMul", "/encoder/second/MatMul", "/head/Gemm", "/stem/Conv"]
    for node, name in zip(model.graph, names, strict=True):
        node.name = name
    return find_weights(model)


def schemes(resolved):
    return {weight.name: scheme for weight, scheme in zip(resolved.survey.weights, resolved.schemes, strict=True)}


def test_a_configuration_that_says_nothing_maps_all_weights_by_the_default_scheme(survey):
    resolved = Configuration().resolve(survey)
    assert schemes(resolved) == dict.fromkeys(["first", "second", "head", "stem"], MappingScheme())
    assert resolved.survey.skipped == survey.skipped
    assert (resolved.overrides, resolved.matches) == (((),) * 4, ())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"op": "Conv"}, ["stem"]),
        ({"op": ["Conv", "Gemm"]}, ["head", "stem"]),
        ({"weight": "*"}, ["first", "second", "head", "stem"]),
        ({"weight": "*st*"}, ["first", "stem"]),
        ({"module": "encoder"}, ["first", "second"]),
        ({"node": "/encoder/*"}, ["first", "second"]),
        ({"node": "/encoder/*", "weight": "s*"}, ["second"]),
        ({"match": "stem"}, ["stem"]),
        ({"match": "MatMul"}, ["first", "second"]),
        ({"match": "encoder", "weight": ["first", "head"]}, ["first"]),
    ],
)
def test_an_override_applies_to_the_weights_that_match_all_kinds_of_its_patterns(survey, patterns, expected):
    resolved = Configuration.of({"overrides": [{**patterns, "granularity": "channel"}]}).resolve(survey)
    assert [name for name, scheme in schemes(resolved).items() if scheme.granularity.kind == "channel"] == expected
    assert resolved.matches == (len(expected),)


def test_a_pattern_is_for_names_of_its_kind_alone(survey):
    with pytest.raises(ConfigError, match=r"^overrides\[0\]\.weight: the pattern 'Conv' matches no name of a weight"):
        Configuration.of({"overrides": [{"weight": "Conv", "skip": True}]}).resolve(survey)


def test_later_overrides_win_and_settings_that_they_do_not_give_stay(survey):
    configuration = Configuration.of(
        {
            "defaults": {"granularity": "channel", "clipping": {"percentile": 99}},
            "overrides": [
                {"op": "MatMul", "granularity": {"tile": "2x2"}, "device": {"g_max": 30}},
                {"weight": "second", "granularity": "tensor"},
            ],
        }
    )
    resolved = configuration.resolve(survey)
    found = schemes(resolved)
    assert {name: scheme.granularity.kind for name, scheme in found.items()} == {
        "first": "tile",
        "second": "tensor",
        "head": "channel",
        "stem": "channel",
    }
    assert {name: scheme.converter.g_max for name, scheme in found.items()} == {
        "first": 30.0,
        "second": 30.0,
        "head": 25.0,
        "stem": 25.0,
    }
    assert {scheme.clipping for scheme in found.values()} == {Clipping(percentile=99.0)}
    assert resolved.overrides == ((0,), (0, 1), (), ())


def test_a_setting_is_replaced_as_a_whole(survey):
    configuration = Configuration.of(
        {
            "defaults": {"device": {"g_min": 1, "g_max": 30}, "converter": {"name": "n-pair", "factors": [1, 3]}},
            "overrides": [{"weight": "head", "device": {"g_max": 40}, "converter": "single-pair"}],
        }
    )
    found = schemes(configuration.resolve(survey))
    assert found["head"].converter == SinglePairConductanceConverter(g_max=40.0)
    assert found["stem"].converter == NPairConductanceConverter([1, 3], g_max=30.0, g_min=1.0)


def test_weights_that_are_alike_have_one_scheme_object(survey):
    resolved = Configuration.of({"overrides": [{"op": "Conv", "levels": 16}]}).resolve(survey)
    assert len({id(scheme) for scheme in resolved.schemes}) == 2


def test_skipped_weights_are_listed_with_the_override(survey):
    configuration = Configuration.of({"overrides": [{"op": "Conv", "levels": 4}, {"op": "Conv", "skip": True}]})
    [*_, item] = configuration.resolve(survey).survey.skipped
    assert (item.name, item.reason, item.detail) == ("stem", SkipReason.NOT_SELECTED, "skipped by overrides[1]")


def test_skipping_can_be_taken_back(survey):
    configuration = Configuration.of(
        {"overrides": [{"match": "*", "skip": True}, {"op": "Conv", "skip": False, "levels": 4}]}
    )
    resolved = configuration.resolve(survey)
    assert [weight.name for weight in resolved.survey.weights] == ["stem"]
    assert resolved.schemes[0].levels.count == 4


def test_include_and_exclude_leave_weights_out_before_overrides_do(survey):
    configuration = Configuration.of(
        {"model": {"include": ["encoder"], "exclude": ["first"]}, "overrides": [{"op": "Conv", "skip": True}]}
    )
    resolved = configuration.resolve(survey)
    assert [weight.name for weight in resolved.survey.weights] == ["second"]
    assert [item.detail for item in resolved.survey.skipped] == [
        "excluded by 'first'",
        "not matched by an include pattern",
        "not matched by an include pattern",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"op": "Cnv"}, r"overrides\[0\].op: the pattern 'Cnv' matches no op type .*; did you mean 'Conv'"),
        ({"module": "encodr"}, r"overrides\[0\].module: .* matches no module .*; did you mean 'encoder'"),
        ({"weight": ["head", "heads"]}, r"overrides\[0\].weight: the pattern 'heads' .*; did you mean 'head'"),
        ({"match": "/heed/*"}, r"overrides\[0\].match: .* matches no weight and no parameter, node, .* '/head/Gemm'"),
        ({"parameter": "lin.*"}, r"matches no parameter .*; there are 'first', 'head', 'second'"),
        ({"op": "Conv", "module": "head"}, r"overrides\[0\]: no weight matches its module and op at once"),
    ],
)
def test_an_override_that_matches_no_weight_is_refused(survey, override, message):
    with pytest.raises(ConfigError, match=message):
        Configuration.of({"overrides": [{**override, "skip": True}]}).resolve(survey)


def test_levels_are_uniform_over_the_range_of_the_devices(survey):
    scheme = Configuration.of({"defaults": {"levels": 16, "device": {"g_min": 1, "g_max": 31}}}).scheme()
    assert (scheme.levels.count, scheme.levels.g_min, scheme.levels.g_max) == (16, 1.0, 31.0)


def test_a_table_of_levels_gives_the_range_of_the_devices():
    scheme = Configuration.of({"defaults": {"levels": [1.0, 5.0, 30.0]}}).scheme()
    assert (scheme.converter.g_min, scheme.converter.g_max, scheme.levels.count) == (1.0, 30.0, 3)


def test_levels_of_a_default_can_be_taken_back(survey):
    configuration = Configuration.of({"defaults": {"levels": 16}, "overrides": [{"op": "Conv", "levels": "none"}]})
    found = schemes(configuration.resolve(survey))
    assert found["stem"].levels is None
    assert found["head"].levels.count == 16


def test_a_converter_that_depends_on_levels_is_made_for_them():
    scheme = Configuration.of({"defaults": {"converter": "offset", "levels": 16}}).scheme()
    assert scheme.converter == OffsetConductanceConverter(levels=16)


def test_bit_sliced_converters_have_levels_for_codes_of_their_own():
    converter = {"name": "bit-sliced-pair", "bits": 8, "slice_bits": 4}
    scheme = Configuration.of({"defaults": {"converter": converter, "storage": "codes"}}).scheme()
    assert scheme.levels.count == 16


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        (
            {"converter": {"name": "single-pair", "exact": True}, "device": {"g_min": 1}},
            r"defaults.converter: exact mapping needs g_min = 0, but g_min = 1.0 µS",
        ),
        (
            {"converter": {"name": "single-pair", "exact": True}, "levels": 16},
            "defaults.levels: rounded weights do not come back exactly; leave it out, or take a converter that is not",
        ),
        (
            {"converter": {"name": "single-pair", "exact": True}, "clipping": {"percentile": 99}},
            "defaults.clipping: clipped weights do not come back exactly; leave it out",
        ),
        ({"storage": "codes"}, "defaults.storage: codes need levels; say how many levels the devices have"),
        ({"storage": "codes", "levels": "none"}, "defaults.storage: codes need levels"),
        (
            {"granularity": "tile"},
            r"defaults.granularity: the granularity tile needs the size of a tile: .* --tile 256x256",
        ),
        ({"levels": "preset"}, "defaults.levels: there is no preset whose levels could be used; name one as device"),
        (
            {"levels": [0, 1, 20], "device": {"g_max": 25}},
            r"defaults.levels: the levels go from 0 to 20 µS, but the device has g_max = 25 µS; give both the same",
        ),
        ({"levels": [0, 1, 1]}, "defaults.levels: "),
        ({"device": {"g_min": 30}}, "defaults.device: "),
        ({"converter": {"name": "dual-pair", "factors": [1, 2, 3]}}, "defaults.converter: f_lst should have two"),
        (
            {"converter": {"name": "n-pair", "factors": [-1]}},
            "defaults.converter: factor 1 of f_lst should be positive",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_the_name_of_their_key(survey, defaults, message):
    configuration = Configuration.of({"defaults": defaults})
    for use in (configuration.scheme, configuration.check, lambda: configuration.resolve(survey)):
        with pytest.raises(ConfigError, match=message):
            use()


@pytest.mark.parametrize("defaults", [{"levels": 16}, {"converter": "bit-sliced-pair", "storage": "codes"}])
def test_conductances_of_the_weights_type_cannot_hold_levels(defaults):
    configuration = Configuration.of({"defaults": defaults, "model": {"conductance_dtype": "weight"}})
    with pytest.raises(ConfigError, match=r"^model\.conductance_dtype: conductances of the weight's type cannot hold"):
        configuration.scheme()


def test_a_contradiction_in_defaults_that_overrides_resolve_is_none(survey):
    configuration = Configuration.of(
        {"defaults": {"storage": "codes"}, "overrides": [{"match": "*", "levels": 16}, {"op": "Conv", "levels": 4}]}
    )
    assert {scheme.levels.count for scheme in configuration.resolve(survey).schemes} == {4, 16}


def test_a_contradiction_between_an_override_and_the_defaults_is_found_without_a_model():
    configuration = Configuration.of({"overrides": [{"op": "Conv", "skip": True}, {"op": "Gemm", "storage": "codes"}]})
    with pytest.raises(ConfigError, match=r"overrides\[1\].storage: codes need levels"):
        configuration.check()


# Presets


def preset_with(**known):
    """A preset of which these properties are known, or not."""
    return next(
        preset
        for preset in presets()
        if all((getattr(preset, name) is not None) == is_known for name, is_known in known.items())
    )


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_every_preset_makes_a_scheme(preset):
    scheme = Configuration.of({"defaults": {"device": preset.name}}).scheme()
    assert (scheme.converter.g_min, scheme.converter.g_max) == (preset.g_min, preset.g_max)
    assert (scheme.levels, scheme.granularity) == (None, Granularity())


def test_a_preset_brings_its_converter_unless_another_is_named():
    preset = preset_with(converter=True)
    found = Configuration.of({"defaults": {"device": preset.name}}).scheme().converter
    assert type(found).__name__ == CONVERTER_KINDS[preset.converter].class_name
    found = Configuration.of({"defaults": {"device": preset.name, "converter": "two-sided-pair"}}).scheme().converter
    assert type(found).__name__ == "TwoSidedPairConductanceConverter"


def test_tiles_without_a_size_are_arrays_of_the_preset():
    preset = preset_with(array=True, converter=False)
    scheme = Configuration.of({"defaults": {"device": preset.name, "granularity": "tile"}}).scheme()
    assert scheme.granularity == Granularity("tile", preset.array)
    given = {"device": preset.name, "granularity": {"kind": "tile-channel", "tile": "8x8"}}
    assert Configuration.of({"defaults": given}).scheme().granularity == Granularity("tile_channel", (8, 8))


def test_a_preset_without_an_array_gives_tiles_no_size():
    preset = preset_with(array=False, converter=False)
    with pytest.raises(ConfigError, match="needs the size of a tile"):
        Configuration.of({"defaults": {"device": preset.name, "granularity": "tile"}}).scheme()


def test_levels_of_a_preset_are_used_if_they_are_asked_for():
    preset = preset_with(levels=True, converter=False)
    levels = Configuration.of({"defaults": {"device": preset.name, "levels": "preset"}}).scheme().levels
    assert (levels.count, levels.g_min, levels.g_max) == (preset.levels, preset.g_min, preset.g_max)


def test_a_preset_without_levels_is_refused_if_they_are_asked_for():
    preset = preset_with(levels=False, converter=False)
    with pytest.raises(ConfigError, match=r"^defaults.levels: the preset has no levels; give a number of"):
        Configuration.of({"defaults": {"device": preset.name, "levels": "preset"}}).scheme()


def test_a_range_beside_a_preset_wins_over_its_own():
    device = {"preset": "pcm-joshi", "g_max": 20.0}
    converter = Configuration.of({"defaults": {"device": device}}).scheme().converter
    assert (converter.g_min, converter.g_max) == (preset_of("pcm-joshi").g_min, 20.0)


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"^defaults.device.*: there is no preset 'pcm-joshy'.*pcm-joshi"):
        Configuration.of({"defaults": {"device": "pcm-joshy"}})


# Settings on top


def test_settings_on_top_win_over_defaults_and_overrides_but_not_over_skipping(survey):
    configuration = configuration_of(
        Configuration.of(
            {
                "defaults": {"granularity": "channel", "levels": 8},
                "overrides": [{"op": "MatMul", "granularity": {"tile": "2x2"}}, {"op": "Conv", "skip": True}],
            }
        ),
        options={"granularity": "tensor"},
    )
    found = schemes(configuration.resolve(survey))
    assert {(name, scheme.granularity.kind, scheme.levels.count) for name, scheme in found.items()} == {
        ("first", "tensor", 8),
        ("second", "tensor", 8),
        ("head", "tensor", 8),
    }


def test_only_options_of_the_model_that_are_given_win():
    base = Configuration.of({"model": {"quantized": "skip", "shared": "split", "include": ["a"]}})
    model = configuration_of(base, options={"shared": "rebuild", "include": None}).model
    assert (model.quantized, model.shared, model.include) == ("skip", "rebuild", ("a",))


def test_settings_can_be_put_on_top_several_times(survey):
    configuration = Configuration().with_settings(WeightSettings(levels=8)).with_settings(WeightSettings(levels=16))
    assert configuration.with_settings(model=ModelSettings(quantized="skip")).scheme().levels.count == 16


def test_a_contradiction_names_the_option():
    with pytest.raises(ConfigError, match=r"^--level-codes: codes need levels"):
        configuration_of(options={"storage": "codes"}, names={"storage": "--level-codes"}).scheme()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "chanel"}, "^granularity: should be 'tensor', 'channel', .*, but it is 'chanel'$"),
        ({"quantized": "sometimes"}, "^quantized: should be 'map', 'skip' or 'dequantized', but it is 'sometimes'$"),
        ({"include": "conv*"}, r"^include: should be a list of patterns, but it is the text 'conv\*'; put it into"),
    ],
)
def test_wrong_values_of_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        configuration_of(options=options)


def test_an_option_that_there_is_not_is_a_type_error():
    with pytest.raises(TypeError, match="'granularty'"):
        configuration_of(options={"granularty": "tensor"})


# Objects of Python


def test_a_converter_object_wins_with_a_range_of_its_own(survey):
    class Own(SinglePairConductanceConverter):
        pass

    base = Configuration.of({"defaults": {"device": {"g_max": 30}}})
    configuration = configuration_of(base, Own(g_max=7.0), {"levels": 4})
    scheme = configuration.scheme()
    assert (type(scheme.converter), scheme.converter.g_max, scheme.levels.g_max) == (Own, 7.0, 7.0)


def test_a_device_that_is_asked_for_after_a_converter_object_has_to_have_its_range(survey):
    configuration = configuration_of(
        Configuration(defaults=WeightSettings(converter=SinglePairConductanceConverter(g_max=7.0))),
        options={"device": {"g_max": 7.0}},
    )
    assert configuration.scheme().converter.g_max == 7.0
    with pytest.raises(ConfigError, match="device: the device has g_max = 8 µS, but the converter is an object with"):
        configuration_of(configuration, options={"device": {"g_max": 8.0}}).scheme()


def test_a_configuration_of_a_scheme_resolves_to_it(survey):
    scheme = MappingScheme(
        SinglePairConductanceConverter(g_max=30.0),
        Granularity("tile_channel", (4, 2), "max"),
        Clipping(value=0.5),
        ConductanceLevels.uniform(8, 0.0, 30.0),
        "codes",
    )
    configuration = Configuration.of_scheme(scheme, ModelSettings(quantized="skip"))
    found = configuration.scheme()
    assert (found.converter, found.granularity, found.clipping) == (
        scheme.converter,
        scheme.granularity,
        scheme.clipping,
    )
    assert (found.levels.count, found.storage, configuration.model.quantized) == (8, "codes", "skip")


def test_objects_are_taken_where_files_have_texts():
    configuration = configuration_of(
        options={"granularity": Granularity("tile", (4, 4)), "clipping": Clipping(percentile=99.0)}
    )
    scheme = configuration.scheme()
    assert (scheme.granularity, scheme.clipping) == (Granularity("tile", (4, 4)), Clipping(percentile=99.0))


def test_levels_that_do_not_fit_a_converter_object_are_refused():
    with pytest.raises(ConfigError, match=r"^levels: the levels go from 0 to 5 µS, but the range of the converter"):
        configuration_of(converter=SinglePairConductanceConverter(), options={"levels": [0, 1, 5]}).scheme()


@pytest.mark.parametrize(
    ("defaults", "override", "expected"),
    [
        ({}, {}, (9, 88)),
        ({"converter": "two-sided-pair", "levels": 16}, {}, (9, 88)),  # a name says no range
        ({"device": {"g_max": 30.0}}, {}, (0, 30)),
        ({"device": "pcm-joshi"}, {}, (0.25, 25)),
        ({"levels": [0.0, 10.0]}, {}, (0, 10)),
        ({"converter": SinglePairConductanceConverter(g_max=40.0)}, {}, (0, 40)),
        ({}, {"levels": [0.0, 10.0]}, (0, 25)),
        ({}, {"device": {"g_max": 7.0}}, (9, 88)),
    ],
)
def test_a_range_is_for_weights_of_which_nothing_else_says_one(defaults, override, expected):
    overrides = [{"op": "Conv", **override}] if override else []
    found = Configuration.of({"defaults": defaults, "overrides": overrides}).with_range(9.0, 88.0)
    converter = found.scheme().converter
    assert (converter.g_min, converter.g_max) == expected
    found.check()
