"""What a mapping did or would do, for people and for programs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import ConsumerRecord, ConverterRecord, Manifest, SkippedRecord, TilingRecord, WeightRecord
from onnx_gconv.terminal_text import (
    below_each_other,
    counted,
    file_list,
    plain,
    rendered,
    titled_table,
    with_remark,
)
from onnx_gconv.weights import SkipReason

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["MappingReport", "RestoreReport", "SkippedCount", "same_source_remarks", "sharing_remarks"]

_SHARES = {"channel": "output channel", "tile": "tile", "tile_channel": "output channel of a tile"}


@dataclass(frozen=True)
class SkippedCount:
    """The weights that are skipped for one reason.

    Attributes:
        reason: The reason.
        is_mvm: Whether they are weights of MVM ops, or of ops that may be such.
        weights: How many there are.
        parameters: How many parameters they have, as far as their shapes are known.
        unknown_shapes: Of how many the shape is not known.
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


@dataclass(frozen=True)
class MappingReport:
    """The weights of a model: mapped, or skipped and why.

    ``print(report)`` shows tables.

    Attributes:
        model: The model that was read.
        manifest: The mapping: the one the model has, the one it was given, or the one it would be given.
        is_mapped: Whether `model` itself carries the mapping.
        output: The mapped model that was written, or None.
        files: All files that were written.
        broken: The weights whose mapping another tool has damaged or folded away, and how.
        notes: What is to be said of the model besides what its manifest notes.
    """

    model: Path
    manifest: Manifest
    is_mapped: bool = False
    output: Path | None = None
    files: tuple[Path, ...] = ()
    broken: tuple[tuple[WeightRecord, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def mapped(self) -> tuple[WeightRecord, ...]:
        """The mapped weights; those whose mapping is broken are none."""
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
        """Number of parameters of MVM ops that are not mapped, as far as their shapes are known."""
        skipped = sum(math.prod(item.shape) for item in self.skipped if item.is_mvm and item.shape is not None)
        return skipped + sum(math.prod(record.shape) for record, _ in self.broken)

    @property
    def mvm_share(self) -> float | None:
        """Share of the parameters of MVM ops that is mapped; None if there are none."""
        total = self.mapped_parameters + self.skipped_mvm_parameters
        return self.mapped_parameters / total if total else None

    @property
    def skipped_by_reason(self) -> tuple[SkippedCount, ...]:
        """The skipped weights, counted; weights of MVM ops first."""
        found: dict[tuple[bool, str], list[SkippedRecord]] = defaultdict(list)
        for item in sorted(self.skipped, key=lambda item: not item.is_mvm):
            found[item.is_mvm, item.reason].append(item)
        return tuple(SkippedCount.of(reason, items, is_mvm=is_mvm) for (is_mvm, reason), items in found.items())

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "model": str(self.model),
            "is_mapped": self.is_mapped,
            "output": None if self.output is None else str(self.output),
            "files": [str(file) for file in self.files],
            "mapped": [_weight_json(weight) for weight in self.mapped],
            "skipped": [{**item.model_dump(), "explanation": _explanation(item.reason)} for item in self.skipped],
            "mapped_weights": len(self.mapped),
            "mapped_parameters": self.mapped_parameters,
            "skipped_mvm_weights": sum(item.is_mvm for item in self.skipped),
            "skipped_mvm_parameters": self.skipped_mvm_parameters,
            "mvm_share": self.mvm_share,
            "broken": [
                {"name": record.name, "shape": list(record.shape), "graph": record.graph, "reason": reason}
                for record, reason in self.broken
            ],
            "notes": [*self.manifest.notes, *self.notes],
            "remarks": list(self._remarks()),
            "skipped_by_reason": [
                {**asdict(count), "explanation": _explanation(count.reason)} for count in self.skipped_by_reason
            ],
        }

    def __str__(self) -> str:
        return rendered(self)

    def __rich__(self) -> Group:
        from rich.console import Group

        parts: list[RenderableType] = []
        if self.mapped:
            parts.append(self._weights_table())
        if any(item.is_mvm for item in self.skipped):
            parts.append(self._skipped_table())
        if self.broken or any(item.is_mvm for item in self.skipped):
            parts.append(self._share_table())
        parts.extend(plain(f"BROKEN: '{record.name}': {reason}", style="bold red") for record, reason in self.broken)
        parts.extend(map(plain, self._summary()))
        return Group(*parts)

    def _weights_table(self) -> Table:
        verb = "mapped" if self.is_mapped or self.output else "to be mapped"
        table = titled_table(f"{counted(len(self.mapped))} {verb}")
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
        for weight in self.mapped:
            table.add_row(
                with_remark(weight.name, *_other_names(weight)),
                _shape(weight.shape),
                weight.dtype,
                _scale(weight),
                *([_sqnr(weight)] if has_loss else []),
                *([_clipped(weight)] if is_clipped else []),
                _readers(weight),
            )
        return table

    def _skipped_table(self) -> Table:
        items = [item for item in self.skipped if item.is_mvm]
        table = titled_table(f"{counted(len(items))} skipped")
        table.add_column("weight", ratio=2)
        table.add_column("shape", justify="right")
        table.add_column("why", ratio=3)
        for item in items:
            shape = "?" if item.shape is None else _shape(item.shape)
            why = with_remark(_explanation(item.reason), item.detail)
            table.add_row(with_remark(item.name, _parameters(item)), shape, why)
        return table

    def _share_table(self) -> Table:
        mapped = "mapped" if self.is_mapped or self.output else "to be mapped"
        total = self.mapped_parameters + self.skipped_mvm_parameters
        table = titled_table("Weights of MVM ops")
        table.add_column("")
        for name in ("weights", "parameters", "share"):
            table.add_column(name, justify="right")

        def add(name: str, weights: int, parameters: int, unknown_shapes: int = 0) -> None:
            more = " + ?" if unknown_shapes else ""
            share = f"{parameters / total:.1%}" if total else ""
            table.add_row(plain(name), f"{weights:,}", f"{parameters:,}{more}", share)

        add(mapped, len(self.mapped), self.mapped_parameters)
        if self.broken:
            add("broken", len(self.broken), sum(math.prod(record.shape) for record, _ in self.broken))
        for count in self.skipped_by_reason:
            if count.is_mvm:
                add(f"skipped: {count.reason}", count.weights, count.parameters, count.unknown_shapes)
        return table

    def _summary(self) -> list[str]:
        lines = [f"Note: {note}." for note in (*self.manifest.notes, *self.notes)]
        lines.extend(f"'{weight.name}': {note}" for weight in self.mapped for note in weight.notes)
        lines.extend(self._remarks())
        by_detail: dict[str, int] = defaultdict(int)
        for item in self.skipped:
            if not item.is_mvm:
                by_detail[item.detail or item.reason] += 1
        if by_detail:
            listed = ", ".join(f"{count} {detail}" for detail, count in by_detail.items())
            lines.append(f"Other constants with two or more axes are not weights of MVM ops: {listed}.")
        if self.mvm_share is not None:
            total = self.mapped_parameters + self.skipped_mvm_parameters
            verb = "are" if self.is_mapped or self.output else "would be"
            unknown = sum(count.unknown_shapes for count in self.skipped_by_reason if count.is_mvm)
            besides = f"; {counted(unknown)} of unknown size not" if unknown else ""
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

    def _remarks(self) -> Iterator[str]:
        yield from same_source_remarks(self.manifest)
        yield from sharing_remarks(self.manifest)
        yield from _half_precision_remarks(self.mapped)
        yield from _run_time_remarks(self.mapped)

    def _schemes(self) -> Iterator[str]:
        """How weights are mapped, a line for each way; with the weights if there are several ways."""
        found: dict[str, list[str]] = defaultdict(list)
        for weight in self.mapped:
            found[_scheme(weight)].append(weight.name)
        for scheme, names in found.items():
            yield f"Converter: {scheme}" + (f" ({_listed(names)})" if len(found) > 1 else "")


@dataclass(frozen=True)
class RestoreReport:
    """Which weights were restored.

    Attributes:
        model: The mapped model that was read.
        output: The plain model that was written.
        restored: Names of the weights.
        files: All files that were written.
        folded: Names of weights that another tool had folded, so that they were plain already.
        notes: What is to be said of the model besides.
    """

    model: Path
    output: Path
    restored: tuple[str, ...]
    files: tuple[Path, ...]
    folded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "model": str(self.model),
            "output": str(self.output),
            "files": [str(file) for file in self.files],
            "restored": list(self.restored),
            "folded": list(self.folded),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.__rich__().plain

    def __rich__(self) -> Text:
        lines = [f"{counted(len(self.restored))} restored."]
        if self.folded:
            were = "was" if len(self.folded) == 1 else "were"
            lines.append(
                f"{counted(len(self.folded))} {were} plain already, as another tool has folded the mapping: "
                f"{_listed(self.folded)}. The manifest, which said otherwise, is gone."
            )
        lines.extend(f"Note: {note}." for note in self.notes)
        return plain(*lines, f"Written: {file_list(self.files)}")


def _weight_json(weight: WeightRecord) -> dict[str, Any]:
    """A weight with the keys of the command line: the converter's name, and the scale as a number if it is one."""
    return {
        **weight.model_dump(),
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


def _scale(weight: WeightRecord) -> str:
    scale = weight.scale
    if scale.value is not None:
        return f"{scale.value:.6g}"
    shape = "x".join(str(size) for size in scale.shape if size > 1)
    return f"{scale.minimum:.4g} to {scale.maximum:.4g}\n({shape})"


def _sqnr(weight: WeightRecord) -> str:
    """How far the rebuilt weight is from the weight, if it was measured."""
    if weight.loss is None:
        return "-"
    return "no error" if weight.loss.sqnr_db is None else f"{weight.loss.sqnr_db:.1f}"


def _clipped(weight: WeightRecord) -> str:
    """How many elements are beyond what the devices can hold, if they were clipped."""
    return "-" if weight.loss is None or weight.clipping is None else f"{weight.loss.clipped:,}"


def _other_names(weight: WeightRecord) -> list[str]:
    """Where a weight stands and comes from, as far as its name does not say so."""
    remarks = [f"in {weight.graph}"] if weight.graph else []
    if from_parameters := _parameters(weight):
        remarks.append(from_parameters)
    else:
        # A module that a name of the table starts with already tells nothing new.
        known = [weight.name, *(consumer.node.strip("/").replace("/", ".") for consumer in weight.consumers)]
        modules = [module for module in weight.modules if not any(name.startswith(module) for name in known)]
        remarks.extend([f"module {_listed(modules)}"] if modules else [])
    return remarks


def _parameters(item: WeightRecord | SkippedRecord) -> str:
    return f"from {_listed(item.parameters)}" if any(name != item.name for name in item.parameters) else ""


def _scheme(weight: WeightRecord) -> str:
    """The converter of a weight and what else is decided for it."""
    parts = [weight.converter.name, *_parameters_of_converter(weight.converter)]
    if weight.granularity != "tensor":
        tile = "" if weight.tiling is None or weight.tiling.rows is None else _tile(weight.tiling)
        parts.append(f"a scale for each {_SHARES[weight.granularity]}{tile}")
    if weight.clipping is not None:
        at = (
            f"{weight.clipping.percentile:g} %" if weight.clipping.value is None else f"|W| = {weight.clipping.value:g}"
        )
        parts.append(f"clipped at {at}")
    if weight.levels is not None:
        kind = "" if weight.levels.uniform else " of a table"
        codes = f" as {weight.levels.storage} codes" if weight.levels.is_coded else ""
        parts.append(f"{weight.levels.count} levels{kind}{codes}")
    return ", ".join(parts)


def _parameters_of_converter(record: ConverterRecord) -> Iterator[str]:
    """The parameters of a converter, or why they cannot be told."""
    try:
        record.converter()
    except ModelError as error:
        yield str(error)
        return
    parameters = record.parameters
    yield f"{parameters['g_min']:g} to {parameters['g_max']:g} µS"
    if factors := parameters.get("f_lst"):
        yield "pairs counting " + ", ".join(f"{factor:g}" for factor in factors)
    if "slice_bits" in parameters:
        yield f"{parameters['bits']} bits in slices of {parameters['slice_bits']}"
    if parameters.get("exact"):
        yield "exact"
    if record.origin is not None:  # whose parameters nobody here knows
        others = (name for name in parameters if name not in _TOLD_PARAMETERS)
        yield from (f"{name} = {parameters[name]}" for name in others)
        yield f"of {record.origin}"


_TOLD_PARAMETERS = {"g_min", "g_max", "f_lst", "bits", "slice_bits", "exact"}


def _tile(tiling: TilingRecord) -> str:
    return f" of {tiling.rows}x{tiling.columns} ({tiling.partition})"


def _readers(weight: WeightRecord) -> Text:
    lines = []
    for consumer in weight.consumers:
        matrix = consumer.matrix_view
        size = "" if matrix is None else f"{matrix.rows}x{matrix.columns}"
        if matrix is not None and matrix.matrices > 1:
            size = f"{matrix.matrices} x {size}"
        if not consumer.is_mvm:
            size = "digital copy" if consumer.reads == "digital" else "rebuilt"
        lines.append(with_remark(f"{consumer.op_type} {consumer.node}", size, separator=" "))
    return below_each_other(lines)


def _explanation(reason: str) -> str:
    """What a reason means, or the reason itself if a newer version gave it."""
    return SkipReason(reason).explanation if reason in set(SkipReason) else reason


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


_MOST_NAMES = 3

# max_finite_val of convert_float_to_float16 in onnxconverter-common 1.16, if nobody says otherwise.
_LARGEST_OF_CONVERTER = 10_000


def _listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def same_source_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each set of constants with equal values, of which at least one is mapped."""
    records: tuple[WeightRecord | SkippedRecord, ...] = (*manifest.weights, *manifest.skipped)
    told: set[tuple[str, str]] = set()
    for record in manifest.weights:
        if not record.same_source_as or (record.graph, record.name) in told:
            continue
        keys = {(record.graph, record.name), *((item.graph, item.name) for item in record.same_source_as)}
        told |= keys
        yield _same_source([item for item in records if (item.graph, item.name) in keys])


def _same_source(family: Sequence[WeightRecord | SkippedRecord]) -> str:
    """Constants with equal values; the others are compared with the one that bears the name of their parameter.

    That they are one parameter is said only if the exporter says that they come from one: parameters that nobody has
    trained have equal values, too.
    """
    model = next((item for item in family if item.name in item.parameters), family[0])
    others = [item for item in family if item is not model]
    relations = {(item.graph, item.name): item.relation for item in model.same_source_as}
    phrases = []
    for item in others:
        relation = relations.get((item.graph, item.name), "rearranged")
        phrases.append(f"'{item.name}' is '{model.name}'" + ("" if relation == "equal" else f" {relation}"))
    mapped = sum(isinstance(item, WeightRecord) for item in family)
    where = "once on devices" if mapped == 1 else f"{mapped} times on devices"
    digital = len(family) - mapped
    too = "" if not digital else " and once digitally" if digital == 1 else f" and {digital} times digitally"
    held = f"held {where}{too}"
    if set.intersection(*(set(item.parameters or (item.name,)) for item in family)):
        return f"{_listed(phrases)}: one parameter, {held}."
    return f"{_listed(phrases)}: equal values, {held}; one parameter, or several that were initialized alike."


def _half_precision_remarks(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """A sentence for the scales that a later conversion of the whole model to float16 would cut off."""
    scales = {f"'{weight.name}'": weight.scale.value or weight.scale.maximum or 0.0 for weight in weights}
    if names := [name for name, scale in scales.items() if scale > _LARGEST_OF_CONVERTER]:
        verb = "has a scale" if len(names) == 1 else "have scales"
        yield (
            f"{_listed(names)} {verb} above {_LARGEST_OF_CONVERTER:,} µS per unit of weight, at which "
            "onnxconverter-common's conversion to float16 cuts constants off: convert the model before you map it, or "
            "raise max_finite_val there."
        )


def _run_time_remarks(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """What ONNX Runtime (1.32) computes again in every run, and what avoids it."""
    if any(weight.levels is not None and weight.levels.is_coded for weight in weights):
        yield (
            "ONNX Runtime decodes level codes in every run, unless its session option session.disable_quant_qdq is "
            '"1"; what `onnx-gconv restore` writes runs at full speed.'
        )
    if any(weight.compute_dtype in {"float16", "bfloat16"} for weight in weights):
        yield (
            "ONNX Runtime rebuilds weights from conductances of half precision in every run; with conductances of "
            "float32, or what `onnx-gconv restore` writes, it runs at full speed."
        )


def sharing_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each weight that nodes read otherwise than as the weight of an MVM op."""
    for record in manifest.weights:
        others = [consumer for consumer in record.consumers if not consumer.is_mvm]
        digital = [_label(consumer) for consumer in others if consumer.reads == "digital"]
        rebuilt = [_label(consumer) for consumer in others if consumer.reads == "rebuilt"]
        if digital:
            verb = "reads" if len(digital) == 1 else "read"
            yield f"'{record.name}': {_listed(digital)} {verb} the digital copy '{record.digital_copy}'."
        if rebuilt:
            verb = "reads" if len(rebuilt) == 1 else "read"
            why = ", through a node that rearranges it for an MVM op too" if record.digital_copy else ""
            yield f"'{record.name}': {_listed(rebuilt)} {verb} the rebuilt weight like the MVM ops{why}."


def _label(consumer: ConsumerRecord) -> str:
    return f"{consumer.op_type} {consumer.node}".rstrip()
