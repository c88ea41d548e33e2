"""Results of checks as JUnit XML beside what is printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from onnx_gconv.visible_text import one_line

__all__ = ["with_junit"]


class _Checked(Protocol):
    def to_junit(self, seconds: float = 0.0) -> str:
        """The result as JUnit XML."""
        ...


_Report = TypeVar("_Report", bound=_Checked)


def with_junit(path: Path | None, suite: str, check: Callable[[], _Report]) -> _Report:
    """Run a check, and write what it finds; that it could not run is written as an error.

    Args:
        path: The file; None for none.
        suite: The name of the check.
        check: What runs it.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path is None:
        return check()
    from onnx_gconv.files.junit_xml import JunitCase, JunitSuite, check_junit_path, junit_xml, write_junit

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
