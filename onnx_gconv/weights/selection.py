"""Selects weights by patterns over the names that people know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion
from onnx_gconv.weights.names import NameKind, as_glob
from onnx_gconv.weights.records import FoundWeight, SkippedWeight, SkipReason, WeightSurvey

__all__ = ["WeightSelection", "unmatched"]

_KIND_IN_WORDS: dict[NameKind | None, str] = {
    None: "no weight and no parameter, node, op type or module of one",
    "weight": "no name of a weight that can be mapped",
    "parameter": "no parameter of a weight that can be mapped",
    "node": "no node that reads a weight that can be mapped",
    "module": "no module with a weight that can be mapped",
    "op": "no op type of a node that reads a weight that can be mapped",
}


@dataclass(frozen=True)
class WeightSelection:
    """A selection of weights by names or globs (``*``, ``?``, ``[abc]``; case matters).

    A pattern can match the name of a weight, a parameter of the exported program that the weight comes from, the name
    or the op type of an MVM node that reads it (``Conv``, ``com.microsoft.FusedConv``), or a module of the exported
    program that contains such a node. A module stands for all weights in it and in its inner modules.

    Attributes:
        include: Weights to map; all if empty.
        exclude: Weights to leave as they are, even if included.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def apply(self, survey: WeightSurvey) -> WeightSurvey:
        """Move the weights that the patterns leave out to the skipped ones.

        Raises:
            ConfigError: If a pattern matches no weight that could be mapped; the message suggests names.
        """
        names = [weight.names for weight in survey.weights]
        globs = {pattern: as_glob(pattern, names) for pattern in (*self.include, *self.exclude)}
        matched: dict[str, bool] = dict.fromkeys(globs, False)
        kept: list[FoundWeight] = []
        left_out: list[SkippedWeight] = []
        for weight, known in zip(survey.weights, names, strict=True):
            matching = {pattern for pattern, glob in globs.items() if known.match(glob)}
            matched.update(dict.fromkeys(matching, True))
            included = next((pattern for pattern in self.include if pattern in matching), None)
            excluded = next((pattern for pattern in self.exclude if pattern in matching), None)
            if excluded is None and (included is not None or not self.include):
                kept.append(weight)
                continue
            detail = f"excluded by '{excluded}'" if excluded is not None else "not matched by an include pattern"
            left_out.append(SkippedWeight.of(weight, SkipReason.NOT_SELECTED, detail))
        for pattern, found in matched.items():
            if not found:
                raise ConfigError(unmatched(pattern, survey))
        return WeightSurvey(tuple(kept), (*survey.skipped, *left_out))


def unmatched(pattern: str, survey: WeightSurvey, kind: NameKind | None = None) -> str:
    """The message for a pattern that matches no weight that can be mapped: why the weight is skipped, or near names."""
    glob = as_glob(pattern, (item.names for item in survey.skipped), kind)
    skipped = next((item for item in survey.skipped if item.names.match(glob, kind)), None)
    if skipped is not None:
        return (
            f"the pattern '{pattern}' matches no weight that can be mapped: {skipped.quoted} is skipped "
            f"({skipped.reason.explanation})"
        )
    names = sorted({name for weight in survey.weights for name in weight.names.of_kind(kind)})
    lacks = "such names" if survey.weights else "weight that can be mapped"
    there = suggestion(pattern, names, of_model=True) or f"the model has no {lacks}"
    return f"the pattern '{pattern}' matches {_KIND_IN_WORDS[kind]}; {there}"
