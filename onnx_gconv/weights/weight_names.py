"""The names that people know a weight by, kind by kind, and patterns over them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import onnx_ir as ir

from onnx_gconv.weights.exporter_names import enclosing_modules, modules_of, op_type_of
from onnx_gconv.weights.readers import readers
from onnx_gconv.weights.weight_records import FoundWeight, SkippedWeight, WeightSurvey

__all__ = ["NameKind", "WeightNames", "unmatched"]

NameKind: TypeAlias = Literal["weight", "parameter", "node", "module", "op"]

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
class WeightNames:
    """The names of one weight.

    Attributes:
        weight: Its own.
        parameter: The parameters of the exported program that it comes from; its own name if the exporter names none.
        node: The MVM nodes that read it.
        module: The modules of the exported program that these stand in, and all that contain them.
        op: The op types of these nodes, ``Conv`` or ``com.microsoft.FusedConv``.
    """

    weight: tuple[str, ...]
    parameter: tuple[str, ...]
    node: tuple[str, ...]
    module: tuple[str, ...]
    op: tuple[str, ...]

    @classmethod
    def of(cls, weight: FoundWeight | SkippedWeight) -> WeightNames:
        """The names of a weight; for a skipped one, all nodes that read it count."""
        if isinstance(weight, FoundWeight):
            nodes = [consumer.node for consumer in weight.consumers if consumer.is_mvm]
        else:
            nodes = [] if weight.value is None else [node for node, _ in readers(weight.value)]
        return cls(
            weight=(weight.name,),
            parameter=weight.parameters or (weight.name,),
            node=tuple(dict.fromkeys(node.name for node in nodes if node.name)),
            module=_modules(nodes),
            op=tuple(dict.fromkeys(map(op_type_of, nodes))),
        )

    def of_kind(self, kind: NameKind | None) -> tuple[str, ...]:
        """The names of a kind, or of all kinds."""
        kinds: tuple[NameKind, ...] = get_args(NameKind) if kind is None else (kind,)
        return tuple(dict.fromkeys(name for each in kinds for name in getattr(self, each)))

    def match(self, pattern: str, kind: NameKind | None = None) -> bool:
        """Whether a glob (``*``, ``?``, ``[abc]``; case matters) is one for a name of that kind, or of any."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in self.of_kind(kind))


def unmatched(pattern: str, survey: WeightSurvey, kind: NameKind | None = None) -> str:
    """What to say of a pattern that matches no weight that can be mapped: why, or the nearest names."""
    skipped = next((item for item in survey.skipped if WeightNames.of(item).match(pattern, kind)), None)
    if skipped is not None:
        return (
            f"the pattern '{pattern}' matches no weight that can be mapped: '{skipped.name}' is skipped "
            f"({skipped.reason.explanation})"
        )
    names = sorted({name for weight in survey.weights for name in WeightNames.of(weight).of_kind(kind)})
    nearest = difflib.get_close_matches(pattern, names, n=_MOST_SUGGESTIONS, cutoff=0.3) or names[:_MOST_SUGGESTIONS]
    if nearest:
        listed = ", ".join(f"'{name}'" for name in nearest)
    elif survey.weights:
        listed = "none: the model says none"
    else:
        listed = "none: the model has no weight that can be mapped"
    return f"the pattern '{pattern}' matches {_KIND_IN_WORDS[kind]}; nearest names: {listed}"


def _modules(nodes: Sequence[ir.Node]) -> tuple[str, ...]:
    return enclosing_modules(module for node in nodes for module in modules_of(node))
