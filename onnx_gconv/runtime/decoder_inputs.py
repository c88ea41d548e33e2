"""Generates consistent inputs for decoder language models: tokens, masks, positions and caches of earlier tokens.

The axes of such a model depend on each other, but the model does not state how: the mask covers the earlier and the new
tokens, positions continue after the earlier tokens, and the size of a head is not in the inputs. The role of an axis is
derived from the names that exporters give (ONNX Runtime GenAI, Optimum, Mobius, PyTorch). Sizes that no name reveals
are guessed, and corrected by ONNX Runtime's error messages.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from onnx_gconv.runtime.inputs import InputSpec, ValueRange, generate_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decoder", "asks_for_a_size", "decoder_attempts", "decoder_of", "tokens_of"]

Feeds: TypeAlias = "dict[str, NDArray[Any]]"

_Role: TypeAlias = Literal["batch", "sequence", "past", "total", "head_size", "heads", "window", "encoder"]

# Pairs of earlier and new tokens to try. A run with earlier tokens tests more, but some models take no earlier tokens,
# or only one new token at a time.
_LENGTHS = ((3, 4), (0, 4), (8, 1), (0, 1))

_HEAD_SIZES = (64, 128, 96, 80, 256, 32, 16, 8, 112, 160, 192, 512)

# Token ids are below this. Nearly every vocabulary is larger; if not, ONNX Runtime reports an index out of bounds, and
# the smaller number is used.
_TOKENS = 100
_FEWEST_TOKENS = 2

# How often a size may be corrected by a message of ONNX Runtime.
_MOST_LESSONS = 8

_MATRIX_RANK = 2
_SMALLEST_CACHE_RANK = 3


@dataclass(frozen=True)
class Decoder:
    """The inputs of a model that continues a text.

    Attributes:
        specs: All inputs.
        tokens: The input of tokens, or of their embeddings, [batch, sequence, ...].
        caches: The inputs that hold results of earlier tokens, such as keys and values.
        roles: The roles of the unknown sizes of inputs, by symbolic name or ``INPUT:AXIS``.
    """

    specs: tuple[InputSpec, ...]
    tokens: InputSpec
    caches: tuple[InputSpec, ...]
    roles: Mapping[str, _Role]


def tokens_of(specs: Sequence[InputSpec]) -> InputSpec | None:
    """Return the input of tokens, or of their embeddings; None if there is none."""
    return next((spec for spec in specs if _is_tokens(spec)), None)


def decoder_of(specs: Sequence[InputSpec], *, has_prompt: bool = False) -> Decoder | None:
    """Return the decoder that takes these inputs; None if the model is no decoder.

    A model is a decoder if it takes tokens, and also caches of earlier tokens or a mask that may be longer than the
    tokens.

    Args:
        specs: The inputs of the model.
        has_prompt: Whether the caller gives the tokens. Then an input of tokens is sufficient.
    """
    tokens = tokens_of(specs)
    if tokens is None:
        return None
    caches = tuple(spec for spec in specs if _is_cache(spec))
    masks = [spec for spec in specs if _is_mask(spec)]
    if not has_prompt and not caches and all(mask.shape[-1] == tokens.shape[1] for mask in masks):
        return None
    roles: dict[str, _Role] = {}
    for spec in (tokens, *(spec for spec in specs if spec is not tokens)):
        for axis, size in enumerate(spec.shape):
            role = None if isinstance(size, int) else _role_of(spec, axis, size, is_tokens=spec is tokens)
            if role is not None:
                roles.setdefault(_key(spec, axis), role)
    return Decoder(tuple(specs), tokens, caches, roles)


def decoder_attempts(
    decoder: Decoder,
    *,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    given: Mapping[str, NDArray[Any]] | None = None,
    flags: Mapping[str, bool] | None = None,
) -> Generator[Feeds, str | None, None]:
    """Yield attempts of generated inputs. The caller sends ONNX Runtime's message on an attempt to get the next one.

    Floats are from normal(0, 1), tokens are uniform, and masks attend to all positions.

    Args:
        decoder: The inputs of the model.
        dims: Sizes by symbolic name or ``INPUT:AXIS``; dependent sizes follow them.
        values: Ranges by input name, for inputs that do not take the defaults.
        seed: The same seed gives the same arrays.
        given: Arrays of some inputs, by name, which are part of all attempts. If no caches are among them, there are no
            earlier tokens.
        flags: Values of boolean scalar inputs, by name. A flag for the use of a cache decides whether there are earlier
            tokens.

    Raises:
        ConfigError: A name is unknown, sizes contradict each other, or a range does not fit its input's type.
    """
    given = given or {}
    fixed = _fixed(decoder, dims, given)
    guess = _Guess({"batch": 1, "heads": 1, "window": 1, "encoder": 4})
    lengths = _fitting(_lengths(decoder, fixed, given), flags or {})
    for head_size in _HEAD_SIZES if "head_size" in decoder.roles.values() else _HEAD_SIZES[:1]:
        if not guess.take_head_size(head_size):
            continue
        for past, sequence in lengths:
            for _ in range(_MOST_LESSONS):
                sizes = {**guess.sizes, "past": past, "sequence": sequence, **fixed}
                if decoder.caches and "total" in fixed and "past" not in fixed:
                    sizes["past"] = max(sizes["total"] - sizes["sequence"], 0)
                sizes.setdefault("total", sizes["past"] + sizes["sequence"])
                feeds = _feeds(decoder, sizes, guess.tokens, dims=dims, values=values, seed=seed, given=given)
                said = yield feeds | dict(given)
                if said is None or not guess.learn(said, sizes, fixed):
                    break
        if "head_size" in fixed:
            return


@dataclass
class _Guess:
    """Guessed sizes by role, and the guesses that were tried."""

    sizes: dict[str, int]
    tokens: int = _TOKENS
    _tried: set[tuple[str, int]] = field(default_factory=set)

    def take_head_size(self, size: int) -> bool:
        """Set the size of heads; return False if that size was tried before."""
        if ("head_size", size) in self._tried:
            return False
        self._tried.add(("head_size", size))
        self.sizes["head_size"] = size
        return True

    def learn(self, said: str, sizes: Mapping[str, int], fixed: Mapping[str, int]) -> bool:
        """Correct a guess by an error message; return False if the message names no size that can be corrected."""
        if re.search(r"out of data bounds|indices element|out of range", said) and self.tokens > _FEWEST_TOKENS:
            self.tokens = _FEWEST_TOKENS
            return True
        for there, wanted in _sizes_said(said):
            for role in _LEARNT:
                if role in fixed or sizes.get(role) != there or (role, wanted) in self._tried:
                    continue
                self._tried |= {(role, there), (role, wanted)}
                self.sizes[role] = wanted
                return True
        return False


def asks_for_a_size(said: str) -> bool:
    """Whether an error message is about a size, so that inputs of another size may run."""
    return next(_sizes_said(said), None) is not None


def _sizes_said(said: str) -> Iterator[tuple[int, int]]:
    """Yield the wrong sizes that a message names, each with the size that it expects."""
    text = re.sub(r"'[^']*'", "", said)  # without names of nodes, which contain numbers, too
    for pattern, is_ordered in _SIZES_SAID:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            there, wanted = int(found["there"]), int(found["wanted"])
            yield there, wanted
            if not is_ordered:
                yield wanted, there


# Messages of ONNX Runtime's kernels on wrong sizes, and whether the message says which of two sizes is wrong.
_SIZES_SAID = (
    (r"got:?\s*(?P<there>\d+)\D{0,20}expected:?\s*(?P<wanted>\d+)", True),
    (r"expected:?\s*(?P<wanted>\d+)\D{0,20}(?:got|actual|received):?\s*(?P<there>\d+)", True),
    (r"(?P<there>\d+)\)?\s*(?:must|should) be(?: at least| equal to)?\D{0,40}(?P<wanted>\d+)", True),
    (r"(?P<there>\d+) (?:and|by) (?P<wanted>\d+)", False),
)

_LEARNT: tuple[_Role, ...] = ("head_size", "window", "heads", "encoder")


def _is_tokens(spec: InputSpec) -> bool:
    return re.search(r"input_ids|inputs_embeds|input_embeds", spec.name) is not None and len(spec.shape) >= _MATRIX_RANK


def _is_mask(spec: InputSpec) -> bool:
    return "mask" in spec.name and len(spec.shape) >= _MATRIX_RANK


def _is_cache(spec: InputSpec) -> bool:
    is_named = re.search(r"past|cache|(^|[._])kv([._]|$)|(conv|recurrent|ssm)_state", spec.name) is not None
    return is_named and len(spec.shape) >= _SMALLEST_CACHE_RANK and not isinstance(spec.dtype, str)


def _key(spec: InputSpec, axis: int) -> str:
    size = spec.shape[axis]
    return size if isinstance(size, str) else f"{spec.name}:{axis}"


def _role_of(spec: InputSpec, axis: int, size: str | None, *, is_tokens: bool) -> _Role | None:
    """Return the role of an unknown size; None if no name reveals it."""
    text = (size or "").lower()
    from_end = axis - len(spec.shape)
    role: _Role | None = "batch" if axis == 0 else None
    if is_tokens:
        role = {0: "batch", 1: "sequence"}.get(axis)  # type: ignore[assignment]
    elif "batch" in text:
        role = "batch"
    elif _is_cache(spec):
        role = _role_in_cache(text, from_end, axis)
    elif _is_mask(spec) and axis:
        role = {-1: "total", -2: "sequence"}.get(from_end)  # type: ignore[assignment]
    elif "position" in spec.name and from_end == -1:
        role = "sequence"
    elif axis == 1 and ("encoder" in spec.name or "encoder" in text):
        role = "encoder"
    return role


def _role_in_cache(text: str, from_end: int, axis: int) -> _Role:
    """Return the role of an axis of unknown size of a cache [batch, heads, positions, head size]."""
    for words, role in _ROLES_IN_CACHES:
        if re.search(words, text):
            return role
    if axis == 0:
        return "batch"
    return {-1: "head_size", -2: "past"}.get(from_end, "heads")  # type: ignore[return-value]


# The role of an axis is that of the first pattern that occurs in the axis' name.
_ROLES_IN_CACHES: tuple[tuple[str, _Role], ...] = (
    (r"\+|total|max", "total"),
    (r"sliding|window", "window"),
    (r"encoder", "encoder"),
    (r"past|seq|len", "past"),
    (r"dim|size|hidden", "head_size"),
    (r"head", "heads"),
)


def _fixed(decoder: Decoder, dims: Mapping[str, int], given: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the sizes that the caller or the model decides, by role."""
    fixed: dict[str, int] = {role: dims[key] for key, role in decoder.roles.items() if key in dims}
    for spec in decoder.specs:
        if spec.name not in given or given[spec.name].ndim != len(spec.shape):
            continue
        for axis, size in enumerate(given[spec.name].shape):
            role = decoder.roles.get(_key(spec, axis))
            if role is not None and not isinstance(spec.shape[axis], int):
                fixed.setdefault(role, size)
    for spec in decoder.specs:  # sizes that the model itself fixes
        if spec is decoder.tokens and isinstance(spec.shape[1], int):
            fixed.setdefault("sequence", spec.shape[1])
        if _is_mask(spec) and isinstance(spec.shape[-1], int):
            fixed.setdefault("total", spec.shape[-1])
    return fixed


def _lengths(
    decoder: Decoder, fixed: Mapping[str, int], given: Mapping[str, NDArray[Any]]
) -> Sequence[tuple[int, int]]:
    """Return the numbers of earlier and of new tokens of each attempt."""
    has_none = not decoder.caches or (bool(given) and not any(spec.name in given for spec in decoder.caches))
    pasts = (0,) if has_none and "past" not in fixed else tuple(past for past, _ in _LENGTHS)
    found = {
        (fixed.get("past", past), fixed.get("sequence", sequence)): None
        for past, sequence in _LENGTHS
        if past in pasts or "past" in fixed
    }
    return list(found)


def _fitting(lengths: Sequence[tuple[int, int]], flags: Mapping[str, bool]) -> Sequence[tuple[int, int]]:
    """Return the numbers of tokens that agree with the flags; all of them if none does."""
    of_caches = [value for name, value in flags.items() if "cache" in name]
    return [each for each in lengths if all((each[0] > 0) == value for value in of_caches)] or lengths


def _feeds(
    decoder: Decoder,
    sizes: Mapping[str, int],
    tokens: int,
    *,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    given: Mapping[str, NDArray[Any]],
) -> Feeds:
    """Return inputs of the given sizes by role; token ids are below `tokens`."""
    decided = {key: sizes[role] for key, role in decoder.roles.items()}
    fallback = max(sizes["sequence"], 1)
    feeds = generate_inputs(decoder.specs, dims={**decided, **dims}, values=values, fallback_size=fallback, seed=seed)
    rng = np.random.default_rng(seed)
    for spec in decoder.specs:
        if spec.name not in values and not isinstance(spec.dtype, str):
            array = _meaningful(spec, feeds[spec.name], sizes, tokens, rng, is_tokens=spec is decoder.tokens)
            if "position" in spec.name:
                array = _positions_in(decoder, given, array)
            feeds[spec.name] = array.astype(spec.dtype)
    return feeds


def _positions_in(decoder: Decoder, given: Mapping[str, NDArray[Any]], positions: NDArray[Any]) -> NDArray[Any]:
    """Return the positions of the new tokens; if a mask is given, only tokens that it attends to are counted."""
    mask = next((given[spec.name] for spec in decoder.specs if _is_mask(spec) and spec.name in given), None)
    if mask is None or mask.ndim != _MATRIX_RANK or positions.ndim != _MATRIX_RANK or mask.dtype.kind not in "iub":
        return positions
    if len(mask) != len(positions) or mask.shape[1] < positions.shape[1]:
        return positions
    numbered: NDArray[Any] = np.maximum(np.cumsum(mask != 0, axis=1) - 1, 0)
    return numbered[:, mask.shape[1] - positions.shape[1] :]


def _meaningful(
    spec: InputSpec,
    drawn: NDArray[Any],
    sizes: Mapping[str, int],
    tokens: int,
    rng: np.random.Generator,
    *,
    is_tokens: bool,
) -> NDArray[Any]:
    """Return the values of an input whose meaning is known from its name; the drawn values for other inputs."""
    is_whole = drawn.dtype.kind in "iu"
    if is_tokens and is_whole:
        return rng.integers(0, tokens, drawn.shape)
    if _is_mask(spec):  # a float mask is added to scores, so 0 attends
        return np.ones(drawn.shape) if drawn.dtype.kind in "iub" else np.zeros(drawn.shape)
    if is_whole and "position" in spec.name and drawn.ndim:
        return np.broadcast_to(np.arange(sizes["past"], sizes["past"] + drawn.shape[-1]), drawn.shape)
    if is_whole and re.search(r"token_type|segment", spec.name):
        return np.zeros(drawn.shape)
    if drawn.dtype.kind == "b" and "cache" in spec.name:
        return np.full(drawn.shape, sizes["past"] > 0)
    number = _number_said(spec, sizes) if is_whole and len(spec.shape) <= 1 else None
    return drawn if number is None else np.full(drawn.shape, number)


def _number_said(spec: InputSpec, sizes: Mapping[str, int]) -> int | None:
    """Return the number of tokens that an input gives, according to its name; None if it gives none."""
    for words, number in (
        (r"seqlens_k", sizes["total"] - 1),
        (r"total", sizes["total"]),
        (r"past", sizes["past"]),
    ):
        if re.search(words, spec.name):
            return number
    return None
