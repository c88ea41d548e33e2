"""The pass that raises the opset of a model that is too old to be mapped, with the version converter of onnx."""

from __future__ import annotations

import re

import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_into_memory
from onnx_gconv.passes.model_pass import ModelPass
from onnx_gconv.tensors.external import attribute_tensors
from onnx_gconv.weights import default_opset, find_weights
from onnx_gconv.weights.opsets import OLDEST_CASTS, OLDEST_OPSET, set_default_opset

__all__ = ["RaiseOpset", "raised_opset"]

# Larger initializers are kept away from the converter, which holds several copies of everything. It reads the values of
# shapes, axes and scales only, and these are small.
_LARGEST_CONVERTED_BYTES = 1024


class RaiseOpset(ModelPass[ir.passes.PassResult]):
    """Raises the opset of the default domain with ``onnx.version_converter``.

    Large initializers of the main graph stay where they are, on disk or in memory; everything else is loaded into
    memory. The converter drops the metadata of nodes and values; the metadata of the model is kept. If the pass fails,
    the model is unchanged.

    Args:
        opset: The version to raise the opset to; None for the lowest at which all weights of the model can be mapped.
    """

    def __init__(self, opset: int | None = None) -> None:
        super().__init__()
        self._opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raise the opset, unless it is high enough.

        Raises:
            ModelError: If the converter cannot raise the opset.
        """
        before, opset = default_opset(model), self._opset if self._opset is not None else _lacking_opset(model)
        if opset is None or (before is not None and before >= opset):
            return ir.passes.PassResult(model, modified=False)
        raised = _raised(model, before, opset)
        model.graph, model.ir_version = raised.graph, raised.ir_version
        return ir.passes.PassResult(model, modified=True)


def raised_opset(model: ir.Model) -> tuple[str, ...]:
    """Raise the opset of a model to one at which its weights can be mapped.

    Returns:
        A note for the user if the opset was raised, else nothing.

    Raises:
        ModelError: If the opset cannot be raised.
    """
    before = default_opset(model)
    if not RaiseOpset()(model).modified:
        return ()
    return (f"the opset is {default_opset(model)}, raised from {before} with onnx.version_converter",)


def _lacking_opset(model: ir.Model) -> int | None:
    """The lowest opset at which all weights of a model can be mapped; None if the model's opset suffices."""
    opset = default_opset(model)
    if opset is None or opset >= max(OLDEST_CASTS.values()):
        return None
    types = {weight.tensor.dtype for weight in find_weights(model, freeze_inputs=True).weights}
    if model.functions:  # a weight may be in a function, or be an argument of one
        types.update(tensor.dtype for _, _, tensor in attribute_tensors(model))
        types.update(v.const_value.dtype for v in model.graph.initializers.values() if v.const_value is not None)
    needed = max([OLDEST_OPSET, *(OLDEST_CASTS.get(dtype, 0) for dtype in types)])
    return needed if opset < needed else None


def _raised(model: ir.Model, before: int | None, opset: int) -> ir.Model:
    """A model at a newer opset; it takes over the parts of the given model, which is unchanged only if this fails.

    Raises:
        ModelError: If the converter cannot raise the opset.
    """
    failure = f"onnx.version_converter cannot raise the model from opset {before} to {opset}"
    remedy = f"export it again with opset {opset} or newer"
    if model.functions:  # the converter drops functions silently
        raise ModelError(f"{failure}: it has local functions; inline them first (onnx_ir.passes.common.InlinePass)")
    set_default_opset(model, before or opset)
    order = list(model.graph.initializers)
    tensors = _set_aside(model.graph)
    added = [name for name in tensors if _add_input(model.graph, name)]
    for name in tensors:
        del model.graph.initializers[name]
    graph = model.graph  # gets the initializers back if the converter fails
    try:
        load_into_memory(model)
        expected = _interface(graph)
        try:
            converted = _converted(model, before or opset, opset)
        except Exception as error:  # the converter's errors have no common base class
            raise ModelError(f"{failure}: {_reason(error)}; {remedy}") from error
        if _interface(converted.graph) != expected:
            raise ModelError(f"{failure}: it changes the inputs or outputs; {remedy}")
        graph = converted.graph
    finally:
        _put_back(graph, tensors, added, order)
    return converted


def _converted(model: ir.Model, before: int, opset: int) -> ir.Model:
    proto = ir.to_proto(model)
    for version in range(before + 1, opset + 1):
        # The converter's adapters need shapes, for instance where a bias is broadcast along an axis. Files need not
        # have shapes, and they cannot be inferred at the oldest opsets, so they are inferred anew at each version.
        proto = onnx.version_converter.convert_version(onnx.shape_inference.infer_shapes(proto), version)
    return ir.from_proto(proto)


def _set_aside(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """The large tensors that are kept away from the converter, by name."""
    return {
        name: value.const_value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LARGEST_CONVERTED_BYTES
    }


def _add_input(graph: ir.Graph, name: str) -> bool:
    """Make an initializer a graph input, so that the converter knows its type and shape; False if it was one before."""
    value = graph.initializers[name]
    if value.is_graph_input():
        return False
    graph.inputs.append(value)
    return True


def _put_back(graph: ir.Graph, tensors: dict[str, ir.TensorProtocol], added: list[str], order: list[str]) -> None:
    """Put the initializers back into the graph in their old order, followed by those that the converter made."""
    values = {value.name: value for value in graph.inputs}
    kept = [value for value in graph.inputs if value.name not in set(added)]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    initializers = dict(graph.initializers)
    for name, tensor in tensors.items():
        initializers[name] = values[name]
        initializers[name].const_value = tensor
    graph.initializers.clear()
    known = [name for name in order if name in initializers]
    for name in [*known, *(name for name in initializers if name not in known)]:
        graph.initializers.add(initializers[name])


def _interface(graph: ir.Graph) -> tuple[list[str | None], list[str | None]]:
    return [value.name for value in graph.inputs], [value.name for value in graph.outputs]


def _reason(error: Exception) -> str:
    """The first line of an error's message, without the file and line of onnx's source code at its start."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^.*Assertion `.*` failed: ", "", lines[0]).rstrip(". ")
