"""Why a weight is not mapped: one list, which the documentation repeats."""

from __future__ import annotations

import enum

__all__ = ["SkipReason"]


class SkipReason(enum.StrEnum):
    """A reason. The value is what manifests and JSON output say; `explanation` is for people."""

    OP_NOT_SUPPORTED = "op_not_supported"
    BEHIND_OTHER_NODES = "behind_other_nodes"
    CONSTANT_EXPRESSION = "constant_expression"
    DTYPE_NOT_SUPPORTED = "dtype_not_supported"
    OPSET_TOO_OLD = "opset_too_old"
    OVERRIDABLE_INPUT = "overridable_input"
    INSIDE_FUNCTION = "inside_function"
    EMPTY = "empty"
    INVALID_SHAPE = "invalid_shape"
    NOT_SELECTED = "not_selected"
    REFUSED_VALUES = "refused_values"
    NOT_AN_MVM_WEIGHT = "not_an_mvm_weight"

    @property
    def explanation(self) -> str:
        """What the reason means and, where there is one, the remedy."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    SkipReason.OP_NOT_SUPPORTED: "the MVM op that reads it is not mapped by this version",
    SkipReason.BEHIND_OTHER_NODES: "nodes that do not only rearrange it stand between the constant and the weight "
    "slot; fold constants first",
    SkipReason.CONSTANT_EXPRESSION: "the node multiplies it with another constant, not with activations; fold "
    "constants first",
    SkipReason.DTYPE_NOT_SUPPORTED: "only float16, bfloat16, float32 and float64 weights are mapped by this version",
    SkipReason.OPSET_TOO_OLD: "the Cast that gives its type back needs opset 13; raise the opset (--upgrade-opset, "
    "upgrade_opset=True)",
    SkipReason.OVERRIDABLE_INPUT: "it is the default of a graph input, so a caller may replace it; make it a constant "
    "(--freeze-inputs, freeze_inputs=True)",
    SkipReason.INSIDE_FUNCTION: "a local function uses it that nobody calls, that cannot be inlined, or that has to "
    "stay (--no-inline, inline_functions=False)",
    SkipReason.EMPTY: "it has no elements",
    SkipReason.INVALID_SHAPE: "its shape does not fit the op that reads it",
    SkipReason.NOT_SELECTED: "the include and exclude patterns leave it out",
    SkipReason.REFUSED_VALUES: "it has values that no conductance can hold",
    SkipReason.NOT_AN_MVM_WEIGHT: "no MVM op reads it as a weight",
}
