"""The reports of mapping and restoring, for people and for programs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnx_gconv.data_frame import Column
from onnx_gconv.mapping import Manifest, SkippedRecord, WeightRecord
from onnx_gconv.mapping.expert_groups import ExpertGroup, grouped_experts, likeness
from onnx_gconv.mapping.weight_columns import WeightRow, weight_columns
from onnx_gconv.passes.remarks import mapping_remarks
from onnx_gconv.passes.weight_texts import (
    clipped_text,
    explanation,
    other_names,
    parameters_text,
    readers_of_experts,
    readers_text,
    scale_text,
    scheme_text,
    shape_text,
    sqnr_text,
)
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.terminal_text import counted, file_list, plain, titled_table, with_name, with_remark
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["MappingReport", "RestoreReport", "SkippedCount", "why_skipped"]

_Record = TypeVar("_Record", bound=WeightRecord | SkippedRecord)


@dataclass(frozen=True)
class SkippedCount:
    """The weights that are skipped for one reason.

    Attributes:
        reason: The reason, a value of `SkipReason`.
        is_mvm: Whether they are weights of MVM ops, or of ops that may be MVM ops.
        weights: The number of weights.
        parameters: The number of their parameters, counted over weights of known shape.
        unknown_shapes: The number of weights whose shape is not known.
    """

    reason: str
    is_mvm: bool
    weights: int
    parameters: int
    unknown_shapes: int

    @classmethod
    def of(cls, reason: str, items: Sequence[SkippedRecord], *, is_mvm: bool) -> SkippedCount:
        """Count the weights that are skipped for a reason."""
        known = [item.shape for item in items if item.shape is not None]
        return cls(reason, is_mvm, len(items), sum(map(math.prod, known)), len(items) - len(known))


@dataclass(frozen=True, repr=False)
class MappingReport(ShownReport):
    """The weights of a model: mapped, or skipped with a reason.

    ``print(report)`` shows tables.

    Attributes:
        model: The model that was read.
        manifest: The manifest of the model, or the one that mapping gave or would give to it.
        is_mapped: Whether `model` itself carries the mapping.
        output: The mapped model that was written; None if none was.
        files: All files that were written.
        broken: The weights whose mapping another tool has damaged or folded away, each with what is wrong.
        notes: Notes on the model in addition to those of the manifest.
        is_verbose: Whether tables have a line for each expert. If not, experts of a layer that are alike share a line.
        remedy: What to do about broken weights; None if there are none.
    """

    model: Path
    manifest: Manifest
    is_mapped: bool = False
    output: Path | None = None
    files: tuple[Path, ...] = ()
    broken: tuple[tuple[WeightRecord, str], ...] = ()
    notes: tuple[str, ...] = ()
    is_verbose: bool = False
    remedy: str | None = None

    @property
    def mapped(self) -> tuple[WeightRecord, ...]:
        """The mapped weights, without those whose mapping is broken."""
        broken = {(record.graph, record.name) for record, _ in self.broken}
        return tuple(item for item in self.manifest.weights if (item.graph, item.name) not in broken)

    @property
    def skipped(self) -> tuple[SkippedRecord, ...]:
        """The skipped weights."""
        return self.manifest.skipped

    @property
    def mapped_parameters(self) -> int:
        """Number of parameters in mapped weights."""
        return sum(math.prod(weight.shape) for weight in self.mapped)

    @property
    def skipped_mvm_parameters(self) -> int:
        """Number of parameters of MVM ops that are not mapped, counted over weights of known shape."""
        skipped = sum(math.prod(item.shape) for item in self.skipped if item.is_mvm and item.shape is not None)
        return skipped + sum(math.prod(record.shape) for record, _ in self.broken)

    @property
    def mvm_share(self) -> float | None:
        """Share of the parameters of MVM ops that is mapped; None if there are none."""
        total = self.mapped_parameters + self.skipped_mvm_parameters
        return self.mapped_parameters / total if total else None

    @property
    def skipped_by_reason(self) -> tuple[SkippedCount, ...]:
        """The numbers of skipped weights by reason; weights of MVM ops come first."""
        found: dict[tuple[bool, str], list[SkippedRecord]] = defaultdict(list)
        for item in sorted(self.skipped, key=lambda item: not item.is_mvm):
            found[item.is_mvm, item.reason].append(item)
        return tuple(SkippedCount.of(reason, items, is_mvm=is_mvm) for (is_mvm, reason), items in found.items())

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "model": str(self.model),
            "is_mapped": self.is_mapped,
            "output": None if self.output is None else str(self.output),
            "files": [str(file) for file in self.files],
            "mapped": [_weight_json(weight) for weight in self.mapped],
            "skipped": [_skipped_json(item) for item in self.skipped],
            "mapped_weights": len(self.mapped),
            "mapped_parameters": self.mapped_parameters,
            "skipped_mvm_weights": sum(item.is_mvm for item in self.skipped),
            "skipped_mvm_parameters": self.skipped_mvm_parameters,
            "mvm_share": self.mvm_share,
            "broken": [
                {
                    "name": record.name,
                    "shape": list(record.shape),
                    "graph": record.graph,
                    "reason": reason,
                    "parameter": record.parameter,
                    "known_as": record.known_as,
                }
                for record, reason in self.broken
            ],
            "remedy": self.remedy,
            "notes": [*self.manifest.notes, *self.notes],
            "remarks": list(mapping_remarks(self.manifest, self.mapped)),
            "skipped_by_reason": [
                {**asdict(count), "explanation": explanation(count.reason)} for count in self.skipped_by_reason
            ],
        }

    def _in_short(self) -> str:
        written = "" if self.output is None else f" as {self.output}"
        broken = f", {len(self.broken)} broken" if self.broken else ""
        skipped = sum(item.is_mvm for item in self.skipped)
        return f"{self.model}{written}: {counted(len(self.mapped))} {self._verb}{broken}, {skipped} skipped"

    def _frame_tables(self) -> FrameTables:
        rows = [
            *(WeightRow(record, self._verb) for record in self.mapped),
            *(WeightRow(record, "broken", reason) for record, reason in self.broken),
            *(WeightRow(record, "skipped", why_skipped(record)) for record in self.skipped),
        ]
        return {"weights": lambda: weight_columns(rows)}

    @property
    def _verb(self) -> str:
        return "mapped" if self.is_mapped or self.output else "to be mapped"

    def __rich__(self) -> Group:
        from rich.console import Group

        parts: list[RenderableType] = []
        if self.mapped:
            parts.append(self._weights_table())
        if any(item.is_mvm for item in self.skipped):
            parts.append(self._skipped_table())
        if self.broken or any(item.is_mvm for item in self.skipped):
            parts.append(self._share_table())
        parts.extend(plain(f"BROKEN: {record.quoted}: {reason}", style="bold red") for record, reason in self.broken)
        parts.extend(map(plain, self._summary()))
        if self.remedy is not None:
            parts.append(plain(f"What to do: {self.remedy}.", style="bold red"))
        return Group(*parts)

    def _weights_table(self) -> Table:
        table = titled_table(f"{counted(len(self.mapped))} {self._verb}")
        table.add_column("weight", ratio=3)
        table.add_column("shape", justify="right")
        table.add_column("type")
        table.add_column("scale [µS]", justify="right")
        has_loss = any(weight.loss is not None for weight in self.mapped)
        is_clipped = any(weight.clipping is not None for weight in self.mapped)
        if has_loss:
            table.add_column("SQNR [dB]", justify="right")
        if is_clipped:
            table.add_column("clipped", justify="right")
        table.add_column("read by", ratio=3)
        for group in self._groups(self.mapped):
            weight = group.first
            table.add_row(
                _name_of(group) or with_name(weight.known_as, weight.name, *other_names(weight)),
                shape_text(weight.shape),
                weight.dtype,
                scale_text(*group.members),
                *([sqnr_text(*group.members)] if has_loss else []),
                *([clipped_text(*group.members)] if is_clipped else []),
                readers_text(weight) if group.count == 1 else readers_of_experts(weight, group.count),
            )
        return table

    def _groups(self, records: Iterable[_Record]) -> list[ExpertGroup[_Record]]:
        """The groups of weights that a table shows as its lines."""
        return grouped_experts(records, _names, likeness, is_verbose=self.is_verbose)

    def _skipped_table(self) -> Table:
        items = [item for item in self.skipped if item.is_mvm]
        table = titled_table(f"{counted(len(items))} skipped")
        table.add_column("weight", ratio=2)
        table.add_column("shape", justify="right")
        table.add_column("why", ratio=3)
        for group in self._groups(items):
            item = group.first
            shape = "?" if item.shape is None else shape_text(item.shape)
            of_first = "" if group.count == 1 else f"of the first: {item.detail}"
            why = with_remark(explanation(item.reason), of_first or item.detail)
            name = _name_of(group) or with_name(item.known_as, item.name, parameters_text(item))
            table.add_row(name, shape, why)
        return table

    def _share_table(self) -> Table:
        total = self.mapped_parameters + self.skipped_mvm_parameters
        table = titled_table("Weights of MVM ops")
        table.add_column("")
        for name in ("weights", "parameters", "share"):
            table.add_column(name, justify="right")

        def add(name: str, weights: int, parameters: int, unknown_shapes: int = 0) -> None:
            more = " + ?" if unknown_shapes else ""
            share = f"{parameters / total:.1%}" if total else ""
            table.add_row(plain(name), f"{weights:,}", f"{parameters:,}{more}", share)

        add(self._verb, len(self.mapped), self.mapped_parameters)
        if self.broken:
            add("broken", len(self.broken), sum(math.prod(record.shape) for record, _ in self.broken))
        for count in self.skipped_by_reason:
            if count.is_mvm:
                add(f"skipped: {count.reason}", count.weights, count.parameters, count.unknown_shapes)
        return table

    def _summary(self) -> list[str]:
        lines = [f"Note: {note}." for note in (*self.manifest.notes, *self.notes)]
        lines.extend(self._notes_of_weights())
        lines.extend(mapping_remarks(self.manifest, self.mapped))
        by_detail: dict[str, int] = defaultdict(int)
        for item in self.skipped:
            if not item.is_mvm:
                by_detail[item.detail or item.reason] += 1
        if by_detail:
            details = ", ".join(f"{count} {detail}" for detail, count in by_detail.items())
            lines.append(f"Other constants with two or more axes are not weights of MVM ops: {details}.")
        if self.mvm_share is not None:
            total = self.mapped_parameters + self.skipped_mvm_parameters
            verb = "are" if self.is_mapped or self.output else "would be"
            unknown = sum(count.unknown_shapes for count in self.skipped_by_reason if count.is_mvm)
            besides = f"; not mapped and of unknown size: {counted(unknown)}" if unknown else ""
            lines.append(
                f"{self.mapped_parameters:,} of {total:,} parameters of MVM ops ({self.mvm_share:.1%}) {verb} mapped "
                f"to conductances{besides}."
            )
        else:
            has_any = any(item.is_mvm for item in self.skipped)
            lines.append("No weight is mapped." if has_any else "The model has no weights of MVM ops.")
        if self.mapped:
            lines.extend(self._schemes())
        if self.files:
            lines.append(f"Written: {file_list(self.files)}")
        return lines

    def _notes_of_weights(self) -> Iterator[str]:
        """The notes on single weights, a line for each note with all of its weights."""
        weights: dict[str, list[str]] = defaultdict(list)
        for weight in self.mapped:
            for note in weight.notes:
                weights[note].append(weight.quoted)
        for note, quoted in weights.items():
            who = quoted[0] if len(quoted) == 1 else f"each of {counted(len(quoted))} ({listed(quoted)})"
            yield f"{who}: {note}"

    def _schemes(self) -> Iterator[str]:
        """A line for each scheme of weights; with the names of its weights if there are several schemes."""
        found: dict[str, list[str]] = defaultdict(list)
        for weight in self.mapped:
            found[scheme_text(weight)].append(weight.known_as)
        for scheme, names in found.items():
            yield f"Converter: {scheme}" + (f" ({listed(names)})" if len(found) > 1 else "")


@dataclass(frozen=True, repr=False)
class RestoreReport(ShownReport):
    """The weights that were restored.

    Attributes:
        model: The mapped model that was read.
        output: The plain model that was written; None if a pass has restored the model in memory.
        restored: Names of the restored weights.
        files: All files that were written.
        folded: Names of weights that were plain already, because another tool had folded their mapping.
        notes: Notes on the model.
    """

    model: Path
    output: Path | None
    restored: tuple[str, ...]
    files: tuple[Path, ...]
    folded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "model": str(self.model),
            "output": None if self.output is None else str(self.output),
            "files": [str(file) for file in self.files],
            "restored": list(self.restored),
            "folded": list(self.folded),
            "notes": list(self.notes),
        }

    def _in_short(self) -> str:
        written = "" if self.output is None else f" as {self.output}"
        folded = f", {len(self.folded)} plain already" if self.folded else ""
        return f"{self.model}{written}: {counted(len(self.restored))} restored{folded}"

    def _frame_tables(self) -> FrameTables:
        status = ["restored"] * len(self.restored) + ["plain already"] * len(self.folded)
        columns = {"weight": Column("text", [*self.restored, *self.folded]), "status": Column("text", status)}
        return {"weights": lambda: columns}

    def __str__(self) -> str:
        return self.__rich__().plain

    def __rich__(self) -> Text:
        lines = [f"{counted(len(self.restored))} restored."]
        if self.folded:
            were = "was" if len(self.folded) == 1 else "were"
            lines.append(
                f"{counted(len(self.folded))} {were} plain already, as another tool has folded the mapping: "
                f"{listed(self.folded)}. The manifest that listed them as mapped has been removed."
            )
        lines.extend(f"Note: {note}." for note in self.notes)
        if self.files:
            lines.append(f"Written: {file_list(self.files)}")
        return plain(*lines)


def _names(record: WeightRecord | SkippedRecord) -> tuple[str, tuple[str, ...]]:
    """The name that people know a weight by, and the names of the constants that nodes compute it from."""
    return record.known_as, record.sources if isinstance(record, WeightRecord) else ()


def _name_of(group: ExpertGroup[_Record]) -> Text | None:
    """The name of a group of experts; None for a single weight, whose line says more about its name."""
    return None if group.count == 1 else with_remark(group.name, group.remark)


def why_skipped(item: SkippedRecord) -> str:
    """The reason why a weight is not mapped, in words, with its detail."""
    return "; ".join(part for part in (explanation(item.reason), item.detail) if part)


def _weight_json(weight: WeightRecord) -> dict[str, Any]:
    """The JSON of a mapped weight on the command line: `converter` is a name, `scale` a number or null."""
    return {
        **weight.model_dump(),
        "parameter": weight.parameter,
        "known_as": weight.known_as,
        "converter": weight.converter.name,
        "converter_parameters": weight.converter.parameters,
        **({} if weight.converter.origin is None else {"converter_origin": weight.converter.origin.model_dump()}),
        "scale": weight.scale.value,
        "scale_name": weight.scale.name,
        "scale_form": weight.scale.form,
        "scale_shape": list(weight.scale.shape),
        "scale_range": [
            weight.scale.value if weight.scale.minimum is None else weight.scale.minimum,
            weight.scale.value if weight.scale.maximum is None else weight.scale.maximum,
        ],
    }


def _skipped_json(item: SkippedRecord) -> dict[str, Any]:
    return {
        **item.model_dump(),
        "parameter": item.parameter,
        "known_as": item.known_as,
        "explanation": explanation(item.reason),
    }
