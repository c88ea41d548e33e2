"""Prompts: given tokens of a language model, for which matching other inputs are generated."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.decoder_inputs import tokens_of
from onnx_gconv.runtime.inputs import MOST_NAMED, InputSpec
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TokenIds", "completed_note", "may_be_generated", "parse_token_ids"]

_LARGEST_FILE = 1 << 24


@dataclass(frozen=True)
class TokenIds:
    """The tokens of one prompt.

    Attributes:
        ids: Their indices in the vocabulary, 0 or more.
        source: Where they come from, for messages.
    """

    ids: tuple[int, ...]
    source: str = "token ids"

    @classmethod
    def of(cls, ids: Sequence[int] | TokenIds) -> TokenIds:
        """Return a prompt of the given token ids.

        Raises:
            ConfigError: There are no ids, or one is no whole number from 0.
        """
        if isinstance(ids, TokenIds):
            return ids
        for number in ids:
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
                raise ConfigError(f"the token id {number!r} is no whole number from 0")
        if not len(ids):
            raise ConfigError("there are no token ids; give one at least")
        return cls(tuple(map(int, ids)))

    def as_inputs(self, specs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
        """Return the array for a model's input of tokens, by name. All texts of a batch get the same tokens.

        Args:
            specs: All inputs of the model.

        Raises:
            ConfigError: The model takes no token ids, or its type cannot hold one.
        """
        tokens = tokens_of(specs)
        if tokens is None or isinstance(tokens.dtype, str) or tokens.dtype.kind not in "iu":
            has = f"has {listed([spec.name for spec in specs], MOST_NAMED)}" if specs else "has no inputs"
            raise ConfigError(f"{self.source}: the model takes no token ids, such as 'input_ids' does; it {has}")
        largest = int(np.iinfo(tokens.dtype).max)
        if max(self.ids) > largest:
            raise ConfigError(
                f"{self.source}: the token id {max(self.ids)} does not fit '{tokens.name}', which is {tokens.dtype}"
            )
        batch = tokens.shape[0] if tokens.shape and isinstance(tokens.shape[0], int) else 1
        return {tokens.name: np.array([self.ids] * max(batch, 1), tokens.dtype)}


def parse_token_ids(text: str) -> TokenIds:
    """Read ``1,15043,3186``, or a file that holds such numbers with commas, spaces or line ends between them.

    Raises:
        ConfigError: The text is neither, or the file cannot be read.
    """
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text):
        return TokenIds.of([int(number) for number in text.split(",")])
    path = Path(text)
    how = "give numbers such as 1,15043,3186, or a file of them"
    try:
        size = path.stat().st_size if path.is_file() else None
        content = "" if size is None or size > _LARGEST_FILE else path.read_text("utf-8")
    except (OSError, ValueError) as error:  # a file that is no UTF-8 and an invalid path raise a ValueError
        reason = " ".join(str(error).split())
        raise ConfigError(f"{text!r} cannot be read as a file of token ids ({reason}); {how}") from error
    if size is None:
        raise ConfigError(f"{text!r} is neither a list of token ids nor a file; {how}")
    if size > _LARGEST_FILE:
        raise ConfigError(f"{path}: has {size:,} bytes, which is more than a prompt can be; {how}")
    words = re.split(r"[\s,]+", content.strip().removeprefix("[").removesuffix("]").strip())
    wrong = next((word for word in words if not re.fullmatch(r"\d+", word)), None)
    if wrong is not None:
        what = f"{wrong[:40]!r} is no token id" if wrong else "there are no token ids in it"
        raise ConfigError(f"{path}: {what}; {how}")
    return TokenIds(tuple(map(int, words)), str(path))


def may_be_generated(specs: Sequence[InputSpec]) -> Collection[str]:
    """Return the names of inputs that can be generated to match given tokens; none if the model takes no tokens."""
    tokens = tokens_of(specs)
    return frozenset() if tokens is None else frozenset(spec.name for spec in specs if spec is not tokens)


def completed_note(names: Sequence[str]) -> str:
    """Return a note on inputs that were generated to match given ones."""
    quoted = [f"'{name}'" for name in names]
    return f"generated to go with the given inputs: {listed(quoted, MOST_NAMED)}"
