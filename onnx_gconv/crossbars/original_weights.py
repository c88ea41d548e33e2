"""Finds the weights of the original model that the manifest of a mapped model describes."""

from __future__ import annotations

from functools import cached_property

import onnx_ir as ir

from onnx_gconv.mapping import WeightRecord
from onnx_gconv.weights import LOOKUP_OPS, FoundWeight, find_weights

__all__ = ["OriginalWeights", "original_place"]


def original_place(record: WeightRecord) -> tuple[str, str]:
    """The path of the graph that has the weight in the original model, and the name of the weight."""
    return record.graph if record.moved_from is None else record.moved_from, record.name


class OriginalWeights:
    """The weights of an original model.

    Args:
        model: The original model, with functions inlined and packed weights decoded in the same way as by the mapping.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def find(self, record: WeightRecord) -> FoundWeight | None:
        """Find the weight that an entry of the manifest describes.

        Returns:
            The weight of that name in the same graph, or else the only weight of that name in the model; None if there
            is none, or if it has another type or shape.
        """
        return self._fitting(record, self._constants) or self._fitting(record, self._numbers_of_codes)

    @staticmethod
    def _fitting(record: WeightRecord, by_name: dict[str, list[FoundWeight]]) -> FoundWeight | None:
        path, name = original_place(record)
        named = by_name.get(name, [])
        found = [item for item in named if item.scope.path == path] or named
        if len(found) != 1 or found[0].shape != record.shape or found[0].tensor.dtype != record.ir_dtype:
            return None
        return found[0]

    @cached_property
    def _constants(self) -> dict[str, list[FoundWeight]]:
        return self._by_name(dequantized=False)

    @cached_property
    def _numbers_of_codes(self) -> dict[str, list[FoundWeight]]:
        """Also dequantized integer codes: the manifest does not say whether these numbers or the codes were mapped."""
        return self._by_name(dequantized=True)

    def _by_name(self, *, dequantized: bool) -> dict[str, list[FoundWeight]]:
        lookups = {op_type for _, op_type in LOOKUP_OPS}
        survey = find_weights(self._model, lookups=lookups, freeze_inputs=True, adapters=True, dequantized=dequantized)
        found: dict[str, list[FoundWeight]] = {}
        for weight in survey.weights:
            found.setdefault(weight.name, []).append(weight)
        return found
