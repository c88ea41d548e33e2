"""Converters are registered if they offer what a converter has to, under a name that is not taken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import onnx_gconv.converters as gconv_converters
from onnx_gconv import map_model, restore_model, verify
from onnx_gconv.configuration import Configuration
from onnx_gconv.converters import SinglePairConductanceConverter, TwoSidedPairConductanceConverter, registry
from onnx_gconv.converters.converter_kind import ConverterSetting
from onnx_gconv.converters.registry import CONVERTER_KINDS, ConverterRegistry, register_converter
from onnx_gconv.errors import ConfigError
from onnx_gconv.passes import CheckMapping, MapConductances


class Doubled(TwoSidedPairConductanceConverter):
    """A rule of the program's own."""

    name = "doubled"

    def __init__(self, g_max=None, g_min=None, *, share=0.5):
        super().__init__(g_max, g_min)
        self.share = share

    def manifest_parameters(self):
        return {**super().manifest_parameters(), "share": self.share}

    def scaling(self, statistics, dtype):
        return type(super().scaling(statistics, dtype))(
            self._scale_of_largest(self.share * (self.g_max - self.g_min), statistics, dtype)
        )


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """A registry for this test alone, which knows no installed packages."""
    found = ConverterRegistry(list)
    monkeypatch.setattr(registry, "_REGISTRY", found)
    return found


@pytest.fixture
def folder(parse, normal, tmp_path):
    ir.save(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4)), tmp_path / "in.onnx")
    return tmp_path


def test_a_registered_converter_maps_verifies_and_stands_in_configurations(folder):
    assert register_converter(Doubled) is Doubled
    settings = {"converter": {"name": "doubled", "share": 0.25}, "device": {"g_max": 40.0}}
    map_model(folder / "in.onnx", folder / "out.onnx", config=Configuration.of({"defaults": settings}))
    map_model(folder / "in.onnx", folder / "same.onnx", Doubled(g_max=40.0, share=0.25))
    assert (folder / "out.onnx").read_bytes() == (folder / "same.onnx").read_bytes()
    verify(folder / "in.onnx", folder / "out.onnx").raise_if_failed()
    restore_model(folder / "out.onnx", folder / "plain.onnx")


def test_one_that_is_not_registered_maps_and_then_says_so(folder):
    map_model(folder / "in.onnx", folder / "out.onnx", Doubled())
    [comparison] = verify(folder / "in.onnx", folder / "out.onnx").weights
    assert comparison.problem == (
        f"it was mapped with the converter 'Doubled' of the module {__name__}, which no package brings; register it "
        "first (onnx_gconv.converters.register_converter)"
    )
    register_converter(Doubled)
    assert verify(folder / "in.onnx", folder / "out.onnx").passed


def test_it_is_checked_and_measured_like_any_other(folder):
    register_converter(Doubled)
    model = ir.load(folder / "in.onnx")
    ir.passes.Sequential(MapConductances("doubled", g_max=30.0), CheckMapping())(model)


def test_a_class_that_is_defined_again_takes_the_place_of_the_older_one(own_registry):
    for default in (0.5, 0.25):
        again = type("Again", (Doubled,), {"name": "again", "__module__": "notebook", "__qualname__": "Again"})
        again.default = default
        register_converter(again)
    assert own_registry.kind("again").converter.default == 0.25


def subclass(class_name="Own", **members):
    return type(class_name, (SinglePairConductanceConverter,), {"name": "own", "__module__": "program", **members})


def needs_more(self, g_max=None, g_min=None, *, more): ...


def takes_no_range(self, more=1): ...


def by_position(self, first, /, g_max=None, g_min=None): ...


@pytest.mark.parametrize(
    ("converter", "problem"),
    [
        (
            type("Empty", (), {"name": "empty"}),
            "it lacks g_max, g_min, device_names, pairs, is_exact, natural_levels, ",
        ),
        (
            type("Half", (gconv_converters.BaseConductanceConverter,), {"name": "half", "device_names": ("g",)}),
            "it lacks manifest_parameters, scaling, limits, decoding, convert_chunk, conductance_bounds, error_bound; ",
        ),
        (
            type("Nameless", (SinglePairConductanceConverter,), {}),
            'it should have a name of its own: name = "my-pair" in the class',
        ),
        (subclass(name="own two"), "it should have a name of its own, not 'own two': "),
        (subclass(__init__=takes_no_range), "its constructor should take g_max, in µS, with a default"),
        (subclass(__init__=by_position), "its constructor should take first by keyword, too"),
        (subclass(settings=["exact"]), "its settings should map names to parameters of the constructor, but they are "),
        (subclass(settings={"a": "b"}), "its setting 'a' should be a parameter of the constructor, which has no 'b'"),
        (subclass(settings={}, __init__=needs_more), "its constructor needs more, which its settings leave out"),
        (
            subclass(settings={"name": "exact"}),
            'its setting "name" is what chooses the converter; give it another name',
        ),
    ],
)
def test_what_a_class_lacks_is_said(converter, problem):
    with pytest.raises(ConfigError) as error:
        register_converter(converter)
    assert str(error.value).startswith(f"{converter.__name__} cannot be used as a converter: {problem}")


@pytest.mark.parametrize(
    ("converter", "message"),
    [
        (subclass, "a converter is a class, but <function subclass at "),
        (subclass(name="single-pair"), "the name 'single-pair' of Own is that of SinglePairConductanceConverter; "),
        (
            subclass("SinglePairConductanceConverter"),
            "the class name SinglePairConductanceConverter, which manifests have, is that of the converter single-pair",
        ),
    ],
)
def test_what_cannot_be_told_from_ours_is_refused(converter, message):
    with pytest.raises(ConfigError) as error:
        register_converter(converter)
    assert str(error.value).startswith(message)


def test_a_name_that_another_class_has_is_refused():
    register_converter(Doubled)
    with pytest.raises(ConfigError, match="the name 'doubled' of Other is that of Doubled; choose another one"):
        register_converter(type("Other", (Doubled,), {"name": "doubled"}))
    with pytest.raises(ConfigError, match="the class name Doubled, which manifests have, is that of "):
        register_converter(type("Doubled", (Doubled,), {"name": "other", "__module__": "another"}))


def test_a_name_that_an_installed_package_brings_is_refused(monkeypatch):
    points = [EntryPoint("doubled", "somewhere:Doubled", "onnx_gconv.converters")]
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(lambda: points))
    with pytest.raises(ConfigError, match="the name 'doubled' of Doubled is that of a converter of the pack"):
        register_converter(Doubled)


def test_entry_points_are_not_read_for_the_converters_of_this_package():
    def read():
        raise AssertionError("entry points were read")

    found = ConverterRegistry(read)
    for name, kind in CONVERTER_KINDS.items():
        assert found.kind(name) is kind
        assert found.kind_of_class(kind.class_name) is kind
    assert found.origin(SinglePairConductanceConverter()) is None
    with pytest.raises(AssertionError, match="were read"):
        found.kind("another")


def test_an_unknown_name_is_refused_with_the_nearest_one(own_registry):
    with pytest.raises(ConfigError, match="there is no converter 'n-pear'; did you mean n-pair"):
        own_registry.kind("n-pear")


def test_parameters_that_a_setting_leaves_out_are_those_of_the_class():
    assert CONVERTER_KINDS["offset"].settings == {}
    assert {name: each.parameter for name, each in CONVERTER_KINDS["custom-pair"].settings.items()} == {
        "factors": "f_lst",
        "table": "g_lst",
        "invertibility_test": "invertibility_test",
    }
    assert CONVERTER_KINDS["custom-pair"].needs == ("factors", "table")
    assert [str(each) for each in CONVERTER_KINDS["bit-sliced-pair"].settings.values()] == [
        "bits = 8",
        "slice_bits = 4",
    ]


@pytest.mark.parametrize(
    ("default", "text"),
    [
        ((1, 2.5), "steps = [1, 2.5]"),
        (np.float64(0.5), "steps = 0.5"),
        (frozenset({7}), "steps = frozenset({7})"),
        ("half", 'steps = "half"'),
        (None, "steps (optional)"),
    ],
)
def test_a_setting_is_shown_with_its_default(default, text):
    assert str(ConverterSetting("steps", "steps", default)) == text


class Mapped(dict, SinglePairConductanceConverter):
    """Its constructor is written in C and has no signature."""

    name = "mapped"
    settings: ClassVar = {"exact": "exact"}


def test_of_a_constructor_without_a_signature_the_settings_are_those_that_the_class_names(own_registry):
    register_converter(Mapped)
    assert [str(each) for each in own_registry.kind("mapped").settings.values()] == ["exact (optional)"]


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_a_constructor_that_refuses_its_settings_with_another_error_is_a_wrong_setting(own_registry, error):
    class Picky(Doubled):
        name = "picky"
        settings: ClassVar = {"share": "share"}

        def __init__(self, **given):
            raise error(f"no share of {given['share']}")

    register_converter(Picky)
    with pytest.raises(ConfigError, match=r"^the converter picky refuses its settings: no share of 2\.0$"):
        own_registry.kind("picky").build({"share": 2.0}, g_max=None, g_min=None)


# What nobody could read again is not written


class Forgetful(Doubled):
    name = "forgetful"

    def manifest_parameters(self):
        return {"g_max": self.g_max, "g_min": self.g_min, **self.kept}

    kept = {}  # noqa: RUF012 - replaced in the tests


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ({"share": np.float32(0.5)}, "should be JSON values, but they are {"),
        ({"share": float("nan")}, "should be JSON values, but they are {"),
        ({"g_max": None}, "should have g_max in µS, but they are {'g_max': None"),
        ({"part": 0.5}, "should be what its constructor takes, but Forgetful(**{"),
        (
            property(lambda self: {"g_max": self.g_max / 2}),
            "should make an equal converter, but {'g_max': 12.5, 'g_min': ",
        ),
    ],
)
def test_parameters_that_make_no_equal_converter_are_refused_when_mapping(folder, monkeypatch, kept, problem):
    monkeypatch.setattr(Forgetful, "kept", kept)
    with pytest.raises(ConfigError) as error:
        map_model(folder / "in.onnx", folder / "out.onnx", Forgetful())
    assert str(error.value).startswith(f"manifest_parameters() of the converter 'Forgetful' {problem}")
    assert not (folder / "out.onnx").exists()


def test_a_class_with_the_name_of_one_of_ours_cannot_be_told_apart(folder):
    other = type("SinglePairConductanceConverter", (Doubled,), {})
    with pytest.raises(ConfigError, match=r"^the class name SinglePair.* of your converter is that of .* of onnx_gc"):
        map_model(folder / "in.onnx", folder / "out.onnx", other())
