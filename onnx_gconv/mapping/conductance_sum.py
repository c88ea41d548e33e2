"""The sum of conductances that a scale divides: which they are, and what the nodes multiply them with."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping.operands import BrokenMappingError, scalar, stored_behind
from onnx_gconv.mapping.read_noise import DrawnReading, drawn_reading
from onnx_gconv.mapping.records.chip_records import ReadNoiseRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord

__all__ = ["ARITHMETIC_OPS", "Term", "conductance_terms"]

ARITHMETIC_OPS = frozenset({"Add", "Sub", "Mul"})

_OPERANDS = 2


@dataclass(frozen=True, eq=False)
class Term:
    """A conductance in the sum that is divided by the scale.

    Attributes:
        coefficient: What it is multiplied with.
        decoded: The conductance in µS, or readings of it that nodes draw.
        stored: The initializer that holds it, or its codes.
        use: The node that reads it, and the index of its input.
        reading: The nodes that draw readings of it; None if there are none.
    """

    coefficient: float
    decoded: ir.Value
    stored: ir.Value
    use: tuple[ir.Node, int]
    reading: DrawnReading | None = None

    @property
    def noise(self) -> ReadNoiseRecord | None:
        """What the manifest says of how readings are drawn; None if they are not."""
        return None if self.reading is None else self.reading.record


def conductance_terms(division: ir.Node, record: WeightRecord, initializers: Container[str]) -> list[Term]:
    """The conductances whose sum, less the offset, a node divides by the scale, in the order of the manifest.

    One that the manifest names is that; in place of one that is gone, another of the same coefficient is taken, with
    which another tool has joined it because they were equal, or which is the same by another name.

    Args:
        division: The node.
        record: The weight.
        initializers: The names of all initializers of the model.

    Raises:
        BrokenMappingError: If it divides something else.
    """
    terms, constant = _linear_form(division.inputs[0], record, (division, 0))
    number = np.dtype(record.compute_dtype).type  # the nodes' constants are rounded to that type
    waiting, found = list(terms), dict[str, Term]()
    noises = dict(zip((item.name for item in record.conductances), record.read_noise, strict=False))
    for is_named in (True, False):
        for item in record.conductances:
            if item.name in found or (not is_named and item.name in initializers):
                continue
            wanted = float(number(item.coefficient))
            fits = [
                term
                for term in waiting
                if term.coefficient == wanted and (not is_named or term.stored.name == item.name)
            ]
            if fits:  # those that were joined are told from each other by their noise
                term = next((term for term in fits if term.noise is noises.get(item.name)), fits[0])
                found[item.name] = term
                waiting.remove(term)
    if waiting or len(found) < len(record.conductances) or constant != -float(number(record.offset_us)):
        expected = {item.name: float(number(item.coefficient)) for item in record.conductances}
        raise BrokenMappingError(
            f"the nodes compute {_text(_summed(terms), constant)} instead of {_text(expected, -record.offset_us)}"
        )
    in_order = [found[item.name] for item in record.conductances]
    for term, noise in zip(in_order, record.read_noise, strict=False):
        if term.reading is None or term.noise is not noise:
            raise BrokenMappingError(f"'{term.stored.name}' is not read with the noise that the manifest says of it")
        sigma = term.reading.sigma.name
        if sigma != noise.sigma and noise.sigma in initializers:
            raise BrokenMappingError(
                f"readings of '{term.stored.name}' are spread by '{sigma}', but the manifest names '{noise.sigma}'"
            )
    return in_order


def _summed(terms: Sequence[Term]) -> dict[str, float]:
    total: dict[str, float] = {}
    for term in terms:
        total[term.stored.name or ""] = total.get(term.stored.name or "", 0.0) + term.coefficient
    return total


def _linear_form(
    value: ir.Value | None,
    record: WeightRecord,
    use: tuple[ir.Node, int],
    above: frozenset[ir.Node] = frozenset(),
) -> tuple[list[Term], float]:
    """What a value computes: conductances with their coefficients, and a constant.

    Args:
        value: The value.
        record: The weight, which says how conductances are stored.
        use: The node that reads the value, and the index of its input.
        above: The nodes that the value is computed for, which it may not be computed from.
    """
    if value is None or value.name is None:
        raise BrokenMappingError("a node that rebuilds the weight lacks an input")
    reading = drawn_reading(value, record)
    if (stored := stored_behind(value if reading is None else reading.conductance, record)) is not None:
        return [Term(1.0, value, stored, use, reading)], 0.0
    node = value.producer()
    if node is None:
        what = "is no initializer" if record.levels_of_codes is None else "holds no codes of levels"
        raise BrokenMappingError(f"the weight is computed from '{value.name}', which {what}")
    if node in above:
        raise BrokenMappingError(f"the node '{node.name}' ({node.op_type}) computes with its own output")
    above |= {node}
    if node.op_type in ARITHMETIC_OPS and len(node.inputs) < _OPERANDS:
        raise BrokenMappingError(f"the node '{node.name}' ({node.op_type}) lacks an input")
    if node.op_type in {"Add", "Sub"} and node.domain == "":
        sign = 1.0 if node.op_type == "Add" else -1.0
        terms, constant = _linear_form(node.inputs[0], record, (node, 0), above)
        others, other_constant = _linear_term(node.inputs[1], record, (node, 1), above)
        signed = (replace(term, coefficient=sign * term.coefficient) for term in others)
        return [*terms, *signed], constant + sign * other_constant
    if node.op_type == "Mul" and node.domain == "" and (factor := scalar(node.inputs[1])) is not None:
        terms, constant = _linear_form(node.inputs[0], record, (node, 0), above)
        return [replace(term, coefficient=factor * term.coefficient) for term in terms], factor * constant
    raise BrokenMappingError(f"the weight is computed by an unexpected node {node.op_type} ('{node.name}')")


def _linear_term(
    value: ir.Value | None, record: WeightRecord, use: tuple[ir.Node, int], above: frozenset[ir.Node]
) -> tuple[list[Term], float]:
    """As `_linear_form`, of what is added or subtracted, which may be the offset.

    Conductances without axes are told from it by their names.
    """
    is_conductance = value is not None and any(value.name == item.name for item in record.conductances)
    number = None if is_conductance else scalar(value)
    return _linear_form(value, record, use, above) if number is None else ([], number)


def _text(form: dict[str, float], offset: float) -> str:
    terms: Iterable[str] = (f"{number:+g}*{name}" for name, number in form.items())
    return " ".join(terms) + (f" {offset:+g}" if offset else "")
