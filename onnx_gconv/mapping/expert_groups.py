"""Groups the experts of a layer into one line of a report: weights that differ in the number of the expert only."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from onnx_gconv.mapping.records.weight_record import SkippedRecord, WeightRecord

__all__ = ["ExpertGroup", "grouped_experts", "likeness"]

_EXPERT = re.compile(r"(?P<before>experts?[._/-]?)\d+(?!\d)", re.IGNORECASE)

# Follows the name of a stack, a constant of several matrices from which nodes take one each by constant indices.
_OF_STACK = "[*]"

# Fewer weights than this stay lines of their own: two or three parts of one constant, such as queries, keys and values,
# are no experts.
_FEWEST = 4

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ExpertGroup(Generic[_Item]):
    """Weights that a report shows in one line.

    Attributes:
        name: The name that people know the weights by, with a star in place of the number of the expert. A group of
            one weight has the name of that weight.
        members: The weights.
    """

    name: str
    members: tuple[_Item, ...]

    @property
    def first(self) -> _Item:
        """The first weight; the report shows its shape, type and consumers for the whole group."""
        return self.members[0]

    @property
    def count(self) -> int:
        """How many weights there are."""
        return len(self.members)

    @property
    def remark(self) -> str:
        """E.g. ``256 experts``, or ``256 matrices`` of a stack; empty for one weight."""
        what = "matrices" if self.name.endswith(_OF_STACK) else "experts"
        return f"{self.count:,} {what}" if self.count > 1 else ""


def grouped_experts(
    items: Iterable[_Item],
    names: Callable[[_Item], tuple[str, Sequence[str]]],
    alike: Callable[[_Item], Hashable],
    *,
    is_verbose: bool = False,
) -> list[ExpertGroup[_Item]]:
    """The groups that a table shows as its lines, in the order of their first weights.

    Args:
        items: The weights.
        names: Returns the name that people know a weight by, and the names of the constants that nodes compute it from.
        alike: Returns what has to be equal for all weights of a group, besides the pattern of their names.
        is_verbose: Whether each weight has a line of its own.
    """
    found: dict[Hashable, list[_Item]] = {}
    of_groups: dict[Hashable, str] = {}
    for number, item in enumerate(items):
        known, sources = names(item)
        pattern = _pattern(known, sources)
        key: Hashable = number if pattern is None or is_verbose else (pattern, alike(item))
        of_groups[key] = pattern or known
        found.setdefault(key, []).append(item)
    groups: list[ExpertGroup[_Item]] = []
    for key, members in found.items():
        if 1 < len(members) < _FEWEST or is_verbose:
            groups.extend(ExpertGroup(names(item)[0], (item,)) for item in members)
        else:
            name = of_groups[key] if len(members) > 1 else names(members[0])[0]
            groups.append(ExpertGroup(name, tuple(members)))
    return groups


def likeness(record: WeightRecord | SkippedRecord) -> Hashable:
    """What has to be equal for all experts of a line, besides their names: graph, shape, type, consumers, reason."""
    if isinstance(record, SkippedRecord):
        return record.graph, record.shape, record.reason, record.is_mvm
    readers = []
    for consumer in record.consumers:
        view = consumer.matrix_view
        size = None if view is None else (view.matrices, view.rows, view.columns)
        readers.append((consumer.op_type, consumer.domain, consumer.slot, consumer.reads, size))
    return record.graph, record.shape, record.dtype, record.stored_as, tuple(readers), record.scale.shape


def _pattern(known: str, sources: Sequence[str]) -> str | None:
    """The name of the group that a weight may belong to; None if its name has no number of an expert and no stack."""
    if _EXPERT.search(known):
        return _EXPERT.sub(r"\g<before>*", known, count=1)
    return f"{' + '.join(sources)}{_OF_STACK}" if sources else None
