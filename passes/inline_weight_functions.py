"""The pass that inlines local functions that use weights, so that the weights can be mapped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common

from onnx_gconv.errors import ModelError
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes.model_pass import ModelPass
from onnx_gconv.weights import Scope, default_opset, scopes
from onnx_gconv.weights.functions import functions_with_weights

__all__ = ["InlineWeightFunctions", "InliningResult"]

# Ops whose result has the elements of their first input in another order or shape.
_REARRANGE = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass
class InliningResult(ir.passes.PassResult):
    """What `InlineWeightFunctions` did.

    Attributes:
        inlined: The functions that were inlined, as ``domain.name``.
        left: The functions with weights that cannot be inlined, each with the reason.
    """

    inlined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class InlineWeightFunctions(ModelPass[InliningResult]):
    """Replaces calls of local functions that use weights by the bodies of the functions::

        before:  dense(x) -> a,  dense(a) -> y,  where dense(v) = MatMul(v, K) with a Constant K
        after:   K,  MatMul(x, K) -> a,  MatMul(a, K) -> y

    All calls of a function still share the constants of its body: a constant is moved to the innermost graph around all
    its readers. Constants that a DequantizeLinear node reads in a body of an If or a loop are not moved, but copied for
    each call, because ONNX Runtime (1.32) does not load a model that has them outside. Functions without weights stay.
    A function that imports another version of an operator set than the model cannot be inlined and stays, too.
    """

    def call(self, model: ir.Model) -> InliningResult:
        """Inline the functions.

        Raises:
            ModelError: If a function that uses weights calls itself, or takes a graph as an attribute. Some functions
                may be inlined by then.
        """
        before = tuple(model.functions)
        left = {item: reason for item in before if (reason := _obstacle(model, model.functions[item]))}
        constants: dict[int, object] = {}
        modified = False
        # Inlining a function may move its weights into another function, or make them arguments of one.
        while wanted := functions_with_weights(model) - left.keys():
            _use_short_name(model.opset_imports)
            constants.update((id(item), item) for name in wanted for item in _constant_data(model.functions[name]))
            for name in wanted:
                _use_short_name(model.functions[name].opset_imports)
            if not _inline(model, wanted):
                break  # no node calls them
            modified = True
        if modified:
            names = UniqueNames(model)
            _share(model, constants, names)
            for graph in (model.graph, *(function.graph for function in model.functions.values())):
                _separate_names(graph, frozenset(), names)
        return InliningResult(
            model,
            modified,
            inlined=tuple(_label(item) for item in before if item not in model.functions),
            left=tuple(f"{_label(item)} ({left[item]})" for item in functions_with_weights(model) & left.keys()),
        )


def _obstacle(model: ir.Model, function: ir.Function) -> str | None:
    """Why a function cannot be inlined; None if it can."""
    for domain, version in function.opset_imports.items():
        known = default_opset(model) if domain in {"", "ai.onnx"} else model.opset_imports.get(domain)
        if known is not None and known != version:
            return f"it imports version {version} of '{domain or 'ai.onnx'}', the model version {known}"
    return None


def _use_short_name(opset_imports: MutableMapping[str, int]) -> None:
    """Import the default domain under its short name; onnx-ir treats ``""`` and ``ai.onnx`` as two domains."""
    if "ai.onnx" in opset_imports:
        opset_imports.setdefault("", opset_imports.pop("ai.onnx"))


def _inline(model: ir.Model, wanted: Collection[ir.OperatorIdentifier]) -> bool:
    inlining = ir.passes.common.InlinePass(lambda function: function.identifier() in wanted)
    try:
        return inlining(model).modified
    except (ir.passes.PassError, ir.passes.PreconditionError, RuntimeError, ValueError) as error:
        raise ModelError(f"local functions cannot be inlined: {' '.join(str(error).split())}") from error


def _constant_data(function: ir.Function) -> Iterator[object]:
    """The data of the constants in a function's body, which all of its inlined copies share."""
    for node in function.all_nodes():
        if (data := _data_of_node(node)) is not None:
            yield data
    for graph in function.subgraphs():
        for value in graph.initializers.values():
            yield value.const_value


def _data_of_node(node: ir.Node) -> Any:  # noqa: ANN401 - a tensor, or a list of numbers
    if node.op_type != "Constant" or node.domain != "":
        return None
    attribute = next(iter(node.attributes.values()), None)
    return None if attribute is None or attribute.is_ref() else attribute.value


def _share(model: ir.Model, constants: dict[int, object], names: UniqueNames) -> None:
    """Replace the copies that inlining made of a constant by one, in the innermost graph around all of them."""
    copies: dict[int, list[tuple[ir.Value, Scope]]] = {}
    for scope in scopes(model):
        for value, data in _constants_of(scope.graph):
            # A graph output keeps its own value, because its name belongs to the interface of the graph.
            if id(data) in constants and not value.is_graph_output():
                copies.setdefault(id(data), []).append((value, scope))
    for (kept, home), *others in copies.values():
        around = _innermost_around([home, *(scope for _, scope in others)])
        if not others or (around is not home and any(map(_is_dequantized, (kept, *(value for value, _ in others))))):
            continue
        for value, scope in others:
            value.replace_all_uses_with(kept)
            _take_out(value, scope.graph)
        if around is not home or any(scope is not home for _, scope in others):
            _take_out(kept, home.graph)
            _put_first(kept, around.graph, names)


def _is_dequantized(value: ir.Value) -> bool:
    """Whether a DequantizeLinear node reads a value, as codes, scale or zero point, directly or rearranged."""
    for node, index in value.uses():
        if node.domain != "":
            continue
        if node.op_type == "DequantizeLinear":
            return True
        if node.op_type in _REARRANGE and index == 0 and _is_dequantized(node.outputs[0]):
            return True
    return False


def _constants_of(graph: ir.Graph) -> Iterator[tuple[ir.Value, object]]:
    for value in graph.initializers.values():
        yield value, value.const_value
    for node in graph:
        if (data := _data_of_node(node)) is not None:
            yield node.outputs[0], data


def _take_out(value: ir.Value, graph: ir.Graph) -> None:
    if (node := value.producer()) is not None:
        graph.remove(node)
    else:
        del graph.initializers[value.name or ""]


def _put_first(value: ir.Value, graph: ir.Graph, names: UniqueNames) -> None:
    if value.name in {item.name for item in _values_of(graph)}:
        value.name = names.new(value.name or "")
    if (node := value.producer()) is not None:
        graph.insert_before(graph[0], node)
    else:
        graph.initializers.add(value)


def _innermost_around(places: Iterable[Scope]) -> Scope:
    """The innermost scope that contains all of the given ones, or is one of them."""
    chains = [_chain(scope) for scope in places]
    around = chains[0][0]
    for level in zip(*chains, strict=False):
        if any(scope is not level[0] for scope in level):
            break
        around = level[0]
    return around


def _chain(scope: Scope) -> list[Scope]:
    """The scopes from the main graph to a scope."""
    chain = [scope]
    while (parent := chain[-1].parent) is not None:
        chain.append(parent)
    return chain[::-1]


def _separate_names(graph: ir.Graph, around: frozenset[str | None], names: UniqueNames) -> None:
    """Rename values that share a name with another value of their graph or of a graph around it.

    In a file, values are told apart by their names. The pass of onnx-ir renames only the results of nodes, and ignores
    initializers in bodies.
    """
    taken = set(around)
    for value in dict.fromkeys(_values_of(graph)):  # an input with a default is an initializer, too
        if value.name in taken:
            value.name = names.new(value.name or "")
        taken.add(value.name)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _separate_names(attribute.as_graph(), frozenset(taken), names)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _separate_names(body, frozenset(taken), names)


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _label(identifier: ir.OperatorIdentifier) -> str:
    domain, name, overload = identifier
    return f"{domain}.{name}" + (f":{overload}" if overload else "")
