"""Choosing weights by patterns over the names that people know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError
from onnx_gconv.weights.names import NameKind
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
_MOST_SUGGESTIONS = 3


@dataclass(frozen=True)
class WeightSelection:
    """Globs (``*``, ``?``, ``[abc]``; case matters) over the names that people know a weight by.

    These are: its own name, the parameters of the exported program that it comes from, the names and the op types of
    the MVM nodes that read it (``Conv``, ``com.microsoft.FusedConv``), and the modules of the exported program that
    these nodes stand in. A module stands for all weights in it and in its inner modules.

    Attributes:
        include: Weights to map; all if empty.
        exclude: Weights to leave as they are, even if included.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def apply(self, survey: WeightSurvey) -> WeightSurvey:
        """Move the weights that the patterns leave out to the skipped ones.

        Raises:
            ConfigError: If a pattern matches no weight that could be mapped; the message names the nearest names.
        """
        matched: dict[str, bool] = dict.fromkeys((*self.include, *self.exclude), False)
        kept: list[FoundWeight] = []
        left_out: list[SkippedWeight] = []
        for weight in survey.weights:
            included = self._first_match(self.include, weight, matched)
            excluded = self._first_match(self.exclude, weight, matched)
            if excluded is None and (included is not None or not self.include):
                kept.append(weight)
                continue
            detail = f"excluded by '{excluded}'" if excluded is not None else "not matched by an include pattern"
            left_out.append(SkippedWeight.of(weight, SkipReason.NOT_SELECTED, detail))
        for pattern, found in matched.items():
            if not found:
                raise ConfigError(unmatched(pattern, survey))
        return WeightSurvey(tuple(kept), (*survey.skipped, *left_out))

    @staticmethod
    def _first_match(patterns: Iterable[str], weight: FoundWeight, matched: dict[str, bool]) -> str | None:
        """The first pattern that matches; all that match are noted."""
        names = weight.names
        matching = [pattern for pattern in patterns if names.match(pattern)]
        matched.update(dict.fromkeys(matching, True))
        return matching[0] if matching else None


def unmatched(pattern: str, survey: WeightSurvey, kind: NameKind | None = None) -> str:
    """What to say of a pattern that matches no weight that can be mapped: why, or the nearest names."""
    skipped = next((item for item in survey.skipped if item.names.match(pattern, kind)), None)
    if skipped is not None:
        return (
            f"the pattern '{pattern}' matches no weight that can be mapped: '{skipped.name}' is skipped "
            f"({skipped.reason.explanation})"
        )
    names = sorted({name for weight in survey.weights for name in weight.names.of_kind(kind)})
    nearest = difflib.get_close_matches(pattern, names, n=_MOST_SUGGESTIONS, cutoff=0.3) or names[:_MOST_SUGGESTIONS]
    if nearest:
        listed = ", ".join(f"'{name}'" for name in nearest)
    elif survey.weights:
        listed = "none: the model says none"
    else:
        listed = "none: the model has no weight that can be mapped"
    return f"the pattern '{pattern}' matches {_KIND_IN_WORDS[kind]}; nearest names: {listed}"
