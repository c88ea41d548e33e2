"""The bias of a layer: finds the constant that is added to the product, and maps it to extra rows of the matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Scaling
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray
from onnx_gconv.mapping import ConsumerRecord, MatrixViewRecord, WeightRecord
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.ops.mvm_ops import BiasSlot, MvmOp, known_op
from onnx_gconv.weights.weight_path import reached_inputs

__all__ = ["BiasRows", "FoundBias", "bias_as_rows", "find_bias", "multiplying_node"]

_ADD = ("", "Add", "")

# Rounding may move the largest weight that devices hold by this many units of the last place.
_END_ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class FoundBias:
    """The bias of a layer in the graph.

    Attributes:
        value: The initializer, or the output of a Constant node.
        tensor: The values of the bias. They are kept here because `value.const_value` may be replaced by a reference
            to the saved copy while another thread saves the model.
        node: The node that adds the bias.
        beta: The factor by which the node multiplies the bias.
        op: The row of the op of the product in the table of MVM ops.
        slot: How that op adds a bias.
        product: The value to which an Add node adds the bias; None if the op adds the bias itself.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    node: ir.Node
    beta: float
    op: MvmOp
    slot: BiasSlot
    product: ir.Value | None = None

    @property
    def name(self) -> str:
        """The name of the bias in the graph."""
        return self.value.name or ""

    def array(self) -> NDArray[Any]:
        """The bias in its own shape, without rounding: float64 stays, other floats become float32, integers int64.

        Raises:
            ModelError: If external data cannot be read.
        """
        dtype, elements = self.tensor.dtype, all_elements(self.tensor)
        if dtype.is_integer():
            return elements.astype(np.int64, copy=False)
        return elements.astype(np.float64 if dtype == ir.DataType.DOUBLE else np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class BiasRows:
    """A bias in extra rows below the inputs of each matrix; the chip drives these rows with the constant 1.

    Attributes:
        rows: How many rows; each holds an equal part of the bias (as CrossSim's ``bias_rows``).
        stored: For each device its conductances in µS, or the codes of its levels, [matrices, rows, columns], of the
            type of the initializers.
        beta: The factor by which the node multiplies the bias.
        max_abs_error: Largest difference between the sum of the rows and the bias, in units of the output.
    """

    rows: int
    stored: tuple[NDArray[np.generic], ...]
    beta: float
    max_abs_error: float


def find_bias(weight: ir.Value, consumer: ConsumerRecord, op: MvmOp) -> FoundBias | None:
    """Find the constant that an MVM node adds to its product, or that the Add node after a MatMul adds.

    Args:
        weight: The rebuilt weight.
        consumer: The record of the node that multiplies by the weight.
        op: The row of that node in the table of MVM ops.

    Returns:
        The bias; None if no constant is added.
    """
    node = multiplying_node(weight, consumer)
    return None if node is None else _bias_of(node, consumer, op)


def multiplying_node(weight: ir.Value, consumer: ConsumerRecord) -> ir.Node | None:
    """The node of the graph that the record of a consumer describes; None if the graph has no such node.

    Args:
        weight: The rebuilt weight.
        consumer: The record of a node that multiplies by the weight.
    """
    return next((node for node, index in reached_inputs(weight) if _is_the(node, index, consumer)), None)


def _bias_of(node: ir.Node, consumer: ConsumerRecord, op: MvmOp) -> FoundBias | None:
    """The bias that is added to the product of one MVM node; None if no constant is."""
    weight_slot = op.slot(consumer.slot)
    if weight_slot is None or weight_slot.bias is None:
        return None
    slot = weight_slot.bias
    if slot.index is not None:
        value = node.inputs[slot.index] if slot.index < len(node.inputs) else None
        product, beta = None, slot.beta_of(node)
    else:
        product, beta = node.outputs[0], 1.0
        uses = list(product.uses())
        if len(uses) != 1 or uses[0].node.op_identifier() != _ADD:
            return None
        node = uses[0].node
        value = node.inputs[1 - uses[0].idx]
    tensor = _constant(value)
    return None if value is None or tensor is None else FoundBias(value, tensor, node, beta, op, slot, product)


def _biases_of_others(
    weight: ir.Value, record: WeightRecord, bias: FoundBias, consumer: ConsumerRecord
) -> list[FoundBias] | None:
    """The bias of every node that multiplies by the weight; None unless all of them add the same bias.

    All these nodes share the arrays of the weight. Bias rows in these arrays add the bias to each of their products.
    """
    readers = [other for other in record.consumers if other.is_mvm]
    if any((other.path, other.matrix_view) != (consumer.path, consumer.matrix_view) for other in readers):
        return None
    found = []
    for node, index in reached_inputs(weight):
        reader = next((other for other in readers if _is_the(node, index, other)), None)
        if reader is None:
            continue
        op = known_op(reader.domain, reader.op_type)
        own = None if op is None else _bias_of(node, reader, op)
        if own is None or own.value is not bias.value or own.beta != bias.beta or not own.slot.in_rows:
            return None
        found.append(own)
    return found


def bias_as_rows(
    bias: FoundBias,
    weight: ir.Value,
    record: WeightRecord,
    consumer: ConsumerRecord,
    *,
    scale: FloatArray,
    zero: FloatArray,
    rows: int,
) -> BiasRows | str:
    """Map a bias to extra rows.

    Args:
        bias: The bias.
        weight: The rebuilt weight.
        record: The manifest's entry of the weight; its converter and levels also map the bias.
        consumer: The record of the node that multiplies by the weight.
        scale: µS per unit of weight in the last piece of rows, [matrices, columns].
        zero: The zero of the decoding in units of weight, of the same shape.
        rows: How many rows share the bias.

    Returns:
        The rows, or the reason why the bias has to stay digital.
    """
    view = consumer.matrix_view
    assert view is not None  # noqa: S101 - layers have one
    if (reason := _why_digital(bias, weight, record, consumer, view)) is not None:
        return reason
    per_row = _values_of_rows(bias, view.view)
    if per_row is None:
        return f"its shape {list(bias.tensor.shape.numpy())} is not that of the outputs"
    if not np.isfinite(per_row).all():
        return "it has values that are no finite numbers"
    per_row = per_row / rows
    stored_type = np.dtype(record.ir_compute_dtype.numpy())
    compute: np.dtype[np.floating] = np.dtype(np.float64 if record.compute_dtype == "float64" else np.float32)
    converter, levels = record.converter.converter(), None if record.levels is None else record.levels.levels
    conductances = [np.empty(per_row.shape, compute) for _ in converter.device_names]
    rebuilt = np.empty(per_row.shape)
    for matrix, values in enumerate(per_row.astype(compute)):
        scaling = Scaling(scale[matrix].astype(compute), zero[matrix].astype(compute))
        if (needed := _rows_needed(per_row[matrix] * rows, converter.limits(scaling), compute)) > rows:
            enough = f"{needed:.0f} rows would do" if math.isfinite(needed) else "no number of rows would do"
            return f"{rows} row{' does' if rows == 1 else 's do'} not hold it; {enough}"
        out = [device[matrix] for device in conductances]
        WeightConversion(converter, scaling, levels=levels).convert(values, 0, out)
        for array in out:
            array[:] = array.astype(stored_type)  # half precision is computed in float32
        # The error is that of the conductances alone, so they are decoded in float64, whatever type the model uses.
        exact = Scaling(*(values[matrix].astype(np.float64) for values in (scale, zero)))
        rebuilt[matrix] = converter.decoding(exact).decode([array.astype(np.float64) for array in out], rebuilt.dtype)
    coded = None if record.levels_of_codes is None else levels
    stored = [array.astype(stored_type) if coded is None else coded.codes(array) for array in conductances]
    return BiasRows(
        rows=rows,
        stored=tuple(np.repeat(array[:, None, :], rows, axis=1) for array in stored),
        beta=bias.beta,
        max_abs_error=float(np.abs(view.factor * rows * (rebuilt - per_row)).max()),
    )


def _why_digital(
    bias: FoundBias, weight: ir.Value, record: WeightRecord, consumer: ConsumerRecord, view: MatrixViewRecord
) -> str | None:
    """Why a bias cannot be mapped to rows, whatever its values are; None if it can."""
    if record.rounded:
        return "it is added to sums of integer codes"
    if not bias.slot.in_rows:
        return f"{consumer.op_type} does not add it once to each output of the product"
    found = _biases_of_others(weight, record, bias, consumer)
    if found is None:
        return "not all nodes that multiply with the weight add the same bias"
    if len(list(bias.value.uses())) != len(found) or bias.value.is_graph_output():
        return f"other nodes read '{bias.name}', too"
    given = next((item.product for item in found if item.product is not None and item.product.is_graph_output()), None)
    if given is not None:
        return f"'{given.name}', the product without the bias, is an output of the model, too"
    return None if view.factor else "the product is multiplied with 0"


def _values_of_rows(bias: FoundBias, view: MatrixView) -> NDArray[np.float64] | None:
    """What all bias rows together hold, in units of weight, [matrices, columns].

    None if the shape of the bias does not fit the outputs.
    """
    values = bias.array().astype(np.float64) * bias.beta
    channels, axis = bias.op.bias_channels(view), bias.slot.output_axis
    along_outputs = values.shape[axis] if values.ndim >= -axis else 1
    if values.size not in {1, channels} or values.size != along_outputs:
        return None
    of_groups = np.broadcast_to(values.reshape(-1), channels).reshape(-1, view.columns)
    result: NDArray[np.float64] = np.broadcast_to(of_groups, (view.matrices, view.columns)) / view.factor
    return result


def _rows_needed(
    total: NDArray[np.float64], limits: tuple[FloatOrArray, FloatOrArray], compute: np.dtype[np.floating]
) -> float:
    """How many rows are needed if each holds an equal part of the bias; infinite if no number suffices.

    More rows make the part of each row smaller. This does not help if 0 is outside of the range of weights that the
    devices hold.
    """
    low, high = (np.broadcast_to(np.asarray(limit, np.float64), total.shape) for limit in limits)
    if (low > 0).any() or (high < 0).any():
        return math.inf
    limit = np.where(total < 0, -low, high) * (1 + _END_ROUNDINGS * float(np.finfo(compute).eps))
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(total == 0, 1.0, np.abs(total) / limit)
    largest = float(needed.max())
    return math.ceil(largest) if math.isfinite(largest) else math.inf


def _is_the(node: ir.Node, index: int, consumer: ConsumerRecord) -> bool:
    found = (node.name or "", node.op_type, node.domain, index)
    return found == (consumer.node, consumer.op_type, consumer.domain, consumer.slot)


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of the output of a Constant node.

    None for other values, and for graph inputs with a default, because callers can replace these.
    """
    if value is None or value.is_graph_input():
        return None
    return value.const_value if value.is_initializer() else constant_tensor(value)
