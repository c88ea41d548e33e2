"""Weights that hold one parameter find each other; weights that only look alike do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import compute_dtype, weight_statistics
from onnx_gconv.passes import MapConductances
from onnx_gconv.weights import same_source
from onnx_gconv.weights.same_source import SourceCandidate, same_sources


def candidate(name, array, *, parameters=None, skipped=False):
    array = np.ascontiguousarray(array)
    statistics = None if skipped else weight_statistics([array.astype(compute_dtype(array.dtype))])
    return SourceCandidate(name, "", ir.tensor(array, name=name), parameters or (name,), statistics)


def found(*candidates):
    """For each candidate by name: the others by name, with the relation."""
    results = same_sources(candidates)
    return {
        item.name: {other.name: other.relation for other in others}
        for item, others in zip(candidates, results, strict=True)
    }


@pytest.fixture
def unread(monkeypatch):
    """Fails as soon as an element is read."""

    def read(*_):
        raise AssertionError("elements are read")

    for name in ("ElementBits", "has_same_elements", "is_transposed", "element_chunks"):
        monkeypatch.setattr(same_source, name, read)


def test_a_weight_that_is_stored_twice(normal):
    w = normal(4, 6)
    assert found(candidate("a", w), candidate("b", w)) == {"a": {"b": "equal"}, "b": {"a": "equal"}}


def test_equal_values_alone_do_not_make_one_parameter_of_two(normal):
    w = normal(4, 6)
    [[others], [of_one], [of_other]] = (
        same_sources([candidate("a", w), candidate("b", w)])[:1],
        same_sources([candidate("val_0", w.T, parameters=("a",)), candidate("a", w)])[:1],
        same_sources([candidate("val_0", w.T, parameters=("a",)), candidate("b", w)])[:1],
    )
    assert [found.is_same_parameter for [found] in (others, of_one, of_other)] == [False, True, False]


def test_of_many_equal_weights_only_those_of_one_parameter_are_told(normal):
    w = normal(4, 6)
    few = [candidate(f"w{number}", w) for number in range(64)]
    assert all(len(others) == 63 for others in same_sources(few))
    many = [*few, candidate("copy", w.T, parameters=("w7",)), candidate("again", w, parameters=("w7",))]
    named = {name: others for name, others in found(*many).items() if others}
    assert named == {
        "w7": {"copy": "transposed", "again": "equal"},
        "copy": {"w7": "transposed", "again": "transposed"},
        "again": {"w7": "equal", "copy": "transposed"},
    }


def test_the_manifest_of_a_model_with_equal_weights_grows_with_their_number(parse, normal):
    def size(count):
        names = [f"W{number}" for number in range(count)]
        nodes = " ".join(f"y{name} = MatMul(x, {name})" for name in names)
        outputs = ", ".join(f"float[1,2] y{name}" for name in names)
        weight = normal(4, 2)
        model = parse(f"g (float[1,4] x) => ({outputs}) {{ {nodes} }}", **dict.fromkeys(names, weight))
        MapConductances()(model)
        return len(model.metadata_props["onnx_gconv"])

    assert size(200) < 2.5 * size(100)


def test_one_tensor_under_two_names_is_one_parameter(normal):
    one = candidate("a", normal(4, 6))
    [[found], _] = same_sources([one, dataclasses.replace(one, name="b")])
    assert (found.name, found.relation, found.is_same_parameter) == ("b", "equal", True)


def test_a_weight_and_its_transpose(normal):
    w = normal(4, 6)
    assert found(candidate("a", w), candidate("b", w.T)) == {"a": {"b": "transposed"}, "b": {"a": "transposed"}}


def test_a_square_weight_and_its_transpose(normal):
    w = normal(5, 5)
    assert found(candidate("a", w), candidate("b", w.T))["b"] == {"a": "transposed"}


def test_a_weight_with_another_shape_has_equal_elements(normal):
    w = normal(4, 6)
    assert found(candidate("a", w), candidate("b", w.reshape(4, 6, 1)))["a"] == {"b": "equal"}


def test_relations_hold_between_all_members_of_a_family(normal):
    w = normal(4, 6)
    family = found(candidate("a", w), candidate("b", w.T), candidate("c", w), candidate("d", w.T))
    assert family["a"] == {"b": "transposed", "c": "equal", "d": "transposed"}
    assert family["b"] == {"a": "transposed", "c": "transposed", "d": "equal"}


def test_different_weights_of_one_shape_are_told_apart_without_being_read(normal, unread):
    weights = [candidate(f"w{seed}", normal(4, 6, seed=seed)) for seed in range(5)]
    assert not any(same_sources(weights))


def test_a_weight_with_the_same_extremes_is_another_one(normal):
    w = normal(40, 6)
    other = w.copy()
    middle = np.argsort(w, axis=None)[100:102]
    other.flat[middle] = w.flat[middle[::-1]]
    assert found(candidate("a", w), candidate("b", other)) == {"a": {}, "b": {}}


def test_a_weight_of_another_type_is_another_one(normal):
    w = normal(4, 6, dtype=np.float16)
    assert found(candidate("a", w), candidate("b", w.astype(np.float32))) == {"a": {}, "b": {}}


@pytest.mark.parametrize("number", [0.0, 0.5])
def test_constant_weights_say_nothing_of_their_source(number):
    w = np.full((4, 6), number, np.float32)
    assert found(candidate("a", w), candidate("b", w), candidate("c", w, skipped=True)) == {"a": {}, "b": {}, "c": {}}


def test_a_skipped_constant_is_found_too(normal):
    w = normal(4, 6)
    family = found(candidate("mapped", w), candidate("table", w.T, skipped=True))
    assert family == {"mapped": {"table": "transposed"}, "table": {"mapped": "transposed"}}


def test_skipped_constants_among_themselves_are_not_reported(normal):
    w = normal(4, 6)
    others = candidate("a", w, skipped=True), candidate("b", w, skipped=True)
    assert found(candidate("mapped", normal(4, 6, seed=1)), *others) == {"mapped": {}, "a": {}, "b": {}}


def test_a_skipped_constant_with_nan_is_compared(normal):
    table = normal(4, 6)
    table[0, 0] = np.nan
    pair = candidate("w", normal(4, 6), parameters=("p",)), candidate("t", table, parameters=("p",), skipped=True)
    assert found(*pair) == {"w": {}, "t": {}}


def test_a_parameter_that_the_exporter_rearranged(normal):
    w = normal(2, 3, 4)
    turned = w.transpose(2, 0, 1)
    weights = candidate("val_1", turned, parameters=("lin.weight",)), candidate("lin.weight", w, skipped=True)
    assert found(*weights) == {"val_1": {"lin.weight": "rearranged"}, "lin.weight": {"val_1": "rearranged"}}


def test_parts_of_a_fused_parameter_are_different_weights(normal):
    fused = normal(3, 4, 4)
    parts = [candidate(f"val_{k}", fused[k], parameters=("attention.in_proj_weight",)) for k in range(3)]
    assert not any(same_sources(parts))


def test_what_a_parameter_was_computed_with_makes_it_another_weight(normal):
    w = normal(4, 6)
    weights = candidate("mul", 2 * w, parameters=("scale",)), candidate("scale", w, skipped=True)
    assert found(*weights) == {"mul": {}, "scale": {}}


def test_many_weights_with_few_values_stay_apart():
    rng = np.random.default_rng(0)
    arrays = [rng.choice(np.array([-1, 1], np.float32), (16, 16)) for _ in range(20)]
    family = found(*(candidate(f"w{k}", array) for k, array in enumerate([*arrays, arrays[7].T])))
    assert {name for name, others in family.items() if others} == {"w7", "w20"}


def test_a_plan_names_the_other_weights_wherever_they_stand(parse, normal):
    w = normal(4, 6)
    model = parse(
        """g (float[2,4] x, bool c, int64[1] i) => (float y, float u) {
            a = MatMul(x, W)
            y = If (c) <
                then_branch = t () => (float y1) { y1 = MatMul(a, V) },
                else_branch = e () => (float y2) { y2 = Identity(x) }
            >
            u = Gather(table, i)
        }""",
        W=w,
        V=np.ascontiguousarray(w.T),
        table=w,
    )
    plan = MapConductances().plan(model)
    relations = {item.found.name: {o.name: o.relation for o in item.same_source_as} for item in plan.weights}
    assert relations == {"W": {"V": "transposed", "table": "equal"}, "V": {"W": "transposed", "table": "transposed"}}
    [table] = plan.skipped
    assert {other.name for other in table.same_source_as} == {"W", "V"}
