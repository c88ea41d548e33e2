"""The manifest of a hand-off bundle: its layers and tiles, and the crossbar arrays of the chip that tiles stand on.

``docs/bundle.md`` specifies the manifest for readers in any language, ``docs/bundle.schema.json`` for validators.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from onnx_gconv.crossbars.tiles import ArrayGeometry, PairLayout, Tile, TileGrid, touched_pieces
from onnx_gconv.errors import BundleError, ConfigError, ModelError
from onnx_gconv.files.json_schema import schema_text
from onnx_gconv.files.special_files import no_file_but
from onnx_gconv.known_names import known_as, quoted_name
from onnx_gconv.mapping import BlocksRecord, ConverterRecord, LevelsRecord, MatrixViewRecord, RearrangementRecord
from onnx_gconv.schemes.granularity import GranularityKind, Partition
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.packed import Packing
from onnx_gconv.validation_messages import first_flaw

__all__ = [
    "BUNDLE_FORMAT",
    "BUNDLE_VERSION",
    "MANIFEST_FILE",
    "ArrayRecord",
    "ArraysFile",
    "BiasRecord",
    "BlockScalesRecord",
    "BundleManifest",
    "DefectsRecord",
    "DeviceRecord",
    "FileRecord",
    "GeometryRecord",
    "LayerRecord",
    "NodeRecord",
    "PackedLayerRecord",
    "PlacementRecord",
    "PresetRecord",
    "StuckRecord",
    "TileRecord",
    "ValuesRecord",
    "bundle_schema",
    "manifest_json",
    "read_bundle_manifest",
]

BUNDLE_FORMAT = "onnx_gconv.bundle"
BUNDLE_VERSION = 1
MANIFEST_FILE = "manifest.json"

# Keys that only weights of integer codes have.
_OF_CODES = frozenset({"packing", "dequantization", "zero_point_blocks"})

_SHA256 = r"^[0-9a-f]{64}$"


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False)

    @classmethod
    def of_valid(cls, **values: Any) -> Self:  # noqa: ANN401 - of any fields
        """A record of values that need no check, for records of which there are many thousands.

        All records of a class share the set of the names of their fields. A set for each takes more memory than the
        values.
        """
        return cls.model_construct(_fields_set=_names_of_fields(cls), **values)


@functools.cache
def _names_of_fields(record: type[_Record]) -> set[str]:
    return set(record.model_fields)


class FileRecord(_Record):
    """A file of the bundle."""

    path: str = Field(description="Name of the file in the bundle")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class ArraysFile(_Record):
    """The file that holds all arrays."""

    path: str = Field(description="Name of the file in the bundle")
    kind: Literal["hdf5", "npz"]


class SourceRecord(_Record):
    """The mapped model that the bundle was made of."""

    name: str = Field(description="Name of the .onnx file")
    sha256: str = Field(pattern=_SHA256, description="SHA-256 of the .onnx file, without external data")


class PresetRecord(_Record):
    """A device preset, and how far from its target a device may be when programming ends."""

    name: str
    tolerance_us: float | None = Field(description="Tolerance in µS")
    tolerance_relative: float | None = Field(description="Tolerance as a fraction of the target")


class GeometryRecord(_Record):
    """The crossbar arrays of the chip, and how tiles are placed on them."""

    rows: int = Field(ge=1, description="Rows (inputs) of an array")
    columns: int = Field(ge=1, description="Columns (outputs) of an array")
    partition: Partition
    pair_layout: PairLayout
    whole_kernels: bool
    bias_rows: int = Field(
        default=0, ge=0, description="Number of rows that hold the bias of a layer, where that is possible"
    )
    spare_rows: int = Field(default=0, ge=0, description="Number of rows of each array that tiles leave free")
    spare_columns: int = Field(default=0, ge=0, description="Number of columns of each array that tiles leave free")
    padding: Literal["g_min"] = Field(
        default="g_min", description="The conductance that cells outside of a tile are programmed to"
    )

    @property
    def geometry(self) -> ArrayGeometry:
        """The same values as an `ArrayGeometry`, which checks them.

        Raises:
            ConfigError: If no array can have this geometry.
        """
        return ArrayGeometry(**self.model_dump(exclude={"padding"}))


class NodeRecord(_Record):
    """A node that multiplies activations with the weight."""

    node: str = Field(description="Name of the node, which may be empty")
    op_type: str
    domain: str
    slot: int = Field(description="Index of the input that reads the weight")
    graph: str = Field(description="Path of the node's graph; empty for the main graph")


class DeviceRecord(_Record):
    """One of the devices that each weight has."""

    name: str = Field(description="Name of the device, which is the last part of the keys of its arrays")
    coefficient: float = Field(description="c_k, the factor of the device's conductance in the sum")
    initializer: str = Field(
        description="Name of the initializer in model.onnx with its conductances, or with the codes of their levels"
    )


class ArrayRecord(_Record):
    """An array of the arrays file."""

    key: str
    sha256: str = Field(pattern=_SHA256, description="SHA-256 of the elements, little-endian, in row-major order")


class ValuesRecord(_Record):
    """Scales or zeros: an array [matrices, pieces of rows, pieces of columns]."""

    value: float | None = Field(description="The value if it is the same everywhere, else null")
    array: ArrayRecord


class BiasRecord(_Record):
    """The bias of a layer: added digitally, or held by rows below the inputs of each matrix, driven with constant 1."""

    mode: Literal["digital", "rows"] = "digital"
    initializer: str = Field(description="Name of the bias in model.onnx")
    values: ArrayRecord = Field(description="The bias, in the shape that it has in model.onnx")
    beta: float = Field(default=1.0, description="The factor by which the node multiplies the bias (beta of Gemm)")
    rows: int = Field(default=0, ge=0, description="Number of rows that hold the bias, each an equal part of it")
    max_abs_error: float | None = Field(
        default=None, description="Largest difference between the bias and what its rows add, in units of the output"
    )
    reason: str | None = Field(
        default=None, description="Why the bias is added digitally although rows were asked for; else null"
    )


class PlacementRecord(_Record):
    """The array of the chip that some devices of a tile stand on."""

    array: int = Field(ge=0, description="Number of the array on the chip, counted from 0")
    devices: tuple[int, ...] = Field(min_length=1, description="Indices of the devices: one, or the two of a pair")
    avoided_rows: tuple[int, ...] = Field(
        default=(),
        description="All rows of the array that are avoided, in rising order; the tile uses the others in their order",
    )
    avoided_columns: tuple[int, ...] = Field(
        default=(),
        description="All columns of the array that are avoided, in rising order; the tile uses the others in their "
        "order",
    )


class StuckRecord(_Record):
    """The stuck cells of one device of a tile."""

    device: int = Field(ge=0, description="Index of the device")
    cells: ArrayRecord = Field(description="Row and column of each stuck cell in the tile, int64 [cells, 2]")
    conductances: ArrayRecord = Field(description="The conductances in µS at which the cells are stuck, [cells]")


class TileRecord(_Record):
    """A tile: a part of a matrix that stands on one array of the chip for each device, or for each pair of devices."""

    id: str
    matrix: int = Field(ge=0)
    grid: tuple[int, int] = Field(description="Row and column of the tile in its matrix")
    inputs: tuple[int, int] = Field(
        description="The tile's first row in the matrix, and the one after its last; rows beyond the inputs of the "
        "matrix hold the bias"
    )
    outputs: tuple[int, int] = Field(description="The tile's first column in the matrix, and the one after its last")
    scale_rows: tuple[int, int] = Field(
        description="The pieces of rows of the scale that the tile touches: the first, and the one after the last"
    )
    scale_columns: tuple[int, int] = Field(
        description="The pieces of columns of the scale that the tile touches: the first, and the one after the last"
    )
    conductances: tuple[ArrayRecord, ...] = Field(description="For each device its targets in µS, [inputs, outputs]")
    codes: tuple[ArrayRecord, ...] | None = Field(
        description="For each device the numbers of the levels, [inputs, outputs]; null without codes"
    )
    placements: tuple[PlacementRecord, ...] = Field(description="The arrays of the chip that the tile stands on")
    stuck: tuple[StuckRecord, ...] = Field(default=(), description="The stuck cells of each device that has some")


class DefectsRecord(_Record):
    """The defect map that was used to place the tiles."""

    name: str = Field(description="Name of the file of the defect map")
    sha256: str = Field(pattern=_SHA256)
    array_count: int | None = Field(description="Number of arrays of the chip; null if the defect map does not say it")
    arrays: int = Field(ge=0, description="Number of arrays that the defect map lists")
    passed_over: tuple[int, ...] = Field(
        description="Numbers of the arrays that no tile stands on, although arrays with higher numbers are used"
    )


class PackedLayerRecord(_Record):
    """How the integer codes of a layer are packed into the bytes that model.onnx holds, the first code in the low bits.

    The conductances represent the codes minus their zero points.
    """

    bits: Literal[2, 4, 8]
    shape: tuple[int, ...] = Field(description="Shape of the packed bytes")
    block: int = Field(ge=1, description="Number of codes along the last axis of the weight that share a zero point")
    zero_point: ArrayRecord = Field(description="The zero points, float64: a scalar, or [..., blocks]")
    padding: ArrayRecord | None = Field(
        description="The codes that fill up the last bytes of rows, uint8 [rows, codes]; null if there are none"
    )


class LayerPartRecord(_Record):
    """One of several matrices that stand side by side in each matrix of a layer, such as the query of a QKV weight."""

    name: str = Field(min_length=1)
    outputs: tuple[int, int] = Field(description="The part's first column in the matrix, and the one after its last")
    tile_columns: tuple[int, int] = Field(
        description="The columns of tiles that hold the part: the first, and the one after the last"
    )


class BlockScalesRecord(_Record):
    """How nodes dequantize integer codes: W = scale * (code - zero point). The scales are applied digitally."""

    scale: str | None = Field(description="Name of the scales in model.onnx")
    zero_point: str | None = Field(
        description="Name of the zero points in model.onnx; null if they are 0 or the default of the op"
    )
    axis: int | None = Field(
        description="The axis of the weight along which scales differ; null if all elements share a scale, or scales "
        "do not differ along a single axis"
    )
    block: int | None = Field(
        ge=1, description="Number of neighbours along the axis that share a scale; the last block may be smaller"
    )
    groups: str | None = Field(
        default=None, description="Name of the value that gives the index of the scale for each input (g_idx)"
    )
    scales: ArrayRecord | None = Field(
        description="The scales in the shape that they have in model.onnx, or [..., blocks] for packed codes; null if "
        "they are not constant"
    )


class LayerRecord(_Record):
    """A mapped weight: ``W = (sum_k c_k * G_k - offset_us) / scale + zero``, all in the matrix view of the weight."""

    id: str
    weight: str = Field(description="Name of the weight, which is an initializer of plain.onnx")
    graph: str = Field(description="Path of the weight's graph; empty for the main graph")
    nodes: tuple[NodeRecord, ...] = Field(
        description="The nodes that use the weight; the matrix view is that of the first one"
    )
    dtype: str
    shape: tuple[int, ...]
    path: tuple[RearrangementRecord, ...] = Field(
        description="Transposes and reshapes of the weight before the matrix view applies"
    )
    matrix_view: MatrixViewRecord
    unroll: str = Field(description="The order of rows and columns, in words")
    converter: ConverterRecord
    g_min: float
    g_max: float
    levels: LevelsRecord | None
    compute_dtype: str
    array_dtype: Literal["float32", "float64"]
    devices: tuple[DeviceRecord, ...] = Field(min_length=1)
    pairs: tuple[tuple[int, int], ...] = Field(
        description="Indices of the devices of each pair, the positive one first"
    )
    offset_us: float
    granularity: GranularityKind
    scale: ValuesRecord = Field(description="µS per unit of weight")
    scale_row_starts: ArrayRecord = Field(
        description="The rows of a matrix at which pieces begin; a piece is a block of cells that share a scale"
    )
    scale_column_starts: ArrayRecord = Field(description="The columns of a matrix at which pieces begin")
    zero: ValuesRecord = Field(description="What is added after the division by the scale, in units of weight")
    rounded: bool = Field(description="Whether the weight consists of integer codes: code = round(W) + zero point")
    zero_point: ArrayRecord | None = Field(
        description="Integers that broadcast to the weight, or one for each block of the weight; null for 0"
    )
    bias: BiasRecord | None
    tile_row_starts: tuple[int, ...]
    tile_column_starts: tuple[int, ...]
    arrays: int = Field(description="Number of arrays of the chip that all tiles and devices of the layer need")
    utilization: float = Field(description="Share of the cells of these arrays that hold conductances")
    tiles: tuple[TileRecord, ...]
    packing: PackedLayerRecord | None = Field(
        default=None, description="How integer codes are packed into bytes; missing if they are not packed"
    )
    dequantization: BlockScalesRecord | None = Field(
        default=None,
        description="How nodes dequantize integer codes, as far as it is known; missing for weights without codes",
    )
    zero_point_blocks: BlocksRecord | None = Field(
        default=None, description="The blocks of the weight with one zero point each; missing if zero points broadcast"
    )
    parts: tuple[LayerPartRecord, ...] = Field(
        default=(),
        description="The parts that stand side by side in each matrix of the layer and share no tile and no scale; "
        "missing if a matrix has one part",
    )
    parameter: str | None = Field(
        default=None,
        description="The weight's parameter in the exported program, several joined by ' + '; null if not known",
    )
    modules: tuple[str, ...] = Field(
        default=(), description="The modules of that program that use the weight; the one that owns it comes first"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out unset keys of integer codes and of parts, which older readers do not know."""
        found: dict[str, Any] = serialize(self)
        found = {name: item for name, item in found.items() if name not in _OF_CODES or item is not None}
        return {name: item for name, item in found.items() if name != "parts" or item}

    @property
    def known_as(self) -> str:
        """What people call the weight: its parameter in the exported program, its module, or its name."""
        return known_as(self.weight, self.parameter, self.modules)

    @property
    def quoted(self) -> str:
        """The quoted name of the weight for messages."""
        return quoted_name(self.weight, self.known_as)

    @property
    def layout(self) -> MatrixLayout:
        """How the elements of the weight are laid out in matrices.

        Raises:
            IncommensurableShapeError: If the matrix view does not fit the shape.
        """
        return self.matrix_view.layout(self.shape, self.path)

    @property
    def tile_grid(self) -> TileGrid:
        """How the matrices of the layer are cut into tiles, with the rows of the bias."""
        view, rows = self.matrix_view, self.matrix_view.rows + self.bias_rows
        return TileGrid(view.matrices, rows, view.columns, self.tile_row_starts, self.tile_column_starts)

    @property
    def bias_rows(self) -> int:
        """Number of rows below the inputs of each matrix that hold the bias; 0 if the bias is added digitally."""
        return 0 if self.bias is None else self.bias.rows

    def every_array(self) -> Iterator[ArrayRecord]:
        """The records of all arrays that the arrays file holds for the layer."""
        for tile in self.tiles:
            yield from tile.conductances
            yield from tile.codes or ()
            for stuck in tile.stuck:
                yield from (stuck.cells, stuck.conductances)
        yield from (self.scale.array, self.zero.array, self.scale_row_starts, self.scale_column_starts)
        if self.zero_point is not None:
            yield self.zero_point
        if self.bias is not None:
            yield self.bias.values
        if self.packing is not None:
            yield self.packing.zero_point
            if self.packing.padding is not None:
                yield self.packing.padding
        if self.dequantization is not None and self.dequantization.scales is not None:
            yield self.dequantization.scales

    def scale_grid(self, row_starts: Iterable[int], column_starts: Iterable[int]) -> ScaleGrid:
        """The grid of pieces, which are blocks of the matrices that share a scale.

        Args:
            row_starts: The rows of a matrix at which pieces begin.
            column_starts: The columns of a matrix at which pieces begin.
        """
        return ScaleGrid(self.layout, tuple(map(int, row_starts)), tuple(map(int, column_starts)))

    def problem(self) -> str | None:
        """The first contradiction within the record, as part of a message; None if it is consistent."""
        try:
            layout = self.layout
        except (ValueError, IndexError) as error:
            return f"its matrix view does not fit the shape {list(self.shape)} ({error})"
        view = self.matrix_view
        if (layout.matrices, layout.rows, layout.columns) != (view.matrices, view.rows, view.columns):
            return f"its matrix view does not fit the shape {list(self.shape)}"
        if any(not 0 <= device < len(self.devices) for pair in self.pairs for device in pair):
            return f"its pairs name a device beyond the {len(self.devices)} that it has"
        if len({device.name for device in self.devices}) < len(self.devices):
            return f"two of its devices have one name: {', '.join(device.name for device in self.devices)}"
        return self._packing_problem() or self._grid_problem()

    def _grid_problem(self) -> str | None:
        if len(self.tiles) != len(self.tile_grid):
            return f"it has {len(self.tiles)} tiles, but its grid has {len(self.tile_grid)}"
        problems = map(self._tile_problem, self.tiles, self.tile_grid.tiles)
        return next((text for text in problems if text), None) or self._parts_problem()

    def _parts_problem(self) -> str | None:
        if not self.parts:
            return None
        columns, starts = self.matrix_view.columns, self.tile_column_starts
        stops = (*(part.outputs[0] for part in self.parts[1:]), columns)
        if self.parts[0].outputs[0] != 0 or any(
            part.outputs != (part.outputs[0], stop) or part.outputs[0] >= stop
            for part, stop in zip(self.parts, stops, strict=True)
        ):
            return f"its parts are not side by side in {columns} columns"
        wrong = (part for part in self.parts if part.tile_columns != touched_pieces(starts, *part.outputs))
        if (part := next(wrong, None)) is not None or any(part.outputs[0] not in starts for part in self.parts):
            return f"the tiles of its part '{(part or self.parts[0]).name}' do not match the columns of the part"
        return None

    def _packing_problem(self) -> str | None:
        if self.packing is None:
            return None
        try:
            packing = Packing(self.packing.bits, self.shape, self.packing.shape)
        except ModelError as error:
            return str(error)
        if bool(packing.padding) == (self.packing.padding is not None):
            return None
        has = "no padding" if self.packing.padding is None else "padding"
        return f"its rows of {self.shape[-1]} codes are packed in {packing.row_codes}, but it has {has}"

    def _tile_problem(self, tile: TileRecord, place: Tile) -> str | None:
        if (tile.matrix, tile.grid) != (place.matrix, place.grid):
            return f"tile {tile.id} is not where the grid has it"
        if (tile.inputs, tile.outputs) != (place.inputs, place.outputs):
            return f"tile {tile.id} has other inputs or outputs than the grid gives it"
        if any(len(arrays) != len(self.devices) for arrays in (tile.conductances, tile.codes or tile.conductances)):
            return f"tile {tile.id} does not have an array for each of the {len(self.devices)} devices"
        placed = [device for placement in tile.placements for device in placement.devices]
        if sorted(placed) != list(range(len(self.devices))):
            return f"tile {tile.id} is not placed with each of its {len(self.devices)} devices once"
        if any(item.device >= len(self.devices) for item in tile.stuck):
            return f"tile {tile.id} has stuck cells of a device beyond the {len(self.devices)} that it has"
        return None

    @property
    def code_dtype(self) -> np.dtype[np.unsignedinteger]:
        """The dtype of the arrays of codes: uint8 or uint16."""
        return np.dtype(np.uint16) if self.levels is None else self.levels.code_dtype


class BundleManifest(_Record):
    """The whole manifest."""

    format: Literal["onnx_gconv.bundle"] = "onnx_gconv.bundle"
    format_version: Literal[1] = 1
    tool: str
    unit: Literal["uS"] = "uS"
    source: SourceRecord
    preset: PresetRecord | None
    geometry: GeometryRecord
    defects: DefectsRecord | None = None
    partial_sums: str = Field(description="How the outputs of tiles are added to the output of the layer, in words")
    arrays: ArraysFile
    files: tuple[FileRecord, ...] = Field(description="The other files of the bundle")
    total_arrays: int
    layers: tuple[LayerRecord, ...]


def manifest_json(manifest: BundleManifest) -> Iterator[bytes]:
    """The JSON text of a manifest in UTF-8, layer by layer: the whole text may take as much memory as the records."""
    without = TypeAdapter(BundleManifest).dump_json(manifest.model_copy(update={"layers": ()}), indent=1)
    before, after = without.rsplit(b'"layers": []', 1)
    yield before + b'"layers": ['
    separator = b"\n  "
    for layer in manifest.layers:
        # No value has a line break: JSON writes it as \\n. So each one begins a line, which is indented further.
        yield separator + TypeAdapter(LayerRecord).dump_json(layer, indent=1).replace(b"\n", b"\n  ")
        separator = b",\n  "
    yield (b"\n ]" if manifest.layers else b"]") + after + b"\n"


def read_bundle_manifest(folder: Path) -> BundleManifest:
    """Read the manifest of a bundle, but not its arrays.

    Args:
        folder: The folder of the bundle.

    Raises:
        BundleError: If the manifest is missing or damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST_FILE
    if (place := no_file_but(path)) is not None:
        raise BundleError(f"'{path}' cannot be read: it is {place}; copy the bundle again")
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"'{folder}' is no bundle: it has no {MANIFEST_FILE}; give the folder NAME.gconv") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"'{path}' cannot be read: {error}; copy the bundle again") from None
    with contextlib.suppress(ValueError, AttributeError, RecursionError):  # pydantic's message below says more
        document = json.loads(text)
        found = document.get("format"), document.get("format_version")
        if found[0] != BUNDLE_FORMAT:
            raise BundleError(f"'{path}' is no manifest of a bundle: its format is {found[0]!r}, not '{BUNDLE_FORMAT}'")
        if found[1] != BUNDLE_VERSION:
            raise BundleError(
                f"'{path}' has format version {found[1]!r}, this version reads {BUNDLE_VERSION}; "
                "use the version of onnx_gconv that wrote the bundle, or a newer one"
            )
    try:
        manifest = BundleManifest.model_validate_json(text)
        _ = manifest.geometry.geometry  # raises if no array can have this geometry
    except ValidationError as error:
        flaw = first_flaw(error)
        raise BundleError(f"'{path}' is damaged: {flaw.where}: {flaw.message}; copy the bundle again") from None
    except ConfigError as error:
        raise BundleError(f"'{path}' is damaged: geometry: {error}; copy the bundle again") from None
    if (key := _first_repeated_key(manifest)) is not None:
        raise BundleError(f"'{path}' is damaged: two arrays have the key '{key}'; copy the bundle again")
    if any("\0" in name for name in (manifest.arrays.path, *(file.path for file in manifest.files))):
        raise BundleError(f"'{path}' is damaged: a file in it has a null character in its name; copy the bundle again")
    return manifest


def _first_repeated_key(manifest: BundleManifest) -> str | None:
    """The first key that two arrays of a bundle have: one would be taken for the other; None if all are different."""
    known: set[str] = set()
    for layer in manifest.layers:
        for array in layer.every_array():
            if array.key in known:
                return array.key
            known.add(array.key)
    return None


def bundle_schema() -> str:
    """The JSON Schema of the manifest, as text."""
    return schema_text(BundleManifest.model_json_schema())
