"""The converter of a record is made again, and what there is of it says how to get one that is not there."""

from __future__ import annotations

import sys
from importlib.metadata import distributions

import pytest

from onnx_gconv.converters import registry
from onnx_gconv.converters.registry import ENTRY_POINT_GROUP, ConverterRegistry
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import ConverterRecord
from onnx_gconv.mapping.records.converter_record import ConverterOriginRecord, UnknownConverterError
from tests.converter_packages import install

PARAMETERS = {"g_max": 20.0, "g_min": 0.0, "midpoint": 8.0}


def origin(package="lab-converters", version="1.2"):
    return ConverterOriginRecord(package=package, version=version, module="lab_converters")


def record(name="ReferencePair", parameters=PARAMETERS, **of):
    return ConverterRecord(name=name, parameters=parameters, origin=origin(**of))


@pytest.fixture
def with_packages(tmp_path, monkeypatch):
    """Lets the program have packages with converters: the version and the entry point of each."""

    def build(*packages):
        for number, (version, points) in enumerate(packages):
            install(tmp_path, name=f"lab-converters{number or ''}", version=version, points=points)
        monkeypatch.syspath_prepend(tmp_path)
        found = [point for each in distributions(path=[str(tmp_path)]) for point in each.entry_points]
        points = [point for point in found if point.group == ENTRY_POINT_GROUP]
        monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(lambda: points))

    yield build
    sys.modules.pop("lab_converters", None)


RIGHT = {"reference-pair": "lab_converters:ReferencePair"}


def test_a_converter_of_a_package_is_recorded_with_the_package_and_made_again(with_packages):
    with_packages(("1.2", RIGHT))
    converter = record().converter()
    assert (type(converter).__name__, converter.g_max) == ("ReferencePair", 20)
    assert ConverterRecord.of(converter) == record(parameters=converter.manifest_parameters())


def test_a_converter_of_a_module_alone_is_recorded_with_the_module(with_packages):
    with_packages()
    assert str(origin(package=None, version=None)) == "the module lab_converters"
    with pytest.raises(UnknownConverterError) as raised:
        record(package=None, version=None).converter()
    assert raised.value.what == (
        "was mapped with the converter 'ReferencePair' of the module lab_converters, which no package brings; register "
        "it first (onnx_gconv.converters.register_converter)"
    )


@pytest.mark.parametrize(("version", "text"), [("1.2", "lab-converters 1.2"), (None, "lab-converters")])
def test_a_package_that_is_not_there_is_one_to_install(with_packages, version, text):
    with_packages()
    with pytest.raises(UnknownConverterError) as raised:
        record(version=version).converter()
    assert str(raised.value) == (
        f"it was mapped with the converter 'ReferencePair' of the package {text}; install it (pip install "
        "lab-converters)"
    )


def test_a_package_in_which_something_is_wrong_is_named_with_it(with_packages):
    with_packages(("1.2", {"reference-pair": "no_such_module:ReferencePair"}))
    with pytest.raises(ModelError) as raised:
        record().converter()
    assert str(raised.value).startswith(
        "the manifest names the converter 'ReferencePair', but the converter 'reference-pair' of the package "
        "lab-converters 1.2 cannot be loaded: "
    )


@pytest.mark.parametrize(
    ("version", "versions"),
    [("1.2", ""), (None, ""), ("0.9", ", which lab-converters 0.9 wrote and 1.2 reads")],
)
def test_parameters_that_are_refused_may_be_those_of_another_version_of_the_package(with_packages, version, versions):
    with_packages(("1.2", RIGHT))
    with pytest.raises(ModelError) as raised:
        record(parameters={**PARAMETERS, "colour": 1}, version=version).converter()
    assert str(raised.value).startswith(f"the manifest has wrong parameters for 'ReferencePair'{versions}: ")
