"""Recognizes weights with equal values: exporters store a parameter twice, or once more transposed.

Equal values alone do not prove that two weights come from one parameter: layers that are copies of each other start
with equal values.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_gconv.converters import WeightStatistics, compute_dtype, weight_statistics
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.tensors.bits import ElementBits, has_same_elements, is_transposed
from onnx_gconv.tensors.streamed import element_chunks

__all__ = ["SameSource", "SourceCandidate", "same_sources"]

Relation: TypeAlias = Literal["equal", "transposed", "rearranged"]

_MATRIX_RANK = 2
_BYTE = 8  # narrower types are packed

# The number of elements that are compared first; they almost always tell different weights apart.
_SAMPLES = 32

# So many copies of one parameter do not occur, but an untrained model may have thousands of weights that were
# initialized alike; to list for each of them all others takes a time and a manifest that grow with their square.
_MOST_OF_EQUAL_VALUES = 64


@dataclass(frozen=True)
class SameSource:
    """Another constant that has the values of a weight.

    Attributes:
        name: The name of the other constant.
        graph_path: Path of the graph that owns it.
        relation: ``equal`` if both have the same elements in row-major order; ``transposed`` if one is the transpose of
            the other; ``rearranged`` if the exporter says that both were computed from one parameter, and both have the
            same number of elements and the same extremes.
        is_same_parameter: Whether both are known to come from one parameter: the exporter says so, or both are one
            tensor.
    """

    name: str
    graph_path: str
    relation: Relation
    is_same_parameter: bool


@dataclass(frozen=True, eq=False)
class SourceCandidate:
    """A constant that may hold the same parameter as another one.

    Attributes:
        name: The name of the constant.
        graph_path: Path of the graph that owns it.
        tensor: The data.
        parameters: The parameters that the constant comes from, see `parameters_of`.
        statistics: The extremes and other statistics of its elements if it is mapped; None if it is skipped.
    """

    name: str
    graph_path: str
    tensor: ir.TensorProtocol
    parameters: tuple[str, ...]
    statistics: WeightStatistics | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the constant."""
        return tuple(self.tensor.shape.numpy())

    def is_from_source_of(self, other: SourceCandidate) -> bool:
        """Whether both are known to come from one parameter, or are one tensor."""
        return self.tensor is other.tensor or not set(self.parameters).isdisjoint(other.parameters)


def same_sources(candidates: Sequence[SourceCandidate]) -> list[tuple[SameSource, ...]]:
    """For each candidate, the other candidates with its values, if at least one of them is mapped.

    Only candidates of one type, size and pair of extremes are compared: some elements first, then, if these agree, all
    elements in chunks. Tensors whose elements are all equal are left out, because equal values do not point to a common
    source there. More than 64 constants with equal values are initialized alike, too: of these, each has only those
    with which it is known to come from one parameter.

    Raises:
        ModelError: If external data cannot be read.
    """
    mapped = {item.tensor.dtype for item in candidates if item.statistics is not None}
    groups: dict[tuple[ir.DataType, int], list[int]] = defaultdict(list)
    for number, item in enumerate(candidates):
        if item.tensor.dtype in mapped and item.tensor.dtype.bitwidth >= _BYTE and item.tensor.size > 1:
            groups[item.tensor.dtype, item.tensor.size].append(number)
    found: list[tuple[SameSource, ...]] = [()] * len(candidates)
    for group in groups.values():
        for family in _families(candidates, group):
            is_large = len(family.members) > _MOST_OF_EQUAL_VALUES
            known = family.known_to_be_one(candidates) if is_large else dict.fromkeys(family.members, family.members)
            for number, others in known.items():
                found[number] = tuple(family.others(number, others, candidates))
    return found


@dataclass(eq=False)
class _Family:
    """Constants with equal values.

    Attributes:
        first: The first constant, with which others are compared.
        members: For each constant, whether it is transposed against the first of its part, and the number of its part.
            Elements are known to be equal within a part; that parts belong together is only the exporter's word.
    """

    first: int
    members: dict[int, tuple[bool, int]] = field(default_factory=dict)

    def known_to_be_one(self, candidates: Sequence[SourceCandidate]) -> dict[int, Collection[int]]:
        """For each member, the members with which it is known to come from one parameter."""
        by_source: dict[object, list[int]] = defaultdict(list)
        for number in self.members:
            for source in _sources(candidates[number]):
                by_source[source].append(number)
        return {
            number: dict.fromkeys(other for source in _sources(candidates[number]) for other in by_source[source])
            for number in self.members
        }

    def others(
        self, number: int, members: Iterable[int], candidates: Sequence[SourceCandidate]
    ) -> Iterator[SameSource]:
        """What is to be said of other members for one of them."""
        is_turned, part = self.members[number]
        for other in members:
            other_is_turned, other_part = self.members[other]
            if other != number:
                relation: Relation = "transposed" if is_turned != other_is_turned else "equal"
                item = candidates[other]
                if part != other_part:
                    relation = "rearranged"
                yield SameSource(item.name, item.graph_path, relation, item.is_from_source_of(candidates[number]))


def _sources(candidate: SourceCandidate) -> tuple[object, ...]:
    """What tells that constants are one parameter: the tensor, and the names of parameters."""
    return id(candidate.tensor), *candidate.parameters


def _families(candidates: Sequence[SourceCandidate], group: Sequence[int]) -> Iterator[_Family]:
    """The families of a group of candidates that have at least two members, one of which is mapped."""
    active = _worth_a_look(candidates, group)
    families: list[_Family] = []
    by_sample: dict[bytes, list[_Family]] = defaultdict(list)
    for number in active:
        plain, turned = _samples(candidates[number].tensor)
        if (family := _first_equal(candidates, number, by_sample[plain])) is not None:
            family.members[number] = (False, 0)
        elif turned is not None and (family := _first_transposed(candidates, number, by_sample[turned])) is not None:
            family.members[number] = (True, 0)
        else:
            family = _Family(number, {number: (False, 0)})
            families.append(family)
            by_sample[plain].append(family)
    for family in _joined_by_parameters(candidates, families):
        if len(family.members) > 1 and any(candidates[n].statistics is not None for n in family.members):
            yield family


def _worth_a_look(candidates: Sequence[SourceCandidate], group: Sequence[int]) -> list[int]:
    """The candidates whose elements have to be read, because statistics do not tell them apart from all others."""
    known = Counter(candidates[n].statistics for n in group)
    skipped = known.pop(None, 0)
    if not known:
        return []
    active = []
    for number in group:
        statistics = candidates[number].statistics
        if statistics is None or (statistics.minimum != statistics.maximum and (skipped or known[statistics] > 1)):
            active.append(number)
    return active if len(active) > 1 else []


def _samples(tensor: ir.TensorProtocol) -> tuple[bytes, bytes | None]:
    """The elements of a tensor at pseudorandom places, and those of its transpose at these places if it is a matrix."""
    places = [int(place) for place in np.random.default_rng(tensor.size).integers(0, tensor.size, _SAMPLES)]
    with ElementBits(tensor) as bits:
        plain = bits.sample(places)
        if len(tensor.shape.numpy()) != _MATRIX_RANK:
            return plain, None
        rows, columns = tensor.shape.numpy()
        return plain, bits.sample([place % rows * columns + place // rows for place in places])


def _first_equal(candidates: Sequence[SourceCandidate], number: int, families: Sequence[_Family]) -> _Family | None:
    item = candidates[number]
    for family in families:
        first = candidates[family.first]
        if _may_be_same(item, first) and has_same_elements(item.tensor, first.tensor):
            return family
    return None


def _first_transposed(
    candidates: Sequence[SourceCandidate], number: int, families: Sequence[_Family]
) -> _Family | None:
    item = candidates[number]
    for family in families:
        first = candidates[family.first]
        is_reversed = first.shape == item.shape[::-1]
        if is_reversed and _may_be_same(item, first) and is_transposed(item.tensor, first.tensor):
            return family
    return None


def _may_be_same(one: SourceCandidate, other: SourceCandidate) -> bool:
    return one.statistics is None or other.statistics is None or one.statistics == other.statistics


def _joined_by_parameters(candidates: Sequence[SourceCandidate], families: Sequence[_Family]) -> list[_Family]:
    """Join families that the exporter computed from one parameter, if their extremes are the same.

    The number of elements alone is not enough: queries and keys of a fused parameter have the same number, too.
    """
    joined: dict[str, list[_Family]] = defaultdict(list)
    result = []
    for family in families:
        parameters = {name for n in family.members for name in candidates[n].parameters}
        parameter = next(iter(parameters)) if len(parameters) == 1 else None
        same = joined[parameter] if parameter is not None else []
        for known in same:
            statistics = _statistics(candidates[family.first])
            if statistics is not None and statistics == _statistics(candidates[known.first]):
                part = 1 + max(part for _, part in known.members.values())
                known.members.update({n: (is_turned, part) for n, (is_turned, _) in family.members.items()})
                break
        else:
            same.append(family)
            result.append(family)
    return result


def _statistics(item: SourceCandidate) -> WeightStatistics | None:
    """The statistics of a constant, computed if they are not known; None if it has values that are not finite."""
    if item.statistics is not None:
        return item.statistics
    try:
        return weight_statistics(element_chunks(item.tensor, dtype=compute_dtype(item.tensor.dtype.numpy())))
    except UnmappableWeightError:
        return None
