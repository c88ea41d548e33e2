"""Choosing weights by patterns over the names that people know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError
from onnx_gconv.weights.skip_reasons import SkipReason
from onnx_gconv.weights.weight_names import WeightNames, unmatched
from onnx_gconv.weights.weight_records import FoundWeight, SkippedWeight, WeightSurvey

__all__ = ["WeightSelection"]


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
        names = WeightNames.of(weight)
        matching = [pattern for pattern in patterns if names.match(pattern)]
        matched.update(dict.fromkeys(matching, True))
        return matching[0] if matching else None
