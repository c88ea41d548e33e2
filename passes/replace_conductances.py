"""The pass that replaces the target conductances of a mapped model by those of a measured or simulated chip."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.crossbars.checked_weights import CheckedWeight, checked_weights
from onnx_gconv.mapping import (
    MeasuredRecord,
    ScaleRecord,
    SimulatedRecord,
    WeightRecord,
    format_version_of,
    write_manifest,
)
from onnx_gconv.mapping.conductance_sum import Term
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.nodes import ROLE_KEY, UNIT_KEY, WEIGHT_KEY
from onnx_gconv.mapping.preconditions import ModelPreconditionError, require_mapped
from onnx_gconv.mapping.read_noise import DrawnNoise, draw_readings
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes.model_pass import ModelPass
from onnx_gconv.passes.sound_rewrite import SoundRewrite
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.tensors.types import INTEGER_DTYPES, finite_range

__all__ = ["MeasuredConductances", "ReplaceConductances", "divided_scale", "measured_bias"]

_MEASURED_BIAS = re.compile(r", the bias '(.*)' among them")


@dataclass(frozen=True, eq=False)
class MeasuredConductances:
    """The conductances that replace the targets of a weight.

    Attributes:
        tensors: The conductances of each device in µS, of the shape of the weight and of the type in which nodes
            rebuild it.
        source: Where the conductances come from, for the manifest.
        cells: The number of cells of the weight, over all devices.
        measured: The number of cells that were measured; the others keep their targets.
        max_abs_error: The largest distance between the weight from these conductances and from the targets, in units of
            weight.
        rms_error: The root mean square of that distance, in units of weight.
        bias: The value of the layer's bias and its measured tensor; None if the bias was not measured.
        factor: The factor that compensates drift: the weight is multiplied by it, so scales are divided by it. An array
            of the shape of the scale grid has one factor for each scale.
        simulated: The simulated chip that the conductances come from; None for a measured chip.
        read_noise: The read noise that nodes draw in each run, for each device; empty if the conductances already are
            readings.
    """

    tensors: tuple[ir.TensorProtocol, ...]
    source: str
    cells: int
    measured: int
    max_abs_error: float
    rms_error: float
    bias: tuple[ir.Value, ir.TensorProtocol] | None = None
    factor: FloatOrArray = 1.0
    simulated: SimulatedRecord | None = None
    read_noise: tuple[DrawnNoise, ...] = ()


class ReplaceConductances(ModelPass[ir.passes.PassResult]):
    """Replaces conductances by measured or simulated ones, in the nodes that rebuild the weights::

        before:  DequantizeLinear(W.g_plus_code, W.g_step)  -> W.g_plus     # if targets are stored as codes of levels
                 Sub(W.g_plus, W.g_minus)                   -> W.g_difference
        after:   Sub(W.g_plus, W.g_minus)                   -> W.g_difference

    The new conductances are initializers in µS, never level codes. If a rebuilt weight can be beyond the range of its
    type, such as an int8 code of 130, Max and Min nodes before the last Cast clip it to that range. If readings are
    drawn in each run, nodes behind the conductances add the noise, see `draw_readings`. A factor that compensates drift
    divides the scale. The manifest records the chip for each weight.

    Args:
        replacements: The new conductances, by (path of the graph, name of the weight).
    """

    def __init__(self, replacements: Mapping[tuple[str, str], MeasuredConductances]) -> None:
        self._replacements = replacements

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the conductances; if the pass fails, the model is unchanged.

        Raises:
            ModelError: If the model is not mapped, another tool has damaged the mapping, or a replacement does not fit;
                the message names the weight and what is wrong.
        """
        manifest = require_mapped(model)
        checked = checked_weights(manifest, model)
        located, names, joined = self._located(checked), UniqueNames(model), _in_several_weights(checked)
        rewrite = SoundRewrite(model)
        records = []
        for record in manifest.weights:
            key = record.graph, record.name
            records.append(
                _replaced(located[key], self._replacements[key], names, joined) if key in self._replacements else record
            )
        update = {"weights": tuple(records), "format_version": format_version_of(records)}
        write_manifest(model, manifest.model_copy(update=update))
        rewrite.require(model)
        return ir.passes.PassResult(model, modified=bool(self._replacements))

    def _located(self, weights: Sequence[CheckedWeight]) -> dict[tuple[str, str], MappedWeight]:
        checked = {(item.record.graph, item.record.name): item for item in weights}
        located: dict[tuple[str, str], MappedWeight] = {}
        for key, replacement in self._replacements.items():
            if key not in checked:
                raise ModelPreconditionError(f"there are measurements of '{key[1]}', but no such weight is mapped")
            record, mapped = checked[key].record, checked[key].mapped
            problem = checked[key].problem or _misfit(record, replacement)
            if problem is None and record.read_noise:
                problem = "readings of it are drawn in each run"
            if problem is None and mapped is not None:
                problem = _joined(mapped, checked.values(), shares_scale=bool(np.any(replacement.factor != 1)))
            if problem is not None or mapped is None:
                raise ModelPreconditionError(
                    f"the conductances of {record.quoted} cannot be replaced: {problem}; take the model "
                    "as it was mapped"
                )
            located[key] = mapped
        return located


def _joined(mapped: MappedWeight, others: Iterable[CheckedWeight], *, shares_scale: bool) -> str | None:
    """Why a weight cannot get conductances of its own: another tool has merged its nodes or its scale with another's.

    Args:
        mapped: The weight.
        others: All weights.
        shares_scale: Whether the scale of the weight changes, so that no other weight may share it.

    Returns:
        The message; None if the weight shares nothing that matters.
    """
    nodes = set(_computed_from_conductances(mapped))
    for other in others:
        if other.record is mapped.record or other.mapped is None:
            continue
        if nodes & set(other.mapped.nodes):
            return f"another tool has joined the nodes that rebuild it and {other.record.quoted}"
        if shares_scale and other.mapped.scale is mapped.scale:
            return f"another tool has joined its scale and that of {other.record.quoted}"
    return None


def _computed_from_conductances(mapped: MappedWeight) -> Iterator[ir.Node]:
    """The nodes that compute with conductances in µS, without those that decode level codes or expand the scale."""
    reached = {term.decoded for term in mapped.terms}
    for node in reversed(mapped.nodes):
        if any(value in reached for value in node.inputs):
            reached.update(node.outputs)
            yield node


def _in_several_weights(located: Iterable[CheckedWeight]) -> frozenset[ir.Value]:
    """The conductances in µS that stand for several equal ones, because another tool has merged these."""
    count = Counter(term.decoded for item in located if item.mapped is not None for term in item.mapped.terms)
    return frozenset(value for value, number in count.items() if number > 1)


def _misfit(record: WeightRecord, replacement: MeasuredConductances) -> str | None:
    if len(replacement.tensors) != len(record.conductances):
        return f"it has {len(record.conductances)} devices, but {len(replacement.tensors)} were measured"
    for tensor in replacement.tensors:
        if tensor.dtype != record.ir_compute_dtype or tuple(tensor.shape.numpy()) != record.shape:
            found = f"{np.dtype(tensor.dtype.numpy()).name} {list(tensor.shape.numpy())}"
            return f"'{tensor.name}' is {found}, but it should be {record.compute_dtype} {list(record.shape)}"
    return None


def _replaced(
    mapped: MappedWeight, measured: MeasuredConductances, names: UniqueNames, joined: Collection[ir.Value]
) -> WeightRecord:
    """Put the new conductances of a weight into the graph, and return the weight's new record for the manifest."""
    record = mapped.record
    stored = []
    for term, tensor in zip(mapped.terms, measured.tensors, strict=True):
        if term.decoded in joined:
            stored.append(_on_its_own(term, tensor, record.name, names))
        elif term.decoded is term.stored:
            term.stored.const_value = tensor
            stored.append(term.stored.name or "")
        else:
            stored.append(_in_place_of_codes(term.decoded, tensor, record.name))
        tensor.name = stored[-1]
    is_saturated = _may_overflow(record, measured)
    if is_saturated and not record.limited:  # nodes of limited weights clip to the range already
        _saturate(mapped, names)
    simulated = measured.simulated
    if simulated is not None and measured.read_noise:
        pairs = zip(mapped.terms, measured.read_noise, strict=True)
        drawn = tuple(draw_readings(term.use, noise, record.name, names) for term, noise in pairs)
        simulated = simulated.model_copy(update={"read_noise": drawn})
    if measured.bias is not None:
        _replace_bias(*measured.bias)
    scale = _divided_scale(mapped, measured.factor) if np.any(measured.factor != 1) else record.scale
    factor, factors = (measured.factor, None) if isinstance(measured.factor, float) else (1.0, measured.factor)
    levels = record.levels
    return record.model_copy(
        update={
            "scale": scale,
            "conductances": tuple(
                item.model_copy(update={"name": name}) for item, name in zip(record.conductances, stored, strict=True)
            ),
            "levels": None if levels is None else levels.model_copy(update={"storage": "float"}),
            "measured": MeasuredRecord(
                source=measured.source,
                cells=measured.cells,
                measured=measured.measured,
                max_abs_error=measured.max_abs_error,
                rms_error=measured.rms_error,
                saturated=is_saturated,
                factor=factor,
                factors=None if factors is None else tuple(factors.reshape(-1).tolist()),
                simulated=simulated,
            ),
            "notes": (*record.notes, _note(measured)),
        }
    )


def divided_scale(scale: FloatOrArray, factor: FloatOrArray, dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """A scale divided by a factor, or scales divided by one factor each, in the type in which scales are stored."""
    divided: NDArray[np.floating[Any]] = (np.asarray(scale, np.float64) / factor).astype(dtype)
    return divided


def _divided_scale(mapped: MappedWeight, factor: FloatOrArray) -> ScaleRecord:
    """Divide the scale in the graph, in the type in which it is stored, and return its new record for the manifest."""
    old = mapped.scale.const_value
    assert old is not None  # noqa: S101 - `locate` has found it
    numbers, grid = all_elements(old), mapped.record.grid
    stored = factor if isinstance(factor, float) or grid is None else grid.stored(factor)
    divided = divided_scale(numbers, stored, numbers.dtype)
    mapped.scale.const_value = ir.Tensor(divided, name=mapped.scale.name)
    record = mapped.record.scale
    if record.form == "number":
        return record.model_copy(update={"value": float(divided.reshape(-1)[0])})
    return record.model_copy(update={"minimum": float(divided.min()), "maximum": float(divided.max())})


def measured_bias(record: WeightRecord) -> str | None:
    """The name of the bias that was measured with a weight, read from the notes of its record; None if none was."""
    found = (_MEASURED_BIAS.search(note) for note in record.notes if record.measured is not None)
    return next((match[1] for match in found if match is not None), None)


def _note(measured: MeasuredConductances) -> str:
    if (chip := measured.simulated) is not None:
        drawn = "; each run draws new readings of them" if measured.read_noise else ""
        return (
            f"{measured.cells:,} conductances are those of a simulated chip: device '{chip.device}', "
            f"{chip.seconds:,g} s after programming, chip {chip.chip} of seed {chip.seed}{drawn}"
        )
    bias = "" if measured.bias is None else f", the bias '{measured.bias[0].name}' among them"
    found = (
        f"{measured.measured:,} of {measured.cells:,} conductances were measured on a chip ('{measured.source}'){bias}"
    )
    return found if measured.measured == measured.cells else f"{found}; the others are targets"


def _replace_bias(bias: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Replace the data of a bias: of its initializer, or of its Constant node, which becomes an initializer."""
    if bias.is_initializer():
        bias.const_value = tensor
        bias.shape = ir.Shape(tensor.shape.numpy())
        return
    node = bias.producer()
    assert node is not None and isinstance(node.graph, ir.Graph)  # noqa: PT018, S101 - it is a constant
    graph = node.graph
    value = ir.Value(
        name=bias.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    bias.replace_all_uses_with(value)
    remove_unused([node])
    graph.initializers.add(value)


def _in_place_of_codes(decoded: ir.Value, tensor: ir.TensorProtocol, weight: str) -> str:
    """Replace a decoded conductance by an initializer of its name, and remove the decoding nodes and the codes."""
    node = decoded.producer()
    assert node is not None  # noqa: S101 - `locate` has found it
    graph, name = node.graph, decoded.name
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    assert name is not None  # noqa: S101 - values of a mapping have names
    value = _conductance(name, tensor, weight)
    decoded.replace_all_uses_with(value)
    remove_unused([node])
    graph.initializers.add(value)
    return name


def _on_its_own(term: Term, tensor: ir.TensorProtocol, weight: str, names: UniqueNames) -> str:
    """Give a weight a conductance initializer of its own, if another tool has merged it with those of other weights."""
    node, index = term.use
    graph, old = node.graph, term.decoded
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    name = names.new(old.name or weight)
    value = _conductance(name, tensor, weight)
    node.replace_input_with(index, value)
    graph.initializers.add(value)
    if (decoding := old.producer()) is not None:
        remove_unused([decoding])
    elif old.graph is not None and not (old.uses() or old.is_graph_output() or old.is_graph_input()):
        del old.graph.initializers[old.name or ""]
    return name


def _conductance(name: str, tensor: ir.TensorProtocol, weight: str) -> ir.Value:
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
        metadata_props={WEIGHT_KEY: weight, ROLE_KEY: "conductance", UNIT_KEY: "uS"},
    )


def _may_overflow(record: WeightRecord, measured: MeasuredConductances) -> bool:
    """Whether rebuilt weights may be beyond the range of their type.

    Integer codes use the whole range as a rule, so they may always be. So may weights with read noise, whose readings
    are not known yet.
    """
    if record.dtype == record.compute_dtype:
        return False
    largest = record.max_abs + measured.max_abs_error
    return record.ir_dtype in INTEGER_DTYPES or bool(measured.read_noise) or largest > finite_range(record.ir_dtype)[1]


def _saturate(mapped: MappedWeight, names: UniqueNames) -> None:
    """Insert Max and Min nodes before the Cast to the type of the weight, or behind the rounding of packed codes."""
    record = mapped.record
    assert mapped.limited_use is not None  # noqa: S101 - weights of the type of their computation are not limited
    reader, index = mapped.limited_use
    graph, value = reader.graph, reader.inputs[index]
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    assert value is not None  # noqa: S101 - `locate` has followed it
    for op_type, role, limit in zip(("Max", "Min"), ("lowest", "highest"), record.number_range, strict=True):
        tensor = ir.tensor(
            np.array(limit, record.ir_compute_dtype.numpy()), name=names.new(f"{record.name}.g_{role}_code")
        )
        constant = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(()),
            const_value=tensor,
            metadata_props={WEIGHT_KEY: record.name, ROLE_KEY: "limit"},
        )
        graph.initializers.add(constant)
        node = ir.Node(
            "",
            op_type,
            [value, constant],
            outputs=[
                ir.Value(
                    name=names.new(f"{record.name}.g_not_{'below' if op_type == 'Max' else 'above'}"),
                    type=ir.TensorType(record.ir_compute_dtype),
                    shape=value.shape,
                )
            ],
            name=names.new(f"{record.name}/gconv_{op_type}"),
            metadata_props={WEIGHT_KEY: record.name, ROLE_KEY: "saturate"},
        )
        graph.insert_before(reader, node)
        value = node.outputs[0]
    reader.replace_input_with(index, value)
