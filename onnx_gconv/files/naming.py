"""Names of files that are made from a model, and the name of the model in messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_gconv.errors import ConfigError, GconvError

__all__ = ["MAPPED_SUFFIX", "named_in_messages", "stem_of_mapped"]

MAPPED_SUFFIX = ".gconv"
"""The part of a mapped model's name before ``.onnx``, and the end of a bundle's name."""


def stem_of_mapped(mapped: Path) -> str:
    """Return the name of a mapped model without its suffixes: ``model`` for ``model.gconv.onnx``."""
    return mapped.stem.removesuffix(MAPPED_SUFFIX)


@contextmanager
def named_in_messages(model: Path, *, options_concern_it: bool = True) -> Iterator[None]:
    """Put the file name of a model in front of error messages from code that works on models in memory.

    Args:
        model: The file.
        options_concern_it: Whether a `ConfigError` is about this model. If not, its message stays unchanged. A message
            that an output cannot be written always stays unchanged.
    """
    try:
        yield
    except GconvError as error:
        text = str(error)
        if isinstance(error, ConfigError) and (not options_concern_it or text.startswith("cannot write")):
            raise
        raise type(error)(text if f"'{model}'" in text else f"'{model}': {text}") from error
