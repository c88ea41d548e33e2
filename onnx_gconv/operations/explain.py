"""Explains how a weight becomes conductances, with the numbers of one of its elements."""

from __future__ import annotations

import bisect
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.configuration.options import (
    ConfigurationLike,
    ConverterLike,
    MappingOptions,
    configuration_of,
    require_none_for_mapped,
)
from onnx_gconv.converters import ConductanceConverter, Scaling, WeightStatistics
from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.crossbars.checked_weights import checked_weights
from onnx_gconv.crossbars.layers import layers_of, readers_and_layout
from onnx_gconv.crossbars.original_weights import OriginalWeights
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.naming import named_in_messages
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping import UnknownConverterError, WeightRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.preconditions import manifest_or_none, require_mapped
from onnx_gconv.operations.explanation import CellOnTile, DeviceOfCell, Explanation, ScaleGroup
from onnx_gconv.operations.other_values import what_else_it_is
from onnx_gconv.passes import MapConductances
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.passes.raise_opset import raised_opset
from onnx_gconv.passes.weight_texts import explanation
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.suggestions import suggestion
from onnx_gconv.tensors.streamed import element_chunks
from onnx_gconv.weights import FoundWeight

__all__ = ["explain_weight"]

_HALF_A_CODE = 0.5

# The methods of a converter that its equations describe.
_COMPUTING = frozenset({"scaling", "limits", "convert_chunk", "decoding"})


def explain_weight(
    model: ModelLike,
    weight: str,
    row: int | None = None,
    column: int | None = None,
    *,
    matrix: int = 0,
    original: ModelLike | None = None,
    geometry: ArrayGeometry | None = None,
    converter: ConverterLike | None = None,
    config: ConfigurationLike | None = None,
    **options: Unpack[MappingOptions],
) -> Explanation:
    """Explain how a weight becomes conductances, with the numbers of one of its elements.

    A plain model is mapped in memory first. All elements of the weight are read once, in chunks.

    Args:
        model: A mapped model, or a plain one; in a file or in memory, as for `map_model`. It is not changed.
        weight: The weight: its name in the model, its parameter in the exported program, or the name of one of its
            conductances or of its scale.
        row: Row (input) of the element in the matrix view of the weight, from 0. Row and column are given together; if
            neither is given, the element of the largest magnitude is explained.
        column: Column (output) of the element, from 0.
        matrix: Number of the matrix, from 0, if the weight has several (groups, experts, directions, gates).
        original: The model before the mapping; then the original value and its error are reported, too. A plain
            `model` is its own original.
        geometry: The size of a chip's arrays; then the tile of the element is reported, as `write_bundle` numbers it.
        converter: For a plain model: as for `map_model`.
        config: For a plain model: as for `map_model`.
        **options: For a plain model: as for `map_model`, see `MappingOptions`.

    Returns:
        The numbers, which ``print`` shows step by step.

    Raises:
        ConfigError: If there is no such element, or options were given for a model that is mapped already.
        ModelError: If a model cannot be read, has no such weight or a damaged mapping, or `original` is not the model
            that was mapped.
        UnmappableWeightError: If a plain model has values that no conductance can hold.
    """
    given, watched = GivenModel.of(model, "explain_weight"), WatchedFiles()
    graph = given.load(watched, may_lack_data=True)
    with named_in_messages(given.label), watched.blamed():
        is_plain = manifest_or_none(graph) is None
        if not is_plain:
            require_none_for_mapped(converter, config, options)
        if is_plain and original is not None:
            raise ConfigError("the model is not mapped, so that it is its own original; leave the other one out")
        if is_plain:
            configuration = configuration_of(config, converter, options)
            if configuration.model.upgrade_opset:
                raised_opset(graph)
            before = graph.clone()  # it shares the tensors
            MapConductances(configuration=configuration)(graph)
        found = _chosen(graph, weight)
        own = OriginalWeights(as_it_was_mapped(before, graph)).find(found.record) if is_plain else None
    if original is not None:
        other = GivenModel.of(original, "explain_weight")
        with named_in_messages(other.label):
            own = OriginalWeights(as_it_was_mapped(other.load(may_lack_data=True), graph)).find(found.record)
            if own is None:
                raise ModelError(
                    f"has no weight {found.record.quoted} of {found.record.dtype} {list(found.record.shape)}; give the "
                    "model that was mapped"
                )
            _element(own.numbers, 0)  # an error of reading its data then names this model
    with named_in_messages(given.label), watched.blamed():
        cell = _Cell(found, own)
        told = cell.explanation(given.label, cell.index(matrix, row, column), is_mapped_now=is_plain)
        if geometry is not None:
            told = replace(told, tile=_on_tile(graph, told, found.record, geometry))
        watched.check()
        return told


def _chosen(model: ir.Model, name: str) -> MappedWeight:
    """Return the mapped weight of a name.

    Raises:
        ModelError: If there is no such weight, several weights have that name, or its mapping is damaged.
    """
    manifest = require_mapped(model)
    checked = checked_weights(manifest, model)
    found = [item for item in checked if name in _names(item.record)]
    if not found:
        skipped = next((item for item in manifest.skipped if name in {item.name, item.known_as}), None)
        if skipped is not None:
            why = "; ".join(filter(None, (explanation(skipped.reason), skipped.detail)))
            raise ModelError(f"the weight {skipped.quoted} is not mapped: {why}")
        if (other := what_else_it_is(name, model, checked)) is not None:
            raise ModelError(other)
        known = {each: None for item in manifest.weights for each in (item.known_as, item.name)}
        there = suggestion(name, known, of_model=True) or "the model has none"
        raise ModelError(f"no mapped weight is called '{name}'; {there}")
    if len(found) > 1:
        graphs = " and ".join(f"'{item.record.graph or 'the main graph'}'" for item in found)
        own = sorted({item.record.conductances[0].name for item in found})
        if len(own) < len(found):
            raise ModelError(f"weights called '{name}' stand in {graphs}, and none has a name of its own")
        raise ModelError(f"weights called '{name}' stand in {graphs}; name one by a conductance: {' or '.join(own)}")
    [item] = found
    if item.mapped is None or item.problem is not None:
        raise ModelError(f"the weight {item.record.quoted} cannot be explained: {item.problem}")
    return item.mapped


def _names(record: WeightRecord) -> frozenset[str]:
    stored = (item.name for item in record.conductances)
    return frozenset({record.name, record.known_as, record.scale.name, *stored, *record.parameters})


class _Cell:
    """Computes the explanation of elements of a weight.

    Args:
        mapped: The weight.
        original: The weight in the original model; None if that is not known.

    Raises:
        BundleError: If no node reads the weight as matrices.
        ModelError: If the manifest contradicts itself.
    """

    def __init__(self, mapped: MappedWeight, original: FoundWeight | None) -> None:
        self._mapped, self._record, self._original = mapped, mapped.record, original
        self._readers, self._layout = readers_and_layout(mapped.record)
        self._grid = mapped.record.grid

    def index(self, matrix: int, row: int | None, column: int | None) -> int:
        """Return the flat index of an element; of that with the largest magnitude if neither row nor column is given.

        Raises:
            ConfigError: If there is no such element, or one of row and column is missing.
        """
        layout = self._layout
        if row is None and column is None:
            return self._largest()
        if row is None or column is None:
            raise ConfigError("an element has a row (input) and a column (output); give both, or neither")
        for name, number, count in (
            ("matrix", matrix, layout.matrices),
            ("row", row, layout.rows),
            ("column", column, layout.columns),
        ):
            if not 0 <= number < count:
                size = f"{layout.rows} inputs (rows) by {layout.columns} outputs (columns)"
                form = "its matrix has" if layout.matrices == 1 else f"it is {layout.matrices} matrices of"
                raise ConfigError(
                    f"the weight {self._record.quoted} has no {name} {number}: {form} {size}, counted from 0"
                )
        return layout.element(matrix, row, column)

    def explanation(self, model: Path, index: int, *, is_mapped_now: bool) -> Explanation:
        """Return the explanation of an element, given by its flat index."""
        record, decoding, grid = self._record, self._mapped.decoding, self._grid
        try:
            converter = record.converter.converter()
        except UnknownConverterError as error:
            raise ModelError(f"the weight {record.quoted} {error.what}") from None
        scale, zero = (_entry(values, grid, index) for values in (decoding.scale, decoding.zero))
        factor = 1.0 if record.measured is None else _entry(record.measured.factor_of_each(grid), grid, index)
        targets = Scaling(scale * factor, zero)
        limits = tuple(float(limit) for limit in converter.limits(targets))
        group = self._group(index)
        value = None if self._original is None else float(_element(self._original.numbers, index))
        rebuilt = float(_element(self._mapped.rebuilt, index)) - self._zero_point(index)
        return Explanation(
            model=model,
            is_mapped_now=is_mapped_now,
            record=record,
            readers=tuple(f"{item.node} ({item.op_type})" if item.node else item.op_type for item in self._readers),
            matrices=(self._layout.matrices, self._layout.rows, self._layout.columns),
            matrix=int(self._layout.index("matrix", index, index + 1)[0]),
            row=int(self._layout.index("row", index, index + 1)[0]),
            column=int(self._layout.index("column", index, index + 1)[0]),
            element=tuple(int(number) for number in np.unravel_index(index, record.shape)),
            rule=_rule(converter),
            value=value,
            zero_point=self._zero_point(index) if record.rounded else None,
            group=group,
            scale=scale,
            drift_factor=factor,
            zero=zero,
            limits=(limits[0], limits[1]),
            devices=self._devices(index),
            rebuilt=rebuilt,
            bound=self._bound(converter, targets, group, limits),
        )

    def _largest(self) -> int:
        """Return the flat index of the first element with the largest magnitude."""
        largest, found, first = -1.0, 0, 0
        for chunk in self._chunks():
            magnitudes = np.abs(chunk)
            place = int(magnitudes.argmax())
            if magnitudes[place] > largest:
                largest, found = float(magnitudes[place]), first + place
            first += chunk.size
        return found

    def _chunks(self) -> Iterator[NDArray[np.float64]]:
        """Yield the numbers that the conductances stand for: the weight, or integer codes minus their zero points."""
        if self._original is not None:
            yield from element_chunks(self._original.numbers, dtype=np.dtype(np.float64))
            return
        points, first = self._mapped.zero_point, 0
        for chunk in element_chunks(self._mapped.rebuilt, dtype=np.dtype(np.float64)):
            yield chunk if points is None else chunk - points.chunk(first, chunk.size)
            first += chunk.size

    def _group(self, index: int) -> ScaleGroup:
        """Return the group of elements that share the scale of an element."""
        grid, layout = self._grid, self._layout
        low, high, first = np.inf, -np.inf, 0
        if grid is None:
            for chunk in self._chunks():
                low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
            return ScaleGroup(None, (0, layout.rows), (0, layout.columns), low, high)
        number = int(grid.groups(index, index + 1)[0])
        for chunk in self._chunks():
            for ufunc in (np.minimum, np.maximum):
                elements, groups = grid.reduced(ufunc, chunk, first)
                if (own := elements[groups == number]).size:
                    low, high = min(low, float(own.min())), max(high, float(own.max()))
            first += chunk.size
        matrix, row_piece, column_piece = (int(place) for place in np.unravel_index(number, grid.shape))
        rows, columns = (*grid.row_starts, layout.rows), (*grid.column_starts, layout.columns)
        return ScaleGroup(
            matrix,
            (rows[row_piece], rows[row_piece + 1]),
            (columns[column_piece], columns[column_piece + 1]),
            low,
            high,
        )

    def _zero_point(self, index: int) -> float:
        points = self._mapped.zero_point
        return 0.0 if points is None else float(np.ravel(points.chunk(index, 1))[0])

    def _devices(self, index: int) -> tuple[DeviceOfCell, ...]:
        record, levels = self._record, self._record.levels
        found = []
        tensors = zip(record.conductances, self._mapped.tensors, self._mapped.stored_tensors, strict=True)
        for item, conductances, stored in tensors:
            conductance = float(_element(conductances, index))
            level = None
            if levels is not None and record.measured is None:
                values = levels.levels.values(np.float64)
                level = int(np.abs(values - conductance).argmin())
            code = int(_element(stored, index)) if record.levels_of_codes is not None else None
            found.append(DeviceOfCell(item.device, item.coefficient, item.name, conductance, level, code))
        return tuple(found)

    def _bound(
        self, converter: ConductanceConverter, scaling: Scaling, group: ScaleGroup, limits: tuple[float, ...]
    ) -> float | None:
        """Return the mapping's bound for ``|rebuilt - W|`` for W in the devices' range; None if they were measured."""
        record = self._record
        if record.measured is not None:
            return None
        if converter.is_exact and record.levels is None and record.clipping is None:
            return 0.0
        if record.rounded and not record.limited and record.clipping is None:
            return 0.0  # rounding the quotient gives back the code
        # Without the original, its extremes are taken to be the ends of the devices' range.
        low, high = limits if self._original is None else (group.minimum, group.maximum)
        conversion = WeightConversion(
            converter=converter,
            scaling=scaling,
            is_clipped=record.clipping is not None,
            levels=None if record.levels is None else record.levels.levels,
        )
        bound = float(conversion.error_bound(WeightStatistics(low, high, 1), np.dtype(record.compute_dtype)))
        if record.rounded:
            return bound + _HALF_A_CODE
        if record.dtype != record.compute_dtype:  # the Cast at most doubles the error; a clipped W may need more
            finfo = ml_dtypes.finfo(record.dtype)
            rounding = float(finfo.eps) / 2 * (max(abs(low), abs(high)) + bound) + float(finfo.smallest_subnormal)
            return 2 * bound if record.clipping is None else max(2 * bound, bound + rounding)
        return bound


def _element(tensor: ir.TensorProtocol, index: int) -> Any:  # noqa: ANN401 - a number of any type
    """Return an element, given by its flat index."""
    [chunk] = element_chunks(tensor, index, index + 1)
    return chunk[0]


def _entry(values: FloatOrArray, grid: ScaleGrid | None, index: int) -> float:
    """Return the value of the group that an element belongs to."""
    if grid is None or not isinstance(values, np.ndarray):
        return float(np.ravel(values)[0])
    return float(values.reshape(-1)[int(grid.groups(index, index + 1)[0])])


def _rule(converter: ConductanceConverter) -> tuple[str, ...]:
    """Return the equations of a converter: the first block of its class' docstring, and the sentence before it.

    A class without equations has those of the class that it derives from, unless it computes otherwise.
    """
    for cls in type(converter).__mro__:
        before, found, after = (inspect.cleandoc(cls.__doc__ or "")).partition("::\n\n")
        if not found:
            if not _COMPUTING.isdisjoint(vars(cls)):
                break
            continue
        sentence = " ".join(before.rpartition("\n\n")[2].split()).replace("`", "")
        lines = []
        indent = after[: len(after) - len(after.lstrip(" "))]  # none if nothing but equations follows the first line
        for line in after.splitlines():
            if line and not line.startswith(indent):
                break
            lines.append(line)
        block = textwrap.dedent("\n".join(lines)).strip("\n").splitlines()
        return (f"{sentence}:", *(f"    {line}" for line in block))
    return ()


def _on_tile(model: ir.Model, cell: Explanation, record: WeightRecord, geometry: ArrayGeometry) -> CellOnTile:
    """Return the place of an element in a bundle for arrays of the given size.

    Raises:
        ModelError: If the model cannot be handed off.
        ConfigError: If a weight does not fit the arrays.
    """
    layers = layers_of(model, geometry, None)
    [layer] = [item for item in layers if (item.record.graph, item.record.name) == (record.graph, record.name)]
    grid = layer.grid
    place = (
        bisect.bisect_right(grid.row_starts, cell.row) - 1,
        bisect.bisect_right(grid.column_starts, cell.column) - 1,
    )
    tile = grid.tile(cell.matrix, *place)
    return CellOnTile(
        layer=layer.id,
        tile=layer.tile_id(tile.number),
        row=cell.row - tile.inputs[0],
        column=cell.column - tile.outputs[0],
        array=(geometry.rows, geometry.columns),
    )
