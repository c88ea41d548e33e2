"""Builds the manifest of a mapping from its plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import cast

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping import (
    BlocksRecord,
    ClippingRecord,
    ComputeDtype,
    ConductanceRecord,
    ConsumerRecord,
    ConverterRecord,
    DequantizationRecord,
    LevelsRecord,
    LossRecord,
    Manifest,
    MatrixViewRecord,
    OtherParameterRecord,
    PackingRecord,
    PartRecord,
    RearrangementRecord,
    SameSourceRecord,
    ScaleRecord,
    SkippedRecord,
    TilingRecord,
    WeightRecord,
    ZeroRecord,
    format_version_of,
)
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes.decode_packed_weights import decoded_record
from onnx_gconv.passes.node_placement import Placement
from onnx_gconv.passes.planning.mapping_plan import MappingPlan, PlannedWeight
from onnx_gconv.passes.shared_weights import digital_uses
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.version import TOOL
from onnx_gconv.weights import FoundWeight
from onnx_gconv.weights.origin import Origin
from onnx_gconv.weights.same_source import SameSource

__all__ = ["manifest_of"]


def manifest_of(plan: MappingPlan, names: UniqueNames, placement: Placement) -> Manifest:
    """The manifest of a plan.

    Args:
        plan: The plan.
        names: Provides the names of conductances, scales and other new initializers.
        placement: Determines the graph in which each weight is rebuilt.
    """
    weights = tuple(_weight_record(weight, plan, names, placement) for weight in plan.weights)
    return Manifest(
        format_version=format_version_of(weights),
        tool=TOOL,
        weights=weights,
        skipped=tuple(
            SkippedRecord(
                name=item.name,
                shape=item.shape,
                graph=item.graph_path,
                reason=item.reason.value,
                detail=item.detail,
                is_mvm=item.is_mvm,
                consumers=item.consumers,
                parameters=item.parameters,
                same_source_as=_same_source_records(item.same_source_as),
                parameter=item.origin.parameter,
                other_parameters=_other_parameter_records(item.origin),
                modules=item.origin.modules,
                folded_norms=item.origin.norms,
                equal_values=_equal_value_records(item.same_source_as),
            )
            for item in plan.skipped
        ),
        notes=plan.notes,
    )


def _weight_record(weight: PlannedWeight, plan: MappingPlan, names: UniqueNames, placement: Placement) -> WeightRecord:
    found, conversion = weight.found, weight.conversion
    converter, decoding, grid = conversion.converter, conversion.decoding, conversion.grid
    suffix = "_code" if weight.scheme.is_coded else ""
    scale_name = names.new(f"{found.name}.g_scale")
    readers_of_copy = digital_uses(found).readers if plan.shared == "split" else frozenset()
    graph = placement.of(found).scope.path
    return WeightRecord(
        name=found.name,
        graph=graph,
        moved_from=None if graph == found.scope.path else found.scope.path,
        dtype=weight.dtype.name,
        shape=found.shape,
        stored_as=found.stored_as,
        sources=found.sources,
        converter=ConverterRecord.of(converter),
        granularity=weight.scheme.granularity.kind,
        axis=None if grid is None else grid.axis,
        tiling=_tiling_record(weight),
        clipping=_clipping_record(weight),
        levels=_levels_record(weight),
        loss=_loss_record(weight),
        compute_dtype=cast("ComputeDtype", weight.compute_dtype.name),
        conductances=tuple(
            ConductanceRecord(name=names.new(f"{found.name}.{device}{suffix}"), device=device, coefficient=coefficient)
            for device, coefficient in zip(converter.device_names, decoding.coefficients, strict=True)
        ),
        offset_us=decoding.offset_us,
        scale=_scale_record(scale_name, weight),
        zero=_zero(weight, names),
        rounded=found.is_integer,
        zero_point=None if found.zero_point is None else names.new(f"{found.name}.g_zero_point"),
        max_abs=float(weight.statistics.max_abs),
        notes=weight.notes,
        consumers=tuple(_consumer_records(found, readers_of_copy)),
        parameters=found.parameters,
        modules=found.origin.modules,
        same_source_as=_same_source_records(weight.same_source_as),
        digital_copy=names.new(f"{found.name}.digital") if readers_of_copy else None,
        parameter=found.origin.parameter,
        other_parameters=_other_parameter_records(found.origin),
        folded_norms=found.origin.norms,
        equal_values=_equal_value_records(weight.same_source_as),
        packing=_packing_record(found, names),
        limited=weight.is_limited,
        dequantization=_dequantization_record(found),
        parts=_part_records(weight),
        zero_point_blocks=_blocks_record(found),
        decoded_from=decoded_record(found.tensor),
    )


def _part_records(weight: PlannedWeight) -> tuple[PartRecord, ...]:
    if (parts := weight.parts) is None:
        return ()
    return tuple(PartRecord(name=name, columns=size) for name, size in zip(parts.names, parts.sizes, strict=True))


def _packing_record(found: FoundWeight, names: UniqueNames) -> PackingRecord | None:
    if (packed := found.packed) is None:
        return None
    packing = packed.packing
    padding = names.new(f"{found.name}.g_padding") if packing.padding else None
    return PackingRecord.model_validate(
        {"bits": packing.bits, "shape": packing.stored, "block": packed.block, "padding": padding}
    )


def _blocks_record(found: FoundWeight) -> BlocksRecord | None:
    blocks = found.zero_point.blocks if isinstance(found.zero_point, ZeroPoint) else None
    return None if blocks is None else BlocksRecord(axis=blocks.axis, size=blocks.size)


def _dequantization_record(found: FoundWeight) -> DequantizationRecord | None:
    return None if found.dequantization is None else DequantizationRecord(**vars(found.dequantization))


def _scale_record(name: str, weight: PlannedWeight) -> ScaleRecord:
    scale, grid = weight.conversion.scaling.scale, weight.conversion.grid
    if grid is None:
        return ScaleRecord(name=name, value=float(scale))
    return ScaleRecord(
        name=name,
        value=None,
        form=grid.form,
        shape=grid.stored_shape,
        minimum=float(np.min(scale)),
        maximum=float(np.max(scale)),
        consumer=weight.consumer,
    )


def _zero(weight: PlannedWeight, names: UniqueNames) -> float | ZeroRecord:
    zero = weight.conversion.scaling.zero
    if isinstance(zero, float):
        return zero
    name = names.new(f"{weight.found.name}.g_zero")
    return ZeroRecord(name=name, minimum=float(np.min(zero)), maximum=float(np.max(zero)))


def _tiling_record(weight: PlannedWeight) -> TilingRecord | None:
    grid, granularity = weight.conversion.grid, weight.scheme.granularity
    if granularity.kind == "tensor" and grid is None:
        return None
    rows, columns = granularity.tile or (None, None)
    return TilingRecord(
        rows=rows,
        columns=columns,
        partition=granularity.partition,
        row_starts=(0,) if grid is None else grid.row_starts,
        column_starts=(0,) if grid is None else grid.column_starts,
    )


def _clipping_record(weight: PlannedWeight) -> ClippingRecord | None:
    clipping = weight.scheme.clipping
    if clipping.is_at_maximum:
        return None
    return ClippingRecord(percentile=clipping.percentile, value=clipping.value)


def _levels_record(weight: PlannedWeight) -> LevelsRecord | None:
    levels = weight.conversion.levels
    if levels is None:
        return None
    storage = "float"
    if weight.scheme.is_coded:
        storage = "uint4" if weight.has_narrow_codes else levels.code_dtype.name
    return LevelsRecord.model_validate({**levels.manifest(), "storage": storage})


def _loss_record(weight: PlannedWeight) -> LossRecord | None:
    loss = weight.loss
    if loss is None:
        return None
    return LossRecord(
        clipped=loss.clipped,
        max_clipping_error=loss.max_clipping_error,
        max_rounding_error=loss.max_rounding_error,
        rms_error=loss.rms_error,
        sqnr_db=loss.sqnr_db,
    )


def _other_parameter_records(origin: Origin) -> tuple[OtherParameterRecord, ...]:
    return tuple(OtherParameterRecord(name=item.name, relation=item.relation) for item in origin.others)


def _same_source_records(others: Iterable[SameSource]) -> tuple[SameSourceRecord, ...]:
    return tuple(_same_source_record(item) for item in others if item.is_same_parameter)


def _equal_value_records(others: Iterable[SameSource]) -> tuple[SameSourceRecord, ...]:
    return tuple(_same_source_record(item) for item in others if not item.is_same_parameter)


def _same_source_record(item: SameSource) -> SameSourceRecord:
    return SameSourceRecord(name=item.name, graph=item.graph_path, relation=item.relation)


def _consumer_records(found: FoundWeight, readers_of_copy: Collection[tuple[ir.Node, int]]) -> Iterable[ConsumerRecord]:
    for consumer in found.consumers:
        view = consumer.view
        yield ConsumerRecord(
            node=consumer.node.name or "",
            op_type=consumer.node.op_type,
            domain=consumer.node.domain,
            slot=consumer.slot,
            graph=consumer.graph_path,
            is_mvm=consumer.is_mvm,
            path=tuple(RearrangementRecord(op=step.op, argument=step.argument) for step in consumer.path),
            matrix_view=None if view is None else MatrixViewRecord.of(view),
            reads="digital" if (consumer.node, consumer.slot) in readers_of_copy else "rebuilt",
        )
