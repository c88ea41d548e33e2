"""Finds the nodes and initializers that a manifest describes in the graph of a mapped model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.mapping.conductance_sum import ARITHMETIC_OPS, Term, conductance_terms
from onnx_gconv.mapping.nodes import ROLE_KEY
from onnx_gconv.mapping.operands import (
    BrokenMappingError,
    block_lookup,
    entries_behind,
    only_user,
    scalar,
)
from onnx_gconv.mapping.packed_codes import FoundPacking, found_packing
from onnx_gconv.mapping.records.scheme_records import ZeroRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.tensors.codes import DecodedLevelsTensor, ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.rebuilt_bytes import RebuiltBytesTensor
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.tensors.types import type_name

__all__ = [
    "BrokenMappingError",
    "FoldedMappingError",
    "MappedWeight",
    "ModelValues",
    "locate",
]

_HALF = 0.5
_OPERANDS = 2

# The ops between conductances, or their level codes, and the division by the scale.
_BEFORE_DIVISION = frozenset({*ARITHMETIC_OPS, "Cast", "DequantizeLinear", "Gather", "Max", "Min"})

# The ops between that division and the rebuilt weight, and between the rebuilt weight and the nodes that read it.
_AFTER_DIVISION = frozenset(
    {"Add", "Round", "Floor", "Max", "Min", "Cast", "DequantizeLinear", "Sub", "Mul", "Concat", "ReduceSum"}
    | {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)


class FoldedMappingError(BrokenMappingError):
    """Another tool has folded the nodes of a mapping: the weight is a plain initializer again."""


@dataclass(frozen=True, eq=False)
class MappedWeight:
    """A mapped weight in the graph.

    Attributes:
        record: The weight's record in the manifest.
        terms: The conductances in the sum that is divided by the scale, in the order of the record.
        scale: The scale initializer.
        zero: The initializer that is added to the quotient, w0; None if none is.
        zero_point_value: The initializer of the zero points of integer codes; None if they are 0.
        constants: All other initializers of the nodes.
        nodes: The nodes that rebuild the weight, the last one first.
        value: The rebuilt weight.
        limited_use: Where Max and Min nodes can be inserted that keep the weight within the range of its type: the node
            that would read their result, and the index of its input. None if the weight is not cast.
        packing: The nodes that pack integer codes into bytes; None if the codes are not packed.
    """

    record: WeightRecord
    terms: tuple[Term, ...]
    scale: ir.Value
    zero: ir.Value | None
    zero_point_value: ir.Value | None
    constants: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    value: ir.Value
    limited_use: tuple[ir.Node, int] | None = None
    packing: FoundPacking | None = None

    @property
    def conductances(self) -> tuple[ir.Value, ...]:
        """The initializers of the conductances, or of their level codes, in the order of the record."""
        return tuple(term.stored for term in self.terms)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """The conductances and the scale that have another name in the graph: (name in the manifest, name now).

        Another tool has merged several equal initializers into one, or has renamed them.
        """
        said = (*(item.name for item in self.record.conductances), self.record.scale.name)
        found = (value.name or "" for value in (*self.conductances, self.scale))
        return tuple((name, now) for name, now in zip(said, found, strict=True) if name != now)

    @property
    def rebuilt(self) -> RebuiltTensor:
        """The rebuilt weight, computed while it is read; the unpacked codes if the codes are packed into bytes."""
        packing = self.record.packing_of_codes
        return RebuiltTensor(
            self.tensors,
            self.decoding,
            dtype=self.record.ir_dtype,
            name=self.record.name,
            rounded=self.record.rounded,
            zero_point=self.zero_point,
            grid=self.record.grid,
            limits=self.record.saturation_limits,
            highest=None if packing is None else packing.highest,
        )

    @property
    def stored(self) -> RebuiltTensor | RebuiltBytesTensor:
        """The value that the nodes compute: the rebuilt weight, or the bytes into which its codes are packed."""
        packing = self.record.packing_of_codes
        if packing is None or self.packing is None:
            return self.rebuilt
        return RebuiltBytesTensor(self.rebuilt, packing, self.padding)

    @property
    def padding(self) -> NDArray[np.uint8] | None:
        """The codes that fill up the rows of packed codes, [rows, padding]; None if the codes are not packed."""
        packing = self.record.packing_of_codes
        return None if packing is None or self.packing is None else self.packing.padding_codes(packing)

    @property
    def decoding(self) -> Decoding:
        """How the conductances become the weight again."""
        zero = None if self.zero is None else all_elements(_tensor(self.zero))
        return self.record.decoding(all_elements(_tensor(self.scale)), zero)

    @property
    def zero_point(self) -> ZeroPoint | BlockZeroPoint | None:
        """The zero points of a weight of integer codes; None for 0."""
        if self.packing is not None:
            return self.packing.zero_point
        value = self.zero_point_value
        if value is None:
            return None
        said = self.record.zero_point_blocks
        points = all_elements(_tensor(value)).astype(np.int64)
        return ZeroPoint(points, self.record.shape, None if said is None else said.blocks)

    @property
    def tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """The conductances in µS, decoded while they are read if they are stored as codes."""
        levels = self.record.levels_of_codes
        if levels is None:
            return self.stored_tensors
        return tuple(
            DecodedLevelsTensor(tensor, levels.levels, self.record.ir_compute_dtype, item.name)
            for tensor, item in zip(self.stored_tensors, self.record.conductances, strict=True)
        )

    @property
    def stored_tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """The data of the initializers of the conductances, or of their level codes."""
        return tuple(_tensor(value) for value in self.conductances)

    @property
    def read_sigmas(self) -> tuple[ir.TensorProtocol, ...]:
        """The standard deviations of read noise, in µS, one tensor for each device; empty if the nodes add no noise."""
        return tuple(_tensor(term.reading.sigma) for term in self.terms if term.reading is not None)


class ModelValues:
    """The initializers, node outputs and nodes of all graphs of a model, by name."""

    def __init__(self, model: ir.Model) -> None:
        self.initializers: dict[str, ir.Value] = {}
        self.outputs: dict[str, list[ir.Value]] = {}
        self._nodes: dict[tuple[str, str], list[ir.Node]] = {}
        for graph in model.graphs():
            self.initializers.update({name: v for name, v in graph.initializers.items() if v.const_value is not None})
            for node in graph:
                if node.name:
                    self._nodes.setdefault((node.name, node.op_type), []).append(node)
                for output in node.outputs:
                    if output.name:
                        self.outputs.setdefault(output.name, []).append(output)

    def nodes(self, name: str, op_type: str) -> Sequence[ir.Node]:
        """The nodes of all graphs that have this name and this op type."""
        return self._nodes.get((name, op_type), ())


def locate(record: WeightRecord, values: ModelValues) -> MappedWeight:
    """Find the conductances, the scale and the nodes of a mapped weight, and check that they compute what they should.

    The search for the division by the scale starts from the names in the manifest: the conductances, the weight, or a
    node that reads the weight. From there on the edges of the graph count, not names: other tools may rename the values
    in between, and may merge several equal initializers that the manifest names into one.

    Raises:
        BrokenMappingError: If something is missing or computes something else.
    """
    divisions = _divisions(record, values)
    if not divisions:
        raise _missing(record, values)
    problem: BrokenMappingError | None = None
    for division in divisions:
        try:
            return _located(division, record, values)
        except BrokenMappingError as error:
            problem = problem or error
    assert problem is not None  # noqa: S101 - there was a division
    raise problem


def _divisions(record: WeightRecord, values: ModelValues) -> list[ir.Node]:
    """The divisions by the scale that may belong to a weight, the likeliest first.

    If all conductances are there under their names, the search goes forward from them. It finds several divisions if
    several weights share the conductances. If another tool has merged or renamed conductances, the search goes backward
    from the weight's name and from the nodes that read the weight.

    Raises:
        BrokenMappingError: If the conductances are there, but no division.
    """
    behind = [*_behind_readers(record, values), *_behind_names(record, values)]
    own = [values.initializers.get(item.name) for item in record.conductances]
    if not all(own):
        return list(dict.fromkeys(behind))
    ahead = _ahead(min((value for value in own if value is not None), key=lambda value: len(value.uses())))
    scale = values.initializers.get(record.scale.name)
    if not ahead and scale is not None and not any(node.op_type == "Div" and slot == 1 for node, slot in scale.uses()):
        uses = ", ".join(f"{node.op_type}[{index}]" for node, index in scale.uses()) or "nothing"
        raise BrokenMappingError(f"'{scale.name}' should be read by one Div node (input 1), but by {uses}")
    return list(dict.fromkeys([*(item for item in behind if item in ahead), *ahead])) or list(dict.fromkeys(behind))


def _ahead(value: ir.Value) -> list[ir.Node]:
    """The divisions whose dividend is computed from a conductance, or from its level codes, by ops of a mapping."""
    found: dict[ir.Node, None] = {}
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type == "Div" and index == 0:
                found[node] = None
            elif node.op_type in _BEFORE_DIVISION and node.domain == "":
                waiting.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)
    return list(found)


def _behind_readers(record: WeightRecord, values: ModelValues) -> Iterator[ir.Node]:
    """The divisions from which the weight slots of the nodes that the manifest names as consumers are computed."""
    for consumer in record.consumers:
        if consumer.reads == "digital" or not consumer.node:
            continue
        for node in values.nodes(consumer.node, consumer.op_type):
            if consumer.slot < len(node.inputs) and (division := _behind(node.inputs[consumer.slot])) is not None:
                yield division


def _behind_names(record: WeightRecord, values: ModelValues) -> Iterator[ir.Node]:
    for value in values.outputs.get(record.name, ()):
        if (division := _behind(value)) is not None:
            yield division


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The division that a value is computed from by ops that may follow it in a mapping; None if there is none."""
    seen = set[ir.Node]()
    while value is not None and (node := value.producer()) is not None and node.domain == "":
        if node.op_type == "Div":
            return node
        if node.op_type not in _AFTER_DIVISION or not node.inputs or node in seen:
            return None
        seen.add(node)
        value = node.inputs[0]
    return None


def _located(div: ir.Node, record: WeightRecord, values: ModelValues) -> MappedWeight:
    """The mapped weight whose division by the scale is `div`.

    Raises:
        BrokenMappingError: If the nodes compute something else than the manifest says.
    """
    dtype, grid = record.ir_dtype, record.grid
    if len(div.inputs) < _OPERANDS or not div.outputs:
        raise BrokenMappingError(f"the node '{div.name}' (Div) lacks an input or an output")
    terms = conductance_terms(div, record, values.initializers)
    scale = _named_or_joined(entries_behind(div.inputs[1], grid), record.scale.name, "it is divided by", values)
    nodes, leaves = _expression(div)
    value = div.outputs[0]
    after: list[ir.Node] = []
    added = _zero(value, record, values)
    if added is not None:
        add, _ = added
        after.append(add)
        more_nodes, more_leaves = _expression(add)
        before = {*nodes, add}
        nodes.extend(node for node in more_nodes if node not in before)
        leaves.extend(leaf for leaf in more_leaves if leaf not in leaves)
        value = add.outputs[0]
    zero_point: ir.Value | None = None
    packing: FoundPacking | None = None
    if record.packing is not None:
        packing = found_packing(value, record)
        for operand, name, what in packing.named(record):
            _named_or_joined(operand, name, what, values)
        after.extend(packing.nodes)
        leaves.extend(leaf for leaf in packing.leaves if leaf not in leaves)
        value, zero_point = packing.value, packing.points
    elif record.rounded:
        value, zero_point = _rounded(value, record, values, after, leaves)
    if record.saturation_limits is not None and packing is None:
        value = _saturated(value, record.saturation_limits, after, leaves)
    if record.dtype != record.compute_dtype:
        cast = only_user(value, "Cast", 0)
        if (target := cast.attributes.get_int("to", 0)) != dtype.value:
            raise BrokenMappingError(f"it is cast to {type_name(ir.DataType(target))}, not to {record.dtype}")
        after.append(cast)
        value = cast.outputs[0]
    is_cast = record.dtype != record.compute_dtype
    limited_use = packing.limited_use if packing is not None else (after[-1], 0) if is_cast else None
    known = {*(term.stored for term in terms), scale}
    return MappedWeight(
        record=record,
        terms=tuple(terms),
        scale=scale,
        zero=None if added is None else added[1],
        zero_point_value=zero_point,
        constants=tuple(dict.fromkeys(leaf for leaf in leaves if leaf not in known)),
        nodes=(*reversed(after), *nodes),
        value=value,
        limited_use=limited_use,
        packing=packing,
    )


def _named_or_joined(value: ir.Value, name: str, what: str, values: ModelValues) -> ir.Value:
    """Check that a value is the initializer of a name; another one is accepted if no initializer has that name.

    Raises:
        BrokenMappingError: If the value is no initializer, or another one while one of that name exists.
    """
    if not value.is_initializer() or value.const_value is None:
        raise BrokenMappingError(f"{what} '{value.name}', which is no initializer")
    if value.name != name and name in values.initializers:
        raise BrokenMappingError(f"{what} '{value.name}', but the manifest names '{name}'")
    return value


def _zero(value: ir.Value, record: WeightRecord, values: ModelValues) -> tuple[ir.Node, ir.Value] | None:
    """The node that adds the zero to the quotient, and the initializer of the zero; None if there is none.

    Raises:
        BrokenMappingError: If another zero is added than the manifest says.
    """
    if isinstance(record.zero, ZeroRecord):
        add = only_user(value, "Add", 0)
        entries = entries_behind(add.inputs[1], record.grid)
        return add, _named_or_joined(entries, record.zero.name, "the zero added to it is", values)
    if not record.zero:
        if any(node.metadata_props.get(ROLE_KEY) == "zero" for node, _ in value.uses()):
            raise BrokenMappingError("a zero is added to it, but the manifest names none")
        return None
    add = only_user(value, "Add", 0)
    constant, number = add.inputs[1], np.dtype(record.compute_dtype).type
    if (found := scalar(constant)) != float(number(record.zero)) or constant is None:
        raise BrokenMappingError(f"{found} is added to it, the manifest says {record.zero}")
    return add, constant


def _rounded(
    value: ir.Value, record: WeightRecord, values: ModelValues, after: list[ir.Node], leaves: list[ir.Value]
) -> tuple[ir.Value, ir.Value | None]:
    """Follow the nodes that round the quotient to integer codes and add the zero points.

    Returns:
        The codes, and the initializer of the zero points; None for zero points of 0.
    """
    if [node.op_type for node, _ in value.uses()] == ["Add"]:  # before opset 11, Floor(x + 0.5) stands for Round
        add = only_user(value, "Add", 0)
        if (half := scalar(add.inputs[1])) != _HALF:
            raise BrokenMappingError(f"{half} is added to it before it is rounded down, instead of {_HALF}")
        after.append(add)
        leaves.extend(item for item in add.inputs[1:] if item is not None)
        rounding = only_user(add.outputs[0], "Floor", 0)
    else:
        rounding = only_user(value, "Round", 0)
    after.append(rounding)
    value = rounding.outputs[0]
    if record.zero_point is None:
        return value, None
    add = only_user(value, "Add", 0)
    if add.inputs[1] is None:
        raise BrokenMappingError(f"the node '{add.name}' (Add) lacks an input")
    operand: ir.Value | None = add.inputs[1]
    if record.zero_point_blocks is not None:
        gather = block_lookup(add.inputs[1], record.zero_point_blocks.blocks, record.shape)
        operand = gather.inputs[0]
        after.append(gather)
        leaves.extend(item for item in gather.inputs[1:] if item is not None)
    assert operand is not None  # noqa: S101 - `block_lookup` has seen it
    operand = _named_or_joined(operand, record.zero_point, "the zero points added to it are", values)
    points = all_elements(_tensor(operand)).astype(np.float64)
    low, high = record.ir_dtype.min, record.ir_dtype.max
    is_code = (np.rint(points) == points) & (points >= low) & (points <= high)
    if not is_code.all():
        wrong = float(points.reshape(-1)[np.flatnonzero(~is_code)[0]])
        raise BrokenMappingError(
            f"one of its zero points, '{operand.name}', is {wrong:.9g}, which is no integer from {low} to {high}"
        )
    after.append(add)
    leaves.append(operand)
    return add.outputs[0], operand


def _saturated(value: ir.Value, limits: tuple[float, float], after: list[ir.Node], leaves: list[ir.Value]) -> ir.Value:
    """Follow the nodes that keep a weight within the range of its type."""
    for op_type, limit in zip(("Max", "Min"), limits, strict=True):
        node = only_user(value, op_type, 0)
        if len(node.inputs) != _OPERANDS or scalar(node.inputs[1]) != limit:
            raise BrokenMappingError(f"'{node.name}' should keep it within {limits[0]:g} to {limits[1]:g}")
        after.append(node)
        leaves.extend(item for item in node.inputs[1:] if item is not None)
        value = node.outputs[0]
    return value


def _missing(record: WeightRecord, values: ModelValues) -> BrokenMappingError:
    """Why nothing in the graph rebuilds a weight."""
    gone = next((item.name for item in record.conductances if item.name not in values.initializers), record.scale.name)
    named, behind = values.initializers.get(record.name), next(_plain_behind_readers(record, values), None)
    plain = named or behind
    if plain is not None:
        kind = FoldedMappingError if named is None or _is_weight(named, record) else BrokenMappingError
        return kind(
            f"the mapping was folded away: '{plain.name}' is a plain initializer again and '{gone}' is gone; "
            "mapping has to be the last step, after all constant folding"
        )
    if record.name in values.outputs and record.scale.name not in values.initializers:
        return BrokenMappingError(f"'{gone}' is gone; another tool replaced what computes '{record.name}'")
    return BrokenMappingError(f"the initializer '{gone}' is gone; another tool removed or renamed it")


def _plain_behind_readers(record: WeightRecord, values: ModelValues) -> Iterator[ir.Value]:
    """The plain initializers that consumers read in place of the weight: another tool has folded or merged it."""
    for consumer in record.consumers:
        if consumer.reads == "digital" or not consumer.node or not consumer.is_mvm:
            continue
        for node in values.nodes(consumer.node, consumer.op_type):
            value = node.inputs[consumer.slot] if consumer.slot < len(node.inputs) else None
            is_rearranged = bool(consumer.path)
            if value is not None and value.is_initializer() and _is_weight(value, record, is_rearranged=is_rearranged):
                yield value


def _is_weight(value: ir.Value, record: WeightRecord, *, is_rearranged: bool = False) -> bool:
    """Whether an initializer has the type of a weight, and its shape, or only its size if it may be rearranged."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != record.ir_dtype:
        return False
    shape = tensor.shape.numpy()
    return shape == record.stored_shape or (is_rearranged and math.prod(shape) == math.prod(record.stored_shape))


def _expression(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """The node `root` and all nodes that it is computed from, `root` first, and the initializers that they read."""
    nodes, leaves, waiting = [], [], [root]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            if producer is None:
                leaves.append(value)
            elif producer not in nodes and producer not in waiting:
                waiting.append(producer)
    return nodes, leaves


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # noqa: S101 - `ModelValues` takes initializers with data only
    return value.const_value
