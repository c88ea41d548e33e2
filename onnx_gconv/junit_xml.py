"""Results of checks as JUnit XML, which CI services show beside those of tests.

The elements and attributes are those of the schema of Jenkins' xUnit plugin (junit-10.xsd), which GitLab, actions of
GitHub and junitparser read, too.
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
        group: What is checked, such as ``weights``; a full stop and the name of the case follow.
        name: Of the case.
        outcome: What came of it.
        messages: Why it did not pass, a line each.
    """

    group: str
    name: str
    outcome: Outcome = "passed"
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class JunitSuite:
    """The checks of one model.

    Attributes:
        name: What was run.
        cases: Its cases.
        seconds: How long all of them took. Single cases are not timed: they have 0, as readers want a number.
    """

    name: str
    cases: Sequence[JunitCase]
    seconds: float = 0.0


def junit_xml(*suites: JunitSuite) -> str:
    """A document. Names and messages are on one line each; what is not printable stands as escapes."""
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
    """A case for each weight of a mapped model, and one for the mapping as a whole, with what does not hold.

    Args:
        group: What the cases are about.
        weights: What cases call each weight, by its name; those that only problems name have a case, too.
        problems: What does not hold, each with the name of its weight, or None if it concerns the whole model.
        remedy: What to do then.
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
