"""The remedies for a mapping that other tools have damaged or folded away."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnx_gconv.crossbars.checked_weights import checked_weights
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.mapping.unlisted import rebuilding_node
from onnx_gconv.passes.check_mapping import Violation

__all__ = ["carries_nothing", "is_told_of_folded", "remedy_in", "remedy_of"]

_MAP_LAST = "map the original again, after all other tools (docs/other-tools.md)"
_OR_RESTORE = "or make a plain model of this one with `onnx-gconv restore`"
_TAKE_AS_MAPPED = f"take the model as it was mapped, or {_MAP_LAST}"
_MAP_IT = "map it with `onnx-gconv map`; if it was mapped, map it after all other tools (docs/other-tools.md)"


def remedy_of(violations: Sequence[Violation], folded: Collection[str], *, is_plain: bool) -> str | None:
    """The remedy for violations of a mapping; None if there are none.

    Args:
        violations: The violations that `CheckMapping` found.
        folded: The names of the weights whose mapping another tool has folded away.
        is_plain: Whether the model has no trace of a mapping, see `carries_nothing`.
    """
    if not violations:
        return None
    if is_plain:
        return _MAP_IT
    if not folded:
        return _TAKE_AS_MAPPED
    is_restorable = all(is_told_of_folded(item, folded) for item in violations)
    return f"{_MAP_LAST}, {_OR_RESTORE}" if is_restorable else _MAP_LAST


def remedy_in(model: ir.Model, violations: Sequence[Violation]) -> str | None:
    """The remedy for a model in which `CheckMapping` finds these violations; None if there are none.

    Raises:
        ModelError: If external data cannot be read.
    """
    if not violations:
        return None
    is_plain = carries_nothing(model)
    # If the manifest cannot be read, that is the only violation, and it names no weight.
    is_readable = not is_plain and any(item.weight is not None for item in violations)
    manifest = read_manifest(model) if is_readable else None
    checked = () if manifest is None else checked_weights(manifest, model)
    return remedy_of(violations, {item.record.name for item in checked if item.is_folded}, is_plain=is_plain)


def carries_nothing(model: ir.Model) -> bool:
    """Whether a model has no trace of a mapping: neither a manifest nor nodes that rebuild weights."""
    return MANIFEST_KEY not in model.metadata_props and rebuilding_node(model) is None


def is_told_of_folded(item: Violation, folded: Collection[str]) -> bool:
    """Whether a violation is only that the mapping of a weight was folded away."""
    return item.weight in folded and item.message.startswith("the mapping was folded away")
