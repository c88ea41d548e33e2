"""The outputs of a mapped model against those of its original."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.comparison import OutputComparison
from onnx_gconv.runtime.inputs import InputSpec, ValueRange
from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal
from onnx_gconv.verification import original_runs as module
from onnx_gconv.verification.outputs import OutputsReport, compare_outputs
from tests import graphs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLOAT = TensorProto.FLOAT
WEIGHT = np.random.default_rng(7).standard_normal((16, 8)).astype(np.float32)

node = helper.make_node


def tensor(name: str, element_type: int = FLOAT, shape: Any = ("b", "n")) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


def save(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], **weights: Any) -> Path:
    domains = ["", "ai.onnx.ml", "custom"]
    onnx.save(graphs.model(nodes, inputs, outputs, graphs.tensors(weights), domains=domains), path)
    return path


def rebuild(weight: np.ndarray, *, g_max: float = 25.0, exact: bool = False) -> dict[str, np.ndarray]:
    """The conductances and the scale of a single pair, computed in float32."""
    scale = np.float32(g_max) / np.abs(weight.astype(np.float32)).max()
    scale = np.float32(2.0 ** np.floor(np.log2(scale))) if exact else scale
    scaled = weight.astype(np.float32) * scale
    return {"g_plus": np.maximum(scaled, 0), "g_minus": np.maximum(-scaled, 0), "g_scale": np.asarray(scale)}


class Linear:
    """``y = tail(x @ W)``, plain and mapped by hand.

    The tail is a list of nodes from ``h`` to ``outputs``.
    """

    def __init__(self, folder: Path, weight: np.ndarray = WEIGHT, **changes: Any) -> None:
        self.folder = folder
        self.weight = weight
        self.tail: list[onnx.NodeProto] = changes.pop("tail", [node("Identity", ["h"], ["y"])])
        self.outputs: list[Any] = changes.pop("outputs", [tensor("y")])
        self.constants: dict[str, Any] = changes
        self.element_type = helper.np_dtype_to_tensor_dtype(weight.dtype)
        self.original = self._save("original.onnx", [], {"w": weight})

    def _save(self, name: str, head: list[onnx.NodeProto], weights: dict[str, Any]) -> Path:
        nodes = [*head, node("MatMul", ["x", "w"], ["h"]), *self.tail]
        inputs = [tensor("x", self.element_type, ["b", self.weight.shape[0]])]
        return save(self.folder / name, nodes, inputs, self.outputs, **weights, **self.constants)

    def changed(self, weight: np.ndarray) -> Path:
        """A plain model with another weight."""
        return self._save("changed.onnx", [], {"w": weight})

    def mapped(self, change: Callable[[dict[str, np.ndarray]], Any] | None = None, **options: Any) -> Path:
        """The model with its weight as conductances, after a change to them in place."""
        arrays = rebuild(self.weight, **options)
        if change is not None:
            change(arrays)
        head = [node("Sub", ["g_plus", "g_minus"], ["g_difference"])]
        if self.weight.dtype == np.float32:
            head.append(node("Div", ["g_difference", "g_scale"], ["w"]))
        else:
            head.append(node("Div", ["g_difference", "g_scale"], ["rebuilt"]))
            head.append(node("Cast", ["rebuilt"], ["w"], to=self.element_type))
        return self._save("mapped.onnx", head, arrays)


@pytest.fixture
def linear(tmp_path: Path) -> Linear:
    return Linear(tmp_path)


def compare(original: Path, mapped: Path, **changes: Any) -> OutputsReport:
    options: dict[str, Any] = {"inputs": None, "dims": {}, "values": {}, "seed": 0, "mapped_weights": 1}
    return compare_outputs(original, mapped, **options | changes)


def only(report: OutputsReport) -> OutputComparison:
    """The one comparison, which says the same at both levels."""
    optimized, plain = report.comparisons
    assert (optimized.optimization, plain.optimization) == ("all", "none")
    assert optimized.passed == plain.passed == report.passed
    return plain


def pass_on(path: Path, *nodes: onnx.NodeProto, outputs: list[Any], inputs: list[Any] | None = None) -> Path:
    """A model without weights, on an input x of float32 [4, 4]."""
    return save(path, list(nodes), inputs or [tensor("x", shape=[4, 4])], outputs)


# --- what passes


def test_a_model_equals_itself(linear: Linear) -> None:
    report = compare(linear.original, linear.original, mapped_weights=0)

    assert report.passed
    assert report.not_compared is None
    assert [(found.name, found.optimization) for found in report.comparisons] == [("y", "all"), ("y", "none")]
    for found in report.comparisons:
        assert (found.max_abs_error, found.sqnr_db, found.bit_identical) == (0, None, True)
        assert (found.dtype, found.shape, found.argmax_agreement) == ("float32", (1, 8), 1)


def test_a_mapping_with_an_exact_scale_is_bit_identical_at_both_levels(linear: Linear) -> None:
    assert all(found.bit_identical for found in compare(linear.original, linear.mapped(exact=True)).comparisons)


def test_a_mapping_with_any_scale_passes(linear: Linear) -> None:
    found = only(compare(linear.original, linear.mapped(g_max=23.7)))

    assert found.passed
    assert found.tolerance is not None
    assert found.max_abs_error is not None
    assert found.max_abs_error <= found.tolerance < 1e-4
    assert found.note is None


def test_weights_that_are_off_by_one_ulp_pass(linear: Linear) -> None:
    noisy = np.nextafter(WEIGHT, np.where(np.arange(8) % 2, np.inf, -np.inf).astype(np.float32))

    found = only(compare(linear.original, linear.changed(noisy)))

    assert found.passed
    assert found.max_abs_error
    assert found.sqnr_db is not None
    assert found.sqnr_db > 100


def test_float16_weights_mapped_in_float32_pass(tmp_path: Path) -> None:
    linear = Linear(tmp_path, WEIGHT.astype(np.float16), outputs=[tensor("y", TensorProto.FLOAT16)])

    found = only(compare(linear.original, linear.mapped()))

    assert found.passed
    assert found.dtype == "float16"


def test_a_float64_output_of_float32_weights_may_carry_their_rounding(tmp_path: Path) -> None:
    tail = [node("Cast", ["h"], ["y"], to=TensorProto.DOUBLE)]
    linear = Linear(tmp_path, tail=tail, outputs=[tensor("y", TensorProto.DOUBLE)])
    mapped = linear.mapped(g_max=23.7)

    assert compare(linear.original, mapped, dims={"b": 8}).passed
    assert fails(compare(linear.original, mapped, dims={"b": 8}, weight_eps=2.0**-52))


def test_probabilities_near_zero_may_differ_by_the_resolution_of_a_sigmoid(tmp_path: Path) -> None:
    tail = [node("Add", ["h", "bias"], ["biased"]), node("Sigmoid", ["biased"], ["y"])]
    linear = Linear(tmp_path, tail=tail, bias=np.float32(-8))

    for seed in range(20):
        assert compare(linear.original, linear.mapped(g_max=23.7), seed=seed).passed


def test_an_output_of_zeros_passes_where_both_are_zero(tmp_path: Path) -> None:
    linear = Linear(tmp_path, tail=[node("Mul", ["h", "zero"], ["y"])], zero=np.float32(0))

    found = only(compare(linear.original, linear.mapped()))

    assert (found.passed, found.tolerance, found.max_abs_error) == (True, 0, 0)


def test_an_output_without_a_row_of_two_has_no_argmax(tmp_path: Path) -> None:
    linear = Linear(tmp_path, WEIGHT[:, :1])

    assert only(compare(linear.original, linear.mapped())).argmax_agreement is None


# --- what fails


def fails(report: OutputsReport) -> bool:
    """It fails at both levels, with a reason."""
    return len(report.comparisons) == 2 and all(not found.passed and found.note for found in report.comparisons)


@pytest.mark.parametrize("mapped_weights", [0, 1, 50, 10**9])
def test_one_corrupted_weight_fails_however_many_weights_there_are(linear: Linear, mapped_weights: int) -> None:
    def corrupt(arrays: dict[str, np.ndarray]) -> None:
        arrays["g_plus"][3, 4] = 25.0
        arrays["g_minus"][3, 4] = 0.0

    assert fails(compare(linear.original, linear.mapped(corrupt), mapped_weights=mapped_weights))


def test_swapped_rows_fail(linear: Linear) -> None:
    def swap(arrays: dict[str, np.ndarray]) -> None:
        for name in ("g_plus", "g_minus"):
            arrays[name][[0, 1]] = arrays[name][[1, 0]]

    assert fails(compare(linear.original, linear.mapped(swap)))


def test_a_swapped_pair_fails(linear: Linear) -> None:
    def swap(arrays: dict[str, np.ndarray]) -> None:
        arrays["g_plus"], arrays["g_minus"] = arrays["g_minus"], arrays["g_plus"]

    report = compare(linear.original, linear.mapped(swap))

    assert fails(report)
    assert report.comparisons[0].sqnr_db == pytest.approx(10 * np.log10(1 / 4), abs=1e-3)


def test_a_scale_that_is_off_by_a_thousandth_fails(linear: Linear) -> None:
    def stretch(arrays: dict[str, np.ndarray]) -> None:
        arrays["g_scale"] *= np.float32(1.001)

    found = only(compare(linear.original, linear.mapped(stretch)))

    assert not found.passed
    assert found.argmax_agreement == 1
    assert found.note is not None
    assert "is above the tolerance" in found.note


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.9])
def test_a_wrong_float16_model_of_a_hundred_weights_fails(tmp_path: Path, factor: float) -> None:
    linear = Linear(tmp_path, WEIGHT.astype(np.float16), outputs=[tensor("y", TensorProto.FLOAT16)])
    wrong = linear.changed(linear.weight * np.float16(factor))

    assert fails(compare(linear.original, wrong, mapped_weights=100, weight_eps=2.0**-10))


def test_an_error_in_a_tiny_output_fails(tmp_path: Path) -> None:
    linear = Linear(tmp_path, WEIGHT * np.float32(1e-9))

    assert compare(linear.original, linear.mapped()).passed
    assert fails(compare(linear.original, linear.changed(-linear.weight)))


def test_an_output_near_zero_everywhere_says_that_it_says_little(tmp_path: Path) -> None:
    linear = Linear(tmp_path, WEIGHT * np.float32(1e-9))

    found = only(compare(linear.original, linear.changed(linear.weight * np.float32(1.05))))

    assert found.passed
    assert "no element is above" in str(found.note)


def test_an_error_below_a_mask_fails(tmp_path: Path) -> None:
    tail = [node("Where", ["keep", "h", "mask"], ["y"])]
    linear = Linear(tmp_path, tail=tail, keep=np.arange(8) < 4, mask=np.float32(-1e9))

    assert compare(linear.original, linear.mapped()).passed
    assert fails(compare(linear.original, linear.changed(linear.weight * np.float32(1.01))))


def test_another_shape_fails(tmp_path: Path, linear: Linear) -> None:
    (tmp_path / "wide").mkdir()
    wide = Linear(tmp_path / "wide", np.ones((16, 9), np.float32)).original

    report = compare(linear.original, wide)

    assert fails(report)
    assert report.comparisons[0].note == "has the shape [1, 9] and must have [1, 8]"
    assert report.comparisons[0].max_abs_error is None


def test_another_type_fails(tmp_path: Path) -> None:
    one = pass_on(tmp_path / "one.onnx", node("Identity", ["x"], ["y"]), outputs=[tensor("y")])
    cast = node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)
    other = pass_on(tmp_path / "other.onnx", cast, outputs=[tensor("y", TensorProto.DOUBLE)])

    report = compare(one, other)

    assert fails(report)
    assert report.comparisons[0].note == "is float64 and must be float32"


def test_a_missing_output_and_a_new_one_fail(tmp_path: Path) -> None:
    one = pass_on(tmp_path / "one.onnx", node("Identity", ["x"], ["y"]), outputs=[tensor("y")])
    other = pass_on(tmp_path / "other.onnx", node("Identity", ["x"], ["z"]), outputs=[tensor("z")])

    report = compare(one, other)

    assert not report.passed
    assert [(found.name, found.note) for found in report.comparisons[:2]] == [
        ("y", "the mapped model does not give this output"),
        ("z", "the original does not give this output"),
    ]


# --- NaN, infinities, nothing


def by_power(tmp_path: Path) -> Linear:
    """NaN where x @ W is negative."""
    return Linear(tmp_path, tail=[node("Log", ["h"], ["y"])])


def test_nan_at_the_same_places_passes(tmp_path: Path) -> None:
    linear = by_power(tmp_path)
    found = only(compare(linear.original, linear.mapped()))

    assert found.passed
    assert found.compared_elements < 8


def test_nan_at_other_places_fails(tmp_path: Path) -> None:
    linear = by_power(tmp_path)
    report = compare(linear.original, linear.changed(-linear.weight))

    assert fails(report)
    assert "NaN or infinite elements stand where" in str(report.comparisons[0].note)
    assert report.comparisons[0].max_abs_error is None


def test_infinities_of_the_same_sign_pass_and_of_the_other_fail(tmp_path: Path) -> None:
    linear = Linear(tmp_path, tail=[node("Div", ["h", "zero"], ["y"])], zero=np.float32([0, 1, 1, 1, 1, 1, 1, 1]))
    flipped = WEIGHT.copy()
    flipped[:, 0] *= -1

    assert compare(linear.original, linear.mapped()).passed
    assert fails(compare(linear.original, linear.changed(flipped)))


def test_inputs_of_nan_are_named(tmp_path: Path) -> None:
    linear = Linear(tmp_path)
    given = {"x": np.full((2, 16), np.nan, np.float32)}
    np.savez(tmp_path / "nan.npz", **given)

    for inputs, file in ((given, ""), (tmp_path / "nan.npz", f"{tmp_path / 'nan.npz'}: ")):
        not_compared = compare(linear.original, linear.mapped(), inputs=inputs).not_compared
        assert str(not_compared).endswith(f"; {file}the input 'x' is nan at [0, 0]; replace it by a number")


def test_elements_of_which_only_the_places_are_compared_are_told(tmp_path: Path) -> None:
    linear = Linear(tmp_path)
    x = np.ones((5, 16), np.float32)
    x[3, 2] = np.nan
    report = compare(linear.original, linear.mapped(), inputs={"x": x})

    assert report.passed
    [note] = report.notes
    assert note == (
        "of output 'y' only the places of 8 of 40 elements were compared, which are NaN or infinite in both models: "
        "the input 'x' is nan at [3, 2]; replace it by a number"
    )
    x[3, 2] = 1
    assert compare(linear.original, linear.mapped(), inputs={"x": x}).notes == ()


def test_outputs_of_nan_alone_are_reported_as_not_compared(tmp_path: Path) -> None:
    linear = Linear(tmp_path, tail=[node("Mul", ["h", "nan"], ["y"])], nan=np.float32(np.nan))
    report = compare(linear.original, linear.mapped())

    assert report.passed
    assert "empty or not finite" in str(report.not_compared)


def test_a_mapped_model_with_numbers_where_the_original_has_nan_alone_fails(tmp_path: Path) -> None:
    linear = Linear(tmp_path, tail=[node("Mul", ["h", "factor"], ["y"])], factor=np.float32(np.nan))
    linear.constants["factor"] = np.float32(1)
    report = compare(linear.original, linear.mapped())

    assert fails(report)
    assert report.not_compared is None


def test_empty_outputs_are_reported_as_not_compared(linear: Linear) -> None:
    report = compare(linear.original, linear.mapped(), dims={"b": 0})

    assert report.passed
    assert report.comparisons[0].shape == (0, 8)
    assert report.comparisons[0].argmax_agreement is None
    assert "empty or not finite" in str(report.not_compared)


def test_numbers_too_large_to_square_have_no_sqnr(tmp_path: Path) -> None:
    linear = Linear(tmp_path, WEIGHT.astype(np.float64) * 1e300, outputs=[tensor("y", TensorProto.DOUBLE)])

    report = compare(linear.original, linear.changed(-linear.weight))

    assert fails(report)
    assert report.comparisons[0].sqnr_db is None
    json.dumps(report.to_json(), allow_nan=False)


# --- integers, bools, text


def test_equal_integers_pass(tmp_path: Path) -> None:
    linear = Linear(tmp_path, tail=[node("ArgMax", ["h"], ["y"], axis=1)], outputs=[tensor("y", TensorProto.INT64)])

    found = only(compare(linear.original, linear.mapped(), dims={"b": 50}))

    assert (found.passed, found.mismatches, found.allowed_mismatches, found.max_abs_error) == (True, 0, 0, 0)
    assert (found.spread, found.tolerance, found.sqnr_db, found.argmax_agreement) == (None, None, None, None)


@pytest.mark.parametrize(
    ("tail", "element_type"),
    [
        ([node("ArgMax", ["h"], ["y"], axis=1)], TensorProto.INT64),
        ([node("Greater", ["h", "zero"], ["y"])], TensorProto.BOOL),
        ([node("Cast", ["h"], ["y"], to=TensorProto.INT8)], TensorProto.INT8),
    ],
)
def test_integers_and_bools_that_differ_fail_with_their_number(
    tmp_path: Path, tail: list[onnx.NodeProto], element_type: int
) -> None:
    linear = Linear(tmp_path, tail=tail, outputs=[tensor("y", element_type)], zero=np.float32(0))

    report = compare(linear.original, linear.changed(-linear.weight), dims={"b": 50})

    assert fails(report)
    found = report.comparisons[0]
    assert found.mismatches
    assert found.max_abs_error
    assert found.note is not None
    assert f"{found.mismatches} of {found.compared_elements} elements differ" in found.note


def test_large_integers_are_compared_exactly(tmp_path: Path) -> None:
    largest = 2**63 - 1
    outputs = [tensor("y", TensorProto.INT64, [1])]
    inputs = [tensor("x", TensorProto.INT64, [1])]
    for name, one in (("one", 0), ("other", 1)):
        nodes = [node("Sub", ["x", "one"], ["y"])]
        save(tmp_path / f"{name}.onnx", nodes, inputs, outputs, one=np.array([one]))

    report = compare(tmp_path / "one.onnx", tmp_path / "other.onnx", values={"x": ValueRange(largest, largest)})

    assert fails(report)
    assert report.comparisons[0].max_abs_error == 1


def test_text_is_compared(tmp_path: Path) -> None:
    tail = [node("Greater", ["h", "zero"], ["positive"]), node("Where", ["positive", "yes", "no"], ["y"])]
    text = {"yes": np.array(["yes"], object), "no": np.array(["no"], object)}
    linear = Linear(tmp_path, tail=tail, outputs=[tensor("y", TensorProto.STRING)], zero=np.float32(0), **text)

    assert compare(linear.original, linear.mapped()).passed
    report = compare(linear.original, linear.changed(-linear.weight))
    assert fails(report)
    assert (report.comparisons[0].dtype, report.comparisons[0].max_abs_error) == ("string", None)


# --- an original that differs from itself


DRAWS = {
    "RandomUniform": (lambda **seed: node("RandomUniform", [], ["r"], shape=[100, 4], high=8.0, **seed), FLOAT),
    "RandomNormalLike": (lambda **seed: node("RandomNormalLike", ["x"], ["r"], **seed), FLOAT),
    "Bernoulli": (lambda **seed: node("Bernoulli", ["half"], ["r"], **seed), FLOAT),
    "Multinomial": (lambda **seed: node("Multinomial", ["half"], ["r"], sample_size=40, **seed), TensorProto.INT32),
    "Dropout": (lambda **seed: node("Dropout", ["x", "ratio", "training"], ["r"], **seed), FLOAT),
}


def random_model(path: Path, op_type: str, *, added: float = 0.0, seed: int | None = None) -> Path:
    """What a node draws, and an output without any of it; `added` is what another model would be wrong by."""
    draw, drawn = DRAWS[op_type]
    seeds = {} if seed is None else {"seed": seed if op_type == "Dropout" else float(seed)}
    nodes = [
        draw(**seeds),
        node("Cast", ["r"], ["c"], to=FLOAT),
        node("Add", ["c", "b"], ["y"]),
        node("Identity", ["r"], ["z"]),
        node("Mul", ["x", "half"], ["sober"]),
    ]
    constants = {"b": np.float32(added), "half": np.full((100, 4), 0.5, np.float32), "ratio": np.float32(0.5)}
    return save(
        path,
        nodes,
        [tensor("x", FLOAT, [100, 4])],
        [tensor("y", FLOAT), tensor("z", drawn), tensor("sober", FLOAT)],
        training=np.array(True),
        **constants,
    )


@pytest.mark.parametrize("op_type", DRAWS)
def test_what_is_drawn_without_a_seed_is_not_compared_and_the_report_says_so(tmp_path: Path, op_type: str) -> None:
    original = random_model(tmp_path / "original.onnx", op_type)

    report = compare(original, random_model(tmp_path / "mapped.onnx", op_type, added=5.0))

    is_random = {found.name: found.is_random for found in report.comparisons}
    assert is_random == {"y": True, "z": True, "sober": False}
    for found in report.comparisons:
        assert found.passed
        assert (found.compared_elements > 0) is not found.is_random
        expected = "not compared: it differs from run to run of the original" if found.is_random else None
        assert found.note == expected
    assert report.not_compared is None
    assert report.unproved == (
        "'y', 'z' differ from run to run of the original; give nodes that draw random numbers a seed, or feed the "
        "numbers in"
    )
    assert report.to_json()["not_compared"] == report.unproved


@pytest.mark.parametrize("op_type", DRAWS)
def test_what_an_unknown_op_draws_is_not_compared_either(
    tmp_path: Path, op_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "random_numbers", lambda _: "none")
    original = random_model(tmp_path / "original.onnx", op_type)

    report = compare(original, random_model(tmp_path / "mapped.onnx", op_type, added=5.0))

    assert {found.name: found.is_random for found in report.comparisons} == {"y": True, "z": True, "sober": False}


@pytest.mark.parametrize("op_type", DRAWS)
def test_what_is_drawn_with_a_seed_is_compared_in_the_first_runs_of_sessions(tmp_path: Path, op_type: str) -> None:
    original = random_model(tmp_path / "original.onnx", op_type, seed=3)

    same = compare(original, random_model(tmp_path / "same.onnx", op_type, seed=3))
    biased = compare(original, random_model(tmp_path / "biased.onnx", op_type, added=0.01, seed=3))
    others = compare(original, random_model(tmp_path / "others.onnx", op_type, seed=4))

    assert same.passed
    assert same.unproved is None
    assert all(found.bit_identical for found in same.comparisons)
    assert {found.name for found in biased.comparisons if not found.passed} == {"y"}
    assert {found.name for found in others.comparisons if not found.passed} == {"y", "z"}


def some_spread(monkeypatch: pytest.MonkeyPatch, **spread: Any) -> None:
    real = module.spread_between
    monkeypatch.setattr(module, "spread_between", lambda *runs: replace(real(*runs), **spread))


def test_ten_times_the_spread_passes(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    some_spread(monkeypatch, distance=1e-3)
    slightly = linear.changed(linear.weight * np.float32(1.0005))

    found = only(compare(linear.original, slightly))

    assert found.passed
    assert found.tolerance == pytest.approx(1e-2)


def test_the_spread_does_not_excuse_an_error_of_a_hundredth_of_the_range(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_spread(monkeypatch, distance=1e-2)

    assert fails(compare(linear.original, linear.changed(linear.weight * np.float32(1.02))))


@pytest.mark.parametrize(
    ("own", "mismatches", "passed"), [(1, 10, True), (1, 11, False), (40, 40, True), (40, 41, False)]
)
def test_ten_mismatches_pass_for_each_of_the_originals_own_up_to_a_tenth_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int, mismatches: int, passed: bool
) -> None:
    some_spread(monkeypatch, mismatches=own)
    inputs, outputs = ([tensor(name, TensorProto.BOOL, [100])] for name in "xy")
    original = save(tmp_path / "original.onnx", [node("Identity", ["x"], ["y"])], inputs, outputs)
    flips = np.arange(100) < mismatches
    mapped = save(tmp_path / "mapped.onnx", [node("Xor", ["x", "flips"], ["y"])], inputs, outputs, flips=flips)

    found = only(compare(original, mapped))

    assert (found.mismatches, found.passed) == (mismatches, passed)


def test_an_output_whose_shape_is_drawn_is_not_compared(tmp_path: Path) -> None:
    nodes = [
        node("RandomUniform", [], ["r"], shape=[400]),
        node("Round", ["r"], ["zero_or_one"]),
        node("NonZero", ["zero_or_one"], ["y"]),
    ]
    path = save(tmp_path / "random.onnx", nodes, [], [tensor("y", TensorProto.INT64)])
    other = save(
        tmp_path / "other.onnx", [node("Identity", ["x"], ["y"])], [], [tensor("y", 7)], x=np.zeros((1, 2), int)
    )

    report = compare(path, other)

    assert report.passed
    assert all(found.is_random for found in report.comparisons)
    assert report.unproved is not None


# --- sequences, maps, optional values


def test_the_parts_of_a_sequence_are_outputs_of_their_own(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    linear = Linear(tmp_path, tail=[node("SequenceConstruct", ["h", "h"], ["y"])], outputs=[sequence])

    report = compare(linear.original, linear.mapped())

    assert report.passed
    assert [found.name for found in report.comparisons] == ["y[0]", "y[1]"] * 2
    assert not compare(linear.original, linear.changed(-linear.weight)).passed


def test_sequences_of_other_lengths_fail(tmp_path: Path) -> None:
    outputs = [helper.make_tensor_sequence_value_info("y", FLOAT, None)]
    models = [
        pass_on(tmp_path / f"{count}.onnx", node("SequenceConstruct", ["x"] * count, ["y"]), outputs=outputs)
        for count in (1, 2)
    ]
    empty = pass_on(tmp_path / "0.onnx", node("SequenceEmpty", [], ["y"]), outputs=outputs)

    assert not compare(models[0], models[1]).passed
    assert not compare(models[1], models[0]).passed
    assert not compare(empty, models[0]).passed
    assert compare(empty, empty).passed


def test_the_maps_of_a_classifier_are_one_matrix(tmp_path: Path) -> None:
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(7, helper.make_tensor_type_proto(FLOAT, [])))
    zip_map = helper.make_node("ZipMap", ["h"], ["y"], domain="ai.onnx.ml", classlabels_int64s=list(range(8)))
    linear = Linear(tmp_path, tail=[zip_map], outputs=[helper.make_value_info("y", kind)])

    report = compare(linear.original, linear.mapped(), dims={"b": 3})

    assert report.passed
    assert [(found.name, found.shape) for found in report.comparisons[:2]] == [("y.keys", (8,)), ("y.values", (3, 8))]
    assert not compare(linear.original, linear.changed(-linear.weight)).passed


def test_a_single_map_is_its_keys_and_its_values() -> None:
    flat = module.flatten_all({"y": {"cat": 0.25, "dog": 0.75}})

    assert {name: None if array is None else array.tolist() for name, array in flat.items()} == {
        "y.keys": ["cat", "dog"],
        "y.values": [0.25, 0.75],
    }


def optional(path: Path, *inputs: str) -> Path:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    element = None if inputs else helper.make_tensor_type_proto(FLOAT, None)
    optional_node = node("Optional", inputs, ["y"], type=element) if element else node("Optional", inputs, ["y"])
    return pass_on(path, optional_node, outputs=[helper.make_value_info("y", kind)])


def test_an_optional_output_without_a_value_must_have_none_in_both(tmp_path: Path) -> None:
    empty, full = optional(tmp_path / "empty.onnx"), optional(tmp_path / "full.onnx", "x")

    assert compare(empty, empty).passed
    assert compare(full, full).passed
    assert str(compare(empty, full).comparisons[0].note) == "only the mapped model gives a value"
    assert str(compare(full, empty).comparisons[0].note) == "only the original gives a value"


# --- inputs


def test_the_report_says_what_was_generated(linear: Linear) -> None:
    inputs = compare(linear.original, linear.original, dims={"b": 3}, seed=5).inputs

    assert inputs is not None
    assert (inputs.source, inputs.seed) == ("generated inputs", 5)
    assert inputs.tensors == (InputSpec("x", np.dtype(np.float32), (3, 16)),)


def test_one_seed_gives_one_report_and_another_seed_another(linear: Linear) -> None:
    mapped = linear.mapped(g_max=23.7)
    one, again, other = (compare(linear.original, mapped, seed=seed) for seed in (1, 1, 2))

    assert one == again
    assert one.comparisons != other.comparisons


def convolution(path: Path, kernel: int) -> Path:
    """A network that takes no picture smaller than its kernel."""
    weight = np.ones((1, 1, kernel, kernel), np.float32)
    nodes = [node("Conv", ["x", "w"], ["y"], strides=[64, 64])]
    return save(path, nodes, [tensor("x", shape=["b", 1, "h", "w_"])], [tensor("y", shape=None)], w=weight)


def test_the_first_size_that_the_original_accepts_is_taken(tmp_path: Path) -> None:
    for kernel, size in ((16, 32), (40, 64), (230, 576)):
        path = convolution(tmp_path / "model.onnx", kernel)
        report = compare(path, path)

        assert report.not_compared is None
        assert report.inputs is not None
        assert report.inputs.tensors[0].shape == (1, 1, size, size)


def test_an_original_that_accepts_no_size_is_reported(tmp_path: Path) -> None:
    path = convolution(tmp_path / "model.onnx", 1000)
    report = compare(path, path)

    assert report.comparisons == ()
    assert report.inputs is None
    assert "generated inputs of 8 sizes; give inputs of your own" in str(report.not_compared)
    assert "\n" not in str(report.not_compared)


def test_the_users_file_is_fed(tmp_path: Path, linear: Linear) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.ones((2, 16), np.float32))
    report = compare(linear.original, linear.mapped(), inputs=tmp_path / "inputs.npz")

    assert report.passed
    assert report.inputs is not None
    assert (report.inputs.source, report.inputs.seed) == (str(tmp_path / "inputs.npz"), None)
    assert report.comparisons[0].shape == (2, 8)


def test_the_users_arrays_are_fed(linear: Linear) -> None:
    report = compare(linear.original, linear.mapped(), inputs={"x": np.ones((2, 16), np.float32)})

    assert report.inputs is not None
    assert report.inputs.source == "given inputs"


def test_inputs_of_the_wrong_type_are_refused(linear: Linear) -> None:
    with pytest.raises(ConfigError, match="given inputs: input 'x' is float64 and must be float32"):
        compare(linear.original, linear.mapped(), inputs={"x": np.ones((2, 16))})


def test_the_users_inputs_that_the_original_does_not_run_on_are_refused(tmp_path: Path) -> None:
    path = convolution(tmp_path / "model.onnx", 16)

    with pytest.raises(ConfigError, match=r"given inputs: ONNX Runtime does not run .*model\.onnx on these inputs: "):
        compare(path, path, inputs={"x": np.ones((1, 1, 8, 8), np.float32)})


def test_sizes_and_values_do_not_go_with_inputs(linear: Linear) -> None:
    with pytest.raises(ConfigError, match="give either them or the inputs themselves"):
        compare(linear.original, linear.mapped(), inputs={"x": np.ones((1, 16), np.float32)}, dims={"b": 1})


@pytest.mark.parametrize("options", [{"dims": {"batch": 1}}, {"values": {"z": ValueRange(0, 1)}}])
def test_sizes_and_values_of_unknown_names_are_refused(linear: Linear, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is named"):
        compare(linear.original, linear.mapped(), **options)


# --- models that do not run


@pytest.mark.parametrize("which", [0, 1])
def test_a_model_that_does_not_exist_is_an_error(tmp_path: Path, linear: Linear, which: int) -> None:
    models = [linear.original, linear.original]
    models[which] = tmp_path / "none.onnx"

    with pytest.raises(ModelError, match=r"none\.onnx: there is no such file"):
        compare(*models)


def test_an_original_with_an_unknown_operator_is_reported(tmp_path: Path) -> None:
    sparkle = node("Sparkle", ["x"], ["y"], domain="custom")
    path = pass_on(tmp_path / "model.onnx", sparkle, outputs=[tensor("y")])

    report = compare(path, path)

    assert report.passed
    assert report.comparisons == ()
    assert "does not load the original" in str(report.not_compared)
    assert "Sparkle" in str(report.not_compared)


def test_an_original_that_does_not_load_is_reported_with_given_inputs_too(tmp_path: Path) -> None:
    path = pass_on(tmp_path / "model.onnx", node("Sparkle", ["x"], ["y"], domain="custom"), outputs=[tensor("y")])

    assert compare(path, path, inputs={"x": np.ones((4, 4), np.float32)}).not_compared is not None


def test_an_original_with_an_input_that_is_no_tensor_is_reported(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_sequence_value_info("frames", FLOAT, None)]
    length = node("SequenceLength", ["frames"], ["y"])
    path = pass_on(tmp_path / "model.onnx", length, inputs=inputs, outputs=[tensor("y", 7, [])])

    assert "'frames' is a seq(tensor(float))" in str(compare(path, path).not_compared)


def test_a_mapped_model_that_does_not_load_fails(tmp_path: Path, linear: Linear) -> None:
    mapped = pass_on(tmp_path / "wrong.onnx", node("Sparkle", ["x"], ["y"], domain="custom"), outputs=[tensor("y")])

    report = compare(linear.original, mapped)

    assert not report.passed
    assert report.not_compared is None
    assert [(failure.optimization, failure.stage) for failure in report.failures] == [("all", "load"), ("none", "load")]
    assert "Sparkle" in report.failures[0].message


def test_a_mapped_model_that_does_not_take_the_inputs_fails(tmp_path: Path, linear: Linear) -> None:
    inputs = [tensor("other", shape=[1, 16])]
    mapped = pass_on(tmp_path / "wrong.onnx", node("Identity", ["other"], ["y"]), inputs=inputs, outputs=[tensor("y")])

    report = compare(linear.original, mapped)

    assert not report.passed
    assert {failure.stage for failure in report.failures} == {"run"}


def refuse(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Let no model load at one level."""

    class Refusing(ModelSession):
        def __init__(self, model: Path, optimization: Any) -> None:
            if optimization == level:
                raise RuntimeRefusal("load", "not\nimplemented")
            super().__init__(model, optimization)

    monkeypatch.setattr(module, "ModelSession", Refusing)


@pytest.mark.parametrize(("refused", "compared"), [("all", "none"), ("none", "all")])
def test_an_original_that_runs_at_one_level_is_compared_there(
    linear: Linear, monkeypatch: pytest.MonkeyPatch, refused: str, compared: str
) -> None:
    refuse(monkeypatch, refused)

    report = compare(linear.original, linear.mapped())

    assert report.passed
    assert [found.optimization for found in report.comparisons] == [compared]
    assert report.comparisons[0].spread == 0
    assert report.notes[0].startswith("the original runs in ONNX Runtime at one level only")
    assert report.notes[0].endswith("not implemented")


# --- the report


def test_the_report_is_valid_json(tmp_path: Path) -> None:
    linear = by_power(tmp_path)
    for mapped in (linear.mapped(), linear.changed(-linear.weight)):
        report = compare(linear.original, mapped)
        document = json.loads(json.dumps(report.to_json(), allow_nan=False))

        assert document["passed"] == report.passed
        assert document["inputs"]["tensors"] == [{"name": "x", "dtype": "float32", "shape": [1, 16]}]
        assert "max(10 * spread, 32 * mapped_weights * eps * range" in document["rule"]
        assert {"name", "optimization", "max_abs_error", "sqnr_db"} <= document["outputs"][0].keys()
        assert document["outputs"][0]["shape"] == [1, 8]


def test_a_report_without_a_comparison_is_valid_json(tmp_path: Path) -> None:
    path = pass_on(tmp_path / "model.onnx", node("Sparkle", ["x"], ["y"], domain="custom"), outputs=[tensor("y")])
    document = json.loads(json.dumps(compare(path, path).to_json()))

    assert document["inputs"] is None
    assert document["outputs"] == []


def test_failures_are_in_the_json(tmp_path: Path, linear: Linear) -> None:
    mapped = pass_on(tmp_path / "wrong.onnx", node("Sparkle", ["x"], ["y"], domain="custom"), outputs=[tensor("y")])
    document: Any = compare(linear.original, mapped).to_json()

    assert document["failures"][0]["optimization"] == "all"
    assert document["failures"][0]["stage"] == "load"


def test_progress_is_told_line_by_line(tmp_path: Path) -> None:
    path = convolution(tmp_path / "model.onnx", 40)
    lines: list[str] = []
    compare(path, path, progress=lines.append)

    assert lines == [
        "running the original, optimized",
        "trying inputs x [1, 1, 64, 64]",
        "running the original, not optimized",
        "running the mapped model, optimized",
        "running the mapped model, not optimized",
    ]


def test_nothing_is_printed(tmp_path: Path, linear: Linear, capfd: pytest.CaptureFixture[str]) -> None:
    path = convolution(tmp_path / "model.onnx", 230)
    compare(path, path)
    compare(linear.original, path)

    assert capfd.readouterr() == ("", "")


def test_one_model_is_in_memory_at_a_time(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[weakref.ref[Any]] = []
    alive_before: list[int] = []
    create = onnxruntime.InferenceSession

    def count(*arguments: Any, **options: Any) -> Any:
        alive_before.append(sum(session() is not None for session in sessions))
        session = create(*arguments, **options)
        sessions.append(weakref.ref(session))
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", count)
    compare(linear.original, linear.mapped())

    assert alive_before == [0, 0, 0, 0]
