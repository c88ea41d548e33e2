"""Why a weight is not mapped: one list, which the documentation repeats."""

from __future__ import annotations

import enum

__all__ = ["SkipReason"]


class SkipReason(enum.StrEnum):
    """A reason. The value is what manifests and JSON output say; `explanation` is for people."""

    BLOCK_PACKED = "block_packed"
    QUANTIZED = "quantized"
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
    SkipReason.BLOCK_PACKED: "the op packs its weights in blocks of a layout of its own, which nodes cannot rebuild; "
    "map the model before it is quantized or optimized for one processor, or quantize it to DequantizeLinear nodes",
    SkipReason.QUANTIZED: "it consists of integer codes, which were not to be mapped",
    SkipReason.BEHIND_OTHER_NODES: "nodes that compute the weight cannot be evaluated; fold constants first",
    SkipReason.CONSTANT_EXPRESSION: "the node multiplies it with another constant, not with activations; fold "
    "constants first",
    SkipReason.DTYPE_NOT_SUPPORTED: "weights of this type are not mapped: only float8, float16, bfloat16, float32, "
    "float64 and integers of up to 32 bits are",
    SkipReason.OPSET_TOO_OLD: "the Cast that gives its type back needs a newer opset; raise it (--upgrade-opset, "
    "upgrade_opset=True)",
    SkipReason.OVERRIDABLE_INPUT: "it is the default of a graph input, so a caller may replace it; make it a constant "
    "(--freeze-inputs, freeze_inputs=True)",
    SkipReason.INSIDE_FUNCTION: "a local function uses it that nobody calls, that cannot be inlined, or that has to "
    "stay (--no-inline, inline_functions=False)",
    SkipReason.EMPTY: "it has no elements",
    SkipReason.INVALID_SHAPE: "its shape does not fit the op that reads it",
    SkipReason.NOT_SELECTED: "patterns or an override of the configuration leave it out",
    SkipReason.REFUSED_VALUES: "it has values that no conductance can hold",
    SkipReason.NOT_AN_MVM_WEIGHT: "no MVM op reads it as a weight",
}
