"""What is computed from constants is what ONNX Runtime computes, for every op and version; all else is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.defs
import pytest
from onnx import TensorProto, helper

from onnx_gconv.weights.evaluation import evaluated_ops
from onnx_gconv.weights.evaluation.evaluated_ops import EVALUATED_OPS, EvaluationError, evaluated_op
from onnx_gconv.weights.evaluation.node_evaluation import added_bytes, evaluate_node
from tests.weights.compared_nodes import OLDEST_OPSET, ComparedNode, largest_distance, nodes_of, run
from tests.weights.evaluated_cases import CASES

# In units in the last place of the largest number of a result. Sums and products of tens of numbers, and functions such
# as exp, differ by up to 5 between two implementations that round in other places.
ROUNDED_TOLERANCE = 8

# The newest opset that onnx knows, the newest that ONNX Runtime runs, too, and the versions that it cannot run.
KNOWN = onnx.defs.onnx_opset_version()
NEWEST_OPSET = min(28, KNOWN)
NOT_RUN = {(op_type, 28) for op_type in ("DequantizeLinear", "Optional", "OptionalGetElement", "QuantizeLinear")}

# Attributes that no case has: how float8e8m0 is rounded, which is no type of weights; the type of an empty optional;
# and the type in which a Range of bfloat16 is added up.
NEVER_CHANGED = {("Cast", "round_mode"), ("CastLike", "round_mode"), ("Optional", "type"), ("Range", "stash_type")}

VERSIONS = [
    (op_type, version)
    for op_type, row in EVALUATED_OPS.items()
    for version in sorted(row.versions)
    if version <= NEWEST_OPSET
]


@pytest.mark.parametrize("op_type", EVALUATED_OPS)
def test_each_version_gives_what_onnxruntime_gives(op_type):
    tolerance = ROUNDED_TOLERANCE if EVALUATED_OPS[op_type].precision == "rounded" else 0
    for version in (version for name, version in VERSIONS if name == op_type):
        compared = list(nodes_of(CASES, op_type, version))
        ours = [item.evaluated() for item in compared]
        theirs = run(compared, ours)
        assert any(item is not None for item in theirs), f"{op_type} {version} was not compared"
        for item, mine, others in zip(compared, ours, theirs, strict=True):
            if others is not None:
                assert largest_distance(mine, others) <= tolerance, item


@pytest.mark.parametrize(
    ("op_type", "version"), [("Optional", 15), ("CastLike", 19), ("DequantizeLinear", 10), ("ReduceProd", 13)]
)
def test_rules_that_the_reference_implementation_has_not_are_those_of_onnxruntime(op_type, version):
    compared = list(nodes_of(CASES, op_type, version))
    ours = [item.evaluated() for item in compared]
    distances = [largest_distance(*pair) for pair in zip(ours, run(compared, ours), strict=True) if pair[1] is not None]
    assert distances
    assert max(distances) <= ROUNDED_TOLERANCE


def test_the_versions_are_those_of_onnx_up_to_the_newest_opset_of_onnxruntime(monkeypatch):
    monkeypatch.setattr(evaluated_ops, "_WRONG_IN", {})  # whatever the installed onnx computes
    assert all(evaluated_op("", op, max(version, OLDEST_OPSET))[1].since_version == version for op, version in VERSIONS)
    possible = {
        (schema.name, evaluated_op_version(schema.name, opset))
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == "" and schema.name in EVALUATED_OPS
        for opset in range(OLDEST_OPSET, NEWEST_OPSET + 1)
        if onnx.defs.has(schema.name, opset)
    }
    assert set(VERSIONS) == possible - NOT_RUN


def evaluated_op_version(op_type, opset):
    return onnx.defs.get_schema(op_type, opset).since_version


@pytest.mark.parametrize(("op_type", "version"), [(op, max(row.versions)) for op, row in EVALUATED_OPS.items()])
def test_each_attribute_is_compared_at_other_values_than_its_default(op_type, version):
    schema = onnx.defs.get_schema(op_type, max(version, OLDEST_OPSET))
    changed = {name for item in nodes_of(CASES, op_type, version) for name in item.case.attributes}
    assert {name for name in schema.attributes if (op_type, name) not in NEVER_CHANGED} <= changed


def test_no_other_op_and_no_other_version_is_computed():
    refused = 0
    for schema in onnx.defs.get_all_schemas_with_history():
        opset = max(schema.since_version, OLDEST_OPSET)
        if schema.domain != "" or (schema.name, schema.since_version) in VERSIONS:
            continue
        if onnx.defs.has(schema.name, opset) and evaluated_op_version(schema.name, opset) == schema.since_version:
            refused += 1
            with pytest.raises(EvaluationError, match=rf"^{schema.name} .*(is not computed|not among the ops)"):
                evaluated_op("", schema.name, opset)
    assert refused > 100


def node(op_type, inputs, outputs=("y",), domain="", **attributes):
    return helper.make_node(op_type, inputs, outputs, domain=domain, **attributes)


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "message"),
    [
        (
            node("QuantizeLinear", ["x", "x"]),
            [np.float32(1)] * 2,
            28,
            "QuantizeLinear as opset 28 defines it is not computed, because it has not been compared with a runtime",
        ),
        (
            node("Neg", ["x"]),
            [np.float32(1)],
            KNOWN + 1,
            (
                f"Neg as opset {KNOWN + 1} defines it is not computed, because the installed onnx {onnx.__version__} "
                f"knows opsets up to {KNOWN}; install a newer onnx"
            ),
        ),
        (node("Resize", ["x"]), [np.float32(1)], 19, "Resize is not among the ops that are computed"),
        (node("Mish", ["x"]), [np.float32(1)], 17, "opset 17 has no Mish"),
        (node("Add", ["x", "x"], domain="lab"), [np.float32(1)] * 2, 1, "Add of the domain 'lab' is not computed"),
        (node("Neg", ["x"]), [np.float32(1)], None, "Neg is not computed, as the model imports no version of ai.onnx"),
        (
            node("Cast", ["x"], to=TensorProto.INT8),
            [np.array([127.5, 128], np.float32)],
            13,
            "Cast of numbers that int8 cannot hold is not defined",
        ),
        (
            node("Cast", ["x"], to=TensorProto.INT8),
            [np.array([-128.5, -129], np.float32)],
            13,
            "Cast of numbers that int8 cannot hold is not defined",
        ),
        (
            node("Cast", ["x"], to=TensorProto.STRING),
            [np.array([1], np.float32)],
            13,
            "Cast from float32 to object is not computed",
        ),
        (node("Cast", ["x"], to=999), [np.array([1], np.float32)], 13, "Cast to the type 999 is not computed"),
        (
            node("CastLike", ["x", "z"]),
            [np.array([np.nan], np.float32), np.int32(1)],
            15,
            "Cast of numbers that int32 cannot hold is not defined",
        ),
        (
            node("Clip", ["x"]),
            [np.array([np.inf], np.float32)],
            13,
            "Clip of numbers that are not finite is not computed, because runtimes differ",
        ),
        (
            node("Range", ["x", "y", "z"]),
            [np.float32(0.1), np.float32(1), np.float32(0.1)],
            11,
            "Range of fractions is not computed, because runtimes add them up in other ways",
        ),
        (
            node("LpNormalization", ["x"], p=1),
            [np.ones((2, 2), np.float32)],
            22,
            "LpNormalization with p = 1 is not computed, because runtimes differ in the signs",
        ),
        (
            node("ReduceProd", ["x"]),
            [np.full(4, 3000, np.int32)],
            13,
            "ReduceProd of integers beyond their type is not defined",
        ),
        (
            node("BatchNormalization", list("xsbmv"), ["y", "m2", "v2"]),
            [np.ones((2, 3), np.float32), *[np.ones(3, np.float32)] * 4],
            9,
            "BatchNormalization that trains is not computed",
        ),
        (
            node("BatchNormalization", list("xsbmv"), spatial=0),
            [np.ones((2, 3), np.float32), *[np.ones(3, np.float32)] * 4],
            7,
            "BatchNormalization with statistics for each position is not computed",
        ),
        (
            node("BitwiseNot", ["x"]),
            [np.array([1], np.float32)],
            18,
            "BitwiseNot cannot be computed (TypeError: ",
        ),
        (node("Softmax", []), [], 11, "Softmax lacks an input, or has too many"),
        (node("CastLike", ["x"]), [np.float32(1)], 19, "CastLike lacks an input, or has too many"),
        (node("Add", ["x", ""]), [np.float32(1), None], 17, "Add lacks an input, or has too many"),
        (node("Softmax", ["x"], axis=3), [np.ones((2, 3), np.float32)], 11, "Softmax has the axis 3 for 2 axes"),
        (
            node("Softmax", ["x"]),
            [[np.ones(3, np.float32)]],
            11,
            "it reads a sequence or an optional value where a tensor has to stand",
        ),
    ],
)
def test_what_no_rule_determines_is_refused_with_the_reason(op, inputs, opset, message):
    if opset == 28 and KNOWN < 28:
        pytest.skip("needs onnx 1.23, which knows opset 28")
    with pytest.raises(EvaluationError) as raised:
        evaluate_node(op, [np.asarray(item) if np.isscalar(item) else item for item in inputs], opset)
    assert str(raised.value).startswith(message)


def test_what_a_cast_cuts_off_to_the_lowest_and_the_highest_integer_is_computed():
    op = node("Cast", ["x"], to=TensorProto.INT8)
    [result] = evaluate_node(op, [np.array([-128.5, 127.5], np.float32)], 13)
    assert (result.dtype, result.tolist()) == (np.int8, [-128, 127])


def test_a_result_of_a_type_of_its_own_keeps_it():
    half = np.array([1, 2], np.float16)
    [equal] = evaluate_node(node("Equal", ["a", "b"]), [half, half[::-1].copy()], 17)
    [largest] = evaluate_node(node("ArgMax", ["a"], axis=0), [half], 17)
    assert (equal.dtype, equal.tolist()) == (np.bool_, [False, False])
    assert (largest.dtype, largest.tolist()) == (np.int64, [1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_result_of_several_inputs_has_their_type(count):
    half = np.array([0.1, 2], np.float16)
    [result] = evaluate_node(node("Max", ["a", "b", "c"][:count]), [half, half * 2, half * 3][:count], 17)
    assert (result.dtype, result.tolist()) == (np.float16, (half * count).tolist())


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (node("Add", ["a", "b"]), [np.ones(2, np.float32), np.ones(3, np.float32)]),
        (node("Range", ["a", "b", "c"]), [np.float32(0), np.float32(1), np.float32(0)]),
    ],
)
def test_a_node_that_does_not_fit_its_inputs_is_said_to_add_nothing_and_is_refused(op, inputs):
    inputs = [np.asarray(item) for item in inputs]
    assert added_bytes(op, inputs) == 0
    with pytest.raises(EvaluationError, match=rf"^{op.op_type} cannot be computed "):
        evaluate_node(op, inputs, 17)


def test_a_node_that_takes_too_much_memory_is_refused(monkeypatch):
    def run_out(*_):
        raise MemoryError

    monkeypatch.setattr("onnx.reference.ReferenceEvaluator.run", run_out)
    with pytest.raises(EvaluationError, match=r"^Neg takes too much memory$"):
        evaluate_node(node("Neg", ["x"]), [np.array([1], np.float32)], 17)


@pytest.mark.parametrize(("release", "op_type", "fixed"), [("1.22.0", "OneHot", "1.23"), ("1.20.1", "Div", "1.21")])
def test_what_a_release_of_onnx_computes_wrongly_is_refused(monkeypatch, release, op_type, fixed):
    monkeypatch.setattr(onnx, "__version__", release)
    with pytest.raises(EvaluationError) as raised:
        evaluated_op("", op_type, 17)
    assert str(raised.value) == f"{op_type} is computed wrongly by onnx {release}; install {fixed} or newer"


def test_what_an_older_release_of_onnx_computes_right_is_computed(monkeypatch):
    monkeypatch.setattr(onnx, "__version__", "1.19.1")
    assert evaluated_op("", "Div", 17)[0].op_type == "Div"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Sqrt", "Neg"])
def test_half_precision_is_rounded_once(op_type, dtype):
    """ONNX Runtime has no kernels for bfloat16, so it is float64, rounded once, that tells the right result."""
    half = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    generator = np.random.default_rng(0)
    a, b = (np.abs(generator.normal(size=4096)).astype(half) + half.type(0.25) for _ in range(2))
    inputs = [a] if op_type in {"Sqrt", "Neg"} else [a, b]
    wide = [item.astype(np.float64) for item in inputs]
    functions = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": np.divide,
        "Sqrt": np.sqrt,
        "Neg": np.negative,
    }
    [result] = evaluate_node(node(op_type, ["a", "b"][: len(inputs)]), inputs, 17)
    assert result.dtype == half
    assert result.tobytes() == functions[op_type](*wide).astype(half).tobytes()


def test_a_compared_node_tells_which_it_is():
    [first, *_] = nodes_of(CASES, "Softmax", 11)
    assert isinstance(first, ComparedNode)
    assert (first.opset, first.version, first.case.op_type) == (11, 11, "Softmax")
