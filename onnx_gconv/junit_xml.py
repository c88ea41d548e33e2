"""Writes results of checks as JUnit XML, which CI services show beside the results of tests.

Elements and attributes follow the schema of Jenkins' xUnit plugin (junit-10.xsd), which GitLab, actions of GitHub and
junitparser also read.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx_gconv.visible_text import visible

__all__ = ["JunitCase", "JunitSuite", "junit_xml", "mapping_cases"]

Outcome: TypeAlias = Literal["passed", "failure", "error", "skipped"]
"""``failure``: what was checked does not hold; ``error``, ``skipped``: it could not be checked."""


@dataclass(frozen=True)
class JunitCase:
    """One check.

    Attributes:
        group: The group of the check, such as ``weights``; CI services show it in front of the name, with a full stop.
        name: The name of the check.
        outcome: The result of the check.
        messages: Why the check did not pass, one line each.
    """

    group: str
    name: str
    outcome: Outcome = "passed"
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class JunitSuite:
    """The checks of one model.

    Attributes:
        name: The command that made the checks.
        cases: The checks.
        seconds: How long all checks took. Single checks are not timed; their time is 0, because readers need a number.
    """

    name: str
    cases: Sequence[JunitCase]
    seconds: float = 0.0


def junit_xml(*suites: JunitSuite) -> str:
    """The XML document of suites. Each name and message is on one line; escapes replace characters not printable."""
    cases = [case for suite in suites for case in suite.cases]
    root = ET.Element("testsuites", {"name": "onnx-gconv", **_counts(cases), **_time(sum(s.seconds for s in suites))})
    for suite in suites:
        skipped = str(sum(case.outcome == "skipped" for case in suite.cases))
        attributes = {"name": visible(suite.name), **_counts(suite.cases), "skipped": skipped, **_time(suite.seconds)}
        parent = ET.SubElement(root, "testsuite", attributes)
        for case in suite.cases:
            _add(parent, case)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _counts(cases: Sequence[JunitCase]) -> dict[str, str]:
    counts = {name: sum(case.outcome == name.removesuffix("s") for case in cases) for name in ("failures", "errors")}
    return {name: str(count) for name, count in {"tests": len(cases), **counts}.items()}


def _time(seconds: float) -> dict[str, str]:
    return {"time": f"{seconds:.3f}"}


def _add(suite: ET.Element, case: JunitCase) -> None:
    attributes = {"classname": visible(case.group), "name": visible(case.name), **_time(0.0)}
    element = ET.SubElement(suite, "testcase", attributes)
    if case.outcome != "passed":
        first = visible(case.messages[0]) if case.messages else case.outcome
        found = ET.SubElement(element, case.outcome, {"type": "onnx_gconv", "message": first})
        found.text = "\n".join(map(visible, case.messages))


def mapping_cases(
    group: str, weights: Mapping[str, str], problems: Iterable[tuple[str | None, str]], remedy: str | None = None
) -> list[JunitCase]:
    """A case for each weight of a mapped model, and one for the mapping as a whole; they fail if they have problems.

    Args:
        group: The group of the cases.
        weights: The name of each weight in cases, by its name in the model. A weight that only `problems` has gets a
            case, too.
        problems: The problems, each with the name of its weight, or None if it concerns the whole model.
        remedy: What to do about the problems; None for nothing.
    """
    of_weights: dict[str, list[str]] = {called: [] for called in weights.values()}
    of_model: list[str] = []
    for weight, message in problems:
        found = of_model if weight is None else of_weights.setdefault(weights.get(weight, weight), [])
        found.append(message)
    parts = {"mapping as a whole": of_model} | {f"mapping of {name}": found for name, found in of_weights.items()}
    to_do = [f"what to do: {remedy}"] if remedy else []
    return [
        JunitCase(group, name, "failure", (*found, *to_do)) if found else JunitCase(group, name)
        for name, found in parts.items()
    ]
