"""Read noise as nodes of the graph: builds the nodes that draw it anew in each run, and finds them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping.nodes import ROLE_KEY, UNIT_KEY, WEIGHT_KEY
from onnx_gconv.mapping.operands import BrokenMappingError, scalar
from onnx_gconv.mapping.records.chip_records import ReadNoiseRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.mapping.unique_names import UniqueNames

__all__ = ["DrawnNoise", "DrawnReading", "draw_readings", "drawn_reading"]

# The types in which ONNX Runtime has RandomNormalLike; it has none for half precision.
_DRAWN_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})

_DEFAULT_MEAN, _DEFAULT_DEVIATION = 0.0, 1.0


@dataclass(frozen=True, eq=False)
class DrawnNoise:
    """The read noise of one conductance tensor: one device of each element of a weight.

    Attributes:
        sigma: The standard deviation of readings in µS, of the type and shape of the conductances.
        seed: The seed of the RandomNormalLike node. Each node needs its own: equal seeds draw equal numbers.
        low_us: The smallest reading in µS.
        high_us: The largest reading in µS; None for no limit.
    """

    sigma: ir.TensorProtocol
    seed: int
    low_us: float
    high_us: float | None


@dataclass(frozen=True, eq=False)
class DrawnReading:
    """Nodes that draw readings, as they were found in a graph.

    Attributes:
        conductance: The conductance in µS to which the nodes add noise.
        sigma: The initializer of the standard deviation of readings, in µS.
        record: The record of this noise in the manifest.
    """

    conductance: ir.Value
    sigma: ir.Value
    record: ReadNoiseRecord


def draw_readings(use: tuple[ir.Node, int], noise: DrawnNoise, weight: str, names: UniqueNames) -> ReadNoiseRecord:
    """Let a node read a conductance with noise::

        before:  Sub(W.g_plus, W.g_minus)
        after:   RandomNormalLike(W.g_plus)           -> W.g_plus_normal
                 Mul(W.g_plus_normal, W.g_plus_sigma) -> W.g_plus_noise
                 Add(W.g_plus, W.g_plus_noise)        -> W.g_plus_noisy
                 Max(W.g_plus_noisy, W.g_plus_lowest) -> W.g_plus_read
                 Sub(W.g_plus_read, W.g_minus)

    A largest reading needs a Min. In half precision the normal numbers are drawn in float32, and a Cast follows.

    Args:
        use: The node, and the index of the input that is the conductance.
        noise: How readings are drawn.
        weight: The name of the weight.
        names: Provides the names of new nodes and values.

    Returns:
        The record of this noise for the manifest.
    """
    node, index = use
    conductance, graph = node.inputs[index], node.graph
    assert conductance is not None and conductance.const_value is not None  # noqa: PT018, S101 - an initializer
    assert isinstance(graph, ir.Graph)  # noqa: S101 - mappings stand in graphs, not in functions
    emitter = _Emitter(conductance, conductance.const_value, weight, names)
    sigma = emitter.initializer("sigma", noise.sigma, "read_sigma")
    value = emitter.node("noise", "Mul", [emitter.normal_numbers(noise.seed), sigma])
    value = emitter.node("noisy", "Add", [conductance, value])
    limits = [("Max", "lowest", noise.low_us), ("Min", "highest", noise.high_us)]
    given = [(op_type, name, limit) for op_type, name, limit in limits if limit is not None]
    for number, (op_type, name, limit) in enumerate(given):
        is_last = number == len(given) - 1
        value = emitter.node("read" if is_last else "not_below", op_type, [value, emitter.constant(name, limit)])
    for initializer in emitter.initializers:
        graph.initializers.add(initializer)
    graph.insert_before(node, emitter.nodes)
    node.replace_input_with(index, value)
    return ReadNoiseRecord(sigma=sigma.name or "", seed=noise.seed, low_us=noise.low_us, high_us=noise.high_us)


class _Emitter:
    """Builds nodes whose results have the type and shape of a conductance, and names that start with its name."""

    def __init__(self, conductance: ir.Value, tensor: ir.TensorProtocol, weight: str, names: UniqueNames) -> None:
        self._conductance = conductance
        self._dtype, self._shape = tensor.dtype, tuple(tensor.shape.numpy())
        self._weight = weight
        self._names = names
        self.initializers: list[ir.Value] = []
        self.nodes: list[ir.Node] = []

    def normal_numbers(self, seed: int) -> ir.Value:
        drawn = self._dtype if self._dtype in _DRAWN_TYPES else ir.DataType.FLOAT
        attributes: list[ir.Attr] = [ir.AttrFloat32("seed", float(seed))]
        if drawn != self._dtype:
            attributes.append(ir.AttrInt64("dtype", drawn.value))
        normal = self.node("normal", "RandomNormalLike", [self._conductance], attributes, drawn)
        if drawn == self._dtype:
            return normal
        return self.node("normal_cast", "Cast", [normal], [ir.AttrInt64("to", self._dtype.value)])

    def constant(self, suffix: str, number: float) -> ir.Value:
        return self.initializer(suffix, ir.tensor(np.array(number, self._dtype.numpy())), "limit")

    def initializer(self, suffix: str, tensor: ir.TensorProtocol, role: str) -> ir.Value:
        tensor.name = self._new(suffix)
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
            metadata_props={WEIGHT_KEY: self._weight, ROLE_KEY: role, UNIT_KEY: "uS"},
        )
        self.initializers.append(value)
        return value

    def node(
        self,
        suffix: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Sequence[ir.Attr] = (),
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        output = ir.Value(name=self._new(suffix), type=ir.TensorType(dtype or self._dtype), shape=ir.Shape(self._shape))
        self.nodes.append(
            ir.Node(
                "",
                op_type,
                inputs,
                attributes,
                outputs=[output],
                name=self._names.new(f"{self._conductance.name}/gconv_{op_type}"),
                metadata_props={WEIGHT_KEY: self._weight, ROLE_KEY: "read_noise"},
            )
        )
        return output

    def _new(self, suffix: str) -> str:
        return self._names.new(f"{self._conductance.name}_{suffix}")


def drawn_reading(value: ir.Value, record: WeightRecord) -> DrawnReading | None:
    """The nodes that compute a value as noisy readings of a conductance.

    Args:
        value: The value that may be readings, in µS.
        record: The weight's record in the manifest.

    Returns:
        The nodes; None if the manifest has no read noise for the weight, or no Max or Min node computes the value.

    Raises:
        BrokenMappingError: If the nodes draw other readings than the manifest says.
    """
    last = value.producer()
    if not record.read_noise or last is None or last.op_type not in {"Max", "Min"} or last.domain != "":
        return None
    below, high = _limit(value, "Min") if last.op_type == "Min" else (value, None)
    noisy, low = _limit(below, "Max")
    add = _operands(noisy, "Add")
    conductance, multiplied = add.inputs[0], _operands(add.inputs[1], "Mul")
    draw, sigma = _draw(multiplied.inputs[0]), multiplied.inputs[1]
    if conductance is None or sigma is None or draw.inputs[0] is not conductance:
        raise BrokenMappingError(
            f"the noise of readings in '{value.name}' is not that of the conductance it is added to"
        )
    if not sigma.is_initializer() or sigma.const_value is None:
        raise BrokenMappingError(f"the noise of readings of '{conductance.name}' is scaled by no initializer")
    seed = draw.attributes.get_float("seed", float("nan"))
    found = next((item for item in record.read_noise if item.seed == seed), None)
    if found is None:
        raise BrokenMappingError(f"'{draw.name}' draws noise with the seed {seed:g}, which the manifest does not name")
    moments = draw.attributes.get_float("mean", _DEFAULT_MEAN), draw.attributes.get_float("scale", _DEFAULT_DEVIATION)
    if moments != (_DEFAULT_MEAN, _DEFAULT_DEVIATION):
        mean, deviation = moments
        raise BrokenMappingError(
            f"'{draw.name}' draws numbers of mean {mean:g} and deviation {deviation:g}, not 0 and 1"
        )
    number = np.dtype(record.compute_dtype).type
    expected = float(number(found.low_us)), None if found.high_us is None else float(number(found.high_us))
    if (low, high) != expected:
        raise BrokenMappingError(
            f"readings of '{conductance.name}' are cut to {_span(low, high)} \u00b5S, the manifest says "
            f"{_span(*expected)}"
        )
    return DrawnReading(conductance, sigma, found)


def _limit(value: ir.Value | None, op_type: str) -> tuple[ir.Value | None, float | None]:
    """The input that a Max or Min node limits, and the limit."""
    node = _operands(value, op_type)
    return node.inputs[0], scalar(node.inputs[1])


def _draw(value: ir.Value | None) -> ir.Node:
    """The RandomNormalLike node that draws a value, directly or through a Cast."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Cast" and node.inputs and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "RandomNormalLike" or node.domain != "" or not node.inputs:
        found = "nothing" if value is None else f"'{value.name}'"
        raise BrokenMappingError(
            f"the noise of readings is {found}, which no RandomNormalLike node draws in each run: another tool has "
            "drawn it once and for all, or removed it"
        )
    return node


def _operands(value: ir.Value | None, op_type: str) -> ir.Node:
    """The node of two inputs that computes a value.

    Raises:
        BrokenMappingError: If another op computes it, or none does.
    """
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or node.domain != "" or len(node.inputs) != 2:  # noqa: PLR2004
        found = "nothing" if value is None else f"'{value.name}'"
        raise BrokenMappingError(f"{found} should be given by a {op_type} node of two inputs, to draw readings")
    return node


def _span(low: float | None, high: float | None) -> str:
    return f"{low} or more" if high is None else f"{low} to {high}"
