"""The pass that folds a mapping back into plain weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.crossbars.checked_weights import checked_weights, unlisted_weights
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, WeightRecord, remove_manifest
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.nodes import ROLE_KEY, WEIGHT_KEY
from onnx_gconv.mapping.preconditions import ModelPreconditionError, require_mapped
from onnx_gconv.mapping.tensor_texts import TENSOR_KEY, put_texts_back
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.mapping.value_uses import hand_over_uses
from onnx_gconv.passes.decode_packed_weights import Repacked, pack_again, repacked
from onnx_gconv.passes.model_pass import MODEL_IN_MEMORY, ModelPass
from onnx_gconv.passes.report import RestoreReport
from onnx_gconv.passes.sound_rewrite import SoundRewrite
from onnx_gconv.tensors.bits import has_same_elements
from onnx_gconv.tensors.codes import highest_code
from onnx_gconv.weights import Scope, scopes
from onnx_gconv.weights.rearrangement import node_label

__all__ = ["RestoreResult", "RestoreWeights"]


@dataclass
class RestoreResult(ir.passes.PassResult):
    """What `RestoreWeights` did.

    Attributes:
        report: The restored weights; ``print(result.report)`` lists them in words.
    """

    report: RestoreReport


class RestoreWeights(ModelPass[RestoreResult]):
    """Folds every mapped weight back into an initializer of its own name, and removes the nodes and the manifest::

        before:  Sub(W.g_plus, W.g_minus)        -> W.g_difference
                 Div(W.g_difference, W.g_scale)  -> W
                 MatMul(x, W)
        after:   x, W -> MatMul(x, W)

    A weight whose nodes another tool has folded already is a plain initializer, and stays as that tool left it.

    The weights have the values that the mapped model computes, bit for bit; they are rebuilt while they are read or
    written. A weight that was a Constant node becomes an initializer of the same graph. A digital copy of a weight is
    merged with it again if both are equal bit for bit; if not, the copy stays, so that the model computes the same.

    A weight of MatMulBnb4 that was decoded for the mapping is packed for that op again, if the op then decodes the
    weight up to the rounding errors of a mapping; a note gives the error. If not, MatMul keeps the decoded weight.

    Args:
        packs: Whether decoded weights are packed again.
    """

    def __init__(self, *, packs: bool = True) -> None:
        super().__init__()
        self._packs = packs

    def call(self, model: ir.Model) -> RestoreResult:
        """Restore the model; if the pass fails, the model is unchanged.

        Raises:
            ModelError: If the model is not mapped, if another tool has damaged the mapping (the message names the
                weight and what is wrong), or if external data cannot be read.
        """
        located, folded = _locate_all(require_mapped(model), model)
        _require_unread(located)
        copies = [_digital_copy(mapped) for mapped in located]
        # Everything that reads data, and so may fail, comes before the first change of the model.
        joined = [copy is not None and _is_equal(copy, mapped) for copy, mapped in zip(copies, located, strict=True)]
        _require_meanings(located)
        owners = scopes(model)
        _require_free_names(located, owners)
        packed = [_packed_again(mapped) if self._packs else None for mapped in located]
        rewrite = SoundRewrite(model)
        places = _Places(owners)
        restored: dict[ir.Value, ir.Value] = {}
        decoded = _Decoded(self._packs)
        for mapped, copy, is_joined in zip(located, copies, joined, strict=True):
            if mapped.value not in restored:  # another tool may have merged equal weights, which are restored once
                restored[mapped.value] = _restore(mapped, places)
            weight = restored[mapped.value]
            if copy is not None:
                _restore_digital_copy(copy, weight if is_joined else None)
        places.fill()
        names_of_model = UniqueNames(model)
        for mapped, found in zip(located, packed, strict=True):
            decoded.take(restored.get(mapped.value), mapped.record, found, names_of_model)
        remove_manifest(model)
        rewrite.require(model)
        names = tuple(mapped.record.name for mapped in located)
        report = RestoreReport(MODEL_IN_MEMORY, None, names, (), folded=folded, notes=tuple(decoded.notes()))
        return RestoreResult(model, modified=True, report=report)


def _packed_again(mapped: MappedWeight) -> Repacked | None:
    record = mapped.record
    return None if record.decoded_from is None else repacked(mapped.stored, record.decoded_from, record.max_abs)


class _Decoded:
    """Packs restored weights that were decoded for the mapping, and collects notes on them.

    Args:
        packs: Whether the weights are packed again.
    """

    def __init__(self, packs: bool) -> None:  # noqa: FBT001 - as the pass is asked for
        self._packs = packs
        self._errors: list[float] = []
        self._decoded: list[str] = []

    def take(self, weight: ir.Value | None, record: WeightRecord, found: Repacked | None, names: UniqueNames) -> None:
        """Pack a restored weight again if it was decoded and can be packed."""
        if weight is None or record.decoded_from is None:
            return
        if found is not None and weight.is_initializer() and pack_again(weight, found, names):
            self._errors.append(found.encoded.error / record.max_abs if record.max_abs else 0.0)
        else:
            self._decoded.append(record.decoded_from.op_type)

    def notes(self) -> Iterator[str]:
        """Notes for the user on the packed weights and on those that stay decoded."""
        if self._errors:
            count, error = len(self._errors), max(self._errors)
            off = "exactly what the mapped model computes"
            if error:
                off = (
                    f"what the mapped model computes up to an error of {error:.1e} of max|W|; mapped with --exact, "
                    "weights come back bit for bit"
                )
            yield f"{count} weight{'s are' if count > 1 else ' is'} packed for MatMulBnb4 again, which decodes {off}"
        for op_type, count in Counter(self._decoded).items() if self._packs else ():
            why = "the op's codes do not hold what the mapped model computes"
            if op_type != "MatMulBnb4":
                why = "numbers were mapped, not codes"
            yield (
                f"{count} weight{'s' if count > 1 else ''} of {op_type} {'are' if count > 1 else 'is'} left in "
                f"floating point, for MatMul: {why}"
            )


def _locate_all(manifest: Manifest, model: ir.Model) -> tuple[list[MappedWeight], tuple[str, ...]]:
    """The weights that are still mapped, and the names of those that another tool has folded to plain initializers.

    Raises:
        ModelPreconditionError: If another tool has damaged the mapping; the message names the weight.
    """
    located, folded = [], []
    checked = checked_weights(manifest, model)
    for item in checked:
        record = item.record
        if item.is_folded:
            folded.append(record.name)
            continue
        if item.problem is not None or item.mapped is None:
            raise _not_restored(record, item.problem)
        located.append(item.mapped)
    if (unlisted := next(unlisted_weights(checked, model), None)) is not None:
        raise ModelPreconditionError(f"the model cannot be restored: {unlisted}; restore the model as it was mapped")
    return located, tuple(folded)


def _graphs_in_sight(mapped: MappedWeight, scope_of: Mapping[ir.Graph, Scope]) -> Iterator[ir.Graph]:
    """The graph that rebuilds a weight, and the bodies between it and the readers of the weight."""
    graph = mapped.nodes[0].graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    yield graph
    for node, _ in mapped.value.uses():
        scope = scope_of[node.graph] if isinstance(node.graph, ir.Graph) else None
        while scope is not None and scope.graph is not graph:
            yield scope.graph
            scope = scope.parent


def _not_restored(record: WeightRecord, problem: str | None) -> ModelPreconditionError:
    return ModelPreconditionError(
        f"the weight {record.quoted} cannot be restored: {problem}; restore the model as it was mapped"
    )


def _require_meanings(located: Sequence[MappedWeight]) -> None:
    """Refuse level codes that stand for no level, and zero points that the type of the weight cannot have.

    Raises:
        ModelPreconditionError: If there is one; the message names the weight and the code.
    """
    for mapped in located:
        try:
            _ = mapped.zero_point
        except ModelError as error:
            text = f"the weight {mapped.record.quoted} cannot be restored: {error}"
            raise ModelPreconditionError(text) from None
        if (levels := mapped.record.levels_of_codes) is None:
            continue
        for tensor in mapped.stored_tensors:
            if levels.count > tensor.dtype.max:  # every code stands for a level
                continue
            if (highest := highest_code(tensor)) >= levels.count:
                raise ModelPreconditionError(
                    f"the weight {mapped.record.quoted} cannot be restored: '{tensor.name}' has the code {highest}, "
                    f"but there are {levels.count} levels; restore the model as it was mapped"
                )


def _require_free_names(located: Sequence[MappedWeight], owners: Sequence[Scope]) -> None:
    """Refuse weights whose name another value has in their graph, or in a body that reads them.

    A node that reads that name would get the weight in place of the other value, or the other value in place of the
    weight.

    Raises:
        ModelPreconditionError: If there is one; the message names the weight.
    """
    rebuilt = {mapped.value for mapped in located}
    taken: dict[tuple[ir.Graph, str], ir.Value] = {}
    for scope in owners:
        outputs = (output for node in scope.graph for output in node.outputs)
        for value in (*scope.graph.inputs, *scope.graph.initializers.values(), *outputs):
            if value not in rebuilt and value.name:
                taken[scope.graph, value.name] = value
    scope_of = {scope.graph: scope for scope in owners}
    for mapped in located:
        if any((graph, mapped.record.name) in taken for graph in _graphs_in_sight(mapped, scope_of)):
            raise ModelPreconditionError(
                f"the weight {mapped.record.quoted} cannot be restored: the graph has another value of that name; "
                "the manifest was changed, or another tool renamed that value: restore the model as it was mapped"
            )


def _require_unread(located: Sequence[MappedWeight]) -> None:
    """Refuse weights if other nodes read a value between the conductances and the weight, which would be removed.

    Raises:
        ModelPreconditionError: If there is one; the message names the weight, the value and its reader.
    """
    nodes = {node for mapped in located for node in mapped.nodes}
    for mapped in located:
        for node in mapped.nodes:
            for output in node.outputs:
                if output is mapped.value:
                    continue
                if output.is_graph_output():
                    raise _not_restored(mapped.record, f"'{output.name}' has become a graph output")
                if others := [reader for reader, _ in output.uses() if reader not in nodes]:
                    raise _not_restored(mapped.record, f"'{output.name}' is read by {node_label(others[0])} too")


def _digital_copy(mapped: MappedWeight) -> ir.Value | None:
    """The digital copy of a weight; None if it has none, or if another tool removed it."""
    graph = mapped.nodes[0].graph
    name = mapped.record.digital_copy
    copy = graph.initializers.get(name) if isinstance(graph, ir.Graph) and name is not None else None
    return copy if copy is not None and copy.const_value is not None else None


def _is_equal(copy: ir.Value, mapped: MappedWeight) -> bool:
    assert copy.const_value is not None  # noqa: S101 - `_digital_copy` has seen it
    is_input_or_output = copy.is_graph_input() or copy.is_graph_output()
    shape, wanted = tuple(copy.const_value.shape.numpy()), mapped.record.stored_shape
    return not is_input_or_output and shape == wanted and has_same_elements(copy.const_value, mapped.stored)


def _restore_digital_copy(copy: ir.Value, weight: ir.Value | None) -> None:
    """Merge a digital copy into the weight, or, without a weight, make the copy an ordinary initializer."""
    if weight is None:
        for key in (WEIGHT_KEY, ROLE_KEY):
            copy.metadata_props.pop(key, None)
        return
    graph = copy.graph
    assert graph is not None  # noqa: S101 - it is an initializer
    hand_over_uses(copy, weight)
    del graph.initializers[copy.name or ""]


def _restore(mapped: MappedWeight, places: _Places) -> ir.Value:
    record, rebuilt = mapped.record, mapped.value
    graph = mapped.nodes[0].graph
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    tensor = mapped.stored
    put_texts_back(tensor, rebuilt.metadata_props)
    weight = ir.Value(
        name=record.name,
        type=ir.TensorType(record.ir_dtype),
        shape=ir.Shape(record.stored_shape),
        doc_string=rebuilt.doc_string,
        const_value=tensor,
        metadata_props={k: v for k, v in rebuilt.metadata_props.items() if not _is_ours(k)},
    )
    weight.meta.update(rebuilt.meta)
    hand_over_uses(rebuilt, weight)
    _remove_unread(mapped.nodes)
    leaves = (*mapped.conductances, mapped.scale, *mapped.constants)
    constants = [value for value in leaves if not value.uses() and not value.is_graph_output()]
    places.take(constants, weight, graph, moved_from=record.moved_from)
    return weight


def _is_ours(key: str) -> bool:
    return key in {WEIGHT_KEY, ROLE_KEY} or key.startswith(TENSOR_KEY)


def _remove_unread(nodes: Sequence[ir.Node]) -> None:
    """Remove nodes that nobody reads; merged nodes that still rebuild another weight stay."""
    left = list(nodes)
    while unread := [
        node for node in left if not any(output.uses() or output.is_graph_output() for output in node.outputs)
    ]:
        for node in unread:
            if isinstance(node.graph, ir.Graph):
                node.graph.remove(node, safe=True)
        left = [node for node in left if node not in unread]


class _Places:
    """Puts restored weights among the initializers in the place of their conductances.

    Initializers are reordered only once, when all weights are known.

    Args:
        owners: All graphs of the model.
    """

    def __init__(self, owners: Sequence[Scope]) -> None:
        self._scope_of_path = {scope.path: scope for scope in owners}
        self._scope_of_graph = {scope.graph: scope for scope in owners}
        self._restored: dict[ir.Graph, list[tuple[list[ir.Value], ir.Value | None]]] = {}

    def take(self, removed: list[ir.Value], weight: ir.Value, graph: ir.Graph, moved_from: str | None) -> None:
        """Record a weight for the place of the first of its conductances, or for the graph that it was moved out of.

        Args:
            removed: The initializers that nobody reads any more.
            weight: The weight.
            graph: The graph in which the weight was rebuilt.
            moved_from: The path of the graph out of which mapping had moved the weight; None if it had not.
        """
        former = self._former_graph(weight, moved_from)
        self._restored.setdefault(graph, []).append((removed, weight if former is None else None))
        if former is not None:
            self._restored.setdefault(former, []).append(([], weight))

    def fill(self) -> None:
        """Put all recorded weights into their places."""
        for graph, restored in self._restored.items():
            _fill(graph, restored)

    def _former_graph(self, weight: ir.Value, moved_from: str | None) -> ir.Graph | None:
        """The graph out of which mapping moved a weight, if it still exists and contains all readers of the weight."""
        scope = None if moved_from is None else self._scope_of_path.get(moved_from)
        if scope is None or weight.is_graph_output():
            return None
        for node, _ in weight.uses():
            current = self._scope_of_graph.get(node.graph) if isinstance(node.graph, ir.Graph) else None
            while current is not None and current is not scope:
                current = current.parent
            if current is None:
                return None
        return scope.graph


def _fill(graph: ir.Graph, restored: Sequence[tuple[list[ir.Value], ir.Value | None]]) -> None:
    """Replace initializers of a graph by weights.

    Args:
        graph: The graph.
        restored: For each weight, the initializers to remove, and the weight, which takes the place of the first of
            them, or is appended if there are none; None if the weight goes into another graph.
    """
    position = {name: number for number, name in enumerate(graph.initializers)}
    order: list[ir.Value | None] = list(graph.initializers.values())
    for removed, weight in restored:
        numbers = sorted(position[value.name or ""] for value in removed if value.graph is graph)
        for number in numbers:
            order[number] = None
        if weight is None:
            continue
        if numbers:
            order[numbers[0]] = weight
        else:
            order.append(weight)
    graph.initializers.clear()
    for value in order:
        if value is not None:
            graph.initializers.add(value)
