"""What a mapping's report says in words: of weights that hold one parameter, and of weights that others read too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx_gconv.mapping import ConsumerRecord, Manifest, SkippedRecord, WeightRecord

__all__ = ["listed", "same_source_remarks", "sharing_remarks"]

_MOST_NAMES = 3


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def same_source_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each parameter that several constants hold, of which at least one is mapped."""
    records: tuple[WeightRecord | SkippedRecord, ...] = (*manifest.weights, *manifest.skipped)
    told: set[tuple[str, str]] = set()
    for record in manifest.weights:
        if not record.same_source_as or (record.graph, record.name) in told:
            continue
        keys = {(record.graph, record.name), *((item.graph, item.name) for item in record.same_source_as)}
        told |= keys
        yield _same_source([item for item in records if (item.graph, item.name) in keys])


def _same_source(family: Sequence[WeightRecord | SkippedRecord]) -> str:
    """One parameter that several constants hold; the others are compared with the one that bears its name."""
    model = next((item for item in family if item.name in item.parameters), family[0])
    others = [item for item in family if item is not model]
    relations = {(item.graph, item.name): item.relation for item in model.same_source_as}
    phrases = []
    for item in others:
        relation = relations.get((item.graph, item.name), "rearranged")
        phrases.append(f"'{item.name}' is '{model.name}'" + ("" if relation == "equal" else f" {relation}"))
    mapped = sum(isinstance(item, WeightRecord) for item in family)
    where = "once on devices" if mapped == 1 else f"{mapped} times on devices"
    digital = len(family) - mapped
    too = "" if not digital else " and once digitally" if digital == 1 else f" and {digital} times digitally"
    return f"{listed(phrases)}: one parameter, held {where}{too}."


def sharing_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each weight that nodes read otherwise than as the weight of an MVM op."""
    for record in manifest.weights:
        others = [consumer for consumer in record.consumers if not consumer.is_mvm]
        digital = [_label(consumer) for consumer in others if consumer.reads == "digital"]
        rebuilt = [_label(consumer) for consumer in others if consumer.reads == "rebuilt"]
        if digital:
            verb = "reads" if len(digital) == 1 else "read"
            yield f"'{record.name}': {listed(digital)} {verb} the digital copy '{record.digital_copy}'."
        if rebuilt:
            verb = "reads" if len(rebuilt) == 1 else "read"
            why = ", through a node that rearranges it for an MVM op too" if record.digital_copy else ""
            yield f"'{record.name}': {listed(rebuilt)} {verb} the rebuilt weight like the MVM ops{why}."


def _label(consumer: ConsumerRecord) -> str:
    return f"{consumer.op_type} {consumer.node}".rstrip()
