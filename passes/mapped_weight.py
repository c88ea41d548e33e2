"""Finds what a manifest describes in the graph of a mapped model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_gconv.integer_weight import ZeroPoint
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.passes.rebuild_nodes import ROLE_KEY
from onnx_gconv.rebuilt_tensor import RebuiltTensor

__all__ = ["BrokenMappingError", "MappedWeight", "ModelValues", "locate", "structural_problems"]


_HALF = 0.5


class BrokenMappingError(Exception):
    """What the graph has in place of a mapped weight; the message goes into the report of a check."""


@dataclass(frozen=True, eq=False)
class MappedWeight:
    """A mapped weight in the graph.

    Attributes:
        record: What the manifest says of it.
        conductances: The conductance initializers, in the order of the record.
        scale: The scale initializer.
        constants: All other initializers of the nodes.
        nodes: The nodes that rebuild the weight, the last one first.
        value: The rebuilt weight.
    """

    record: WeightRecord
    conductances: tuple[ir.Value, ...]
    scale: ir.Value
    constants: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    value: ir.Value

    @property
    def rebuilt(self) -> RebuiltTensor:
        """The rebuilt weight, computed while it is read."""
        return RebuiltTensor(
            self.tensors,
            self.record.decoding,
            dtype=self.record.ir_dtype,
            name=self.record.name,
            rounded=self.record.rounded,
            zero_point=self.zero_point,
        )

    @property
    def zero_point(self) -> ZeroPoint | None:
        """The zero points of a weight of integer codes; None for 0."""
        for value in self.constants:
            if value.name == self.record.zero_point:
                return ZeroPoint(_tensor(value).numpy().astype(np.int64), self.record.shape)
        return None

    @property
    def tensors(self) -> tuple[ir.TensorProtocol, ...]:
        """The data of the conductances, in µS."""
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


def locate(record: WeightRecord, values: ModelValues) -> MappedWeight:
    """Find the conductances, the scale and the nodes of a mapped weight, and check that they compute what they should.

    The nodes are followed from the scale forwards to the weight and backwards to the conductances, so that other tools
    may rename what lies between.

    Raises:
        BrokenMappingError: If something is missing or computes something else.
    """
    dtype = record.ir_dtype
    conductances = tuple(_initializer(item.name, record, values) for item in record.conductances)
    scale = _initializer(record.scale.name, record, values)
    div = _only_user(scale, "Div", 1)
    nodes, leaves = _expression(div)
    value = div.outputs[0]
    found = _linear_form(div.inputs[0])
    number = np.dtype(record.compute_dtype).type  # the nodes' constants are rounded to that type
    expected = {item.name: float(number(item.coefficient)) for item in record.conductances}
    offset = found.pop("", 0.0)
    if found != expected or offset != -float(number(record.offset_us)):
        raise BrokenMappingError(
            f"the nodes compute {_text(found, offset)} instead of {_text(expected, -record.offset_us)}"
        )
    after: list[ir.Node] = []
    if not record.zero and any(node.metadata_props.get(ROLE_KEY) == "zero" for node, _ in value.uses()):
        raise BrokenMappingError("a zero is added to it, of which the manifest says nothing")
    if record.zero:
        add = _only_user(value, "Add", 0)
        if (zero := _number(add.inputs[1])) != float(number(record.zero)):
            raise BrokenMappingError(f"{zero} is added to it, the manifest says {record.zero}")
        after.append(add)
        leaves.extend(item for item in add.inputs[1:] if item is not None)
        value = add.outputs[0]
    if record.rounded:
        value = _rounded(value, record, after, leaves)
    if record.dtype != record.compute_dtype:
        cast = _only_user(value, "Cast", 0)
        if (target := cast.attributes.get_int("to", 0)) != dtype.value:
            raise BrokenMappingError(f"it is cast to {_type_name(ir.DataType(target))}, not to {record.dtype}")
        after.append(cast)
        value = cast.outputs[0]
    known = {*conductances, scale}
    return MappedWeight(
        record=record,
        conductances=conductances,
        scale=scale,
        constants=tuple(leaf for leaf in leaves if leaf not in known),
        nodes=(*reversed(after), *nodes),
        value=value,
    )


def _rounded(value: ir.Value, record: WeightRecord, after: list[ir.Node], leaves: list[ir.Value]) -> ir.Value:
    """Follow the nodes that make integer codes of what the conductances give."""
    if [node.op_type for node, _ in value.uses()] == ["Add"]:  # as Floor(x + 0.5) where there is no Round
        add = _only_user(value, "Add", 0)
        if (half := _number(add.inputs[1])) != _HALF:
            raise BrokenMappingError(f"{half} is added to it before it is rounded down, instead of {_HALF}")
        after.append(add)
        leaves.extend(item for item in add.inputs[1:] if item is not None)
        rounding = _only_user(add.outputs[0], "Floor", 0)
    else:
        rounding = _only_user(value, "Round", 0)
    after.append(rounding)
    value = rounding.outputs[0]
    if record.zero_point is not None:
        add = _only_user(value, "Add", 0)
        if (operand := add.inputs[1]) is None or operand.name != record.zero_point:
            raise BrokenMappingError(f"not '{record.zero_point}' is added to it, which holds its zero points")
        after.append(add)
        leaves.append(operand)
        value = add.outputs[0]
    return value


def structural_problems(mapped: MappedWeight) -> Iterator[str]:
    """What is wrong with the types, the shapes and the scale of a mapped weight; nothing if it is as it was mapped."""
    record = mapped.record
    for tensor in mapped.tensors:
        if tensor.shape.numpy() != record.shape:
            yield f"'{tensor.name}' has the shape {list(tensor.shape.numpy())}, the weight {list(record.shape)}"
        if tensor.dtype != record.ir_compute_dtype:
            yield f"'{tensor.name}' is {_type_name(tensor.dtype)} now, it was {record.compute_dtype}"
    scale = mapped.scale.const_value
    assert scale is not None  # noqa: S101 - `locate` takes initializers with data only
    if scale.size != 1 or not (np.isfinite(number := float(scale.numpy().reshape(-1)[0])) and number > 0):
        yield f"the scale '{scale.name}' is not one positive finite number"
    elif number != record.scale.value:
        yield f"the scale '{scale.name}' is {number!r}, the manifest says {record.scale.value!r}"
    elif scale.dtype != record.ir_compute_dtype:
        yield f"'{scale.name}' is {_type_name(scale.dtype)} now, it was {record.compute_dtype}"


def _initializer(name: str, record: WeightRecord, values: ModelValues) -> ir.Value:
    if name in values.initializers:
        return values.initializers[name]
    if record.name in values.initializers:
        raise BrokenMappingError(
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


def _only_user(value: ir.Value, op_type: str, slot: int) -> ir.Node:
    uses = [(node.op_type, index) for node, index in value.uses()]
    if uses != [(op_type, slot)]:
        listed = ", ".join(f"{op}[{index}]" for op, index in uses) or "nothing"
        raise BrokenMappingError(f"'{value.name}' should be read by one {op_type} node (input {slot}), but by {listed}")
    return next(iter(value.uses())).node


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


def _linear_form(value: ir.Value | None) -> dict[str, float]:
    """What a value computes, as coefficients of initializers by name; the constant term under ''."""
    if value is None or value.name is None:
        raise BrokenMappingError("a node that rebuilds the weight lacks an input")
    node = value.producer()
    if node is None:
        if not value.is_initializer():
            raise BrokenMappingError(f"the weight is computed from '{value.name}', which is no initializer")
        return {value.name: 1.0}
    if node.op_type in {"Add", "Sub"} and node.domain == "":
        sign = 1.0 if node.op_type == "Add" else -1.0
        left, right = _linear_form(node.inputs[0]), _linear_term(node.inputs[1])
        return {name: left.get(name, 0.0) + sign * right.get(name, 0.0) for name in [*left, *right]}
    if node.op_type == "Mul" and node.domain == "" and (factor := _number(node.inputs[1])) is not None:
        return {name: factor * number for name, number in _linear_form(node.inputs[0]).items()}
    raise BrokenMappingError(f"the weight is computed by an unexpected node {node.op_type} ('{node.name}')")


def _linear_term(value: ir.Value | None) -> dict[str, float]:
    number = _number(value)
    return _linear_form(value) if number is None else {"": number}


def _number(value: ir.Value | None) -> float | None:
    """The value of a scalar initializer, None for everything else."""
    if (
        value is None
        or not value.is_initializer()
        or value.const_value is None
        or value.const_value.shape.numpy() != ()
    ):
        return None
    # A conductance of a weight of rank 0 is a scalar too; those are told from constants by their role.
    if value.metadata_props.get(ROLE_KEY) == "conductance":
        return None
    return float(value.const_value.numpy())


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # noqa: S101 - `ModelValues` takes initializers with data only
    return value.const_value


def _text(form: dict[str, float], offset: float) -> str:
    terms: Iterable[str] = (f"{number:+g}*{name}" for name, number in form.items())
    return " ".join(terms) + (f" {offset:+g}" if offset else "")
