"""Checks the types, the shapes, the scale and the zero of a mapped weight against the manifest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.records.scheme_records import ZeroRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.tensors.types import type_name

__all__ = ["structural_problems"]


def structural_problems(mapped: MappedWeight) -> Iterator[str]:
    """Yield a message for each difference between a mapped weight and its record: types, shapes, scale and zero."""
    record = mapped.record
    levels = record.levels_of_codes
    stored_type = record.compute_dtype if levels is None else levels.storage
    for tensor in mapped.stored_tensors:
        if tensor.shape.numpy() != record.shape:
            yield f"'{tensor.name}' has the shape {list(tensor.shape.numpy())}, the weight {list(record.shape)}"
        if type_name(tensor.dtype) != stored_type:
            yield f"'{tensor.name}' is {type_name(tensor.dtype)} now, it was {stored_type}"
    for tensor in mapped.read_sigmas:
        if (tensor.shape.numpy(), tensor.dtype) != (record.shape, record.ir_compute_dtype):
            found = f"{type_name(tensor.dtype)} {list(tensor.shape.numpy())}"
            yield f"the spread of readings '{tensor.name}' is {found}, not {record.compute_dtype} {list(record.shape)}"
    yield from _scale_problems(mapped.scale, record)
    factors = None if record.measured is None else record.measured.factors
    if factors is not None and len(factors) != (count := 1 if record.grid is None else record.grid.count):
        yield f"the manifest has {len(factors)} factors that compensate drift, but there are {count} scales"
    if mapped.zero is not None and isinstance(record.zero, ZeroRecord):
        yield from _zero_problems(mapped.zero, record.zero, record)


def _scale_problems(value: ir.Value, record: WeightRecord) -> Iterator[str]:
    scale = _tensor(value)
    entries = np.asarray(all_elements(scale), np.float64)
    is_positive = bool(np.all(np.isfinite(entries) & (entries > 0)))
    if record.scale.form == "number":
        if scale.size != 1 or not is_positive:
            yield f"the scale '{value.name}' is not one positive finite number"
            return
        if (number := float(entries.reshape(-1)[0])) != record.scale.value:
            yield f"the scale '{value.name}' is {number!r}, the manifest says {record.scale.value!r}"
            return
    else:
        if scale.shape.numpy() != record.scale.shape:
            wanted = list(record.scale.shape)
            yield f"the scale '{value.name}' has the shape {list(scale.shape.numpy())}, the manifest says {wanted}"
            return
        if not is_positive:
            index = int(np.flatnonzero(~(np.isfinite(entries) & (entries > 0)))[0])
            yield f"the scale '{value.name}' has {entries.reshape(-1)[index]} at flat index {index}, no positive number"
            return
        extremes = float(entries.min()), float(entries.max())
        if extremes != (record.scale.minimum, record.scale.maximum):
            manifest = f"{record.scale.minimum!r} to {record.scale.maximum!r}"
            yield f"the scale '{value.name}' is {extremes[0]!r} to {extremes[1]!r}, the manifest says {manifest}"
            return
        if not _is_alike_in_groups(entries, record):
            yield f"the scale '{value.name}' is not the same for all columns of a part"
            return
    if scale.dtype != record.ir_compute_dtype:
        yield f"'{value.name}' is {type_name(scale.dtype)} now, it was {record.compute_dtype}"


def _zero_problems(value: ir.Value, zero: ZeroRecord, record: WeightRecord) -> Iterator[str]:
    tensor = _tensor(value)
    if (shape := tensor.shape.numpy()) != record.scale.shape:
        yield f"the zero '{value.name}' has the shape {list(shape)}, the manifest says {list(record.scale.shape)}"
        return
    entries = np.asarray(all_elements(tensor), np.float64)
    extremes, number = (float(entries.min()), float(entries.max())), np.dtype(record.compute_dtype).type
    if extremes != (float(number(zero.minimum)), float(number(zero.maximum))):  # NaN equals no extreme
        manifest = f"{zero.minimum!r} to {zero.maximum!r}"
        yield f"the zero '{value.name}' is {extremes[0]!r} to {extremes[1]!r}, the manifest says {manifest}"
    elif not _is_alike_in_groups(entries, record):
        yield f"the zero '{value.name}' is not the same for all columns of a part"
    elif tensor.dtype != record.ir_compute_dtype:
        yield f"'{value.name}' is {type_name(tensor.dtype)} now, it was {record.compute_dtype}"


def _is_alike_in_groups(entries: NDArray[np.float64], record: WeightRecord) -> bool:
    """Whether all columns that share an entry have the same one, where the initializer repeats entries by column."""
    grid = record.grid
    return grid is None or np.array_equal(grid.stored(grid.values(entries)), entries)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # noqa: S101 - only initializers with data are located
    return value.const_value
