"""The texts of one weight in a mapping report: in the cells of its tables and in the lines below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import ConverterRecord, SkippedRecord, TilingRecord, WeightRecord
from onnx_gconv.terminal_text import below_each_other, with_remark
from onnx_gconv.visible_text import listed
from onnx_gconv.weights import SkipReason

if TYPE_CHECKING:
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = [
    "clipped_text",
    "explanation",
    "other_names",
    "parameters_text",
    "readers_of_experts",
    "readers_text",
    "scale_text",
    "scheme_text",
    "shape_text",
    "sqnr_text",
]

_MOST_OTHERS = 3

_SHARES = {"channel": "output channel", "tile": "tile", "tile_channel": "output channel of a tile"}


def scale_text(*weights: WeightRecord) -> str:
    """The scale in µS per unit of weight; for several scales the smallest, the largest and their number by axis."""
    scales = [weight.scale for weight in weights]
    ends = [end for scale in scales for end in (scale.value, scale.minimum, scale.maximum) if end is not None]
    lowest, highest = min(ends), max(ends)
    if all(scale.value is not None for scale in scales):
        return f"{lowest:.6g}" if lowest == highest else f"{lowest:.4g} to {highest:.4g}"
    shape = "x".join(str(size) for size in scales[0].shape if size > 1)
    return f"{lowest:.4g} to {highest:.4g}\n({shape})"


def sqnr_text(*weights: WeightRecord) -> str:
    """The SQNR of the rebuilt weight in dB, if its loss was computed; the lowest of several weights."""
    losses = [weight.loss for weight in weights if weight.loss is not None]
    if not losses:
        return "-"
    known = [loss.sqnr_db for loss in losses if loss.sqnr_db is not None]
    return f"{min(known):.1f}" if known else "no error"


def clipped_text(*weights: WeightRecord) -> str:
    """The number of elements beyond what the devices can hold, if weights were clipped; ``-`` if not."""
    counts = [item.loss.clipped for item in weights if item.loss is not None and item.clipping is not None]
    return f"{sum(counts):,}" if counts else "-"


def other_names(weight: WeightRecord) -> list[str]:
    """Remarks on the graph, parameters and modules of a weight, except for what its names say already."""
    remarks = [f"in {weight.graph}"] if weight.graph else []
    if from_parameters := parameters_text(weight):
        remarks.append(from_parameters)
    else:
        # A module is left out if a name in the table starts with it.
        nodes = [consumer.node.strip("/").replace("/", ".") for consumer in weight.consumers]
        known = [weight.name, weight.known_as, *nodes]
        modules = [module for module in weight.modules if module not in weight.folded_norms]
        modules = [module for module in modules if not any(name.startswith(module) for name in known)]
        remarks.extend([f"module {listed(modules)}"] if modules else [])
    remarks.extend(f"{other.relation} with {other.name}" for other in weight.other_parameters[:_MOST_OTHERS])
    if (more := len(weight.other_parameters) - _MOST_OTHERS) > 0:
        remarks.append(f"and {more:,} more")
    if weight.folded_norms:
        remarks.append(f"with {listed(weight.folded_norms)} folded in")
    return remarks


def parameters_text(item: WeightRecord | SkippedRecord) -> str:
    """The parameters of the exported program that a weight is computed from, unless its names say them already."""
    told = {item.name, *(item.known_as.split(" + "))}
    names = [name for name in item.parameters if name not in told]
    return f"from {listed(names)}" if names else ""


def scheme_text(weight: WeightRecord) -> str:
    """The converter of a weight with its settings, granularity, parts, clipping and levels."""
    parts = [weight.converter.name, *_parameters_of_converter(weight.converter)]
    if weight.granularity != "tensor":
        tile = "" if weight.tiling is None or weight.tiling.rows is None else _tile(weight.tiling)
        parts.append(f"a scale for each {_SHARES[weight.granularity]}{tile}")
    if weight.parts:
        sides = ", ".join(f"{part.name} {part.columns:,}" for part in weight.parts)
        parts.append(f"matrices side by side, each with its own scales ({sides})")
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
    """The parameters of a converter, or why the converter cannot be built."""
    try:
        record.converter()
    except ModelError as error:
        yield str(error)
        return
    parameters = record.parameters
    yield f"{parameters['g_min']:g} to {parameters['g_max']:g} µS"
    if factors := parameters.get("f_lst"):
        yield "pairs with factors " + ", ".join(f"{factor:g}" for factor in factors)
    if "slice_bits" in parameters:
        yield f"{parameters['bits']} bits in slices of {parameters['slice_bits']}"
    if parameters.get("exact"):
        yield "exact"
    if record.origin is not None:  # the parameters of a foreign converter are listed by name
        others = (name for name in parameters if name not in _TOLD_PARAMETERS)
        yield from (f"{name} = {parameters[name]}" for name in others)
        yield f"of {record.origin}"


_TOLD_PARAMETERS = {"g_min", "g_max", "f_lst", "bits", "slice_bits", "exact"}


def _tile(tiling: TilingRecord) -> str:
    return f" of {tiling.rows}x{tiling.columns} ({tiling.partition})"


def readers_text(weight: WeightRecord) -> Text:
    """The nodes that read a weight, a line each, with the size of the matrix that they read it as."""
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


def readers_of_experts(first: WeightRecord, count: int) -> Text:
    """The op types that read a group of experts: those of the first expert, with the number of all matrices.

    Args:
        first: The first expert.
        count: The number of experts.
    """
    lines = []
    for consumer in first.consumers:
        view = consumer.matrix_view
        matrices = count * (1 if view is None else view.matrices)
        size = "" if view is None else f"{matrices:,} x {view.rows}x{view.columns}"
        if not consumer.is_mvm:
            size = f"{count:,} {'digital copies' if consumer.reads == 'digital' else 'rebuilt'}"
        lines.append(with_remark(consumer.op_type, size, separator=" "))
    return below_each_other(lines)


def explanation(reason: str) -> str:
    """The explanation of a skip reason; the reason itself if only a newer version of onnx_gconv knows it."""
    return SkipReason(reason).explanation if reason in set(SkipReason) else reason


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text, such as 16x1x3x3."""
    return "x".join(map(str, shape)) if shape else "scalar"
