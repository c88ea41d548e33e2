"""Checks that the mapping of a model is still intact, without its original and without a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.crossbars.checked_weights import CheckedWeight, checked_weights
from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.errors import ModelError, VerificationError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.naming import named_in_messages
from onnx_gconv.junit_xml import JunitSuite, junit_xml, mapping_cases
from onnx_gconv.known_names import listed_name
from onnx_gconv.mapping import Manifest, read_manifest
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes.check_mapping import CheckMapping, Violation
from onnx_gconv.passes.remedies import carries_nothing, is_told_of_folded, remedy_of
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import counted, plain
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    import onnx_ir as ir
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["CheckReport", "CheckedName", "check_model"]

_MOST_SHOWN = 20
_MOST_IN_MESSAGE = 3


@dataclass(frozen=True)
class CheckedName:
    """A weight that the manifest names.

    Attributes:
        name: Name of the weight.
        graph: Path of the graph that owns it; empty for the main graph.
        is_folded: Whether another tool has folded its mapping, so that it is a plain initializer.
        known_as: The name that people know it by: its parameter in the exported program, its module, or its name.
    """

    name: str
    graph: str
    is_folded: bool
    known_as: str = ""


@dataclass(frozen=True, repr=False)
class CheckReport(ShownReport):
    """The result of a check of a mapped model; ``print(report)`` shows it.

    Attributes:
        model: The model.
        weights: The weights that its manifest names; none without a manifest.
        arrays: Number of arrays of conductances or level codes in the model; folded weights have none.
        violations: What is wrong with the mapping, see `CheckMapping`.
        is_mapped: Whether any weight is still mapped as the manifest says.
        is_plain: Whether the model has neither a manifest nor a node that rebuilds a weight.
    """

    model: Path
    weights: tuple[CheckedName, ...]
    arrays: int
    violations: tuple[Violation, ...]
    is_mapped: bool
    is_plain: bool

    @property
    def passed(self) -> bool:
        """Whether the model has a mapping without violations."""
        return not self.violations

    @property
    def folded(self) -> tuple[str, ...]:
        """Names of the weights whose mapping was folded away."""
        return tuple(item.name for item in self.weights if item.is_folded)

    @property
    def remedy(self) -> str | None:
        """What to do about the violations; None if there are none."""
        return remedy_of(self.violations, self.folded, is_plain=self.is_plain)

    def raise_if_failed(self) -> None:
        """Raise an error unless the check has passed.

        Raises:
            VerificationError: If there are violations; the message has the first ones, and what to do.
        """
        if not self.passed:
            sentences = tuple(self._sentences())
            more = f" (and {len(sentences) - _MOST_IN_MESSAGE} more)" if len(sentences) > _MOST_IN_MESSAGE else ""
            found = "; ".join(sentences[:_MOST_IN_MESSAGE])
            raise VerificationError(f"'{self.model}': {found}{more}; {self.remedy}")

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "model": str(self.model),
            "passed": self.passed,
            "is_mapped": self.is_mapped,
            "weights": [{**asdict(item), "problems": list(self._problems(item.name))} for item in self.weights],
            "conductance_arrays": self.arrays,
            "folded": list(self.folded),
            "violations": [asdict(violation) for violation in self.violations],
            "remedy": self.remedy,
        }

    def to_junit(self, seconds: float = 0.0) -> str:
        """Return the check as JUnit XML: a case for each weight, and one for the model as a whole.

        Args:
            seconds: The time that the check took.
        """
        return junit_xml(self.junit_suite(seconds))

    def junit_suite(self, seconds: float = 0.0) -> JunitSuite:
        """Return the check as a test suite of a JUnit document."""
        names = {item.name: listed_name(item.name, item.known_as) for item in self.weights}
        problems = ((item.weight, item.message) for item in self.violations)
        cases = mapping_cases(str(self.model), names, problems, self.remedy)
        return JunitSuite(f"onnx-gconv check {self.model}", cases, seconds)

    def _problems(self, weight: str) -> Iterator[str]:
        return (item.message for item in self.violations if item.weight == weight)

    def _sentences(self) -> Iterator[str]:
        """Yield one sentence for all weights whose mapping was folded away, and one for each other violation."""
        folded = tuple(listed_name(item.name, item.known_as) for item in self.weights if item.is_folded)
        if folded:
            of = f"{len(folded)} of {counted(len(self.weights))}"
            yield f"the mapping was folded away by another tool: {of} {_verb(folded)} again ({listed(folded)})"
        yield from (str(item) for item in self.violations if not is_told_of_folded(item, folded))

    def _in_short(self) -> str:
        found = "passed" if self.passed else f"failed: {'; '.join(self._sentences())}"
        return f"{self.model}, {counted(len(self.weights))}: {found}"

    def _frame_tables(self) -> FrameTables:
        violations = {
            "weight": Column("text", [item.weight for item in self.violations]),
            "problem": Column("text", [item.message for item in self.violations]),
        }
        return {"weights": self._columns, "violations": lambda: violations}

    def _columns(self) -> Columns:
        problems = ["; ".join(self._problems(item.name)) or None for item in self.weights]
        return {
            "weight": Column("text", [item.name for item in self.weights]),
            "known_as": Column("text", [item.known_as for item in self.weights]),
            "graph": Column("text", [item.graph for item in self.weights]),
            "passed": Column("yes or no", [problem is None for problem in problems]),
            "is_folded": Column("yes or no", [item.is_folded for item in self.weights]),
            "problem": Column("text", problems),
        }

    def __str__(self) -> str:
        return self.__rich__().plain

    def __rich__(self) -> Text:
        if self.passed:
            checked = f"{counted(len(self.weights))} in {self.arrays:,} arrays of conductances"
            return plain(
                f"PASSED: the mapping of {self.model} holds: {checked}, structure, manifest and values.",
                style="bold green",
            )
        lines = [f"FAILED: {self.model}: {sentence}" for sentence in self._sentences()]
        if len(lines) > _MOST_SHOWN:
            lines[_MOST_SHOWN:] = [f"FAILED: and {len(lines) - _MOST_SHOWN:,} more, all of which --json lists"]
        return plain(*lines, f"What to do: {self.remedy}.", style="bold red")


def check_model(model: ModelLike) -> CheckReport:
    """Check that a mapped model still is as its manifest says. All conductances are read, in chunks.

    The structure, the manifest and the invariants are checked, see `CheckMapping`. The outputs of the model are not
    compared with those of its original: `onnx_gconv.verify` does that in ONNX Runtime.

    Args:
        model: The model, in a file or in memory. It is not changed.

    Returns:
        The report with all violations. A model without a mapping fails, too.

    Raises:
        ModelError: If the model cannot be read.
    """
    given = GivenModel.of(model, "check_model")
    source, graph = given.label, given.load(may_lack_data=True)
    with named_in_messages(source, options_concern_it=False):
        violations = CheckMapping().violations(graph)
        manifest = _manifest(graph)
        checked = () if manifest is None else checked_weights(manifest, graph)
        if manifest is not None and not checked:  # without a weight, nothing could be wrong
            violations = (*violations, Violation(None, "the manifest names no weight; nothing is mapped"))
        weights = tuple(
            CheckedName(item.record.name, item.record.graph, item.is_folded, item.record.known_as) for item in checked
        )
        there = ModelValues(graph).initializers
        arrays = sum(_arrays_of(item, there) for item in checked)
        is_mapped = any(item.problem is None for item in checked)
    return CheckReport(source, weights, arrays, violations, is_mapped, carries_nothing(graph))


def _arrays_of(item: CheckedWeight, there: Mapping[str, ir.Value]) -> int:
    """Return how many arrays of a weight the model has. Tools may have renamed arrays, or merged equal ones."""
    arrays = item.record.conductances
    return len(arrays) if item.mapped is not None else sum(array.name in there for array in arrays)


def _manifest(model: ir.Model) -> Manifest | None:
    """Return the manifest; None if there is none, or it cannot be read, which is a violation already."""
    try:
        return read_manifest(model)
    except ModelError:
        return None


def _verb(names: tuple[str, ...]) -> str:
    return "is a plain initializer" if len(names) == 1 else "are plain initializers"
