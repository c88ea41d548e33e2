"""Finds the nodes of a model that draw random numbers, so that its runs differ from each other."""

from __future__ import annotations

import itertools

import onnx_ir as ir

__all__ = ["random_nodes"]

# Dropout draws random numbers in training mode. The last four ops are ONNX Runtime's.
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
    | {"Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"}
)


def random_nodes(model: ir.Model) -> tuple[ir.Node, ...]:
    """The nodes that may draw random numbers, in the main graph, in bodies and in functions."""
    nodes = itertools.chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))
    return tuple(node for node in nodes if node.op_type in _RANDOM_OPS)
