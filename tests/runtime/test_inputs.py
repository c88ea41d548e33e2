"""Inputs: read from a model, generated, and given by the user."""

from __future__ import annotations

import io
import itertools
import zipfile
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs, not_finite
from onnx_gconv.runtime.inputs import (
    FALLBACK_SIZES,
    InputSpec,
    ValueRange,
    generate_attempts,
    generate_inputs,
    parse_dim,
    parse_value,
    read_input_specs,
)
from onnx_gconv.runtime.stored_arrays import StoredArray

if TYPE_CHECKING:
    from pathlib import Path

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)


def spec(name: str, *shape: int | str | None, dtype: Any = FLOAT32) -> InputSpec:
    return InputSpec(name, dtype if isinstance(dtype, str) else np.dtype(dtype), shape)


def generate(*specs: InputSpec, **changes: Any) -> dict[str, np.ndarray]:
    options: dict[str, Any] = {"dims": {}, "values": {}, "fallback_size": 32, "seed": 0}
    return generate_inputs(specs, **options | changes)


def shapes(*specs: InputSpec, **changes: Any) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in generate(*specs, **changes).items()}


def attempts(*specs: InputSpec, dims: dict[str, int] | None = None) -> list[dict[str, tuple[int, ...]]]:
    found = generate_attempts(specs, dims=dims or {}, values={}, seed=0)
    return [{name: array.shape for name, array in inputs.items()} for inputs in found]


def session(*inputs: Any) -> onnxruntime.InferenceSession:
    """A loaded model that hands the given inputs on."""
    nodes = [helper.make_node("Identity", [value.name], [f"{value.name}.out"]) for value in inputs]
    outputs = [helper.make_value_info(f"{value.name}.out", value.type) for value in inputs]
    graph = helper.make_graph(nodes, "graph", list(inputs), outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# --- reading


def test_the_specs_are_read_from_a_loaded_model() -> None:
    tensor = helper.make_tensor_value_info
    found = read_input_specs(
        session(
            tensor("x", TensorProto.FLOAT, ["batch", None, 3]),
            tensor("text", TensorProto.STRING, [2]),
            tensor("half", TensorProto.BFLOAT16, []),
            tensor("flag", TensorProto.BOOL, [-1]),
        )
    )

    assert found == (
        spec("x", "batch", None, 3),
        spec("text", 2, dtype="string"),
        spec("half", dtype=ml_dtypes.bfloat16),
        spec("flag", None, dtype=bool),
    )


def test_an_input_that_is_a_sequence_cannot_be_fed() -> None:
    loaded = session(helper.make_tensor_sequence_value_info("frames", TensorProto.FLOAT, None))

    with pytest.raises(ConfigError, match=r"'frames' is a seq\(tensor\(float\)\), which cannot be fed"):
        read_input_specs(loaded)


def test_a_spec_becomes_plain_json_values() -> None:
    assert spec("x", "batch", None, 3).to_json() == {"name": "x", "dtype": "float32", "shape": ["batch", None, 3]}


# --- the command line's texts


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("sr=16000", "sr", ValueRange(16000, 16000)),
        ("x=-1.5..2", "x", ValueRange(-1.5, 2)),
        ("ids=0..1000", "ids", ValueRange(0, 1000)),
        ("a=b=3", "a=b", ValueRange(3, 3)),
        ("n=9007199254740993", "n", ValueRange(9007199254740993, 9007199254740993)),
    ],
)
def test_a_value_is_a_number_or_a_range(text: str, name: str, values: ValueRange) -> None:
    assert parse_value(text) == (name, values)


@pytest.mark.parametrize("text", ["sr", "=3", "sr=", "sr=fast", "x=1..", "x=..2", "x=1,2", ""])
def test_a_text_that_is_no_value_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write NAME=NUMBER or NAME=LOW\.\.HIGH"):
        parse_value(text)


def test_a_range_the_wrong_way_round_is_refused_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"'x=2..1': the range 2..1 is empty; .*: 1..2"):
        parse_value("x=2..1")


@pytest.mark.parametrize("text", ["x=nan", "x=0..inf"])
def test_a_range_that_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not finite"):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("batch=2", ("batch", 2)), ("x:2=320", ("x:2", 320)), ("past=0", ("past", 0))]
)
def test_a_dim_is_a_name_and_a_size(text: str, expected: tuple[str, int]) -> None:
    assert parse_dim(text) == expected


@pytest.mark.parametrize("text", ["batch", "=2", "batch=", "batch=two", "batch=-1", "batch=1.5"])
def test_a_text_that_is_no_dim_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAME=SIZE or INPUT:AXIS=SIZE"):
        parse_dim(text)


# --- generated values


def test_floats_are_normal() -> None:
    x = generate(spec("x", 100, 100))["x"]

    assert x.dtype == np.float32
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_keep_their_type(dtype: Any) -> None:
    assert generate(spec("x", 3, dtype=dtype))["x"].dtype == dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_])
def test_integers_and_bools_are_zero_or_one(dtype: Any) -> None:
    found = generate(spec("x", 64, dtype=dtype))["x"]

    assert found.dtype == dtype
    assert set(found.tolist()) == {0, 1}


def test_strings_are_empty() -> None:
    assert generate(spec("x", 2, dtype="string"))["x"].tolist() == ["", ""]


def test_a_scalar_input_gets_an_array_of_rank_zero() -> None:
    found = generate(spec("sr", dtype=INT64), values={"sr": ValueRange(16000, 16000)})["sr"]

    assert isinstance(found, np.ndarray)
    assert found.shape == ()
    assert found == 16000


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_integers_keep_to_their_range_and_may_take_both_ends(one: int, other: int) -> None:
    low, high = sorted((one, other))
    found = generate(spec("x", 50, dtype=INT64), values={"x": ValueRange(low, high)})["x"]

    assert low <= int(found.min())
    assert int(found.max()) <= high


def test_both_ends_of_an_integer_range_occur() -> None:
    assert set(generate(spec("x", 100, dtype=INT64), values={"x": ValueRange(5, 6)})["x"].tolist()) == {5, 6}


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_floats_keep_to_their_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = generate(spec("x", 50, dtype=np.float64), values={"x": ValueRange(low, high)})["x"]

    assert low <= found.min()
    assert found.max() <= high


def test_one_seed_gives_the_same_inputs_and_another_seed_others() -> None:
    x = spec("x", 8)

    assert np.array_equal(generate(x, seed=3)["x"], generate(x, seed=3)["x"])
    assert not np.array_equal(generate(x, seed=3)["x"], generate(x, seed=4)["x"])


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="the seed -1 is negative"):
        generate(spec("x", 1), seed=-1)


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        (np.uint8, ValueRange(0, 300), "uint8 and cannot take 0..300; give whole numbers from 0 to 255"),
        (np.int64, ValueRange(0.5, 2), "int64 and cannot take 0.5..2; give whole numbers"),
        (np.bool_, ValueRange(0, 2), "bool and cannot take 0..2; give whole numbers from 0 to 1"),
        (np.float16, ValueRange(0, 1e6), "float16 and cannot take .*; its largest value is 65504"),
        ("string", ValueRange(0, 1), "holds strings"),
    ],
)
def test_a_range_that_does_not_fit_the_type_is_refused(dtype: Any, values: ValueRange, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(spec("x", 2, dtype=dtype), values={"x": values})


@pytest.mark.parametrize("value", [5, (0, 1), "0..1"])
def test_a_value_that_is_no_range_says_what_is_one(value: Any) -> None:
    spec = InputSpec("x", np.dtype(np.float32), (2,))
    with pytest.raises(ConfigError, match=r"^the values of the input 'x' are a ValueRange\(low, high\) of onnx_gconv"):
        generate_inputs([spec], dims={}, values={"x": value}, fallback_size=2, seed=0)


def test_a_value_for_an_unknown_input_names_the_nearest() -> None:
    message = r"no input is named 'input_id'; did you mean 'input_ids'\?$"

    with pytest.raises(ConfigError, match=message):
        generate(spec("input_ids", 1), spec("mask", 1), values={"input_id": ValueRange(0, 1)})


# --- generated sizes


def test_open_dimensions_are_one_at_axis_zero_and_the_fallback_elsewhere() -> None:
    assert shapes(spec("x", "batch", 3, "height", None)) == {"x": (1, 3, 32, 32)}


def test_a_symbolic_name_sets_its_size_everywhere() -> None:
    found = shapes(spec("x", "batch", "length"), spec("y", "length"), dims={"length": 7})

    assert found == {"x": (1, 7), "y": (7,)}


def test_one_axis_of_one_input_can_be_set() -> None:
    found = shapes(spec("x", None, None), spec("y", None, None), dims={"x:1": 5, "y:0": 2})

    assert found == {"x": (1, 5), "y": (2, 32)}


def test_an_axis_with_a_symbolic_name_sets_that_name() -> None:
    assert shapes(spec("x", "b", "n"), spec("y", "b", "n"), dims={"x:1": 5}) == {"x": (1, 5), "y": (1, 5)}


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3), min_size=1, max_size=3))
def test_one_symbolic_name_has_one_size(symbols: list[list[str]]) -> None:
    specs = [spec(f"x{index}", *names) for index, names in enumerate(symbols)]
    found = shapes(*specs, fallback_size=4)

    sizes: dict[str, set[int]] = {}
    for entry in specs:
        for name, size in zip(entry.shape, found[entry.name], strict=True):
            sizes.setdefault(str(name), set()).add(size)
    assert all(len(size) == 1 for size in sizes.values())


def test_a_name_is_the_batch_where_it_first_stands_at_axis_zero() -> None:
    assert shapes(spec("x", "batch", "n"), spec("state", 2, "batch", 128)) == {"x": (1, 32), "state": (2, 1, 128)}


def test_a_name_that_vectors_share_with_a_matrix_is_not_the_batch() -> None:
    assert shapes(spec("positions", "length"), spec("ids", "batch", "length")) == {"positions": (32,), "ids": (1, 32)}


def test_a_name_that_is_an_expression_is_computed_from_the_others() -> None:
    found = shapes(
        spec("ids", "batch", "length"),
        spec("mask", "batch", "past + length"),
        spec("cache", "batch", 2, "past", 4),
        spec("pairs", "2*length"),
        dims={"past": 3},
    )

    assert found == {"ids": (1, 32), "mask": (1, 35), "cache": (1, 2, 3, 4), "pairs": (64,)}


@pytest.mark.parametrize("name", ["batch-size", "a + b", "length - 40", "length ** 2", "1 +", "-length"])
def test_a_name_that_only_looks_like_an_expression_is_a_name(name: str) -> None:
    assert shapes(spec("x", 1, "length"), spec("y", 1, name)) == {"x": (1, 32), "y": (1, 32)}


def test_an_expression_can_be_set_by_its_name() -> None:
    assert shapes(spec("x", "n"), spec("y", "n + 1"), dims={"n + 1": 9}) == {"x": (1,), "y": (9,)}


def test_an_unknown_dimension_names_the_nearest() -> None:
    message = r"no symbolic dimension is named 'bacth'; did you mean 'batch'\?$"

    with pytest.raises(ConfigError, match=message):
        generate(spec("x", "batch", 3, None), dims={"bacth": 1})


def test_a_dimension_of_a_model_without_symbolic_ones_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no symbolic dimension is named 'batch'; the model has none"):
        generate(spec("x", 1), dims={"batch": 1})


def test_a_long_list_of_known_names_is_cut() -> None:
    specs = [spec(f"cache.{index}", None) for index in range(30)]

    with pytest.raises(ConfigError, match=r"there are 30, such as 'cache\.0:0', "):
        generate(*specs, dims={"batch": 1})


def test_a_fixed_size_cannot_be_changed() -> None:
    with pytest.raises(ConfigError, match="'x:0' is fixed at 3 in the model and cannot be 4"):
        generate(spec("x", 3), dims={"x:0": 4})


def test_a_fixed_size_can_be_confirmed() -> None:
    assert shapes(spec("x", 3), dims={"x:0": 3}) == {"x": (3,)}


def test_two_sizes_for_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'n' is given two sizes, 4 and 5"):
        generate(spec("x", "n"), spec("y", "n"), dims={"x:0": 4, "y:0": 5})


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="'n' cannot have the size -2"):
        generate(spec("x", "n"), dims={"n": -2})


# --- attempts


def test_every_fallback_size_is_an_attempt() -> None:
    assert [found["x"][2] for found in attempts(spec("x", "b", 3, "h"))] == list(FALLBACK_SIZES)


@pytest.mark.parametrize("shape", [(1, 3), ("batch", 3), (None,), ()])
def test_there_is_one_attempt_where_nothing_is_open(shape: tuple[int | str | None, ...]) -> None:
    assert len(attempts(spec("x", *shape))) == 1


def test_there_is_one_attempt_where_the_user_decides_everything() -> None:
    assert attempts(spec("x", "b", "h", None), dims={"h": 5, "x:2": 6}) == [{"x": (1, 5, 6)}]


def test_a_model_without_inputs_has_one_attempt() -> None:
    assert attempts() == [{}]


def test_later_attempts_leave_the_state_of_a_recurrent_network_at_a_batch_of_one() -> None:
    found = attempts(spec("x", None, None), spec("state", 2, None, 128))

    assert found[0] == {"x": (1, 32), "state": (2, 32, 128)}
    assert {"x": (1, 576), "state": (2, 1, 128)} in found


def test_all_attempts_differ() -> None:
    found = attempts(spec("x", None, "n"), spec("y", "m", None), spec("z", "n", "m + n"))

    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_attempts_do_not_grow_to_gigabytes() -> None:
    found = attempts(spec("x", 1, "d", "h", "w"))

    assert all(np.prod(shape["x"], dtype=float) <= 2**26 for shape in found)


def test_attempts_of_one_seed_are_equal() -> None:
    one, other = (list(generate_attempts([spec("x", 1, "n")], dims={}, values={}, seed=5)) for _ in range(2))

    assert all(np.array_equal(left["x"], right["x"]) for left, right in zip(one, other, strict=True))


# --- the user's own


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_inputs_are_loaded_in_the_order_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "inputs.npz", b=np.ones(2, np.float32), a=np.zeros((1, 3), np.int64))

    found = load_inputs(path, [spec("a", "batch", 3, dtype=INT64), spec("b", None)])

    assert list(found) == ["a", "b"]
    assert found["b"].tolist() == [1, 1]


def test_text_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "inputs.npz", x=np.array(["one", "two"]))

    assert load_inputs(path, [spec("x", 2, dtype="string")])["x"].tolist() == ["one", "two"]


def test_bfloat16_survives_the_file(tmp_path: Path) -> None:
    x = np.array([1.5, -2.0], ml_dtypes.bfloat16)

    found = load_inputs(write(tmp_path / "inputs.npz", x=x), [spec("x", 2, dtype=ml_dtypes.bfloat16)])["x"]

    assert found.dtype == ml_dtypes.bfloat16
    assert found.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("array", "place"),
    [
        (np.array([[0, 1], [2, -np.inf]], np.float16), "-inf at [1, 1]"),
        (np.array([0, np.nan], ml_dtypes.bfloat16), "nan at [1]"),
        (np.array(np.inf), "inf at []"),
    ],
)
def test_the_first_element_that_is_not_finite_is_named(array: np.ndarray[Any, Any], place: str) -> None:
    finite = {"words": np.array(["nan"]), "ids": np.arange(3), "none": np.empty((0, 2)), "x": np.ones(2)}

    assert not_finite(finite) is None
    assert not_finite({**finite, "y": array}) == f"the input 'y' is {place}; replace it by a number"


def test_elements_of_a_stored_array_are_looked_at_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_gconv.runtime.given_inputs._LOOKED_AT_ONCE", 64)
    x = np.zeros((100, 3), np.float32)
    x[77, 1] = np.nan
    x.tofile(tmp_path / "x")
    stored = StoredArray(tmp_path / "x", 0, x.shape, x.dtype, read_as=lambda rows: rows, source="x")

    assert not_finite({"x": stored}) == "the input 'x' is nan at [77, 1]; replace it by a number"


def test_any_rank_is_taken_where_the_model_says_none(tmp_path: Path) -> None:
    path = write(tmp_path / "inputs.npz", x=np.ones((2, 2), np.float32))

    assert load_inputs(path, [spec("x")])["x"].shape == (2, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "input 'x' is missing; there is nothing, and the model needs x, y"),
        ({"x": np.ones((1, 3), np.float32)}, "input 'y' is missing; there is x, and the model needs x, y"),
        (
            {"x": np.ones((1, 3), np.float32), "y": np.ones(2, np.int64), "yy": np.ones(2)},
            r"no input is named 'yy'; did you mean 'y'\?; leave out arrays that are no",
        ),
        (
            {"x": np.ones((1, 3)), "y": np.ones(2, np.int64)},
            "input 'x' is float64 and must be float32; nothing is cast",
        ),
        ({"x": np.ones((1, 3), np.float32), "y": np.ones(2, np.int32)}, "input 'y' is int32 and must be int64"),
        (
            {"x": np.ones((1, 4), np.float32), "y": np.ones(2, np.int64)},
            r"input 'x' has the shape \[1, 4\] and must have \[batch, 3\]",
        ),
        (
            {"x": np.ones(3, np.float32), "y": np.ones(2, np.int64)},
            r"input 'x' has the shape \[3\] and must have \[batch, 3\]",
        ),
        (
            {"x": np.ones((1, 3), np.float32), "y": np.ones((2, 2), np.int64)},
            r"input 'y' has the shape \[2, 2\] and must have \[any\]",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_file_and_input(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "inputs.npz", **arrays)

    with pytest.raises(ConfigError, match=message) as raised:
        load_inputs(path, [spec("x", "batch", 3), spec("y", None, dtype=INT64)])
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_numbers_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "inputs.npz", x=np.ones(2))

    with pytest.raises(ConfigError, match="input 'x' is float64 and must be string"):
        load_inputs(path, [spec("x", 2, dtype="string")])


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.npz: does not exist; write one with numpy\.savez\(path, x=\.\.\.\)"):
        load_inputs(tmp_path / "none.npz", [spec("x", 1)])


def test_a_single_array_is_no_npz_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(1))

    with pytest.raises(ConfigError, match=r"x\.npy: is not an \.npz file"):
        load_inputs(tmp_path / "x.npy", [spec("x", 1)])


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "inputs.npz", x=np.array([{}], dtype=object))

    with pytest.raises(ConfigError, match=r"cannot be read as an \.npz file .*allow_pickle"):
        load_inputs(path, [spec("x", 1)])


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (np.empty((4, 0), np.float32), r"input 'x' has the shape \[4, 68719476736\] and must have \[4, 2\]"),
        (np.empty((4, 0), np.float64), "input 'x' is float64 and must be float32"),
        (np.empty((4, 0), "U1000"), "input 'x' is <U1000 and must be float32"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_it_is_unpacked(
    tmp_path: Path, version: tuple[int, int], header: np.ndarray, message: str
) -> None:
    member = io.BytesIO()
    np.lib.format.write_array(member, header, version=version)
    large = member.getvalue().replace(b"(4, 0), }          ", b"(4, 68719476736), }", 1)  # 1 TiB that is not there
    with zipfile.ZipFile(tmp_path / "inputs.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", large)

    with pytest.raises(ConfigError, match=message):
        load_inputs(tmp_path / "inputs.npz", [spec("x", 4, 2)])


def test_an_unknown_npy_version_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inputs.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x09\x01" + bytes(100))

    with pytest.raises(ConfigError, match=r"input 'x' has the npy version 9\.1"):
        load_inputs(tmp_path / "inputs.npz", [spec("x", 1)])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[500:600] = bytes(100)
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"cannot be read as an \.npz file"):
        load_inputs(path, [spec("x", 1000)])


def test_given_arrays_must_be_arrays() -> None:
    with pytest.raises(ConfigError, match="given inputs: input 'x' is a list and must be a NumPy array"):
        check_inputs({"x": [1.0]}, [spec("x", 1)], source="given inputs")
