"""Inputs of decoders: sizes that fit each other, and those that are learnt from what ONNX Runtime says."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.runtime.decoder_inputs import decoder_attempts, decoder_of
from onnx_gconv.runtime.inputs import InputSpec, ValueRange

INT64, FLOAT = np.dtype(np.int64), np.dtype(np.float32)
TOKENS = InputSpec("input_ids", INT64, ("batch_size", "sequence_length"))
MASK = InputSpec("attention_mask", INT64, ("batch_size", "total_sequence_length"))
POSITIONS = InputSpec("position_ids", INT64, ("batch_size", "sequence_length"))


def cache(name="past_key_values.0.key", shape=("batch_size", 2, "past_sequence_length", "kv_cache_dim")):
    return InputSpec(name, FLOAT, shape)


def attempts(*specs, says=(), **options):
    """The inputs of one attempt after the other, each refused with the next message."""
    decoder = decoder_of(specs)
    assert decoder is not None
    generator = decoder_attempts(decoder, **{"dims": {}, "values": {}, "seed": 0} | options)
    found = [next(generator)]
    found.extend(generator.send(message) for message in says)
    return found


def shapes(feeds):
    return {name: array.shape for name, array in feeds.items()}


def test_all_sizes_follow_from_the_numbers_of_earlier_and_new_tokens():
    (feeds,) = attempts(TOKENS, MASK, POSITIONS, cache())
    assert shapes(feeds) == {
        "input_ids": (1, 4),
        "attention_mask": (1, 7),
        "position_ids": (1, 4),
        "past_key_values.0.key": (1, 2, 3, 64),
    }
    assert feeds["attention_mask"].all()
    assert feeds["position_ids"].tolist() == [[3, 4, 5, 6]]
    assert 0 <= feeds["input_ids"].min() <= feeds["input_ids"].max() < 100
    assert all(feeds[spec.name].dtype == spec.dtype for spec in (TOKENS, MASK, POSITIONS, cache()))


def test_a_length_that_is_written_as_a_sum_is_that_of_all_tokens():
    mask = InputSpec("attention_mask", INT64, ("batch", "past_seq_len + seq_len"))
    tokens = InputSpec("input_ids", INT64, ("batch", "sequence_len"))
    (feeds,) = attempts(tokens, mask, cache(shape=("batch", 1, "past_sequence_len", 16)))
    assert feeds["attention_mask"].shape == (1, 7)


def test_axes_without_names_are_known_by_their_places():
    tokens = InputSpec("input_ids", INT64, (None, None))
    mask = InputSpec("attention_mask", INT64, (None, None))
    (feeds,) = attempts(tokens, mask, cache(shape=(None, 2, None, 16)))
    assert shapes(feeds) == {
        "input_ids": (1, 4),
        "attention_mask": (1, 7),
        "past_key_values.0.key": (1, 2, 3, 16),
    }


@pytest.mark.parametrize(
    "message",
    [
        "Input 'past_key' dimension 3 should match the packed KV head dimension, got 64 expected 96",
        "Got invalid dimensions for input: past for the following indices index: 3 Got: 64 Expected: 96",
        "Non-concat axis dimensions must match: Axis 3 has mismatched dimensions of 96 and 64",
    ],
)
def test_the_size_of_a_head_is_taken_from_what_onnx_runtime_says(message):
    _, second = attempts(TOKENS, MASK, cache(), says=[message])
    assert second["past_key_values.0.key"].shape == (1, 2, 3, 96)


def test_a_window_and_the_size_of_a_head_are_learnt_one_after_the_other():
    window = cache("past_key_values.1.key", ("batch_size", 2, "past_sliding_length", "kv_cache_dim"))
    *_, last = attempts(
        TOKENS,
        MASK,
        cache(),
        window,
        says=[
            "Name:'/layers.0/attn/GroupQueryAttention' dimension 3, got 64 expected 16",
            "sliding_window_cache: KV cache capacity (1) must be at least local_window_size (32).",
        ],
    )
    assert last["past_key_values.0.key"].shape == (1, 2, 3, 16)
    assert last["past_key_values.1.key"].shape == (1, 2, 32, 16)


def test_without_a_lesson_other_sizes_of_heads_and_other_lengths_are_tried():
    found = attempts(TOKENS, MASK, cache(), says=["no"] * 30)
    sizes = [feeds["past_key_values.0.key"].shape for feeds in found]
    assert {shape[3] for shape in sizes} >= {64, 128, 96, 80, 256, 32, 16}
    assert {(shape[2], shape[3]) for shape in sizes} >= {(past, size) for past in (3, 0, 8) for size in (64, 16)}


def test_a_small_vocabulary_gets_small_tokens():
    _, second = attempts(
        TOKENS, MASK, cache(), says=["indices element out of data bounds, idx=86 must be within [-64,63]"]
    )
    assert second["input_ids"].max() <= 1


def test_sizes_that_are_given_decide_the_others():
    (feeds,) = attempts(TOKENS, MASK, cache(), dims={"past_sequence_length": 5, "kv_cache_dim": 8, "batch_size": 2})
    assert shapes(feeds) == {
        "input_ids": (2, 4),
        "attention_mask": (2, 9),
        "past_key_values.0.key": (2, 2, 5, 8),
    }


@pytest.mark.parametrize(("sizes", "new"), [({}, 4), ({"sequence_length": 2}, 2)])
def test_of_all_tokens_those_that_are_not_new_are_earlier_ones(sizes, new):
    (feeds,) = attempts(TOKENS, MASK, POSITIONS, cache(), dims={"total_sequence_length": 9, **sizes})
    assert feeds["attention_mask"].shape == (1, 9)
    assert feeds["past_key_values.0.key"].shape == (1, 2, 9 - new, 64)
    assert feeds["position_ids"].tolist() == [list(range(9 - new, 9))]


def test_values_that_are_given_win():
    (feeds,) = attempts(
        TOKENS, MASK, cache(), values={"input_ids": ValueRange(7, 7), "attention_mask": ValueRange(0, 0)}
    )
    assert (feeds["input_ids"] == 7).all()
    assert not feeds["attention_mask"].any()


def test_a_prompt_is_completed_without_earlier_tokens():
    prompt = np.array([[5, 6, 7, 8, 9]])
    (feeds,) = attempts(TOKENS, MASK, POSITIONS, cache(), given={"input_ids": prompt})
    assert feeds["input_ids"] is prompt
    assert feeds["attention_mask"].shape == (1, 5)
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3, 4]]
    assert feeds["past_key_values.0.key"].shape == (1, 2, 0, 64)


def test_a_given_cache_says_how_many_earlier_tokens_there_are():
    given = {"input_ids": np.array([[5]]), "past_key_values.0.key": np.zeros((1, 2, 6, 16), np.float32)}
    value = cache("past_key_values.0.value")
    (feeds,) = attempts(TOKENS, MASK, POSITIONS, cache(), value, given=given)
    assert feeds["attention_mask"].shape == (1, 7)
    assert feeds["position_ids"].tolist() == [[6]]
    assert feeds["past_key_values.0.value"].shape == (1, 2, 6, 16)


def test_scalars_and_switches_fit_the_lengths():
    (feeds,) = attempts(
        TOKENS,
        cache(),
        InputSpec("past_seq_len", np.dtype(np.int32), (1,)),
        InputSpec("total_sequence_length", np.dtype(np.int32), ()),
        InputSpec("seqlens_k", np.dtype(np.int32), ("batch_size",)),
        InputSpec("use_cache_branch", np.dtype(np.bool_), (1,)),
    )
    assert feeds["past_seq_len"].tolist() == [3]
    assert feeds["total_sequence_length"] == 7
    assert feeds["seqlens_k"].tolist() == [6]
    assert feeds["use_cache_branch"].tolist() == [True]


def test_a_mask_that_is_added_to_scores_is_zero():
    mask = InputSpec("attention_mask", FLOAT, ("batch_size", 1, "sequence_length", "total_length"))
    (feeds,) = attempts(TOKENS, mask, cache())
    assert feeds["attention_mask"].shape == (1, 1, 4, 7)
    assert not feeds["attention_mask"].any()


@pytest.mark.parametrize(
    "specs",
    [
        [InputSpec("pixels", FLOAT, (1, 3, 224, 224))],
        [TOKENS, InputSpec("attention_mask", INT64, ("batch_size", "sequence_length"))],
        [InputSpec("x", FLOAT, (1, 4)), InputSpec("past_state", FLOAT, (2, 1, 8))],
        [],
    ],
)
def test_other_models_are_no_decoders(specs):
    assert decoder_of(specs) is None
