"""Converters of installed packages are found by their entry points, and what is wrong with one concerns no other."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, distributions

import pytest

from onnx_gconv.converters.registry import ENTRY_POINT_GROUP, ConverterRegistry
from onnx_gconv.errors import ConfigError
from tests.converter_packages import install

RIGHT = "lab_converters:ReferencePair"


@pytest.fixture
def registry_of(tmp_path, monkeypatch):
    """A registry of packages: each name with its entry points, as text."""

    def build(**packages):
        for number, (name, points) in enumerate(packages.items()):
            install(tmp_path, name=f"{name}-converters", version=f"{number}.0", points=points)
        monkeypatch.syspath_prepend(tmp_path)
        found = [point for each in distributions(path=[str(tmp_path)]) for point in each.entry_points]
        return ConverterRegistry(lambda: [point for point in found if point.group == ENTRY_POINT_GROUP])

    yield build
    for module in ("lab_converters", "lab_face"):
        sys.modules.pop(module, None)


@pytest.fixture
def right(registry_of):
    return registry_of(lab={"reference-pair": RIGHT})


def test_the_converter_of_a_package_has_a_name_a_class_and_an_origin(right):
    kind = right.kind("reference-pair")
    assert (kind.name, kind.class_name, str(kind.package)) == ("reference-pair", "ReferencePair", "lab-converters 0.0")
    assert right.kind_of_class("ReferencePair") is kind
    assert right.installed() == (kind,)
    assert right.problems() == ()
    origin = right.origin(kind.converter(g_max=20.0))
    assert (origin.package.name, origin.package.version) == ("lab-converters", "0.0")
    assert right.kind_of_class("NoPair") is None


def test_one_that_is_loaded_elsewhere_in_its_package_is_found_by_its_class(registry_of, tmp_path):
    (tmp_path / "lab_face.py").write_text("from lab_converters import ReferencePair as Renamed\n")
    registry = registry_of(lab={"reference-pair": "lab_face:Renamed"})
    assert registry.kind_of_class("ReferencePair") is registry.kind("reference-pair")


def test_a_package_may_register_what_its_entry_point_brings_but_nobody_else(right):
    brought = right.kind("reference-pair").converter
    right.register(brought)
    assert [kind.name for kind in right.installed()] == ["reference-pair"]
    other = type("OtherPair", (brought,), {"__module__": "elsewhere", "name": "reference-pair"})
    with pytest.raises(ConfigError, match=r"'reference-pair' of OtherPair is that of ReferencePair"):
        right.register(other)


WRONG = {
    "a module that is missing": (
        {"broken": "no_such_module:Broken"},
        "broken",
        "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'; update the package",
    ),
    "a name of ours": ({"single-pair": RIGHT}, None, "onnx_gconv has a converter of that name"),
    "a class of ours": (
        {"mine": "lab_converters:SinglePairConductanceConverter"},
        "mine",
        "onnx_gconv has a class SinglePairConductanceConverter, too",
    ),
    "a class of ours under another name": (
        {"two-sided-pair": "onnx_gconv.converters:TwoSidedPairConductanceConverter"},
        None,
        "onnx_gconv has a converter of that name",
    ),
    "a name that its class does not have": (
        {"other": RIGHT},
        "other",
        "its class ReferencePair has another name, 'reference-pair'",
    ),
    "something that is no converter": ({"number": "lab_converters:np"}, "number", "cannot be loaded: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_package(registry_of, case):
    points, name, message = WRONG[case]
    registry = registry_of(bad=points)
    [problem] = registry.problems()
    assert problem.startswith(f"the converter '{next(iter(points))}' of the package bad-converters 0.0 cannot be ")
    assert message in problem
    assert "\n" not in problem
    assert registry.installed() == ()
    if name is not None:
        with pytest.raises(ConfigError) as raised:
            registry.kind(name)
        assert str(raised.value) == problem


def test_a_module_that_ends_the_program_when_it_is_imported_is_one_line(registry_of, tmp_path):
    (tmp_path / "lab_face.py").write_text("raise SystemExit('no licence')\n")
    registry = registry_of(bad={"ends": "lab_face:Pair"})
    [problem] = registry.problems()
    assert "'ends' of the package bad-converters 0.0 cannot be loaded: SystemExit: no licence; update" in problem


def test_a_class_with_the_name_of_one_of_ours_is_found_behind_another_name_in_its_module(registry_of, tmp_path):
    (tmp_path / "lab_face.py").write_text(
        "from lab_converters import ReferencePair\n"
        "Renamed = type('SinglePairConductanceConverter', (ReferencePair,), {'name': 'mine'})\n"
    )
    [problem] = registry_of(bad={"mine": "lab_face:Renamed"}).problems()
    assert problem == (
        "the converter 'mine' of the package bad-converters 0.0 cannot be loaded: onnx_gconv has a class "
        "SinglePairConductanceConverter, too; update the package (pip install --upgrade bad-converters), or uninstall "
        "it"
    )


def test_the_class_of_a_broken_package_is_refused_with_what_is_wrong(registry_of):
    registry = registry_of(bad={"broken": "no_such_module:Broken"})
    with pytest.raises(ConfigError, match=r"'broken' of the package bad-converters 0\.0 cannot be loaded"):
        registry.kind_of_class("Broken")
    assert registry.kind_of_class("ReferencePair") is None


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"reference-pair": "other_module:Other"}, "brings one of that name, too"),
        ({"other": "other_module:ReferencePair"}, "brings a class ReferencePair, too"),
    ],
)
def test_what_two_packages_bring_is_refused_in_both(registry_of, second, what):
    registry = registry_of(lab={"reference-pair": RIGHT}, other=second)
    problems = registry.problems()
    assert len(problems) == 2
    for package, problem in zip(("lab-converters 0.0", "other-converters 1.0"), sorted(problems), strict=True):
        assert f"of the package {package} cannot be used: " in problem or "cannot be used: the package" in problem
        assert f"{what}; uninstall one of them" in problem


def test_an_entry_point_that_was_made_by_hand_has_the_package_of_its_module():
    registry = ConverterRegistry(lambda: [EntryPoint("gone", "no_such_module:Gone", ENTRY_POINT_GROUP)])
    [problem] = registry.problems()
    assert problem.startswith("the converter 'gone' of the package no_such_module of unknown version cannot be loaded")
