"""Names of devices become names of arrays and files; a model that comes from elsewhere may have any."""

from __future__ import annotations

import onnx
import pytest

from onnx_gconv import converters
from onnx_gconv.converters import registry
from onnx_gconv.converters.registry import ConverterRegistry
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.schemes.scheme import MappingScheme


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """A registry for this test alone, which knows no installed packages."""
    monkeypatch.setattr(registry, "_REGISTRY", ConverterRegistry(list))


def with_devices(path, *names):
    """Give the devices of the only weight other names, and let a converter of the program have them."""

    class Named(converters.SinglePairConductanceConverter):
        name = "named"
        device_names = names

    converters.register_converter(Named)
    manifest = read_manifest(load_model(path))
    [record] = manifest.weights
    renamed = tuple(
        item.model_copy(update={"device": name}) for item, name in zip(record.conductances, names, strict=True)
    )
    converter = record.converter.model_copy(update={"name": "Named"})
    weight = record.model_copy(update={"conductances": renamed, "converter": converter})
    changed = manifest.model_copy(update={"weights": (weight,)})
    model = onnx.load(path, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == MANIFEST_KEY:
            entry.value = changed.model_dump_json()
    path.write_bytes(model.SerializeToString())
    return path


def files_around(folder):
    return set(folder.parent.rglob("*"))


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
@pytest.mark.parametrize(
    "name", ["../../../escaped", "/escaped", "a/b", "a\\b", "..", ".", "", "g\n", "g\0", "g plus", "é", "g" * 65]
)
def test_a_device_with_a_name_that_is_a_path_or_none_is_refused_and_nothing_is_written(mapped, tmp_path, name, kind):
    source = with_devices(mapped("Gemm"), name, "g_minus")
    before = files_around(tmp_path)
    with pytest.raises(
        ModelError, match=r"model.gconv.onnx': the weight 'W' cannot be handed off: its device"
    ) as found:
        write_bundle(source, tmp_path / "out", (5, 4), arrays=kind)
    assert "\n" not in str(found.value)
    assert "hand off the model as it was mapped" in str(found.value)
    assert files_around(tmp_path) == before


def test_two_devices_of_one_name_are_refused(mapped, tmp_path):
    source = with_devices(mapped("Gemm"), "g", "g")
    with pytest.raises(ModelError, match="the device 'g' stands for two of its conductances"):
        write_bundle(source, tmp_path / "out", (5, 4))


@pytest.mark.parametrize("storage", ["float", "codes"])
def test_a_device_with_the_name_of_codes_is_refused_only_if_there_are_codes(mapped, tmp_path, storage):
    levels = ConductanceLevels.uniform(16, 0.0, 25.0)
    scheme = MappingScheme(converters.SinglePairConductanceConverter(), levels=levels, storage=storage)
    source = with_devices(mapped("Gemm", scheme=scheme), "g", "g_code")
    if storage == "codes":
        with pytest.raises(ModelError, match="two of its arrays would have the name 'g_code'"):
            write_bundle(source, tmp_path / "out", (5, 4))
        return
    write_bundle(source, tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()
        assert set(bundle.tile("L000/T0000").conductances()) == {"g", "g_code"}


@pytest.mark.parametrize("name", ["G+", "g-1", "top.electrode_2", "g" * 64])
def test_names_that_people_give_to_devices_of_their_own_converters_are_fine(mapped, tmp_path, name):
    write_bundle(with_devices(mapped("Gemm"), name, "other"), tmp_path / "out", (5, 4))
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.manifest.layers[0].tiles[0].conductances[0].key == f"L000/T0000/{name}"
        bundle.verify_hashes()


@pytest.mark.parametrize("name", ["npy", "csv"])
def test_no_file_of_a_format_leaves_the_bundle(mapped, tmp_path, name):
    source = with_devices(mapped("Gemm"), "../../../../escaped", "g_minus")
    before = files_around(tmp_path)
    with pytest.raises(ModelError, match="is no name for an array"):
        write_bundle(source, tmp_path / "out", (5, 4), formats=[name])
    assert files_around(tmp_path) == before
