"""The remarks of a mapping report: low fidelity, weights that are held twice, and hints for later steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import ClippingRecord, ConsumerRecord, Manifest, SkippedRecord, WeightRecord
from onnx_gconv.visible_text import listed

__all__ = ["fidelity_warnings", "mapping_remarks"]

# The default of max_finite_val in convert_float_to_float16 of onnxconverter-common 1.16.
_LARGEST_OF_CONVERTER = 10_000

# At this ratio, the root mean square of the errors is a tenth of that of the weights.
_LEAST_SQNR_DB = 20.0

# What remedies recommend: clipping that few weights notice, and bits of the codes of bit-sliced converters, which take
# up to 16 of them, and up to 8 in a slice. Four bits more are 24 dB.
_MILD_PERCENTILE = 99.9
_COMMON_BITS, _MORE_BITS, _MOST_BITS, _MOST_SLICE_BITS = 8, 4, 16, 8

_FINER_SCALES = {
    "tensor": "a scale for each channel (--granularity channel)",
    "channel": "a scale for each channel of each tile (--granularity tile-channel --tile 256x256)",
}

_RELATIONS = {
    "tied": "the program ties them",
    "merged": "their values were equal, so that the exporter kept one for all",
    "tied or merged": "tied, or of equal values, of which the exporter keeps one; the model does not say which",
}


def mapping_remarks(manifest: Manifest, mapped: Sequence[WeightRecord]) -> Iterator[str]:
    """All remarks on a mapping, a sentence each.

    Args:
        manifest: The manifest of the mapping.
        mapped: The weights of the manifest whose mapping is intact.
    """
    yield from fidelity_warnings(mapped)
    yield from _same_source_remarks(manifest)
    yield from _other_parameters_remarks(manifest.weights)
    yield from _sharing_remarks(manifest)
    yield from _half_precision_remarks(mapped)
    yield from _run_time_remarks(mapped)


def fidelity_warnings(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """Yield a warning with a remedy for weights below 20 dB of signal to error, which few networks tolerate."""
    found: dict[str, list[WeightRecord]] = {}
    for record in weights:
        if record.loss is not None and record.loss.sqnr_db is not None and record.loss.sqnr_db < _LEAST_SQNR_DB:
            found.setdefault(_remedy_of_loss(record), []).append(record)
    for remedy, records in found.items():
        names = [f"{record.quoted} {record.loss.sqnr_db:.1f} dB" for record in records if record.loss is not None]
        verb = "keeps" if len(records) == 1 else "keep"
        yield (
            f"Warning: {listed(names)} {verb} less than {_LEAST_SQNR_DB:g} dB of signal to error, so that outputs may "
            f"be far from the original's: {remedy}."
        )


def _remedy_of_loss(record: WeightRecord) -> str:
    """The remedy for a weight of low fidelity: less clipping if that costs more than rounding, else finer levels."""
    loss, levels, clipping = record.loss, record.levels, record.clipping
    if loss is not None and clipping is not None and loss.max_clipping_error > loss.max_rounding_error:
        return _less_clipping(clipping)
    try:
        converter = record.converter.converter()
    except ModelError:  # the package of the converter is not installed
        natural, bits = None, None
    else:
        natural, bits = converter.natural_levels, converter.manifest_parameters().get("bits")
    if levels is not None and natural is not None and not levels.uniform:
        return f"its slices need {natural} equal levels: map with --levels {natural}"
    if levels is not None and natural is not None and (levels.count - 1) % (natural - 1):
        return (
            f"its slices need {natural} levels, but devices have {levels.count}: map with slices of the bits that a "
            f"device holds (--slice-bits {_bits_on_levels(levels.count, bits)})"
        )
    if natural is not None and (bits is None or bits < _MOST_BITS):
        more = "" if bits is None else f" (--bits {max(_COMMON_BITS, min(bits + _MORE_BITS, _MOST_BITS))})"
        return f"map with codes of more bits{more}"
    finer = _FINER_SCALES.get(record.granularity, "smaller tiles (--tile)")
    if natural is not None:
        return f"map with {finer}"
    count = "" if levels is None else f" than {levels.count}"
    return (
        f"map with more levels{count} (--levels), {finer}, or codes that are spread over several devices "
        "(--converter bit-sliced-pair)"
    )


def _less_clipping(clipping: ClippingRecord) -> str:
    if clipping.value is not None:
        return f"map with clipping at more than {clipping.value:g} (--clip-value), or without"
    if clipping.percentile is not None and clipping.percentile >= _MILD_PERCENTILE:
        return f"map with clipping at a percentile above {clipping.percentile:g} (--clip-percentile), or without"
    return f"map with less clipping (--clip-percentile {_MILD_PERCENTILE:g}, or none)"


def _bits_on_levels(count: int, bits: int | None) -> int:
    """The most bits of slices whose ``2^bits`` levels are among `count` equally spaced ones of the same range.

    Args:
        count: The number of levels.
        bits: The bits of a code, which a slice cannot exceed; None if they are not known.
    """
    most = min(_MOST_SLICE_BITS, _MOST_BITS if bits is None else bits)
    return max(number for number in range(1, most + 1) if (count - 1) % ((1 << number) - 1) == 0)


def _same_source_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each set of constants with equal values, of which at least one is mapped."""
    records: tuple[WeightRecord | SkippedRecord, ...] = (*manifest.weights, *manifest.skipped)
    told: set[tuple[str, str]] = set()
    for record in manifest.weights:
        others = (*record.same_source_as, *record.equal_values)
        if not others or (record.graph, record.name) in told:
            continue
        keys = {(record.graph, record.name), *((item.graph, item.name) for item in others)}
        told |= keys
        yield _same_source([item for item in records if (item.graph, item.name) in keys])


def _same_source(family: Sequence[WeightRecord | SkippedRecord]) -> str:
    """A sentence on constants with equal values; each is compared with the one that has the name of their parameter.

    It calls them one parameter only if the exporter says that they come from one, because untrained parameters may have
    equal values, too.
    """
    model = next((item for item in family if item.name in item.parameters), family[0])
    others = [item for item in family if item is not model]
    compared = (*model.same_source_as, *model.equal_values)
    relations = {(item.graph, item.name): item.relation for item in compared}
    is_one, phrases = not model.equal_values, []
    for item in others:
        relation = relations.get((item.graph, item.name), "rearranged")
        names = (f"'{each.name}'" if is_one else each.quoted for each in (item, model))
        phrases.append(" is ".join(names) + ("" if relation == "equal" else f" {relation}"))
    mapped = sum(isinstance(item, WeightRecord) for item in family)
    where = "once on devices" if mapped == 1 else f"{mapped} times on devices"
    digital = len(family) - mapped
    too = "" if not digital else " and once digitally" if digital == 1 else f" and {digital} times digitally"
    held = f"held {where}{too}"
    if is_one:
        return f"{listed(phrases)}: one parameter, {held}."
    parameters = [item.parameter for item in family]
    if None not in parameters and len(set(parameters)) == len(family):
        return f"{listed(phrases)}: equal values, {held}; the program has a parameter for each."
    return f"{listed(phrases)}: equal values, {held}; one parameter, or several that were initialized alike."


def _other_parameters_remarks(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """A sentence for each weight that stands for several parameters."""
    for record in weights:
        for relation, why in _RELATIONS.items():
            if names := [f"'{item.name}'" for item in record.other_parameters if item.relation == relation]:
                yield f"{record.quoted} is {listed(names)}, too: {why}."


def _half_precision_remarks(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """A warning about scales that a later conversion of the whole model to float16 would clip."""
    scales = {weight.quoted: weight.scale.value or weight.scale.maximum or 0.0 for weight in weights}
    if names := [name for name, scale in scales.items() if scale > _LARGEST_OF_CONVERTER]:
        verb = "has a scale" if len(names) == 1 else "have scales"
        yield (
            f"{listed(names)} {verb} above {_LARGEST_OF_CONVERTER:,} µS per unit of weight, at which "
            "onnxconverter-common's conversion to float16 cuts constants off: convert the model before you map it, or "
            "raise max_finite_val there."
        )


def _run_time_remarks(weights: Sequence[WeightRecord]) -> Iterator[str]:
    """Hints on what ONNX Runtime (1.32) computes again in every run, and how to avoid it."""
    coded = [weight for weight in weights if weight.levels is not None and weight.levels.is_coded]
    if any(weight.packing is None for weight in coded):  # the level codes of packed weights are folded
        yield (
            "ONNX Runtime decodes level codes in every run, unless its session option session.disable_quant_qdq is "
            '"1"; what `onnx-gconv restore` writes runs at full speed.'
        )
    if any(weight.compute_dtype in {"float16", "bfloat16"} for weight in weights):
        yield (
            "ONNX Runtime rebuilds weights from conductances of half precision in every run; with conductances of "
            "float32, or what `onnx-gconv restore` writes, it runs at full speed."
        )


def _sharing_remarks(manifest: Manifest) -> Iterator[str]:
    """A sentence for each weight that nodes read in another way than as the weight of an MVM op."""
    for record in manifest.weights:
        others = [consumer for consumer in record.consumers if not consumer.is_mvm]
        digital = [_label(consumer) for consumer in others if consumer.reads == "digital"]
        rebuilt = [_label(consumer) for consumer in others if consumer.reads == "rebuilt"]
        if digital:
            verb = "reads" if len(digital) == 1 else "read"
            yield f"{record.quoted}: {listed(digital)} {verb} the digital copy '{record.digital_copy}'."
        if rebuilt:
            verb = "reads" if len(rebuilt) == 1 else "read"
            why = ", through a node that rearranges it for an MVM op too" if record.digital_copy else ""
            yield f"{record.quoted}: {listed(rebuilt)} {verb} the rebuilt weight like the MVM ops{why}."


def _label(consumer: ConsumerRecord) -> str:
    return f"{consumer.op_type} {consumer.node}".rstrip()
