"""Readers of models: originals, mapped ones, their manifests, and external data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnx_gconv import inspect_model, map_model, open_bundle, restore_model, verify, write_bundle
from onnx_gconv.files.models import load_model
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances
from tests.fuzz.mutators import Random, chosen, mutated_bytes, mutated_json
from tests.fuzz.place import Place, check_mapped, check_mapping, reading_of
from tests.fuzz.protobuf import Parts, mutated_model
from tests.fuzz.readings import NotJudgedError, Reading, WrongError, check_same
from tests.fuzz.seeds import (
    MAPPINGS,
    Mapping,
    Seed,
    external_model,
    mapped_seeds,
    model_seeds,
    with_manifest,
)

__all__ = [
    "check_external",
    "check_manifest",
    "check_mapped_model",
    "check_model",
    "check_verified",
    "check_written_bundle",
    "mutated_mapped",
    "mutated_original",
]

_PLACES = (
    "model.data", "other.data", "link.data", "folder", "missing", "../out", "/dev/zero", "", ".", "model.onnx",
    "model.data/x", "a\0b",
)  # fmt: skip
_OFFSETS = ("0", "1", "4", "48", "47", "95", "96", "-1", "", " 4", "4.0", "0x4", "٤", str(2**31), str(2**63), "9" * 30)


_HANDMADE = 16


def mutated_original(random: Random) -> tuple[Seed, bytes]:
    """An original, and the bytes of a damaged one."""
    # Those of the generator are larger.
    seed = chosen(random, model_seeds()[: _HANDMADE if random.random() < 0.7 else None])
    return seed, _mutated(seed, random, model_seeds())


def mutated_mapped(random: Random) -> tuple[Seed, bytes]:
    """A mapped model, and the bytes of a damaged one."""
    seed = chosen(random, mapped_seeds())
    return seed, _mutated(seed, random, mapped_seeds())


def _mutated(seed: Seed, random: Random, others: tuple[Seed, ...]) -> bytes:
    if random.random() < 0.3:
        return mutated_bytes(seed.content, random, [chosen(random, others).content])
    return mutated_model(seed.parts, random)


def check_model(random: Random, place: Place) -> None:
    """Map a damaged original, restore it, and compare all three."""
    seed, content = mutated_original(random)
    way = seed.mapping if random.random() < 0.2 else MAPPINGS["single pair"]
    path = place.write("model.onnx", content)
    if random.random() < 0.1:
        inspect_model(path)
    if random.random() < 0.3:
        _map_and_check(path, place, way)
        return
    model = load_model(path)
    MapConductances(configuration=way.configuration)(model)
    check_mapping(reading_of(path), Reading(ir.to_proto(model), place.inputs), way)


def _map_and_check(path: Path, place: Place, way: Mapping) -> None:
    mapped, restored = place.outputs / "mapped.onnx", place.outputs / "restored.onnx"
    map_model(path, mapped, **way.options)
    place.expected = {item.name for item in place.outputs.iterdir()}
    restore_model(mapped, restored)
    check_mapped(path, mapped, restored, way)


def check_mapped_model(random: Random, place: Place) -> None:
    """Check, inspect and restore a damaged mapped model."""
    _restore_and_check(place.write("mapped.onnx", mutated_mapped(random)[1]), random, place)


def check_manifest(random: Random, place: Place) -> None:
    """Check, inspect and restore a mapped model with a damaged manifest."""
    seed = chosen(random, mapped_seeds())
    text = mutated_json(seed.manifest, random)
    # Most are refused here, without reading the model once more.
    seed.without_nodes.metadata_props[MANIFEST_KEY] = text
    read_manifest(seed.without_nodes)
    _restore_and_check(place.write("mapped.onnx", with_manifest(seed.proto, text)), random, place)


def _restore_and_check(path: Path, random: Random, place: Place) -> None:
    match int(random.integers(10)):
        case 0:
            inspect_model(path)
        case 1 | 2:
            CheckMapping().violations(load_model(path))
    restored = place.outputs / "restored.onnx"
    restore_model(path, restored)
    check_same(reading_of(path), reading_of(restored))


def check_written_bundle(random: Random, place: Place) -> None:
    """Hand off a damaged mapped model, or one with a damaged manifest; layers have the weights of the graph."""
    seed = chosen(random, mapped_seeds())
    if random.random() < 0.7:
        content = with_manifest(seed.proto, mutated_json(seed.manifest, random))
    else:
        content = _mutated(seed, random, mapped_seeds())
    path = place.write("mapped.onnx", content)
    write_bundle(path, place.outputs / "bundle", (2, 3), arrays="npz", formats=("npy",) if random.integers(2) else ())
    with open_bundle(place.outputs / "bundle") as bundle:
        check_layers(bundle, path)


def check_layers(bundle: Any, path: Path) -> None:
    """Check that the layers of a bundle give the weights that a mapped model computes.

    Raises:
        WrongError: If one does not.
        NotJudgedError: If one is computed by what is not understood here.
    """
    reading = reading_of(path)
    manifest = read_manifest(load_model(path))
    names = set() if manifest is None else {record.name for record in manifest.weights}
    for layer in bundle.layers:
        scopes = [scope for scope in reading.scopes.values() if layer.record.weight in scope.producers]
        if len(scopes) != 1 or layer.record.weight not in names:
            raise NotJudgedError(f"'{layer.record.weight}' is in {len(scopes)} graphs")
        expected = reading.array(layer.record.weight, scopes[0])
        found = layer.rebuilt_weight()
        if found.shape != expected.shape or not np.array_equal(found, expected):
            raise WrongError(
                f"the layer of '{layer.record.weight}' is {found.reshape(-1)[:6]}, not {expected.reshape(-1)[:6]}"
            )


def check_verified(random: Random, place: Place) -> None:
    """Verify a mapped model against its original, one of which is damaged; what passes has equal weights."""
    seed = chosen(random, model_seeds())
    original, mapped = place.write("model.onnx", seed.content), place.outputs / "mapped.onnx"
    map_model(original, mapped, **MAPPINGS["single pair"].options)
    proto, content = onnx.load(mapped), mapped.read_bytes()
    mapped.unlink()
    if random.integers(2):
        content = mutated_model(Parts(proto), random)
    else:
        original = place.write("model.onnx", mutated_model(seed.parts, random))
    mapped = place.write("mapped.onnx", content)
    report = verify(original, mapped)
    if not report.passed or report.outputs.not_compared is not None:
        return
    before, after = reading_of(original), reading_of(mapped)
    if before.model.functions:
        raise NotJudgedError("functions are inlined under other names")
    check_same(before, after, lambda array: 1e-4 * float(np.abs(array).max()) + 1e-10)


def check_external(random: Random, place: Place) -> None:
    """Map a model whose references to data, or the data itself, are damaged."""
    model, data = external_model()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(int(random.integers(1, 3))):
        tensor = chosen(random, changed.graph.initializer)
        entry = chosen(random, tensor.external_data)
        match int(random.integers(8)):
            case 0 | 1:
                entry.value = chosen(random, _PLACES if entry.key == "location" else _OFFSETS)
            case 2:
                entry.key = chosen(random, ("location", "offset", "length", "checksum", ""))
            case 3:
                tensor.external_data.remove(entry)
                if not tensor.external_data:
                    tensor.external_data.add(key="location", value="model.data")
            case 4:
                tensor.external_data.add(key=entry.key, value=chosen(random, _OFFSETS))
            case 5:
                tensor.dims[0] = int(chosen(random, (0, 1, 2, 4, 2**31, 2**62, -1)))
            case 6:
                tensor.data_type = int(random.integers(25))
            case _:
                data = mutated_bytes(data, random)
    content = changed.SerializeToString()
    if random.random() < 0.15:
        content = mutated_model(Parts(changed), random)
    path = place.write("model.onnx", content)
    place.write("model.data", data)
    place.write("other.data", data[::-1])
    (place.inputs / "link.data").symlink_to(chosen(random, ("other.data", "link.data", "/etc/hostname", "missing")))
    (place.inputs / "folder").mkdir()
    if random.random() < 0.02:
        (place.inputs / "other.data").unlink()
        os.mkfifo(place.inputs / "other.data")
        place.forget("other.data")
    _map_and_check(path, place, MAPPINGS["single pair"])
