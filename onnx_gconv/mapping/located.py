"""Finds what a manifest describes in the graph of a mapped model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_gconv.converters import Decoding
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping.manifest import Manifest, WeightRecord, ZeroRecord
from onnx_gconv.mapping.nodes import ROLE_KEY
from onnx_gconv.mapping.operands import (
    BrokenMappingError,
    decoded_conductance,
    expanded_entries,
    only_user,
    scalar,
)
from onnx_gconv.tensors.codes import DecodedLevelsTensor, ZeroPoint
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.streamed import all_elements

__all__ = [
    "BrokenMappingError",
    "FoldedMappingError",
    "MappedWeight",
    "ModelValues",
    "broken_weights",
    "locate",
    "structural_problems",
]


_HALF = 0.5
_OPERANDS = 2
_ARITHMETIC = frozenset({"Add", "Sub", "Mul"})


class FoldedMappingError(BrokenMappingError):
    """Another tool has folded the nodes of a mapping: the weight is a plain initializer again."""


@dataclass(frozen=True, eq=False)
class MappedWeight:
    """A mapped weight in the graph.

    Attributes:
        record: What the manifest says of it.
        conductances: The initializers of the conductances, or of their codes, in the order of the record.
        decoded: The conductances in µS: the same, or what the nodes make of the codes.
        scale: The scale initializer.
        zero: The initializer of what is added to the quotient; None if that is nothing.
        constants: All other initializers of the nodes.
        nodes: The nodes that rebuild the weight, the last one first.
        value: The rebuilt weight.
    """

    record: WeightRecord
    conductances: tuple[ir.Value, ...]
    decoded: tuple[ir.Value, ...]
    scale: ir.Value
    zero: ir.Value | None
    constants: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    value: ir.Value

    @property
    def rebuilt(self) -> RebuiltTensor:
        """The rebuilt weight, computed while it is read."""
        return RebuiltTensor(
            self.tensors,
            self.decoding,
            dtype=self.record.ir_dtype,
            name=self.record.name,
            rounded=self.record.rounded,
            zero_point=self.zero_point,
            grid=self.record.grid,
            limits=self.record.saturation_limits,
        )

    @property
    def decoding(self) -> Decoding:
        """How the conductances become the weight again."""
        zero = None if self.zero is None else all_elements(_tensor(self.zero))
        return self.record.decoding(all_elements(_tensor(self.scale)), zero)

    @property
    def zero_point(self) -> ZeroPoint | None:
        """The zero points of a weight of integer codes; None for 0."""
        for value in self.constants:
            if value.name == self.record.zero_point:
                return ZeroPoint(all_elements(_tensor(value)).astype(np.int64), self.record.shape)
        return None

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
        """The data of the initializers of the conductances, or of their codes."""
        return tuple(_tensor(value) for value in self.conductances)


class ModelValues:
    """Initializers of all graphs by name, and the outputs of all nodes."""

    def __init__(self, model: ir.Model) -> None:
        self.initializers: dict[str, ir.Value] = {}
        self.outputs: dict[str, ir.Value] = {}
        for graph in model.graphs():
            self.initializers.update({name: v for name, v in graph.initializers.items() if v.const_value is not None})
            for node in graph:
                self.outputs.update({output.name: output for output in node.outputs if output.name})


def broken_weights(manifest: Manifest, model: ir.Model) -> tuple[tuple[WeightRecord, str], ...]:
    """The weights of which the graph is not as the manifest says, and what is wrong. No conductances are read."""
    values, found = ModelValues(model), []
    for record in manifest.weights:
        try:
            problem = next(structural_problems(locate(record, values)), None)
        except (BrokenMappingError, ModelError) as error:
            problem = str(error)
        if problem is not None:
            found.append((record, problem))
    return tuple(found)


def locate(record: WeightRecord, values: ModelValues) -> MappedWeight:
    """Find the conductances, the scale and the nodes of a mapped weight, and check that they compute what they should.

    The nodes are followed from the scale forwards to the weight and backwards to the conductances, so that other tools
    may rename what lies between.

    Raises:
        BrokenMappingError: If something is missing or computes something else.
    """
    dtype, grid = record.ir_dtype, record.grid
    conductances = tuple(_initializer(item.name, record, values) for item in record.conductances)
    scale = _initializer(record.scale.name, record, values)
    div = only_user(expanded_entries(scale, grid), "Div", 1)
    nodes, leaves = _expression(div)
    value = div.outputs[0]
    decoded = tuple(decoded_conductance(conductance, record) for conductance in conductances)
    _check_sum(div.inputs[0], decoded, record)
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
    if record.rounded:
        value = _rounded(value, record, after, leaves)
    if record.saturation_limits is not None:
        value = _saturated(value, record.saturation_limits, after, leaves)
    if record.dtype != record.compute_dtype:
        cast = only_user(value, "Cast", 0)
        if (target := cast.attributes.get_int("to", 0)) != dtype.value:
            raise BrokenMappingError(f"it is cast to {_type_name(ir.DataType(target))}, not to {record.dtype}")
        after.append(cast)
        value = cast.outputs[0]
    known = {*conductances, scale}
    return MappedWeight(
        record=record,
        conductances=conductances,
        decoded=decoded,
        scale=scale,
        zero=None if added is None else added[1],
        constants=tuple(dict.fromkeys(leaf for leaf in leaves if leaf not in known)),
        nodes=(*reversed(after), *nodes),
        value=value,
    )


def _check_sum(total: ir.Value | None, decoded: Sequence[ir.Value], record: WeightRecord) -> None:
    """Check that a value is the sum of all conductances with their coefficients, less the offset.

    Raises:
        BrokenMappingError: If it is something else.
    """
    devices = {value: item.name for item, value in zip(record.conductances, decoded, strict=True)}
    found = _linear_form(total, devices)
    number = np.dtype(record.compute_dtype).type  # the nodes' constants are rounded to that type
    expected = {item.name: float(number(item.coefficient)) for item in record.conductances}
    offset = found.pop("", 0.0)
    if found != expected or offset != -float(number(record.offset_us)):
        raise BrokenMappingError(
            f"the nodes compute {_text(found, offset)} instead of {_text(expected, -record.offset_us)}"
        )


def _zero(value: ir.Value, record: WeightRecord, values: ModelValues) -> tuple[ir.Node, ir.Value] | None:
    """The node that adds the zero to the quotient, and the initializer of the zero; None if there is none.

    Raises:
        BrokenMappingError: If another zero is added than the manifest says.
    """
    if isinstance(record.zero, ZeroRecord):
        zero = _initializer(record.zero.name, record, values)
        add = only_user(value, "Add", 0)
        if add.inputs[1] is not expanded_entries(zero, record.grid):
            raise BrokenMappingError(f"not '{zero.name}' is added to it, which the manifest names")
        return add, zero
    if not record.zero:
        if any(node.metadata_props.get(ROLE_KEY) == "zero" for node, _ in value.uses()):
            raise BrokenMappingError("a zero is added to it, of which the manifest says nothing")
        return None
    add = only_user(value, "Add", 0)
    constant, number = add.inputs[1], np.dtype(record.compute_dtype).type
    if (found := scalar(constant)) != float(number(record.zero)) or constant is None:
        raise BrokenMappingError(f"{found} is added to it, the manifest says {record.zero}")
    return add, constant


def _rounded(value: ir.Value, record: WeightRecord, after: list[ir.Node], leaves: list[ir.Value]) -> ir.Value:
    """Follow the nodes that make integer codes of what the conductances give."""
    if [node.op_type for node, _ in value.uses()] == ["Add"]:  # as Floor(x + 0.5) where there is no Round
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
    if record.zero_point is not None:
        add = only_user(value, "Add", 0)
        if (operand := add.inputs[1]) is None or operand.name != record.zero_point:
            raise BrokenMappingError(f"not '{record.zero_point}' is added to it, which holds its zero points")
        after.append(add)
        leaves.append(operand)
        value = add.outputs[0]
    return value


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


def structural_problems(mapped: MappedWeight) -> Iterator[str]:
    """What is wrong with the types, the shapes, the scale and the zero of a mapped weight; nothing if nothing is."""
    record = mapped.record
    levels = record.levels_of_codes
    stored_type = record.compute_dtype if levels is None else levels.storage
    for tensor in mapped.stored_tensors:
        if tensor.shape.numpy() != record.shape:
            yield f"'{tensor.name}' has the shape {list(tensor.shape.numpy())}, the weight {list(record.shape)}"
        if _type_name(tensor.dtype) != stored_type:
            yield f"'{tensor.name}' is {_type_name(tensor.dtype)} now, it was {stored_type}"
    yield from _scale_problems(mapped.scale, record)
    if mapped.zero is not None and isinstance(record.zero, ZeroRecord):
        yield from _zero_problems(mapped.zero, record.zero, record)


def _scale_problems(value: ir.Value, record: WeightRecord) -> Iterator[str]:
    scale = _tensor(value)
    entries = np.asarray(all_elements(scale), np.float64)
    is_positive = bool(np.all(np.isfinite(entries) & (entries > 0)))
    if record.scale.form == "number":
        if scale.size != 1 or not is_positive:
            yield f"the scale '{value.name}' is not one positive finite number"
            return
        if (number := float(entries.reshape(-1)[0])) != record.scale.value:
            yield f"the scale '{value.name}' is {number!r}, the manifest says {record.scale.value!r}"
            return
    else:
        if scale.shape.numpy() != record.scale.shape:
            wanted = list(record.scale.shape)
            yield f"the scale '{value.name}' has the shape {list(scale.shape.numpy())}, the manifest says {wanted}"
            return
        if not is_positive:
            index = int(np.flatnonzero(~(np.isfinite(entries) & (entries > 0)))[0])
            yield f"the scale '{value.name}' has {entries.reshape(-1)[index]} at flat index {index}, no positive number"
            return
        extremes = float(entries.min()), float(entries.max())
        if extremes != (record.scale.minimum, record.scale.maximum):
            manifest = f"{record.scale.minimum!r} to {record.scale.maximum!r}"
            yield f"the scale '{value.name}' is {extremes[0]!r} to {extremes[1]!r}, the manifest says {manifest}"
            return
    if scale.dtype != record.ir_compute_dtype:
        yield f"'{value.name}' is {_type_name(scale.dtype)} now, it was {record.compute_dtype}"


def _zero_problems(value: ir.Value, zero: ZeroRecord, record: WeightRecord) -> Iterator[str]:
    tensor = _tensor(value)
    if (shape := tensor.shape.numpy()) != record.scale.shape:
        yield f"the zero '{value.name}' has the shape {list(shape)}, the manifest says {list(record.scale.shape)}"
        return
    entries = np.asarray(all_elements(tensor), np.float64)
    extremes, number = (float(entries.min()), float(entries.max())), np.dtype(record.compute_dtype).type
    if extremes != (float(number(zero.minimum)), float(number(zero.maximum))):  # NaN equals no extreme
        manifest = f"{zero.minimum!r} to {zero.maximum!r}"
        yield f"the zero '{value.name}' is {extremes[0]!r} to {extremes[1]!r}, the manifest says {manifest}"
    elif tensor.dtype != record.ir_compute_dtype:
        yield f"'{value.name}' is {_type_name(tensor.dtype)} now, it was {record.compute_dtype}"


def _initializer(name: str, record: WeightRecord, values: ModelValues) -> ir.Value:
    if name in values.initializers:
        return values.initializers[name]
    if record.name in values.initializers:
        names = (record.scale.name, *(item.name for item in record.conductances))
        kind = BrokenMappingError if any(name in values.initializers for name in names) else FoldedMappingError
        raise kind(
            f"the mapping was folded away: '{record.name}' is a plain initializer again and '{name}' is gone; "
            "mapping has to be the last step, after all constant folding"
        )
    if record.name in values.outputs and record.scale.name not in values.initializers:
        raise BrokenMappingError(f"'{name}' is gone; another tool replaced what computes '{record.name}'")
    raise BrokenMappingError(f"the initializer '{name}' is gone; another tool removed or renamed it")


def _type_name(dtype: ir.DataType) -> str:
    if dtype in {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        return dtype.name.lower()
    return np.dtype(dtype.numpy()).name


def _expression(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes from `root` backwards, each before those it reads from, and the initializers they end in."""
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


def _linear_form(
    value: ir.Value | None, devices: Mapping[ir.Value, str], above: frozenset[ir.Node] = frozenset()
) -> dict[str, float]:
    """What a value computes, as coefficients of devices by name; the constant term under ''.

    Args:
        value: The value.
        devices: The conductances.
        above: The nodes that the value is computed for, which it may not be computed from.
    """
    if value is None or value.name is None:
        raise BrokenMappingError("a node that rebuilds the weight lacks an input")
    if value in devices:
        return {devices[value]: 1.0}
    node = value.producer()
    if node is None:
        if not value.is_initializer():
            raise BrokenMappingError(f"the weight is computed from '{value.name}', which is no initializer")
        return {value.name: 1.0}
    if node in above:
        raise BrokenMappingError(f"the node '{node.name}' ({node.op_type}) computes with its own output")
    above |= {node}
    if node.op_type in _ARITHMETIC and len(node.inputs) < _OPERANDS:
        raise BrokenMappingError(f"the node '{node.name}' ({node.op_type}) lacks an input")
    if node.op_type in {"Add", "Sub"} and node.domain == "":
        sign = 1.0 if node.op_type == "Add" else -1.0
        left, right = _linear_form(node.inputs[0], devices, above), _linear_term(node.inputs[1], devices, above)
        return {name: left.get(name, 0.0) + sign * right.get(name, 0.0) for name in [*left, *right]}
    if node.op_type == "Mul" and node.domain == "" and (factor := scalar(node.inputs[1])) is not None:
        return {name: factor * number for name, number in _linear_form(node.inputs[0], devices, above).items()}
    raise BrokenMappingError(f"the weight is computed by an unexpected node {node.op_type} ('{node.name}')")


def _linear_term(
    value: ir.Value | None, devices: Mapping[ir.Value, str], above: frozenset[ir.Node]
) -> dict[str, float]:
    number = None if value in devices else scalar(value)
    return _linear_form(value, devices, above) if number is None else {"": number}


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # noqa: S101 - `ModelValues` takes initializers with data only
    return value.const_value


def _text(form: dict[str, float], offset: float) -> str:
    terms: Iterable[str] = (f"{number:+g}*{name}" for name, number in form.items())
    return " ".join(terms) + (f" {offset:+g}" if offset else "")
