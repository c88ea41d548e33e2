"""Turns the errors that readers of zip, NumPy and HDF5 files raise for damaged files into one class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["damage_as_value_error"]


@contextmanager
def damage_as_value_error() -> Iterator[None]:
    """Raise a ValueError for any error of reading a damaged file; callers add the name of the file.

    zipfile, zlib, lzma, h5py and NumPy's header reader raise errors of a dozen types for files that are damaged,
    encrypted or compressed by an unknown method.
    """
    try:
        yield
    except (KeyError, OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
