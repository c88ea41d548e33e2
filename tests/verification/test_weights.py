"""Rebuilt weights beside the original ones, measured against NumPy."""

from __future__ import annotations

import copy
import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnx_gconv import converters
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS
from onnx_gconv.verification.weights import compare_weights
from tests import graphs

INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}
EXACT = SinglePairConductanceConverter(exact=True)


def array(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape or (8, 6)).astype(dtype)


def model_of(nodes=None, **weights):
    """A model whose initializers are read by MatMul nodes, or by `nodes`."""
    if nodes is None:
        nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_y"], name=f"node_{name}") for name in weights]
    tensors = [tensor_proto(weight, name) for name, weight in weights.items()]
    return ir.from_proto(graphs.model(nodes, [graphs.value("x")], [graphs.value(nodes[-1].output[0])], tensors))


def tensor_proto(weight, name):
    return ir.to_proto(ir.tensor(weight, name=name))


def mapped_from(model, converter=None):
    """A mapped copy of a model, with its conductances in memory."""
    mapped = copy.deepcopy(ir.to_proto(model))
    mapped = ir.from_proto(mapped)
    MapConductances(converter)(mapped)
    return ir.from_proto(ir.to_proto(mapped))


def initializers(model):
    return {name: value for graph in model.graphs() for name, value in graph.initializers.items()}


def change(model, name, flat_index, amount):
    """Add something to one element of a conductance."""
    value = initializers(model)[name]
    changed = value.const_value.numpy().copy()
    changed.flat[flat_index] += amount
    value.const_value = ir.tensor(changed, name=name)


def compare(original, mapped):
    return compare_weights(original, mapped, read_manifest(mapped))


def rebuilt_by_numpy(mapped, name, dtype):
    """What the nodes of the graph compute."""
    parts = [initializers(mapped)[f"{name}.{part}"].const_value.numpy() for part in ("g_plus", "g_minus", "g_scale")]
    return ((parts[0] - parts[1]) / parts[2]).astype(dtype)


def position(number):
    """The number of a float in the order of all floats of its type; both zeros are 0."""
    bits = int(number.view(INTEGERS[number.dtype.itemsize]))
    sign = 1 << (8 * number.dtype.itemsize - 1)
    return bits if bits >= 0 else -(bits + sign)


def expected_errors(rebuilt, weight):
    """max|error|, that over max|W|, the largest distance in numbers, and bit identity."""
    exact = [abs(float(a) - float(b)) for a, b in zip(rebuilt.flat, weight.flat, strict=True)]
    distances = [abs(position(a) - position(b)) for a, b in zip(rebuilt.ravel(), weight.ravel(), strict=True)]
    largest = max(abs(float(b)) for b in weight.flat)
    relative = max(exact) / largest if max(exact) else 0.0
    return max(exact), relative, max(distances), rebuilt.tobytes() == weight.tobytes()


def errors(comparison):
    return (
        comparison.max_abs_error,
        comparison.max_relative_error,
        comparison.max_ulp_error,
        comparison.bit_identical,
    )


# What is measured


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("g_min", [0.0, 0.5])
def test_the_errors_of_a_mapping_are_those_that_numpy_computes(dtype, g_min):
    weight = array(40, 30, dtype=dtype)
    original = model_of(w=weight)
    mapped = mapped_from(original, SinglePairConductanceConverter(g_min=g_min))
    (found,) = compare(original, mapped)
    assert errors(found) == expected_errors(rebuilt_by_numpy(mapped, "w", dtype), weight)
    assert found.passed


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("device", ["g_plus", "g_minus"])
@pytest.mark.parametrize("amount", [0.25, -3.0, 1e-3])
def test_one_changed_conductance_gives_the_errors_that_numpy_computes(dtype, device, amount):
    weight = array(dtype=dtype)
    original = model_of(w=weight)
    mapped = mapped_from(original)
    change(mapped, f"w.{device}", 17, amount)
    (found,) = compare(original, mapped)
    expected = expected_errors(rebuilt_by_numpy(mapped, "w", dtype), weight)
    assert errors(found) == expected
    assert found.passed == (expected[0] <= found.bound)


def test_an_error_in_the_last_element_of_a_large_weight_is_found():
    weight = array(CHUNK_ELEMENTS + 5)
    original = model_of(w=weight)
    mapped = mapped_from(original)
    change(mapped, "w.g_plus", CHUNK_ELEMENTS + 4, 2.0)
    (found,) = compare(original, mapped)
    rebuilt = rebuilt_by_numpy(mapped, "w", np.float32)
    assert found.max_abs_error == np.abs(rebuilt.astype(float) - weight).max()
    assert not found.passed


def test_an_error_in_the_first_element_is_not_forgotten_over_the_next_chunks():
    original = model_of(w=array(2 * CHUNK_ELEMENTS + 5))
    mapped = mapped_from(original)
    change(mapped, "w.g_minus", 0, 2.0)
    assert compare(original, mapped)[0].max_abs_error > 0.1


def test_the_largest_weight_of_all_chunks_is_the_reference_of_the_relative_error():
    weight = np.ones(2 * CHUNK_ELEMENTS + 5, np.float32)
    weight[CHUNK_ELEMENTS + 7] = -1000
    original = model_of(w=weight)
    mapped = mapped_from(original)
    change(mapped, "w.g_plus", 3, 1.0)
    (found,) = compare(original, mapped)
    assert math.isclose(found.max_abs_error, 40, rel_tol=1e-5)
    assert math.isclose(found.max_relative_error, 0.04, rel_tol=1e-5)


def test_an_exact_mapping_has_no_error_at_all():
    original = model_of(w=array(64, 64))
    (found,) = compare(original, mapped_from(original, EXACT))
    assert errors(found) == (0.0, 0.0, 0, True)
    assert found.bound == 0.0
    assert found.passed


def test_an_all_zero_weight_has_no_error():
    original = model_of(w=np.zeros((4, 4), np.float32))
    (found,) = compare(original, mapped_from(original))
    assert errors(found) == (0.0, 0.0, 0, True)
    assert found.passed


def test_a_negative_zero_that_comes_back_positive_is_another_bit_but_no_error():
    original = model_of(w=np.array([[1.0, -0.0]], np.float32))
    (found,) = compare(original, mapped_from(original, SinglePairConductanceConverter(g_max=2.0)))
    assert errors(found) == (0.0, 0.0, 0, False)
    assert found.passed


def test_a_negative_zero_that_comes_back_positive_breaks_an_exact_mapping():
    original = model_of(w=np.array([[1.0, -0.0]], np.float32))
    mapped = mapped_from(original, EXACT)
    assert compare(original, mapped)[0].bit_identical
    change(mapped, "w.g_plus", 1, 0.0)  # -0.0 + 0.0 is 0.0
    (found,) = compare(original, mapped)
    assert errors(found) == (0.0, 0.0, 0, False)
    assert not found.passed


def test_the_distance_of_two_numbers_of_different_sign_counts_zero_once():
    tiny = np.finfo(np.float32).smallest_subnormal
    original = model_of(w=np.array([[1.0, -tiny]], np.float32))
    mapped = mapped_from(original, EXACT)
    scale = initializers(mapped)["w.g_scale"].const_value.numpy()
    change(mapped, "w.g_minus", 1, -tiny * scale)
    change(mapped, "w.g_plus", 1, tiny * scale)
    assert rebuilt_by_numpy(mapped, "w", np.float32)[0, 1] == tiny
    assert compare(original, mapped)[0].max_ulp_error == 2


def test_a_large_distance_of_float64_numbers_is_exact():
    weight = np.array([[1.0, 1e-300]])
    original = model_of(w=weight)
    mapped = mapped_from(original, EXACT)
    change(mapped, "w.g_plus", 1, 16 + 1e-13)
    (found,) = compare(original, mapped)
    assert found.max_ulp_error == expected_errors(rebuilt_by_numpy(mapped, "w", np.float64), weight)[2]
    assert found.max_ulp_error > 2**53  # where float64 itself no longer holds every integer


@pytest.mark.parametrize("where", ["conductance", "original"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_fails_without_a_number_for_the_error(where, value):
    weight = array()
    mapped = mapped_from(model_of(w=weight))
    if where == "conductance":
        change(mapped, "w.g_plus", 5, value)
    else:
        weight = weight.copy()
        weight.flat[5] = value
    (found,) = compare(model_of(w=weight), mapped)
    assert errors(found) == (None, None, None, False)
    assert not found.passed


def test_a_number_that_is_not_finite_is_not_forgotten_over_the_next_chunks():
    original = model_of(w=array(2 * CHUNK_ELEMENTS + 5))
    mapped = mapped_from(original)
    change(mapped, "w.g_plus", 0, np.nan)
    change(mapped, "w.g_plus", CHUNK_ELEMENTS + 5, 1.0)
    (found,) = compare(original, mapped)
    assert found.max_abs_error is None
    assert not found.passed


# What passes


def test_the_bound_is_a_few_roundings_of_the_largest_weight():
    weight = array(64, 64)
    original = model_of(w=weight)
    (found,) = compare(original, mapped_from(original))
    rounding = 2**-24 * float(np.abs(weight).max())
    assert rounding <= found.bound <= 3.1 * rounding


@pytest.mark.parametrize(("factor", "passed"), [(0.5, True), (3.0, False)])
def test_an_error_passes_up_to_the_bound_of_the_converter(factor, passed):
    weight = np.array([[1.0, 0.25]], np.float32)
    original = model_of(w=weight)
    mapped = mapped_from(original, SinglePairConductanceConverter(g_max=1.0))  # the scale is 1
    bound = compare(original, mapped)[0].bound
    change(mapped, "w.g_plus", 1, np.float32(factor * bound))
    (found,) = compare(original, mapped)
    assert (found.max_abs_error <= bound) == passed
    assert found.passed == passed


def test_an_exact_mapping_that_is_off_by_one_bit_fails():
    original = model_of(w=array())
    mapped = mapped_from(original, EXACT)
    value = initializers(mapped)["w.g_plus"]
    changed = value.const_value.numpy().copy()
    largest = int(changed.argmax())
    changed.flat[largest] = np.nextafter(changed.flat[largest], np.float32(0))
    value.const_value = ir.tensor(changed, name="w.g_plus")
    (found,) = compare(original, mapped)
    assert found.max_ulp_error == 1
    assert not found.passed


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_comes_back_within_one_rounding(dtype):
    original = model_of(w=array(100, 100, dtype=dtype))
    (found,) = compare(original, mapped_from(original))
    assert found.passed
    assert found.max_ulp_error <= 1


# Which weights are compared


def test_every_mapped_weight_is_compared_in_the_order_of_the_manifest():
    original = model_of(b=array(), a=array(seed=1), c=array(seed=2))
    mapped = mapped_from(original)
    change(mapped, "a.g_plus", 0, 5.0)
    found = compare(original, mapped)
    assert [(item.name, item.passed) for item in found] == [("b", True), ("a", False), ("c", True)]


def test_a_weight_that_the_original_lacks_is_a_problem():
    (found,) = compare(model_of(other=array()), mapped_from(model_of(w=array())))
    assert found.problem == "the original has no weight of this name; is it the model that was mapped?"
    assert found.bound is None
    assert errors(found) == (None, None, None, False)
    assert not found.passed


@pytest.mark.parametrize(
    ("weight", "described"),
    [(array(6, 8), "float32 [6, 8]"), (array(8, 6, dtype=np.float64), "float64 [8, 6]"), (array(48), "float32 [48]")],
    ids=["shape", "type", "rank"],
)
def test_an_original_of_another_shape_or_type_is_a_problem(weight, described):
    (found,) = compare(model_of(w=weight), mapped_from(model_of(w=array(8, 6))))
    assert found.problem.startswith(f"the original is {described}, the mapped weight float32 [8, 6]")
    assert not found.passed


def test_a_conductance_that_is_gone_is_a_problem():
    original = model_of(w=array())
    mapped = mapped_from(original)
    manifest = read_manifest(mapped)
    values = initializers(mapped)
    [subtraction] = values["w.g_minus"].consumers()
    subtraction.replace_input_with(1, values["w.g_scale"])
    (found,) = compare_weights(original, mapped, manifest)
    assert "instead of +1*w.g_plus -1*w.g_minus" in found.problem
    assert not found.passed


def test_a_conductance_of_another_name_is_none():
    original = model_of(w=array())
    mapped = mapped_from(original)
    manifest = read_manifest(mapped)
    initializers(mapped)["w.g_minus"].name = "renamed"
    (found,) = compare_weights(original, mapped, manifest)
    assert found.problem is None
    assert found.passed


@pytest.mark.parametrize("devices", [["g_plus", "g_minus"], ["g_plus"], ["g_minus"]], ids="-".join)
def test_conductances_of_another_shape_are_a_problem(devices):
    original = model_of(w=array(8, 6))
    mapped = mapped_from(original)
    for device in devices:
        value = initializers(mapped)[f"w.{device}"]
        value.const_value = ir.tensor(value.const_value.numpy()[:4], name=value.name)
    (found,) = compare(original, mapped)
    assert "[4, 6]" in found.problem
    assert not found.passed


def branches(then_weight, else_weight):
    """A model with an If whose branches have weights of one name."""
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [f"{name}_y"], name=f"{name}_matmul")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)],
            [tensor_proto(weight, "w")],
        )
        for name, weight in (("then", then_weight), ("else", else_weight))
    ]
    choice = helper.make_node("Constant", [], ["c"], value=tensor_proto(np.array(True), "c"))
    node = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=bodies[0], else_branch=bodies[1])
    return model_of([choice, node])


def test_weights_of_one_name_in_sibling_branches_are_compared_each_with_its_own():
    original = branches(array(), array(seed=1))
    mapped = mapped_from(original)
    assert {item.graph: item.passed for item in compare(original, mapped)} == {
        "choose.then_branch": True,
        "choose.else_branch": True,
    }


def test_a_changed_conductance_in_one_of_two_branches_is_found_there_only():
    original = branches(array(), array(seed=1))
    mapped = mapped_from(original)
    records = {record.graph: record for record in read_manifest(mapped).weights}
    change(mapped, records["choose.else_branch"].conductances[0].name, 0, 5.0)
    assert {(item.name, item.graph): item.passed for item in compare(original, mapped)} == {
        ("w", "choose.then_branch"): True,
        ("w", "choose.else_branch"): False,
    }


def test_exchanged_branches_are_found():
    first, second = array(), array(seed=1)
    found = compare(branches(second, first), mapped_from(branches(first, second)))
    assert [item.passed for item in found] == [False, False]


def test_a_weight_in_a_constant_node_is_compared():
    weight = array()
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor_proto(weight, "")),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    original = model_of(nodes)
    mapped = mapped_from(original)
    (found,) = compare(original, mapped)
    assert errors(found) == expected_errors(rebuilt_by_numpy(mapped, "w", np.float32), weight)
    assert found.passed


def test_an_initializer_is_compared_with_the_constant_node_that_it_was():
    weight = array()
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor_proto(weight, "")),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    assert compare(model_of(w=weight), mapped_from(model_of(nodes)))[0].passed


# Progress


def test_progress_is_told_in_bytes_of_weights():
    calls = []
    original = model_of(a=array(8, 6), b=array(4, 4, dtype=np.float64))
    mapped = mapped_from(original)
    compare_weights(original, mapped, read_manifest(mapped), lambda *call: calls.append(call))
    assert calls == [(192, 320), (320, 320)]


def test_an_interrupt_ends_the_comparison():
    original = model_of(a=array(), b=array())
    mapped = mapped_from(original)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_weights(original, mapped, read_manifest(mapped), interrupt)


@pytest.mark.parametrize("codes", [1, 3])
def test_integer_codes_that_came_out_otherwise_fail_and_are_counted_in_codes(codes):
    nodes = [helper.make_node("MatMulInteger", ["x", "W"], ["y"])]
    original = model_of(nodes, W=np.arange(-60, 60, dtype=np.int8).reshape(10, 12))
    mapped = mapped_from(original)
    [found] = compare(original, mapped)
    assert (found.passed, found.bit_identical, found.bound, found.max_ulp_error) == (True, True, 0, 0)
    scale = read_manifest(mapped).weights[0].scale.value
    change(mapped, "W.g_minus", 60, codes * scale)  # of the code 0, which so becomes negative
    [found] = compare(original, mapped)
    assert (found.passed, found.bit_identical) == (False, False)
    assert (found.max_abs_error, found.max_ulp_error) == (codes, codes)


CONVERTERS = {
    "single pair": SinglePairConductanceConverter(),
    "single pair above 0": SinglePairConductanceConverter(g_min=1.0),
    "several pairs": converters.NPairConductanceConverter([1, 3]),
    "dual pair": converters.DualPairConductanceConverter([1, 2]),
    "single device": converters.SingleDeviceConductanceConverter(),
    "two-sided pair": converters.TwoSidedPairConductanceConverter(),
    "offset": converters.OffsetConductanceConverter(),
    "bit-sliced pair": converters.BitSlicedPairConductanceConverter(),
    "bit-sliced offset": converters.BitSlicedOffsetConductanceConverter(),
}


@pytest.mark.parametrize("kind", ["tensor", "channel", "tile"])
@pytest.mark.parametrize("converter", CONVERTERS)
def test_weights_that_are_cut_off_without_being_asked_for_fail(converter, kind):
    """The promise is that of the original weights: a mapping of smaller ones does not widen it."""
    weight = array(8, 6)
    limit = np.abs(weight).max() / 2
    scheme = MappingScheme(CONVERTERS[converter], Granularity(kind, (4, 4) if kind == "tile" else None))
    for factor, passes in ((np.inf, True), (limit, False)):
        mapped = ir.from_proto(ir.to_proto(model_of(W=np.clip(weight, -factor, factor))))
        MapConductances(scheme=scheme)(mapped)
        [found] = compare(model_of(W=weight), ir.from_proto(ir.to_proto(mapped)))
        assert found.passed is passes, found


def test_a_weight_of_which_no_bound_is_known_does_not_pass(monkeypatch):
    original = model_of(W=array())
    mapped = mapped_from(original)
    monkeypatch.setattr(WeightConversion, "error_bound", lambda *_: np.inf)
    [found] = compare(original, mapped)
    assert not found.passed
    assert found.bound is None
    assert "no bound of its error is known" in found.problem
