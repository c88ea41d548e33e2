"""Compares the manifest of a mapped model with its graph, weight by weight.

All that the manifest says also follows from the graph: which nodes rebuild a weight from which conductances, which
nodes read it, as which matrices, and which of its elements share a scale. This module derives it again from the graph,
so that no command computes with a manifest that no longer describes the model, for example after another tool has
changed the graph.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_gconv.converters import ConductanceConverter, Scaling
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.mapping import ConsumerRecord, Manifest, UnknownConverterError, WeightRecord
from onnx_gconv.mapping.divisions import FoldedMappingError
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.mapping.structure import structural_problems
from onnx_gconv.mapping.unlisted import rebuilding_nodes
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.weights import LOOKUP_OPS, Consumer, readers_of_weights
from onnx_gconv.weights.ops.mvm_ops import known_op
from onnx_gconv.weights.rearrangement import node_label

__all__ = ["CheckedWeight", "checked_weights", "unlisted_weights"]


@dataclass(frozen=True, eq=False)
class CheckedWeight:
    """A weight of the manifest and the result of comparing it with the graph.

    Attributes:
        record: The manifest's entry of the weight.
        mapped: The weight in the graph; None if the graph does not have it as the manifest says.
        problem: The first difference between manifest and graph, in one line; None if they agree.
        is_folded: Whether another tool has folded the nodes that rebuild the weight into a plain initializer.
    """

    record: WeightRecord
    mapped: MappedWeight | None
    problem: str | None
    is_folded: bool = False


def checked_weights(manifest: Manifest, model: ir.Model) -> tuple[CheckedWeight, ...]:
    """Find all weights of the manifest in the graph and compare their entries with it; conductances are not read."""
    values = ModelValues(model)
    found = [_checked(record, values) for record in manifest.weights]
    shapes = {item.mapped.value: item.record.stored_shape for item in found if item.mapped is not None}
    readers = readers_of_weights(model, shapes, _lookups(manifest))
    records_of: dict[ir.Value, list[WeightRecord]] = {}
    for item in found:
        if item.mapped is not None:
            records_of.setdefault(item.mapped.value, []).append(item.record)
    return tuple(
        item
        if item.mapped is None or item.problem is not None
        else _compared(item.mapped, readers[item.mapped.value], records_of[item.mapped.value])
        for item in found
    )


def unlisted_weights(weights: Sequence[CheckedWeight], model: ir.Model) -> Iterator[str]:
    """Nodes of the graph that rebuild weights which the manifest does not name, described in one line each.

    Args:
        weights: All weights of the manifest.
        model: The model.
    """
    nodes = {node for item in weights if item.mapped is not None for node in item.mapped.nodes}
    scales = {item.record.scale.name for item in weights}
    for node, scale in rebuilding_nodes(model):
        if node not in nodes and scale not in scales:
            what = f"node '{node.name}' ({node.op_type}) rebuilds a weight with '{scale}'"
            yield f"{what}, which the manifest does not name"


def _checked(record: WeightRecord, values: ModelValues) -> CheckedWeight:
    try:
        mapped = locate(record, values)
    except FoldedMappingError as error:
        return CheckedWeight(record, None, str(error), is_folded=True)
    except (BrokenMappingError, ModelError) as error:
        return CheckedWeight(record, None, str(error))
    return CheckedWeight(record, mapped, next(structural_problems(mapped), None))


def _lookups(manifest: Manifest) -> frozenset[str]:
    """The types of lookup ops, such as Gather, whose tables were mapped."""
    consumers = (item for record in manifest.weights for item in record.consumers if item.is_mvm)
    return frozenset(item.op_type for item in consumers if (item.domain, item.op_type) in LOOKUP_OPS)


def _compared(mapped: MappedWeight, readers: Sequence[Consumer], records: Sequence[WeightRecord]) -> CheckedWeight:
    """Compare the rest of an entry of the manifest with a weight whose rebuilding nodes agree with the entry.

    Args:
        mapped: The weight.
        readers: The nodes that read the weight in the graph.
        records: All entries of the manifest for this weight; several if another tool has merged equal weights.
    """
    record = mapped.record
    found, unknown = _matched(record.consumers, readers)
    missing = (item for number, item in enumerate(record.consumers) if _is_missing(item, number, found))
    others = [item for other in records if other is not record for item in other.consumers]
    untruths = itertools.chain(
        _of_the_name(mapped, records),
        _of_the_converter(mapped),
        (_missing_reader(item, unknown) for item in missing),
        (_unnamed_reader(reader) for reader in _matched(others, unknown)[1] if reader.view is not None),
        _of_the_scales(record),
    )
    in_graph = tuple(
        _as_in_graph(item, found[number]) if number in found else item for number, item in enumerate(record.consumers)
    )
    record = record if in_graph == record.consumers else record.model_copy(update={"consumers": in_graph})
    return CheckedWeight(record, replace(mapped, record=record), next(untruths, None))


def _as_in_graph(item: ConsumerRecord, reader: Consumer) -> ConsumerRecord:
    """The record of a consumer with the name, op and slot that its node has now.

    Another tool may have renamed or replaced the node.
    """
    node = reader.node
    named = {"node": node.name or "", "op_type": node.op_type, "domain": node.domain}
    return item.model_copy(update={**named, "slot": reader.slot, "graph": reader.graph_path})


def _is_missing(item: ConsumerRecord, number: int, found: Mapping[int, Consumer]) -> bool:
    return item.is_mvm and item.reads == "rebuilt" and number not in found


def _of_the_name(mapped: MappedWeight, records: Sequence[WeightRecord]) -> Iterator[str]:
    """Yield a problem unless the rebuilt weight has the name of one of its entries, with or without a number behind it.

    The number is there if the graph, a body in it or a graph around it has another value of that name.
    """
    found = mapped.value.name or ""
    if not any(found == item.name or re.fullmatch(rf"{re.escape(item.name)}_\d+", found) for item in records):
        yield f"the graph calls the rebuilt weight '{found}'; the manifest was changed, or another tool renamed it"


def _of_the_converter(mapped: MappedWeight) -> Iterator[str]:
    """Yield a problem if coefficients or offset are not those of the converter; none if its package is missing."""
    try:
        converter = mapped.record.converter.converter()
    except UnknownConverterError:
        return
    except ModelError as error:
        yield str(error)
    else:
        yield from _of_the_devices(mapped, converter)


def _of_the_devices(mapped: MappedWeight, converter: ConductanceConverter) -> Iterator[str]:
    record, decoding = mapped.record, mapped.decoding
    devices = tuple(item.device for item in record.conductances)
    expected = converter.decoding(Scaling(decoding.scale, decoding.zero))
    if devices != converter.device_names:
        named = f"{', '.join(devices)}, but {record.converter.name} has {', '.join(converter.device_names)}"
        yield f"the manifest names the devices {named}"
    elif (decoding.coefficients, decoding.offset_us) != (expected.coefficients, expected.offset_us):
        yield f"its coefficients or its offset are not those of {record.converter.name} with the parameters it names"


def _matched(said: Sequence[ConsumerRecord], readers: Sequence[Consumer]) -> tuple[dict[int, Consumer], list[Consumer]]:
    """Match the consumers of the manifest with the readers in the graph.

    Other tools may rename a node, or replace it by another node that reads the same matrices.

    Returns:
        The reader of each consumer that was found, by the consumer's index, and the readers that match no consumer.
    """
    found, unknown = dict[int, Consumer](), list(readers)
    for is_same in (_is_same_node, _is_renamed, _is_replaced):
        for number, item in enumerate(said):
            if number in found or item.reads != "rebuilt":
                continue
            if (reader := next((reader for reader in unknown if is_same(item, reader)), None)) is not None:
                found[number] = reader
                unknown.remove(reader)
    return found, unknown


def _is_same_node(item: ConsumerRecord, reader: Consumer) -> bool:
    place = item.graph, item.node
    return place == (reader.graph_path, reader.node.name or "") and _is_renamed(item, reader)


def _is_renamed(item: ConsumerRecord, reader: Consumer) -> bool:
    if (*_op(item), item.slot) != (reader.node.domain, reader.node.op_type, reader.slot):
        return False
    # An op that was registered when the model was mapped may not be registered here; its view cannot be derived then.
    is_unknown_op = item.is_mvm and known_op(item.domain, item.op_type) is None
    return is_unknown_op or _reads_the_same(item, reader)


def _is_replaced(item: ConsumerRecord, reader: Consumer) -> bool:
    return _op(item) != (reader.node.domain, reader.node.op_type) and _reads_the_same(item, reader)


def _op(item: ConsumerRecord) -> tuple[str, str]:
    return item.domain, item.op_type


def _reads_the_same(item: ConsumerRecord, reader: Consumer) -> bool:
    path = tuple((step.op, step.argument) for step in item.path)
    view = None if item.matrix_view is None else item.matrix_view.view
    return (path, view) == (tuple((step.op, step.argument) for step in reader.path), reader.view)


def _missing_reader(item: ConsumerRecord, unknown: Sequence[Consumer]) -> str:
    label = f"{item.node} ({item.op_type})" if item.node else item.op_type
    said = "no matrices" if item.matrix_view is None else _as_matrices(item.matrix_view.view)
    what = f"the manifest says that node {label} reads it at input {item.slot} as {said}"
    found = next((reader for reader in unknown if (reader.node.name or "") == item.node and reader.view), None)
    if found is None or found.view is None:
        return f"{what}, but no node of the graph does"
    steps = f" behind {len(found.path)} steps" if found.path else ""
    return f"{what}, but it does at input {found.slot} as {_as_matrices(found.view)}{steps}"


def _unnamed_reader(reader: Consumer) -> str:
    assert reader.view is not None  # noqa: S101 - the caller passes only readers with a view
    read = _as_matrices(reader.view)
    return f"node {node_label(reader.node)} reads it as {read}, of which the manifest says nothing"


def _as_matrices(view: MatrixView) -> str:
    """A matrix view in a few words: number and size of the matrices, and the axes of the weight that form them."""
    count = "a matrix" if view.matrices == 1 else f"{view.matrices} matrices"
    axes = f"axes {list(view.matrix_axes)}, {list(view.row_axes)}, {list(view.column_axes)} of {list(view.split_shape)}"
    factor = f", times {view.factor:g}" if view.factor != 1 else ""
    factor += f", {view.columns_per_channel} columns a channel" if view.columns_per_channel != 1 else ""
    return f"{count} of {view.rows}x{view.columns} ({axes}{factor})"


def _of_the_scales(record: WeightRecord) -> Iterator[str]:
    """Yield a problem if the scales do not have the form that granularity and matrix view of a reader give them."""
    wrong = "the manifest contradicts itself about which elements share a scale"
    if record.granularity == "tensor" and not record.parts:
        if record.scale.form != "number" or record.tiling is not None:
            yield f"{wrong}: with granularity tensor all do, but it names pieces"
        return
    expected = _expected_grid(record)
    if isinstance(expected, str):
        yield f"{wrong}: {expected}"
    else:
        yield from (f"{wrong}: {problem}" for problem in _of_the_pieces(record, expected))


def _of_the_pieces(record: WeightRecord, expected: ScaleGrid) -> Iterator[str]:
    tiling, form = record.tiling, expected.form
    assert tiling is not None  # noqa: S101 - `_expected_grid` returns no grid without a tiling
    starts = ((0,), (0,)) if form == "number" else (expected.row_starts, expected.column_starts)
    if record.scale.form != form:
        yield f"a scale for each {record.granularity} has the form {form}, but not {record.scale.form}"
    elif (tiling.row_starts, tiling.column_starts) != starts:
        yield "the pieces of rows and columns are not those of its granularity"
    elif record.axis != expected.axis:
        yield f"it varies along the axis {expected.axis}, but not {record.axis}"


def _expected_grid(record: WeightRecord) -> ScaleGrid | str:
    """The scale grid that follows from the granularity and the reader, or what is wrong with these."""
    tiling = record.tiling
    if tiling is None:
        return "it has no tiling"
    readers = [item for item in record.consumers if item.matrix_view is not None]
    reader = record.consumers[record.scale.consumer] if record.scale.consumer is not None else next(iter(readers), None)
    if reader is None or reader.matrix_view is None:
        return "no reader has matrices"
    tile = None if tiling.rows is None or tiling.columns is None else (tiling.rows, tiling.columns)
    try:
        granularity = Granularity(record.granularity, tile, tiling.partition)
        layout = reader.matrix_view.layout(record.shape, reader.path)
        return ScaleGrid.of(layout, granularity, reader.matrix_view.columns_per_channel, record.column_parts)
    except (ConfigError, IndexError, ValueError) as error:
        return str(error)
