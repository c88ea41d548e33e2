"""What the files beside a model are called, and how messages name a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_gconv.errors import ConfigError, GconvError

__all__ = ["MAPPED_SUFFIX", "named_in_messages", "stem_of_mapped"]

MAPPED_SUFFIX = ".gconv"
"""What a mapped model has before the suffix, and a bundle at the end."""


def stem_of_mapped(mapped: Path) -> str:
    """``model`` for ``model.gconv.onnx``."""
    return mapped.stem.removesuffix(MAPPED_SUFFIX)


@contextmanager
def named_in_messages(model: Path, *, options_concern_it: bool = True) -> Iterator[None]:
    """Put the name of a model in front of the messages of code that knows no files.

    Args:
        model: The file.
        options_concern_it: Whether a wrong option is one that does not fit this model. Where it is not, as with the
            patterns of a configuration, its message stays as it is; so does that of an output that cannot be written.
    """
    try:
        yield
    except GconvError as error:
        text = str(error)
        if isinstance(error, ConfigError) and (not options_concern_it or text.startswith("cannot write")):
            raise
        raise type(error)(text if f"'{model}'" in text else f"'{model}': {text}") from error
