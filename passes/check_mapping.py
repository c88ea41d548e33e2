"""Checks that a mapped model still agrees with its manifest, and names what a later tool has broken."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.crossbars.checked_weights import checked_weights, unlisted_weights
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError, VerificationError
from onnx_gconv.known_names import quoted_name
from onnx_gconv.mapping import Manifest, read_manifest
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.structure import structural_problems
from onnx_gconv.mapping.unlisted import rebuilding_node
from onnx_gconv.passes.model_pass import ModelPass
from onnx_gconv.tensors.streamed import element_chunks, worker_count
from onnx_gconv.tensors.types import finite_range
from onnx_gconv.weights import scopes

__all__ = ["CheckMapping", "Violation"]

_MOST_IN_MESSAGE = 3


@dataclass(frozen=True)
class Violation:
    """A contradiction between a mapped model and its manifest.

    Attributes:
        weight: Name of the weight; None if the violation concerns the whole model.
        message: What is wrong, in one line.
        known_as: The name that people know the weight by, see `WeightRecord.known_as`.
    """

    weight: str | None
    message: str
    known_as: str | None = None

    def __str__(self) -> str:
        if self.weight is None:
            return self.message
        return f"{quoted_name(self.weight, self.known_as or '')}: {self.message}"


class CheckMapping(ModelPass[ir.passes.PassResult]):
    """Checks the structure, the manifest and the invariants of a mapped model; changes nothing.

    The invariants of ``docs/format.md`` are:

    - A weight and its conductances have the same shape.
    - ``g_min <= G <= g_max``, within the rounding of g_max.
    - The scale is positive and finite; scale and zero equal those of the manifest.
    - One device of each pair is at g_min, for converters that promise this.
    - If there are levels, each conductance is a level and each code stands for one.
    - Every consumer still reads the rebuilt weight, or its digital copy.
    - No node rebuilds a weight that the manifest does not list.

    Measured or simulated conductances only have to be finite, and the standard deviation of their read noise finite and
    at least 0. Everything else that the manifest says of a weight (its consumers, their matrices, which elements share
    a scale, devices and coefficients) is derived from the graph and compared, see `checked_weights`.
    """

    def violations(self, model: ir.Model) -> tuple[Violation, ...]:
        """All violations; empty if the mapping holds. It reads the values of all conductances.

        Raises:
            ModelError: If external data cannot be read.
        """
        try:
            manifest = read_manifest(model)
        except ModelError as error:
            return (Violation(None, str(error)),)
        if manifest is None:
            return (Violation(None, _why_no_manifest(model)),)
        return tuple(_all_violations(model, manifest))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Check the model.

        Raises:
            VerificationError: If an invariant does not hold; the message has the first violations.
        """
        if found := self.violations(model):
            more = f" (and {len(found) - _MOST_IN_MESSAGE} more)" if len(found) > _MOST_IN_MESSAGE else ""
            raise VerificationError("; ".join(str(item) for item in found[:_MOST_IN_MESSAGE]) + more)
        return ir.passes.PassResult(model, modified=False)


def _why_no_manifest(model: ir.Model) -> str:
    if (node := rebuilding_node(model)) is not None:
        return (
            f"the manifest is gone, but node '{node.name}' still rebuilds a weight; another tool cleared the metadata"
        )
    return "the model carries no mapping: it was never mapped, or a later tool removed the mapping and its manifest"


def _all_violations(model: ir.Model, manifest: Manifest) -> Iterator[Violation]:
    values = ModelValues(model)
    nodes, owners = _named_nodes(model), {scope.graph: scope.node for scope in scopes(model)}
    sound: list[tuple[MappedWeight, ConductanceConverter]] = []
    checked = checked_weights(manifest, model)
    for item in checked:
        record, mapped = item.record, item.mapped
        try:
            converter = record.converter.converter()
        except ModelError as error:
            yield Violation(record.name, str(error), record.known_as)
            continue
        if converter.g_max > (limit := finite_range(record.ir_compute_dtype)[1]):
            beyond = f"{converter.g_max:g} µS, but {record.compute_dtype} holds up to {limit:g}"
            yield Violation(record.name, f"the manifest names devices of up to {beyond}", record.known_as)
            continue
        found = [] if mapped is None else [*structural_problems(mapped), *_consumers(mapped, nodes, owners, values)]
        if not found and item.problem is not None:
            found = [item.problem]
        yield from (Violation(record.name, message, record.known_as) for message in found)
        if mapped is not None and not found:
            sound.append((mapped, converter))
    yield from (Violation(None, message) for message in unlisted_weights(checked, model))
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_values, mapped, converter) for mapped, converter in sound]
        for (mapped, _), job in zip(sound, jobs, strict=True):
            if (message := job.result()) is not None:
                yield Violation(mapped.record.name, message, mapped.record.known_as)


def _named_nodes(model: ir.Model) -> dict[tuple[str, str, str], list[ir.Node]]:
    """Nodes by path of their graph, name and op type; names need not be unique."""
    nodes: dict[tuple[str, str, str], list[ir.Node]] = {}
    for scope in scopes(model):
        for node in scope.graph:
            if node.name:
                nodes.setdefault((scope.path, node.name, node.op_type), []).append(node)
    return nodes


def _consumers(
    mapped: MappedWeight,
    nodes: dict[tuple[str, str, str], list[ir.Node]],
    owners: Mapping[ir.Graph, ir.Node | None],
    values: ModelValues,
) -> Iterator[str]:
    copy = values.initializers.get(mapped.record.digital_copy or "")
    for consumer in mapped.record.consumers:
        is_digital = consumer.reads == "digital"
        expected = copy if is_digital else mapped.value
        candidates = nodes.get((consumer.graph, consumer.node, consumer.op_type), [])
        if candidates and not any(_is_fed(node, consumer.slot, expected, owners) for node in candidates):
            what = f"digital copy '{mapped.record.digital_copy}'" if is_digital else "rebuilt weight"
            yield f"node '{consumer.node}' ({consumer.op_type}) does not read the {what} any more"
    if not mapped.value.uses() and not mapped.value.is_graph_output():
        yield "nothing reads the rebuilt weight any more"


def _is_fed(node: ir.Node, slot: int, weight: ir.Value | None, owners: Mapping[ir.Graph, ir.Node | None]) -> bool:
    """Whether an input of a node is a weight, or is computed from it, also by a node that runs the body around it."""
    if weight is None:
        return False
    waiting = [node.inputs[slot]] if slot < len(node.inputs) else []
    seen = set(waiting)
    while waiting:
        value = waiting.pop()
        if value is weight:
            return True
        before = [item for item in _sources(value, owners) if item not in seen]
        seen.update(before)
        waiting.extend(before)
    return False


def _sources(value: ir.Value | None, owners: Mapping[ir.Graph, ir.Node | None]) -> Sequence[ir.Value | None]:
    """The values that a value is computed from; for an input of a body, such as that of a Scan, its value outside."""
    if value is None:
        return ()
    if (producer := value.producer()) is not None:
        return producer.inputs
    graph = value.graph if value.is_graph_input() else None
    owner = owners.get(graph) if isinstance(graph, ir.Graph) else None
    if owner is None or not isinstance(graph, ir.Graph):
        return ()
    number = next(number for number, item in enumerate(graph.inputs) if item is value)
    skipped = len(owner.inputs) - len(graph.inputs)  # a Scan of opset 8 takes the lengths of sequences first
    return owner.inputs[number + skipped : number + skipped + 1] if skipped >= 0 else ()


def _values(mapped: MappedWeight, converter: ConductanceConverter) -> str | None:
    """A message for the first invariant that the values of a weight's conductances violate; None if all hold."""
    record = mapped.record
    if record.measured is not None:
        return _not_finite(mapped)
    levels = None if record.levels is None else record.levels.levels
    if levels is not None and (problem := _wrong_code(mapped, levels)) is not None:
        return problem
    dtype = np.dtype(record.compute_dtype)
    g_min, highest = converter.conductance_bounds(dtype)
    if levels is not None:
        ends = levels.values(dtype)
        g_min, highest = float(ends[0]), float(ends[-1])
    first = 0
    for parts in zip(*(element_chunks(tensor) for tensor in mapped.tensors), strict=True):
        for item, part in zip(record.conductances, parts, strict=True):
            if not (part.min() >= g_min and part.max() <= highest):  # NaN fails both
                index = int(np.flatnonzero(~((part >= g_min) & (part <= highest)))[0])
                return (
                    f"'{item.name}' has {float(part[index])} µS at flat index {first + index}, outside "
                    f"{converter.g_min:g} to {converter.g_max:g} µS"
                )
            if levels is not None and (wrong := levels.first_between(part)) is not None:
                return (
                    f"'{item.name}' has {float(part[wrong])} µS at flat index {first + wrong}, which is none of its "
                    f"{levels.count} levels"
                )
        for one, other in converter.pairs:
            lowest = np.minimum(parts[one], parts[other])
            if lowest.max() > g_min:
                index = int(np.flatnonzero(lowest > g_min)[0])
                return (
                    f"neither device of the pair at flat index {first + index} is at g_min = {converter.g_min:g} µS "
                    f"(they have {float(parts[one][index])} and {float(parts[other][index])} µS)"
                )
        first += parts[0].size
    return None


def _not_finite(mapped: MappedWeight) -> str | None:
    """A message for the first measured conductance that is NaN or infinite; measurements may exceed g_min and g_max."""
    for item, tensor in zip(mapped.record.conductances, mapped.tensors, strict=True):
        first = 0
        for part in element_chunks(tensor):
            if not np.isfinite(part).all():
                index = int(np.flatnonzero(~np.isfinite(part))[0])
                return f"'{item.name}' has {float(part[index])} µS at flat index {first + index}"
            first += part.size
    for tensor in mapped.read_sigmas:
        first = 0
        for part in element_chunks(tensor):
            if not (np.isfinite(part) & (part >= 0)).all():
                index = int(np.flatnonzero(~(np.isfinite(part) & (part >= 0)))[0])
                found = f"{float(part[index])} µS at flat index {first + index}"
                return f"'{tensor.name}', the spread of readings, has {found}"
            first += part.size
    return None


def _wrong_code(mapped: MappedWeight, levels: ConductanceLevels) -> str | None:
    """A message for the first code that stands for no level; None if all codes stand for one."""
    for tensor in mapped.stored_tensors:
        if not tensor.dtype.is_integer():
            continue
        first = 0
        for codes in element_chunks(tensor):
            if codes.max() >= levels.count:
                index = int(np.flatnonzero(codes >= levels.count)[0])
                return (
                    f"'{tensor.name}' has the code {int(codes[index])} at flat index {first + index}, but there are "
                    f"{levels.count} levels"
                )
            first += codes.size
    return None
