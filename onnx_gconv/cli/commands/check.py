"""``onnx-gconv check``."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_gconv.cli.junit import with_junit
from onnx_gconv.cli.options import Debug, Json, Junit, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.errors import GconvError
from onnx_gconv.terminal_text import below_each_other

if TYPE_CHECKING:
    from rich.text import Text  # noqa: TID251 - only its name

    from onnx_gconv.operations import CheckReport

__all__ = ["check"]


@dataclass(frozen=True)
class _Unreadable:
    """A model that could not be checked.

    Attributes:
        model: The file of the model.
        error: The error that it raised.
        seconds: Time until the error, in seconds.
    """

    model: Path
    error: GconvError
    seconds: float


@dataclass(frozen=True)
class _Checks:
    """The results for several models.

    Attributes:
        reports: The report of each model that could be read, and the duration of its check in seconds.
        unreadable: The models that could not be read.
    """

    reports: tuple[tuple[CheckReport, float], ...]
    unreadable: tuple[_Unreadable, ...]

    @property
    def passed(self) -> bool:
        return not self.unreadable and all(report.passed for report, _ in self.reports)

    def raise_if_failed(self) -> None:
        """Raise an error for the first model whose mapping is not intact.

        Raises:
            VerificationError: If there is such a model.
        """
        for report, _ in self.reports:
            report.raise_if_failed()

    def to_json(self) -> dict[str, Any]:
        """The results as JSON values, with the models that could not be read."""
        return {
            "passed": self.passed,
            "models": [report.to_json() for report, _ in self.reports],
            "errors": [{"model": str(item.model), "message": str(item.error)} for item in self.unreadable],
        }

    def to_junit(self, _seconds: float = 0.0) -> str:
        """The results as JUnit XML, with a suite for each model."""
        from onnx_gconv.junit_xml import JunitCase, JunitSuite, junit_xml

        suites = [report.junit_suite(seconds) for report, seconds in self.reports]
        for item in self.unreadable:
            case = JunitCase(str(item.model), "the check could not run", "error", (str(item.error),))
            suites.append(JunitSuite(f"onnx-gconv check {item.model}", [case], item.seconds))
        return junit_xml(*suites)

    def __rich__(self) -> Text:
        return below_each_other([report.__rich__() for report, _ in self.reports])


def check(
    mapped: Annotated[list[Path], typer.Argument(help="The mapped ONNX models.", show_default=False)],
    junit: Junit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Check that the mapping of a model is intact and was not folded away. Needs no original, and takes a moment."""
    report: CheckReport | _Checks
    if len(mapped) == 1:
        report = with_junit(junit, f"onnx-gconv check {mapped[0]}", lambda: _imported_check_model()(mapped[0]))
    else:
        report = with_junit(junit, "onnx-gconv check", lambda: _checks(mapped))
    print_report(report, as_json=as_json, quiet=quiet)
    if isinstance(report, _Checks) and report.unreadable:
        errors = [item.error for item in report.unreadable]
        raise type(errors[0])("; ".join(map(str, errors)))
    if not report.passed:
        if quiet:
            report.raise_if_failed()  # its message says why
        raise typer.Exit(1)


def _checks(models: list[Path]) -> _Checks:
    """Check several models. A model that cannot be read is recorded, and the others are checked nevertheless."""
    check_model = _imported_check_model()
    reports: list[tuple[CheckReport, float]] = []
    unreadable: list[_Unreadable] = []
    for model in models:
        start = time.perf_counter()
        try:
            reports.append((check_model(model), time.perf_counter() - start))
        except GconvError as error:
            unreadable.append(_Unreadable(model, error, time.perf_counter() - start))
    return _Checks(tuple(reports), tuple(unreadable))


def _imported_check_model() -> Callable[[Path], CheckReport]:
    """Import `check_model` without garbage collection, which would take a tenth of the time of the import."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from onnx_gconv.operations.check import check_model
    finally:
        if was_enabled:
            gc.enable()
    return check_model
