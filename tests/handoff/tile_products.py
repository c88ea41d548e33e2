"""A bundle as a lab sees it, and the products that its tiles compute: json, NumPy and h5py, nothing of onnx_gconv.

An independent reference: it follows the words of docs/bundle.md, in float64.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from tests.handoff.rounded import UNIT, Rounded, growth


@dataclass(frozen=True, eq=False)
class TiledMatrix:
    """What the cells of a matrix stand for, only for bounds: outputs are computed tile by tile.

    Attributes:
        weights: [rows, columns].
        error: How far a runtime's float32 weights may be from them.
    """

    weights: np.ndarray
    error: np.ndarray


class TiledLayer:
    """A layer of a bundle.

    Attributes:
        entry: Its entry in the manifest.
        view: Its matrix view.
        bias: What is added to its products; None if nothing is.
    """

    def __init__(self, entry: dict, read) -> None:
        self.entry = entry
        self.view = entry["matrix_view"]
        self._read = read
        self._scale, self._zero = (read(entry[name]["array"]["key"]).astype(np.float64) for name in ("scale", "zero"))
        self._row_starts, self._column_starts = (
            read(entry[f"scale_{name}_starts"]["key"]) for name in ("row", "column")
        )
        found = entry["zero_point"]
        self._zero_point = None if found is None else self.matrices(read(found["key"]).astype(np.float64))
        self.bias = None if entry["bias"] is None else read(entry["bias"]["values"]["key"])
        self._targets = {tile["id"]: [read(array["key"]) for array in tile["conductances"]] for tile in entry["tiles"]}
        self._bounds = [self._matrix(number) for number in range(self.view["matrices"])]

    def matrices(self, tensor: np.ndarray) -> np.ndarray:
        """What broadcasts to the weight, as matrices [matrices, rows, columns]."""
        array = np.broadcast_to(tensor, self.entry["shape"])
        for step in self.entry["path"]:
            array = array.transpose(step["argument"]) if step["op"] == "transpose" else array.reshape(step["argument"])
        view = self.view
        axes = [*view["matrix_axes"], *view["row_axes"], *view["column_axes"]]
        split = array.reshape(view["split_shape"]).transpose(axes)
        return split.reshape(view["matrices"], view["rows"], view["columns"])

    def stored(self) -> dict[str, np.ndarray]:
        """For each initializer of model.onnx that holds conductances, the tiles put together in its shape."""
        size = int(np.prod(self.entry["shape"]))
        places = self.matrices(np.arange(size).reshape(self.entry["shape"]))
        found = {}
        for number, device in enumerate(self.entry["devices"]):
            tensor = np.full(size, np.nan, self.entry["array_dtype"])
            for tile in self.entry["tiles"]:
                place = tile["matrix"], slice(*tile["inputs"]), slice(*tile["outputs"])
                tensor[places[place]] = self._targets[tile["id"]][number]
            found[device["initializer"]] = tensor.reshape(self.entry["shape"])
        return found

    def product(self, x: Rounded, matrix: int = 0) -> Rounded:
        """``x @ W`` times the factor, from partial sums over tiles.

        Integer codes come back exactly: the digital side rounds the sum and adds what the zero points contribute.

        Args:
            x: Activations [positions, rows].
            matrix: Which matrix.
        """
        value = np.zeros((x.shape[0], self.view["columns"]))
        for tile in self.entry["tiles"]:
            if tile["matrix"] == matrix:
                value[:, slice(*tile["outputs"])] += self._partial_sums(tile, x.value[:, slice(*tile["inputs"])])
        bounds, rows = self._bounds[matrix], self.view["rows"]
        weight_size = np.abs(bounds.weights) + bounds.error
        error = np.abs(x.value) @ bounds.error + x.error @ weight_size + growth(rows) * (x.size @ weight_size)
        if self.entry["rounded"]:
            assert not x.error.any()
            assert error.max() < 0.5, "sums that arrays give so exactly can be rounded"
            value, error = np.rint(value), np.zeros_like(error)
            if self._zero_point is not None:
                value += x.value @ self._zero_point[matrix]
        product = Rounded(value, error)
        factor = self.view["factor"]
        return product if factor == 1 else product * Rounded.exact(np.float32(factor))

    def _partial_sums(self, tile: dict, x: np.ndarray) -> np.ndarray:
        """What a tile adds to its outputs. Rows with a scale of their own are driven on their own."""
        targets, entry = self._targets[tile["id"]], self.entry
        starts, widths = self._pieces(tile)
        y = 0.0
        for piece, (first, stop) in enumerate(zip(starts, [*starts[1:], x.shape[1]], strict=True)):
            driven = x[:, first:stop]
            total = driven.sum(axis=1, keepdims=True)
            analog = sum(
                device["coefficient"] * (driven @ array[first:stop].astype(np.float64))
                for device, array in zip(entry["devices"], targets, strict=True)
            )
            scale, zero = (np.repeat(part[piece], widths) for part in self._scales(tile))
            y = y + (analog - entry["offset_us"] * total) / scale + zero * total
        return y

    def _pieces(self, tile: dict) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a tile at which pieces of the scale begin, and how many columns each piece of columns has."""
        rows = np.maximum(self._row_starts[slice(*tile["scale_rows"])] - tile["inputs"][0], 0)
        columns = np.maximum(self._column_starts[slice(*tile["scale_columns"])] - tile["outputs"][0], 0)
        return rows, np.diff([*columns, tile["outputs"][1] - tile["outputs"][0]])

    def _scales(self, tile: dict) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = slice(*tile["scale_rows"]), slice(*tile["scale_columns"])
        return self._scale[tile["matrix"], rows, columns], self._zero[tile["matrix"], rows, columns]

    def _matrix(self, number: int) -> TiledMatrix:
        """The cells of a matrix, each after at most 2 d + 3 operations: products, sum, offset, quotient and zero."""
        entry = self.entry
        weights = np.full((self.view["rows"], self.view["columns"]), np.nan)
        size = weights.copy()
        for tile in entry["tiles"]:
            if tile["matrix"] != number:
                continue
            starts, widths = self._pieces(tile)
            heights = np.diff([*starts, tile["inputs"][1] - tile["inputs"][0]])
            scale, zero = (np.repeat(np.repeat(part, heights, 0), widths, 1) for part in self._scales(tile))
            terms = [
                device["coefficient"] * array.astype(np.float64)
                for device, array in zip(entry["devices"], self._targets[tile["id"]], strict=True)
            ]
            place = slice(*tile["inputs"]), slice(*tile["outputs"])
            weights[place] = (sum(terms) - entry["offset_us"]) / scale + zero
            size[place] = (sum(map(np.abs, terms)) + abs(entry["offset_us"])) / scale + np.abs(zero)
        assert np.isfinite(size).all(), "tiles cover a matrix"
        return TiledMatrix(weights, (2 * len(entry["devices"]) + 3) * UNIT * size)


def tiled_layers(folder: Path) -> list[TiledLayer]:
    """The layers of a bundle."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    path = folder / manifest["arrays"]["path"]
    if manifest["arrays"]["kind"] == "npz":
        with np.load(path, allow_pickle=False) as file:
            return [TiledLayer(entry, file.__getitem__) for entry in manifest["layers"]]
    with h5py.File(path, "r") as file:
        return [TiledLayer(entry, lambda key: file[key][()]) for entry in manifest["layers"]]
