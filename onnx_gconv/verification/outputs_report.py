"""The report of the comparison of outputs, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from onnx_gconv.data_frame import Column, Columns, shape_text
from onnx_gconv.runtime.comparison import OUTPUT_RULE, OutputComparison
from onnx_gconv.runtime.inputs import InputSpec
from onnx_gconv.runtime.positions import agreement_of_positions
from onnx_gconv.runtime.session import Optimization
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import plain, titled_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["InputsDescription", "OutputsReport", "RunFailure", "mark", "number_text"]


@dataclass(frozen=True)
class InputsDescription:
    """The inputs on which both models ran.

    Attributes:
        source: ``"generated inputs"``, ``"given inputs"`` for arrays of the caller, or the path of the file.
        seed: The seed of generated inputs; else None.
        tensors: Name, type and actual shape of every input.
    """

    source: str
    seed: int | None
    tensors: tuple[InputSpec, ...]

    def to_json(self) -> dict[str, object]:
        """Return the description as plain Python values for a JSON document."""
        return {"source": self.source, "seed": self.seed, "tensors": [tensor.to_json() for tensor in self.tensors]}


@dataclass(frozen=True)
class RunFailure:
    """A failure of the mapped model at an optimization level at which the original runs.

    Attributes:
        optimization: The level.
        stage: Where the mapped model failed: ``"load"`` or ``"run"``.
        message: ONNX Runtime's message, on one line.
    """

    optimization: Optimization
    stage: str
    message: str

    def to_json(self) -> dict[str, object]:
        """Return the failure as plain Python values for a JSON document."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class OutputsReport(ShownReport):
    """The comparison of a mapped model's outputs with those of its original.

    Attributes:
        comparisons: One record for each output and optimization level.
        inputs: The inputs of both models; None if the original ran on no inputs.
        not_compared: Why nothing could be compared; None if something was. If nothing was compared, nothing failed, and
            ``passed`` is true: a caller that needs a proof has to check this field, too.
        failures: The levels at which the original runs and the mapped model does not.
        notes: What limits the comparison as a whole.
        both_taken: Names of inputs that choose branches and of which both values were run.
        passed: Whether nothing failed.
    """

    comparisons: tuple[OutputComparison, ...] = ()
    inputs: InputsDescription | None = None
    not_compared: str | None = None
    failures: tuple[RunFailure, ...] = ()
    notes: tuple[str, ...] = ()
    both_taken: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every comparison passed, and the mapped model runs at all levels at which the original runs."""
        return not self.failures and all(comparison.passed for comparison in self.comparisons)

    @property
    def unproved(self) -> str | None:
        """Why not all outputs could be compared; None if all were."""
        if self.not_compared is not None:
            return self.not_compared
        names = tuple(dict.fromkeys(f"'{item.name}'" for item in self.comparisons if item.is_random))
        if not names:
            return None
        verb = "differs" if len(names) == 1 else "differ"
        return (
            f"{', '.join(names)} {verb} from run to run of the original; give nodes that draw random numbers a seed, "
            "or feed the numbers in"
        )

    def with_texts(self, change: Callable[[str], str]) -> OutputsReport:
        """Return the report with changed texts, e.g. with another name for a temporary file."""
        return replace(
            self,
            not_compared=None if self.not_compared is None else change(self.not_compared),
            failures=tuple(replace(item, message=change(item.message)) for item in self.failures),
            notes=tuple(map(change, self.notes)),
        )

    def to_json(self) -> dict[str, object]:
        """Return the report as plain Python values for a JSON document, with the comparisons under ``outputs``."""
        return {
            "passed": self.passed,
            "not_compared": self.unproved,
            "rule": OUTPUT_RULE,
            "inputs": None if self.inputs is None else self.inputs.to_json(),
            "failures": [failure.to_json() for failure in self.failures],
            "notes": list(self.notes),
            "outputs": [comparison.to_json() for comparison in self.comparisons],
        }

    def _in_short(self) -> str:
        if self.not_compared is not None:
            return f"not compared: {self.not_compared}"
        failed = len(self.failures) + sum(not item.passed for item in self.comparisons)
        return f"{len(self.comparisons)} comparisons, {failed} failed"

    def _frame_tables(self) -> FrameTables:
        return {"outputs": self.columns}

    def columns(self) -> Columns:
        """Return the columns of a table with a row for each output and level; errors are in units of the output."""
        items = self.comparisons
        errors = ("max_abs_error", "relative_error", "rebuilt_error", "tolerance", "spread", "sqnr_db")
        counts = ("compared_elements", "mismatches", "allowed_mismatches")
        flags = ("bit_identical", "passed", "is_random")
        return {
            "output": Column("text", [item.name for item in items]),
            "optimization": Column("text", [item.optimization for item in items]),
            "dtype": Column("text", [item.dtype for item in items]),
            "shape": Column("text", [shape_text(item.shape) for item in items]),
            **{name: Column("number", [getattr(item, name) for item in items]) for name in errors},
            "argmax_agreement": Column("number", [item.argmax_agreement for item in items]),
            **{name: Column("whole number", [getattr(item, name) for item in items]) for name in counts},
            **{name: Column("yes or no", [getattr(item, name) for item in items]) for name in flags},
            "case": Column("text", [item.case for item in items]),
            "note": Column("text", [item.note for item in items]),
        }

    def of_positions(self) -> Iterator[str]:
        """Yield a sentence for each output with positions, if inputs were given or largest scores differ anywhere."""
        is_given = self.inputs is not None and self.inputs.seed is None
        for item in self.comparisons:
            found = agreement_of_positions(item.positions)
            if found is None or not (is_given or found.same < found.count):
                continue
            last = "and at the last one" if found.last == 1 else f"and at the last one in {found.last:.1%} of the texts"
            yield (
                f"'{item.label}' at optimization '{item.optimization}': the largest score is the same one at "
                f"{found.same:,} of {found.count:,} positions, {last if found.last else 'and not at the last one'}"
            )

    def __rich__(self) -> RenderableType:
        return plain(self._in_short()) if not self.comparisons else self.table()

    def table(self) -> Table:
        """Return the comparisons as a table for people."""
        table = titled_table("Outputs in ONNX Runtime, mapped against original")
        table.add_column("output")
        table.add_column("optimization")
        table.add_column("max |error|", justify="right")
        is_judged = any(item.rebuilt_error is not None for item in self.comparisons)
        if is_judged:
            table.add_column("beyond weights", justify="right")
        table.add_column("allowed", justify="right")
        table.add_column("own spread", justify="right")
        table.add_column("SQNR [dB]", justify="right")
        table.add_column("same argmax", justify="right")
        table.add_column("")
        for item in self.comparisons:
            agreement = "-" if item.argmax_agreement is None else f"{item.argmax_agreement:.1%}"
            sqnr = "identical" if item.bit_identical else ("-" if item.sqnr_db is None else f"{item.sqnr_db:.1f}")
            error = item.max_abs_error if item.mismatches is None else item.mismatches
            allowed = item.tolerance if item.mismatches is None else item.allowed_mismatches
            table.add_row(
                plain(item.label),
                item.optimization,
                number_text(error),
                *([number_text(item.rebuilt_error)] if is_judged else []),
                number_text(allowed),
                number_text(item.spread),
                sqnr,
                agreement,
                mark(passed=item.passed),
            )
        return table


def number_text(number: float | None) -> str:
    """Return a number for a table or a sentence; "-" for None."""
    return "-" if number is None else f"{number:.3g}"


def mark(*, passed: bool) -> Text:
    """Return the mark of a passed or failed check in a table."""
    return plain("ok", style="green") if passed else plain("FAILED", style="bold red")
