"""Writes the results of checks to a file as JUnit XML."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from onnx_gconv.errors import ConfigError
from onnx_gconv.visible_text import one_line

__all__ = ["check_junit_path", "with_junit", "write_junit"]

_BEGINS = b"<?xml"
_ROOTS = (b"<testsuites", b"<testsuite")
_READ_BYTES = 4096


class _Checked(Protocol):
    def to_junit(self, seconds: float = 0.0) -> str:
        """The result as JUnit XML; `seconds` is the duration of the check."""
        ...


_Report = TypeVar("_Report", bound=_Checked)


def with_junit(path: Path | None, suite: str, check: Callable[[], _Report]) -> _Report:
    """Run a check and write its result as JUnit XML. If the check raises, an error is written and the exception raised.

    Args:
        path: The file to write; None to write none.
        suite: The name of the check.
        check: Runs the check.

    Returns:
        The report of the check.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path is None:
        return check()
    from onnx_gconv.junit_xml import JunitCase, JunitSuite, junit_xml

    check_junit_path(path)
    start = time.perf_counter()
    try:
        report = check()
    except Exception as error:
        message = one_line(f"{type(error).__name__}: {error}")
        case = JunitCase(suite, "the check could not run", "error", (message,))
        write_junit(path, junit_xml(JunitSuite(suite, [case], time.perf_counter() - start)))
        raise
    write_junit(path, report.to_junit(time.perf_counter() - start))
    return report


def check_junit_path(path: Path) -> None:
    """Check that JUnit XML can be written to a file, before a long check runs. Only older JUnit XML is replaced.

    Raises:
        ConfigError: If the file cannot be written, or holds something else.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise ConfigError(f"cannot write '{path}': {what}; choose another name")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"cannot write '{path}': it is a link, or no file; choose another name")
    try:
        found = b""
        if path.exists():
            with path.open("rb") as file:
                found = file.read(_READ_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}; choose another name") from error
    if found and not (found.startswith((_BEGINS, *_ROOTS)) and any(root in found for root in _ROOTS)):
        raise ConfigError(f"'{path}' exists, and is no JUnit XML; choose another name")


def write_junit(path: Path, document: str) -> None:
    """Write a document to a file, whole or not at all.

    Raises:
        ConfigError: If the file cannot be written.
    """
    from onnx_gconv.files.staging import write_small_file

    try:
        write_small_file(path, document.encode("utf-8"), replace=True)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}; choose another place") from error
