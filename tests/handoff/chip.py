"""A chip in the test: it is programmed with a bundle, is off by errors that are known, and drops cells."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import h5py
import numpy as np


@dataclass
class Chip:
    """What a chip measured; by the key of the bundle.

    `errors` are float64 differences from the targets, NaN for cells that were dropped.
    """

    manifest: dict
    targets: dict = field(default_factory=dict)
    measured: dict = field(default_factory=dict)
    success: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)

    def write(self, path):
        arrays = {**self.measured, **{f"{key}_success": mask for key, mask in self.success.items()}}
        if path.suffix == ".npz":
            np.savez(path, **arrays)
            return
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array

    def keys_of(self, layer, tile=None, device=None):
        """The keys of a layer, or of one of its tiles, or of one of its devices."""
        return [
            record["key"]
            for entry in layer["tiles"] if tile is None or entry["id"] == tile
            for number, record in enumerate(entry["conductances"]) if device is None or number == device
            if record["key"] in self.targets
        ]  # fmt: skip

    def errors_of(self, *args, **options):
        """The errors of measured cells."""
        found = np.concatenate([self.errors[key].ravel() for key in self.keys_of(*args, **options)])
        return found[~np.isnan(found)]


def programmed(folder, *, sigma=0.3, dropped=0.01, tiles=bool, seed=5, dtype=np.float64):
    """Program a chip with a bundle: errors are normal, and some cells are dropped, of the tiles that are chosen."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    chip, rng = Chip(manifest), np.random.default_rng(seed)
    path = folder / manifest["arrays"]["path"]
    read = np.load(path) if path.suffix == ".npz" else h5py.File(path, "r")
    with read as file:
        for layer in manifest["layers"]:
            for tile in layer["tiles"]:
                for record in tile["conductances"]:
                    key = record["key"]
                    targets = np.array(file[key])
                    chip.targets[key] = targets
                    if not tiles(tile["id"]):
                        chip.errors[key] = np.full(targets.shape, np.nan)
                        continue
                    measured = (targets + rng.normal(0, sigma, targets.shape)).astype(dtype)
                    success = rng.random(targets.shape) >= dropped
                    chip.errors[key] = np.where(success, measured.astype(np.float64) - targets, np.nan)
                    chip.measured[key] = np.where(success, measured, np.nan)
                    if dropped:
                        chip.success[key] = success
    return chip


def weights_of(chip, read_constant):
    """The weights that the chip holds, as matrices [matrices, inputs, outputs], by layer, in float64.

    As docs/bundle.md has it, and with nothing of the package.
    """
    found = {}
    for layer in chip.manifest["layers"]:
        view = layer["matrix_view"]
        whole = np.empty((view["matrices"], view["rows"], view["columns"]))
        rows, columns = (
            np.searchsorted(read_constant(layer[name]["key"]), np.arange(size), side="right") - 1
            for name, size in (("scale_row_starts", view["rows"]), ("scale_column_starts", view["columns"]))
        )
        scale, zero = (
            read_constant(layer[name]["array"]["key"]).astype(np.float64)[:, rows[:, None], columns]
            for name in ("scale", "zero")
        )
        for tile in layer["tiles"]:
            place = tile["matrix"], slice(*tile["inputs"]), slice(*tile["outputs"])
            total = -layer["offset_us"]
            for device, record in zip(layer["devices"], tile["conductances"], strict=True):
                key = record["key"]
                errors = np.nan_to_num(chip.errors[key], nan=0.0)
                total = total + device["coefficient"] * (chip.targets[key].astype(np.float64) + errors)
            whole[place] = total / scale[place] + zero[place]
        found[layer["id"]] = whole
    return found


def constants_of(folder, manifest):
    """A function that reads an array of the bundle by its key."""
    path = folder / manifest["arrays"]["path"]
    if path.suffix == ".npz":
        return np.load(path).__getitem__

    def read(key):
        with h5py.File(path, "r") as file:
            return file[key][()]

    return read
