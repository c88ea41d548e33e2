"""Recognizes the matrices of adapters, such as LoRA, by their names.

Adapters are swapped while the weights that they adapt stay, so they suit digital hardware better than a chip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

from onnx_gconv.known_names import is_anonymous
from onnx_gconv.weights.names import modules_of, parameters_of

__all__ = ["is_of_adapter"]

# The part of a name by which PEFT, diffusers and kohya's scripts mark matrices of LoRA, LoHa, LoKr and VeRA.
_ADAPTER = re.compile(
    r"(?:^|[./_:])(?:lora_(?:embedding_)?[abe]|lora[._](?:down|up)|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|vera_[ab])"
    r"(?=$|[./_:])",
    re.IGNORECASE,
)


def is_of_adapter(value: ir.Value, sources: Iterable[str], products: Iterable[ir.Node]) -> bool:
    """Whether names say that a weight is a matrix of an adapter.

    A weight into which an adapter has been merged is none: it comes from parameters of the base model, too.

    Args:
        value: The weight.
        sources: The names of the constants that the weight is computed from; empty if it is a constant itself.
        products: The nodes that multiply activations with the weight.
    """
    name = value.name or ""
    if sources := tuple(sources):
        return all(map(_is_name_of_adapter, sources))
    if _is_name_of_adapter(name):
        return True
    if parameters := [each for each in parameters_of(value) if each != name]:
        return all(map(_is_name_of_adapter, parameters))
    nodes = list(products)
    return is_anonymous(name) and bool(nodes) and all(map(_stands_in_adapter, nodes))


def _is_name_of_adapter(name: str) -> bool:
    return _ADAPTER.search(name) is not None


def _stands_in_adapter(node: ir.Node) -> bool:
    return _is_name_of_adapter(node.name or "") or any(map(_is_name_of_adapter, modules_of(node)))
