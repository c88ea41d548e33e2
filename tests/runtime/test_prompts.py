"""Token ids as texts, files and inputs; inputs that are generated beside them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.attempts import first_run
from onnx_gconv.runtime.inputs import InputSpec
from onnx_gconv.runtime.prompts import TokenIds, parse_token_ids

INT64 = np.dtype(np.int64)
FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize("text", ["1,15043,3186", " 1, 15043 ,3186 "])
def test_ids_are_read_from_a_list(text):
    assert parse_token_ids(text) == TokenIds((1, 15043, 3186))


@pytest.mark.parametrize("text", ["1,15043,3186", "1 15043\n3186\n", "[1, 15043,\n 3186]"])
def test_ids_are_read_from_a_file(text, tmp_path):
    (tmp_path / "ids.txt").write_text(text)
    found = parse_token_ids(str(tmp_path / "ids.txt"))
    assert found == TokenIds((1, 15043, 3186), str(tmp_path / "ids.txt"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "1,x",
            "'1,x' is neither a list of token ids nor a file; give numbers such as 1,15043,3186, or a file of them",
        ),
        ("", "'' is neither a list"),
        ("1,-2", "'1,-2' is neither a list"),
        ("a\0b", "is neither a list"),
    ],
)
def test_what_is_no_list_and_no_file_is_refused(text, problem):
    with pytest.raises(ConfigError) as caught:
        parse_token_ids(text)
    assert problem in str(caught.value)
    assert str(caught.value).count("give numbers such as") == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"1, two, 3", "'two' is no token id"),
        (b"", "there are no token ids in it"),
        (b"\xff\xfe", "cannot be read as a file of token ids"),
    ],
)
def test_files_of_something_else_are_refused(content, problem, tmp_path):
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        parse_token_ids(str(tmp_path / "ids.txt"))
    assert problem in str(caught.value)
    assert "ids.txt" in str(caught.value)


@pytest.mark.parametrize("ids", [[], [1, -1], [1.5], [True], ["1"]])
def test_ids_are_whole_numbers_from_0(ids):
    with pytest.raises(ConfigError, match="token id"):
        TokenIds.of(ids)


def test_ids_have_to_fit_the_type_of_the_input():
    tokens = InputSpec("input_ids", np.dtype(np.int32), ("batch", "sequence"))
    assert TokenIds((1, 2)).as_inputs([tokens])["input_ids"].dtype == np.int32
    with pytest.raises(ConfigError, match="token id 4294967296 does not fit 'input_ids', which is int32"):
        TokenIds((1, 1 << 32)).as_inputs([tokens])
    embeddings = InputSpec("inputs_embeds", FLOAT32, ("batch", "sequence", 8))
    with pytest.raises(ConfigError, match="the model takes no token ids"):
        TokenIds((1,)).as_inputs([embeddings])


def test_a_model_that_takes_several_texts_gets_the_prompt_for_each():
    tokens = InputSpec("input_ids", INT64, (2, "sequence"))
    assert TokenIds((5, 6, 7)).as_inputs([tokens])["input_ids"].tolist() == [[5, 6, 7]] * 2


def completed(given, *specs):
    return first_run(lambda _: None, specs, dims={}, values={}, seed=0, given=given)[0]


def test_positions_follow_a_mask_that_leaves_tokens_out():
    shape = ("batch", "sequence")
    specs = [InputSpec(name, INT64, shape) for name in ("input_ids", "attention_mask", "position_ids")]
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    found = completed({"input_ids": np.ones((2, 4), np.int64), "attention_mask": mask}, *specs)
    assert found["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_of_a_prompt_there_are_no_earlier_tokens():
    specs = [
        InputSpec("input_ids", INT64, ("batch", "sequence")),
        InputSpec("attention_mask", INT64, ("batch", "total")),
        InputSpec("past_key_values.0.key", FLOAT32, ("batch", 2, "past", 8)),
        InputSpec("use_cache_branch", np.dtype(np.bool_), (1,)),
    ]
    found = completed({"input_ids": np.array([[4, 5], [6, 7], [8, 9]])}, *specs)
    assert found["past_key_values.0.key"].shape == (3, 2, 0, 8)
    assert found["attention_mask"].tolist() == [[1, 1]] * 3
    assert found["use_cache_branch"].tolist() == [False]
