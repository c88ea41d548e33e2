"""Which local functions of a model use weights: their own, or those that a call hands them."""

from __future__ import annotations

import onnx_ir as ir

from onnx_gconv.weights.constant_values import ConstantValues
from onnx_gconv.weights.function_weights import FunctionWeights
from onnx_gconv.weights.scopes import scopes

__all__ = ["functions_with_weights"]


def functions_with_weights(model: ir.Model) -> frozenset[ir.OperatorIdentifier]:
    """The functions that have to be inlined before their weights can be mapped.

    These are the functions whose bodies hold a constant for a weight slot, in their own nodes or in those of a function
    that they call, and the functions that the graphs of the model call with a constant for a weight slot.
    """
    functions, all_scopes = FunctionWeights(model), scopes(model)
    values = ConstantValues(model, all_scopes)
    found = {item for item, function in model.functions.items() if any(True for _ in functions.constants_in(function))}
    for scope in all_scopes:
        for node in scope.graph:
            for indices in functions.weight_arguments(node):
                arguments = [node.inputs[index] for index in sorted(indices) if index < len(node.inputs)]
                given = [value for value in arguments if value is not None]
                if given and all(values.is_constant(value) for value in given):
                    found.add(node.op_identifier())
    return frozenset(found)
