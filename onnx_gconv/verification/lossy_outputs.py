"""Judges outputs of models with rounded, clipped or measured weights by the outputs that the rebuilt weights give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_gconv.mapping import Manifest
from onnx_gconv.verification.outputs import OutputsReport

__all__ = ["JUDGED_BY_REBUILT_WEIGHTS", "judged", "reasons_for_losses"]

JUDGED_BY_REBUILT_WEIGHTS = (
    "the errors of outputs are those against the original, but what passes is judged against the original with the "
    "rebuilt weights in place of its own"
)


def reasons_for_losses(manifest: Manifest) -> tuple[str, ...]:
    """Return why a mapped model is expected to have other outputs than the original, each reason as a clause."""
    chips = [item.measured for item in manifest.weights if item.measured is not None]
    # Integers with a level each are rebuilt exactly, although they are rounded to levels.
    has_losses = any(item.loss is not None and (item.loss.rms_error or not item.rounded) for item in manifest.weights)
    return (
        *(["the mapping rounds or clips weights on purpose"] if has_losses else []),
        *(["conductances were measured on a chip"] if any(chip.simulated is None for chip in chips) else []),
        *(["conductances are those of a simulated chip"] if any(chip.simulated for chip in chips) else []),
    )


def judged(against_original: OutputsReport, against_rebuilt: OutputsReport, reasons: Sequence[str]) -> OutputsReport:
    """Return the comparison with the original, but with the verdicts of the comparison with the rebuilt weights.

    Args:
        against_original: The comparison of the mapped model with the original.
        against_rebuilt: The comparison of the mapped model with the original that has the rebuilt weights.
        reasons: Why outputs differ from the original's, see `reasons_for_losses`.
    """
    if against_rebuilt.not_compared is not None or against_original.not_compared is not None:
        return against_original
    verdicts = {(item.label, item.optimization): item for item in against_rebuilt.comparisons}
    comparisons = []
    for item in against_original.comparisons:
        verdict = verdicts.get((item.label, item.optimization))
        if verdict is None or item.is_random or verdict.is_random:
            comparisons.append(item)
            continue
        # The reason why an error against the original is not defined is reported, although it is no failure.
        note = item.note if verdict.passed and item.max_abs_error is None else None
        comparisons.append(
            replace(
                item,
                passed=verdict.passed,
                tolerance=verdict.tolerance,
                allowed_mismatches=verdict.allowed_mismatches,
                note=verdict.note or note,
                rebuilt_error=verdict.max_abs_error,
            )
        )
    return replace(
        against_original,
        comparisons=tuple(comparisons),
        failures=tuple(dict.fromkeys((*against_original.failures, *against_rebuilt.failures))),
        notes=(f"{' and '.join(reasons)}; {JUDGED_BY_REBUILT_WEIGHTS}", *against_original.notes),
    )
