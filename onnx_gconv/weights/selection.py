"""Choosing weights by patterns over the names that people know."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.errors import ConfigError
from onnx_gconv.weights.exporter_names import enclosing_modules, modules_of, op_type_of
from onnx_gconv.weights.readers import readers
from onnx_gconv.weights.skip_reasons import SkipReason
from onnx_gconv.weights.weight_records import FoundWeight, SkippedWeight, WeightSurvey

__all__ = ["WeightSelection"]

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
                raise ConfigError(self._unmatched(pattern, survey))
        return WeightSurvey(tuple(kept), (*survey.skipped, *left_out))

    @staticmethod
    def _first_match(patterns: Iterable[str], weight: FoundWeight, matched: dict[str, bool]) -> str | None:
        """The first pattern that matches; all that match are noted."""
        names = _names(weight)
        matching = [pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)]
        matched.update(dict.fromkeys(matching, True))
        return matching[0] if matching else None

    @staticmethod
    def _unmatched(pattern: str, survey: WeightSurvey) -> str:
        skipped = [
            item
            for item in survey.skipped
            if any(fnmatch.fnmatchcase(name, pattern) for name in _names_of_skipped(item))
        ]
        if skipped:
            item = skipped[0]
            return (
                f"the pattern '{pattern}' matches no weight that can be mapped: '{item.name}' is skipped "
                f"({item.reason.explanation})"
            )
        names = sorted({name for weight in survey.weights for name in _names(weight)})
        nearest = (
            difflib.get_close_matches(pattern, names, n=_MOST_SUGGESTIONS, cutoff=0.3) or names[:_MOST_SUGGESTIONS]
        )
        listed = ", ".join(f"'{name}'" for name in nearest) or "none: the model has no weight that can be mapped"
        return (
            f"the pattern '{pattern}' matches no weight and no parameter, node, op type or module of one; "
            f"nearest names: {listed}"
        )


def _names(weight: FoundWeight) -> list[str]:
    nodes = [consumer.node for consumer in weight.consumers if consumer.is_mvm]
    return [weight.name, *weight.parameters, *_names_of_nodes(nodes)]


def _names_of_skipped(item: SkippedWeight) -> list[str]:
    nodes = [] if item.value is None else [node for node, _ in readers(item.value)]
    return [item.name, *item.parameters, *_names_of_nodes(nodes)]


def _names_of_nodes(nodes: Sequence[ir.Node]) -> list[str]:
    modules = enclosing_modules(module for node in nodes for module in modules_of(node))
    own = (node.name for node in nodes if node.name)
    return list(dict.fromkeys((*own, *modules, *map(op_type_of, nodes))))
