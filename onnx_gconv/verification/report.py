"""The report of the three checks of a mapped model, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.errors import VerificationError
from onnx_gconv.junit_xml import JunitCase, JunitSuite, junit_xml, mapping_cases
from onnx_gconv.known_names import listed_name, quoted_name
from onnx_gconv.mapping.expert_groups import ExpertGroup, grouped_experts
from onnx_gconv.passes.check_mapping import Violation
from onnx_gconv.runtime.comparison import OutputComparison
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import counted, plain, titled_table, with_name, with_remark
from onnx_gconv.verification.error_limits import NO_LIMITS, STATED_LIMITS, ErrorLimits
from onnx_gconv.verification.outputs_report import OutputsReport, RunFailure, mark, number_text
from onnx_gconv.verification.weights import WeightComparison
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

__all__ = ["VerificationReport"]

_MOST_PROBLEMS = 3


@dataclass(frozen=True, repr=False)
class VerificationReport(ShownReport):
    """The results of the three checks; ``print(report)`` shows tables.

    Attributes:
        original: The model before the mapping.
        mapped: The model after the mapping.
        violations: What is wrong with the mapping itself, see `CheckMapping`.
        weights: The comparison of every rebuilt weight with the original one.
        outputs: The comparison of every output of the mapped model with the original's, in ONNX Runtime.
        limits: The user's limits of errors against the original.
        needs_outputs: Whether the user gave inputs or limits, so that a missing comparison of outputs is a failure.
        if_nodes: The If nodes of the mapped model with branches that are compared only if the inputs take them.
        draws_readings: Whether each run of the mapped model draws new readings of its devices. Weights and outputs are
            then judged without that noise.
        is_verbose: Whether tables have a line for each expert of a mixture of experts; if not, the experts of a layer
            that pass share a line.
        remedy: What to do about violations of the mapping; None if there are none.
    """

    original: Path
    mapped: Path
    violations: tuple[Violation, ...]
    weights: tuple[WeightComparison, ...]
    outputs: OutputsReport
    limits: ErrorLimits = NO_LIMITS
    needs_outputs: bool = False
    if_nodes: tuple[str, ...] = ()
    draws_readings: bool = False
    is_verbose: bool = False
    remedy: str | None = None

    @property
    def passed(self) -> bool:
        """Whether all checks that could run have passed, and all checks that the user asked for could run."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """All failures, a line each."""
        return (
            *(str(violation) for violation in self.violations),
            *(_weight_problem(item) for item in self.weights if not item.passed and not self._is_told(item)),
            *map(_run_problem, self.outputs.failures),
            *(_output_problem(item) for item in self.outputs.comparisons if not item.passed),
            *self._beyond(self.limits),
            *self.limits.not_judged(self.outputs.comparisons),
            *self._missing(),
        )

    def _is_told(self, item: WeightComparison) -> bool:
        """Whether a violation of the mapping reports the same problem of a weight already."""
        return any((each.weight, each.message) == (item.name, item.problem) for each in self.violations)

    @property
    def far_from_original(self) -> tuple[str, ...]:
        """Outputs below 10 dB of SQNR or 90 % agreement of argmax against the original, a line each."""
        return tuple(self._beyond(STATED_LIMITS))

    def _beyond(self, limits: ErrorLimits) -> Iterator[str]:
        for item in self.outputs.comparisons:
            if exceeded := limits.exceeded_by(item):
                yield f"output '{item.label}' at optimization '{item.optimization}': {' and '.join(exceeded)}"

    def _missing(self) -> Iterator[str]:
        if self.needs_outputs and self.outputs.unproved is not None:
            yield f"outputs were to be compared, but were not: {self.outputs.unproved}"

    def raise_if_failed(self) -> None:
        """Raise an error unless `passed` is true.

        Raises:
            VerificationError: If there are failures; the message has the first ones.
        """
        if self.passed:
            return
        more = f" (and {len(self.problems) - _MOST_PROBLEMS} more)" if len(self.problems) > _MOST_PROBLEMS else ""
        raise VerificationError(
            f"'{self.mapped}' does not verify against '{self.original}': "
            f"{'; '.join(self.problems[:_MOST_PROBLEMS])}{more}{'' if self.remedy is None else f'; {self.remedy}'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        outputs = self.outputs.to_json()
        return {
            "original": str(self.original),
            "mapped": str(self.mapped),
            "passed": self.passed,
            "problems": list(self.problems),
            "far_from_original": list(self.far_from_original),
            "violations": [asdict(violation) for violation in self.violations],
            "weights": [asdict(item) for item in self.weights],
            "outputs": outputs["outputs"],
            "outputs_not_compared": outputs["not_compared"],
            "rule": outputs["rule"],
            "inputs": outputs["inputs"],
            "run_failures": outputs["failures"],
            "notes": outputs["notes"],
            "if_nodes": list(self.if_nodes),
            "draws_readings": self.draws_readings,
            "remedy": self.remedy,
        }

    def to_junit(self, seconds: float = 0.0) -> str:
        """Return the report as JUnit XML: a case for each weight, for each output and level, and for the mapping.

        An output that could not be compared is skipped with the reason, or fails if the user gave inputs or limits.

        Args:
            seconds: The time that the checks took.
        """
        return junit_xml(JunitSuite(f"onnx-gconv verify {self.original} {self.mapped}", list(self._cases()), seconds))

    def _cases(self) -> Iterator[JunitCase]:
        group = str(self.mapped)
        called = {weight.name: listed_name(weight.name, weight.known_as) for weight in self.weights}
        violations = ((called.get(item.weight or "", item.weight), item.message) for item in self.violations)
        yield from mapping_cases(group, {}, violations)
        for weight in self.weights:
            problems = [] if weight.passed else [_weight_problem(weight)]
            yield _case(group, f"weight {called[weight.name]}", problems)
        for failure in self.outputs.failures:
            yield _case(group, f"run at optimization {failure.optimization}", [_run_problem(failure)])
        for output in self.outputs.comparisons:
            name = f"output {output.label} at optimization {output.optimization}"
            if output.is_random:
                yield JunitCase(group, name, "skipped", (output.note or "",))
            else:
                problems = [] if output.passed else [_output_problem(output)]
                yield _case(group, name, [*problems, *self.limits.exceeded_by(output)])
        if problems := list(self.limits.not_judged(self.outputs.comparisons)):
            yield _case(group, "limits of errors", problems)
        if self.outputs.unproved is not None:
            outcome: Literal["failure", "skipped"] = "failure" if self.needs_outputs else "skipped"
            yield JunitCase(group, "all outputs are compared", outcome, (self.outputs.unproved,))

    def _in_short(self) -> str:
        passed = "passed" if self.passed else f"failed ({len(self.problems)} problems)"
        compared = f"{len(self.outputs.comparisons)} comparisons of outputs"
        return f"{passed}, {self.mapped} against {self.original}: {counted(len(self.weights))}, {compared}"

    def _frame_tables(self) -> FrameTables:
        return {"weights": self._columns, "outputs": self.outputs.columns}

    def _columns(self) -> Columns:
        weights = self.weights
        errors = ("max_abs_error", "max_relative_error", "bound", "max_ulp_error", "sqnr_db")
        return {
            "weight": Column("text", [item.name for item in weights]),
            "graph": Column("text", [item.graph for item in weights]),
            "known_as": Column("text", [item.known_as for item in weights]),
            **{name: Column("number", [getattr(item, name) for item in weights]) for name in errors},
            **{
                name: Column("yes or no", [getattr(item, name) for item in weights])
                for name in ("bit_identical", "is_lossy", "passed")
            },
            "problem": Column("text", [item.problem for item in weights]),
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        parts: list[RenderableType] = []
        if self.weights:
            parts.append(self._weights_table())
        if self.outputs.comparisons:
            parts.append(self.outputs.table())
        parts.extend(map(plain, self._remarks()))
        parts.extend(plain(f"FAILED: {problem}", style="bold red") for problem in self.problems)
        if self.remedy is not None:
            parts.append(plain(f"What to do: {self.remedy}.", style="bold red"))
        if self.passed:
            is_proved = self.outputs.unproved is None and not self.far_from_original and not self.draws_readings
            parts.append(plain(self._verdict(), style="bold green" if is_proved else "bold yellow"))
        return Group(*parts)

    def _weights_table(self) -> Table:
        table = titled_table("Weights, rebuilt against original")
        table.add_column("weight")
        table.add_column("max |error|", justify="right")
        table.add_column("allowed", justify="right")  # beside what it is the limit of
        table.add_column("/ max |W|", justify="right")
        # A distance in ulp is meaningless for weights that are rounded to levels: between two signs it is billions.
        has_ulp = not all(item.is_lossy for item in self.weights)
        is_lossy = any(item.is_lossy for item in self.weights)
        if has_ulp:
            table.add_column("ulp", justify="right")
        if is_lossy:
            table.add_column("SQNR [dB]", justify="right")
        table.add_column("identical")
        table.add_column("")
        for group in self._groups():
            item = group.first
            ulps = [one.max_ulp_error for one in group.members if one.max_ulp_error is not None and not one.is_lossy]
            sqnrs = [one.sqnr_db for one in group.members if one.sqnr_db is not None]
            table.add_row(
                with_name(item.known_as, item.name) if group.count == 1 else with_remark(group.name, group.remark),
                number_text(_largest(one.max_abs_error for one in group.members)),
                number_text(_largest(one.bound for one in group.members)),
                number_text(_largest(one.max_relative_error for one in group.members)),
                *([f"{max(ulps):,}" if ulps else "-"] if has_ulp else []),
                *([f"{min(sqnrs):.1f}" if sqnrs else "-"] if is_lossy else []),
                "yes" if item.bit_identical else "no",
                mark(passed=item.passed),
            )
        return table

    def _groups(self) -> list[ExpertGroup[WeightComparison]]:
        """Group the weights into the lines of a table; a weight that fails has its own line."""
        numbers = {id(item): number for number, item in enumerate(self.weights)}
        return grouped_experts(
            self.weights,
            lambda item: (item.known_as or item.name, item.sources),
            lambda item: (item.graph, item.bit_identical, item.is_lossy, None if item.passed else numbers[id(item)]),
            is_verbose=self.is_verbose,
        )

    def _remarks(self) -> Iterator[str]:
        if self.outputs.inputs is not None:
            described = self.outputs.inputs
            seed = "" if described.seed is None else f", seed {described.seed}"
            shapes = ", ".join(f"{item.name} {list(item.shape)}" for item in described.tensors)
            yield f"Inputs: {described.source}{seed}: {shapes}"
        yield from self.outputs.of_positions()
        notes = self.outputs.notes
        yield from (note if note.startswith("Warning: ") else f"Note: {note}" for note in notes)
        if self.if_nodes and self.outputs.comparisons:
            yield (
                f"Note: a run takes one branch of an If ({listed(self.if_nodes)}), and what the other one computes is "
                "not compared; verify again with inputs that take it (--inputs, --value)"
            )
        if self.outputs.unproved is not None:
            yield f"OUTPUTS NOT COMPARED: {self.outputs.unproved}"

    def _verdict(self) -> str:
        identical = sum(item.bit_identical for item in self.weights)
        weights = f"{counted(len(self.weights))} ({identical} bit-identical)"
        if self.outputs.unproved is not None:
            which = "outputs" if self.outputs.not_compared is not None else "some outputs"
            return f"NOT VERIFIED AS A WHOLE: {weights} and the mapping hold, but {which} were not compared."
        taken = " of the branches that these inputs take" if self.if_nodes else ""
        count = f"{len(self.outputs.comparisons)} comparisons of outputs{taken}"
        passed = "PASSED WITHOUT THE NOISE OF READINGS" if self.draws_readings else "PASSED"
        verdict = f"{passed}: {weights}, {count}, and the mapping hold"
        if not self.far_from_original:
            return f"{verdict}."
        return f"{verdict}, but outputs are FAR FROM THE ORIGINAL'S: {'; '.join(self.far_from_original)}."


def _case(group: str, name: str, problems: Sequence[str]) -> JunitCase:
    return JunitCase(group, name, "failure" if problems else "passed", tuple(problems))


def _run_problem(item: RunFailure) -> str:
    return f"at optimization '{item.optimization}' the mapped model does not {item.stage}: {item.message}"


def _weight_problem(item: WeightComparison) -> str:
    if item.problem is not None:
        return f"weight {quoted_name(item.name, item.known_as)}: {item.problem}"
    error = "not a number" if item.max_abs_error is None else f"{item.max_abs_error:g}"
    name = quoted_name(item.name, item.known_as)
    return f"weight {name} is rebuilt with an error of {error}, the converter allows {item.bound:g}"


def _output_problem(item: OutputComparison) -> str:
    if item.note is not None:
        return f"output '{item.label}' at optimization '{item.optimization}': {item.note}"
    return (
        f"output '{item.label}' at optimization '{item.optimization}' is off by {number_text(item.max_abs_error)}, "
        f"allowed is {number_text(item.tolerance)}"
    )


def _largest(numbers: Iterable[float | None]) -> float | None:
    """Return the largest number; None if one of them is None."""
    found = list(numbers)
    known = [number for number in found if number is not None]
    return max(known) if len(known) == len(found) else None
