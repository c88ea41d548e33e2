"""What readers of zip, NumPy and HDF5 files raise for damaged ones, as one class of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["damage_as_value_error"]


@contextmanager
def damage_as_value_error() -> Iterator[None]:
    """Let what is wrong with a file be a ValueError, which callers name the file in.

    zipfile, zlib, lzma, h5py and NumPy's reader of headers raise errors of a dozen types for damaged files, for
    encrypted ones, and for methods of compression that they do not know.
    """
    try:
        yield
    except (KeyError, OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
