"""Readers of bundles, measurements, inputs, defect maps and settings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_gconv import map_model, open_bundle, read_back, read_configuration, restore_model, write_bundle
from onnx_gconv.crossbars.defects import read_defects
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.devices.presets import presets_in
from onnx_gconv.operations import check_configuration
from onnx_gconv.runtime.given_inputs import load_inputs
from onnx_gconv.runtime.inputs import InputSpec
from tests.fuzz.array_files import (
    arrays_of_hdf5,
    arrays_of_npz,
    arrays_of_octave,
    equal_arrays,
    mutated_hdf5,
    mutated_npz,
)
from tests.fuzz.model_targets import check_layers
from tests.fuzz.mutators import Random, chosen, mutated_json, mutated_text
from tests.fuzz.place import Place, reading_of
from tests.fuzz.protobuf import mutated_model
from tests.fuzz.readings import NotJudgedError, WrongError, check_same
from tests.fuzz.seeds import DEFECTS, bundle_files, bundled_model, inputs_file, measured_files, model_seeds

__all__ = ["check_bundle", "check_configurations", "check_defects", "check_inputs", "check_measured", "check_presets"]

_GEOMETRY = ArrayGeometry(4, 4)
_SPECS = (InputSpec("x", np.dtype(np.float32), (None, 6)), InputSpec("ids", np.dtype(np.int64), ("batch",)))


def check_bundle(random: Random, place: Place) -> None:
    """Open a damaged bundle and read all of it; if its checksums hold, it has the weights of its model."""
    kind = chosen(random, ("hdf5", "npz"))
    files = dict(bundle_files(kind))
    arrays = "conductances.h5" if kind == "hdf5" else "conductances.npz"
    match int(random.integers(10)):
        case 0 | 1 | 2 | 3 | 4:
            files["manifest.json"] = _mutated_document(files["manifest.json"], random)
        case 5 | 6 | 7 | 8:
            files[arrays] = (mutated_hdf5 if kind == "hdf5" else mutated_npz)(files[arrays], random)
        case _:
            files["model.onnx"] = mutated_model(bundled_model(), random)
    for name, content in files.items():
        place.write(name, content)
    with open_bundle(place.inputs) as bundle:
        is_whole = random.random() < 0.7
        if is_whole:
            bundle.verify_hashes()
        for layer in bundle.layers:
            layer.conductances()
            layer.rebuilt_weight()
            layer.bias()
            layer.rebuilt_bias()
            for tile in layer.tiles:
                tile.physical_arrays()
                tile.codes()
                tile.scale()
                tile.stuck_cells()
        if is_whole:
            check_layers(bundle, place.inputs / "model.onnx")


def _mutated_document(content: bytes, random: Random) -> bytes:
    return mutated_json(content.decode(), random).encode(errors="surrogatepass")


def check_measured(random: Random, place: Place) -> None:
    """Read back damaged measurements, or good ones by a damaged bundle, and compare the conductances with the file."""
    files, measured = bundle_files(), dict(measured_files())
    name = chosen(random, tuple(measured))
    manifest = files["manifest.json"]
    if random.random() < 0.75:
        measured[name] = (mutated_hdf5 if name.endswith("h5") else mutated_npz)(measured[name], random)
    else:
        manifest = _mutated_document(manifest, random)
    mapped = place.write("model.onnx", files["model.onnx"])
    place.write("manifest.json", manifest)
    path, output = place.write(name, measured[name]), place.outputs / "measured.onnx"
    read_back(mapped, path, output, bundle=place.inputs)
    try:
        arrays = _READERS[name](measured[name])
    except NotJudgedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever others make of damaged files
        raise NotJudgedError(f"the file is read by the project alone: {error}") from None
    _check_read_back(json.loads(files["manifest.json"]), mapped, output, arrays)


_READERS = {"measured.h5": arrays_of_hdf5, "measured.npz": arrays_of_npz, "octave.h5": arrays_of_octave}


def _check_read_back(manifest: dict[str, Any], mapped: Path, output: Path, arrays: dict[str, np.ndarray]) -> None:
    """Compare the conductances of a written model with the targets, and the measurements in their places."""
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (mapped, output)
    )
    for layer in manifest["layers"]:
        rows = layer["matrix_view"]["rows"]
        for number, device in enumerate(layer["devices"]):
            expected = before[device["initializer"]].copy()
            for tile in layer["tiles"]:
                key = tile["conductances"][number]["key"]
                if key not in arrays:
                    continue
                is_used = _mask(arrays.get(f"{key}_success"), arrays[key].shape)
                inputs, outputs = slice(tile["inputs"][0], min(tile["inputs"][1], rows)), slice(*tile["outputs"])
                part = expected[inputs, outputs]
                count = part.shape[0]
                part[...] = np.where(is_used[:count], arrays[key][:count], part)
            if not np.array_equal(after[device["initializer"]], expected):
                raise WrongError(f"the conductances of '{device['initializer']}' are not those that were measured")


def _mask(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, np.bool_) if mask is None else mask.astype(np.bool_)


def check_inputs(random: Random, place: Place) -> None:
    """Load damaged inputs; what is taken is what NumPy reads."""
    content = mutated_npz(inputs_file(), random)
    found = load_inputs(place.write("inputs.npz", content), _SPECS)
    if not equal_arrays(found, arrays_of_npz(content)):
        raise WrongError("the inputs are not those of the file")


def check_defects(random: Random, place: Place) -> None:
    """Read a damaged defect map; what is taken is what Python reads, and no tile stands on what is unusable."""
    content = _mutated_document(DEFECTS.encode(), random)
    path = place.write("defects.json", content)
    found, _ = read_defects(path, _GEOMETRY)
    said, document = found.model_dump(mode="json"), json.loads(content)
    for item, entry in zip(said["arrays"], document["arrays"], strict=True):
        if any(entry.get(key, value) != value for key, value in item.items()):
            raise WrongError(f"the array {item} is {entry} in the file")
    if random.random() < 0.2:
        mapped = place.write("model.onnx", bundle_files()["model.onnx"])
        write_bundle(mapped, place.outputs / "bundle", (4, 4), defects=path, arrays="npz")
        _check_placements(place.outputs / "bundle" / "manifest.json", document)


def _check_placements(path: Path, defects: dict[str, Any]) -> None:
    items = {item["array"]: item for item in defects["arrays"]}
    for layer in json.loads(path.read_text())["layers"]:
        for placement in (item for tile in layer["tiles"] for item in tile["placements"]):
            array = items.get(placement["array"], {})
            is_avoided = set(array.get("unusable_rows", ())) <= set(placement["avoided_rows"])
            if array.get("unusable") or not is_avoided:
                raise WrongError(f"a tile stands on the array {array}")


_CONFIGURATIONS = (
    """
[defaults]
device = { preset = "pcm-joshi", g_max = 20.0 }
converter = "single-pair"
granularity = { kind = "tile", tile = "2x2", partition = "max" }
levels = 16
storage = "codes"

[model]
exclude = ["nothing*"]
quantized = "map"
shared = "rebuild"
""",
    """
[defaults]
device = { g_min = 0.5, g_max = 25 }
clipping = { percentile = 99.5 }
converter = { name = "n-pair", factors = [1, 2.0] }

[[overrides]]
match = "W"
granularity = "channel"
converter = { name = "custom-pair", table = [[0.0, 5.0, 25.0], [25.0, 5.0, 0.0]] }

[[overrides]]
op = ["MatMul"]
skip = false
levels = [0.5, 1.0, 25.0]
""",
    """
[defaults]
converter = { name = "bit-sliced-pair", bits = 8, slice_bits = 3 }
clipping = { value = 0.5 }
[model]
include = []
freeze_inputs = true
upgrade_opset = true
""",
)
_WORDS = (
    '"tensor"', '"channel"', '"tile"', '"tile-channel"', '"single-pair"', '"offset"', '"custom-pair"', '"n-pair"',
    '"none"', '"preset"',
    '"pcm-joshi"', "0", "1", "-1", "2", "65536", "65537", "1e308", "-0.0", "nan", "inf", "1" + "0" * 400, "9" * 5000,
    "true", "false",
    "[]", "[0.0, 1.0]", "[[1.0]]", "{}", '""', '"*"', '"["', '"re:("', "'W'", "[1, 1]", "1979-05-27T07:32:00Z",
    "0x10", "1_000", '"\\u0000"',
    "[model]", "[[overrides]]", "[defaults.x]", "a.b.c", "[" * 3000, "{a=" * 300, '"""', "#", "\ud800", "0.3",
    "1e-320", "100.0", "101",
)  # fmt: skip


def check_configurations(random: Random, place: Place) -> None:
    """Read a damaged configuration; a model that is mapped by what is taken has the weights that restore gives."""
    path = place.write("gconv.toml", mutated_text(chosen(random, _CONFIGURATIONS), random, _WORDS))
    read_configuration(path)
    if random.random() < 0.5:
        check_configuration(path)
    if random.random() < 0.3:
        model = place.write("model.onnx", model_seeds()[0].content)
        mapped, restored = place.outputs / "mapped.onnx", place.outputs / "restored.onnx"
        map_model(model, mapped, config=path)
        place.expected = {"mapped.onnx"}
        restore_model(mapped, restored)
        check_same(reading_of(mapped), reading_of(restored))


_PRESETS = """
[[preset]]
name = "one"
description = "a device"
g_min = 0.1
g_max = 25
levels = 16
array = [256, 256]
tolerance_us = 0.5
tolerance_relative = 0.05
converter = "single-pair"
notes = ["none"]
[[preset.source]]
authors = "A. One, B. Two"
title = "A paper"
venue = "A journal"
year = 2020
[[preset]]
name = "two"
description = "another"
g_min = 0
g_max = 1e3
source = [{ tool = "a tool", file = "a file" }]
"""


def check_presets(random: Random, _place: Place) -> None:
    """Read damaged tables of devices."""
    text = mutated_text(_PRESETS, random, _WORDS).decode("utf-8", "replace")
    found = presets_in(text)
    said = [(table["name"], table["g_min"], table["g_max"]) for table in tomllib.loads(text).get("preset", ())]
    if said != [(item.name, item.g_min, item.g_max) for item in found]:
        raise WrongError(f"the presets are {found}")
    for item in found:
        item.to_json()
