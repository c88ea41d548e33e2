"""Finds the conductances that the nodes of a mapped weight sum up and divide by the scale, with their coefficients."""

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
        coefficient: The number that the nodes multiply the conductance with.
        decoded: The value that enters the sum, in µS: the conductance, or a reading of it with read noise.
        stored: The initializer that holds the conductance in µS, or its level codes.
        use: The node that reads `decoded`, and the index of the input.
        reading: The nodes that add read noise to the conductance; None if there are none.
    """

    coefficient: float
    decoded: ir.Value
    stored: ir.Value
    use: tuple[ir.Node, int]
    reading: DrawnReading | None = None

    @property
    def noise(self) -> ReadNoiseRecord | None:
        """The manifest's record of the read noise; None if the conductance is read without noise."""
        return None if self.reading is None else self.reading.record


def conductance_terms(division: ir.Node, record: WeightRecord, initializers: Container[str]) -> list[Term]:
    """The conductances whose sum, less the offset, a Div node divides by the scale, in the order of the manifest.

    Each conductance of the manifest is looked for by its name first. If no initializer has that name any more, a term
    of the same coefficient takes its place: another tool has renamed the initializer, or has merged it with an equal
    one.

    Args:
        division: The Div node.
        record: The weight's record in the manifest.
        initializers: The names of all initializers of the model.

    Raises:
        BrokenMappingError: If the node divides another sum than the manifest says.
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
            if fits:  # merged conductances share an initializer; only their noise tells them apart
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
    """The conductances with their coefficients, and the constant, whose sum a value is.

    Args:
        value: The value.
        record: The weight's record, which says how conductances are stored.
        use: The node that reads the value, and the index of the input.
        above: The nodes between the value and the division. Meeting one of them again means a cycle.

    Raises:
        BrokenMappingError: If the value is no such sum.
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
    """The linear form of the second operand of an Add or a Sub, which may also be the offset: a scalar initializer.

    The conductance of a weight without axes is a scalar initializer, too; its name tells it from the offset.
    """
    is_conductance = value is not None and any(value.name == item.name for item in record.conductances)
    number = None if is_conductance else scalar(value)
    return _linear_form(value, record, use, above) if number is None else ([], number)


def _text(form: dict[str, float], offset: float) -> str:
    terms: Iterable[str] = (f"{number:+g}*{name}" for name, number in form.items())
    return " ".join(terms) + (f" {offset:+g}" if offset else "")
