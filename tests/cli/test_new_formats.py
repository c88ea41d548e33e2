"""A format of the hand-off is a class and a line in the table; everything else follows from what it says of itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from onnx_gconv import converters, open_bundle, write_bundle
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, LayerNote
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances, device_cells
from onnx_gconv.handoff.formats.registry import FORMATS
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.bundles import mapped_file


class Sums(HandoffFormat):
    """Reads whole matrices: the sum of the conductances of each device."""

    name = "sums"
    description = "the sum of each device, in µS"
    content = "sums.json: the sum of the conductances of each device in µS.\n"
    remarks = ("single conductances are not in it",)

    def check(self, layers):
        for layer in layers:
            if len(layer.record.conductances) > 2:
                raise ConfigError(
                    f"the weight '{layer.record.name}' cannot be written as sums: it has too many devices"
                )

    def notes(self, layers):
        small = [layer for layer in layers if layer.layout.columns < 8]
        return [LayerNote("less than eight outputs", small), LayerNote("no layer is like that", [])]

    def cells(self, layers):
        return device_cells(layers)

    def write(self, layers, folder, advance):
        sums = {}
        for layer in layers:
            with LayerConductances(layer) as conductances:
                for device, item in enumerate(layer.record.conductances):
                    key = f"{layer.id}/{item.device}"
                    sums[key] = 0.0
                    for matrix in range(layer.layout.matrices):
                        for (block,) in conductances.blocks(matrix, [device], "input"):
                            sums[key] += float(block.sum(dtype=np.float64))
                            advance(block.size)
        with HashedFile(folder, f"{self.name}/sums.json") as file:
            file.write(json.dumps(sums))
        yield file.record


class ShapesFile:
    """A line for each array that it is given, in one file that stays open."""

    def __init__(self, folder):
        self._file = HashedFile(folder, "shapes/shapes.txt")
        self.files = []

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        self._file.__exit__(*error)
        self.files.append(self._file.record)

    def write(self, key, array):
        self._file.write(f"{key} {list(array.shape)} {array.dtype.str}\n")


class Shapes(HandoffFormat):
    """Takes the arrays of the bundle as they are written."""

    name = "shapes"
    description = "the shapes of all arrays"
    content = "shapes.txt: key, shape and type of every array.\n"
    remarks = ()
    holds_tiles = holds_biases = holds_bias_rows = holds_codes = True

    def array_folder(self, folder):
        return ShapesFile(folder)


@pytest.fixture
def new(monkeypatch):
    """Puts a format into the table."""

    def add(form):
        monkeypatch.setitem(FORMATS, form.name, form)

    return add


@pytest.fixture
def mapped(parse, tmp_path):
    def make(op, **options):
        return mapped_file(parse, tmp_path, op, **options)

    return make


def text_of(report):
    return " ".join(report.replace("│", " ").split())


def test_the_help_names_every_format_with_its_description(gconv, new):
    before = text_of(gconv("handoff", "--help").stdout)
    new(Sums())
    after = text_of(gconv("handoff", "--help").stdout)
    for form in FORMATS.values():
        assert f"{form.name}: {form.description}" in after
        assert (f"{form.name}: {form.description}" in before) is (form.name != "sums")


def test_an_unknown_name_is_an_error_that_names_the_new_one(gconv, new, mapped, tmp_path):
    new(Sums())
    found = gconv("handoff", mapped("Conv"), "-o", tmp_path / "out", "--array", "5x4", "--format", "sum")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr == "onnx-gconv: there is no format 'sum'; did you mean sums?\n"
    assert not (tmp_path / "out").exists()


def test_a_format_of_whole_matrices_is_in_the_bundle_its_manifest_and_the_report(gconv, new, mapped, tmp_path):
    new(Sums())
    options = ["-o", tmp_path / "out", "--array", "5x4", "--format", "npy", "--format", "sums"]
    found = gconv("handoff", mapped("Conv"), *options)
    assert (found.code, found.stderr) == (0, "")
    notes = [
        "single conductances are not in it",
        "biases are not in it; they are added digitally, and the arrays file has them: L000",
        "less than eight outputs: L000",
    ]
    assert " ".join(f"sums: {note}" for note in notes) in text_of(found.stdout)
    assert "out/sums (2 files)" in text_of(found.stdout)
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()
        assert [file.path for file in bundle.manifest.files][-3:-1] == ["sums/sums.json", "sums/README.txt"]
        [layer] = bundle.layers
        targets = [tile.conductances() for tile in layer.tiles]
        expected = {f"L000/{name}": sum(item[name].sum(dtype=float) for item in targets) for name in targets[0]}
    assert json.loads((tmp_path / "out/sums/sums.json").read_text()) == pytest.approx(expected, rel=1e-12)
    readme = (tmp_path / "out/sums/README.txt").read_text()
    listed = "".join(f"- {note}\n" for note in notes)
    assert readme.startswith(f"{Sums.content}\nWhat to know:\n{listed}\nLayers, with names as JSON has them:\nL000: ")


def test_a_format_of_arrays_is_given_those_of_the_bundle(gconv, new, mapped, tmp_path):
    new(Shapes())
    source = mapped("Conv")
    found = gconv("handoff", source, "-o", tmp_path / "out", "--array", "5x4", "--format", "shapes", "--format", "npy")
    assert (found.code, found.stderr) == (0, "")
    assert "shapes: " not in found.stdout
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()
        records = [record for layer in bundle.layers for record in layer.arrays()]
        arrays = {record.key: bundle.read(record) for record in records}
        paths = [file.path for file in bundle.manifest.files]
    lines = (tmp_path / "out/shapes/shapes.txt").read_text().splitlines()
    assert sorted(lines) == sorted(f"{key} {list(item.shape)} {item.dtype.str}" for key, item in arrays.items())
    assert [path for path in paths if path.startswith("shapes/")] == ["shapes/shapes.txt", "shapes/README.txt"]


def test_progress_counts_what_a_format_says_that_it_writes(new, mapped, tmp_path):
    new(Sums())
    new(Shapes())
    seen = []
    formats = ["shapes", "sums"]
    write_bundle(mapped("Conv"), tmp_path / "out", (5, 4), formats=formats, progress=lambda *step: seen.append(step))
    cells = 2 * 7 * 3 * 3 * 2
    assert [step for step in seen if step[0] == "formats"][-1] == ("formats", cells, cells)


def test_a_weight_that_a_format_refuses_is_an_error_and_nothing_is_written(new, mapped, tmp_path):
    new(Sums())
    source = mapped("Gemm", scheme=MappingScheme(converters.DualPairConductanceConverter([1.0, 2.0])))
    with pytest.raises(ConfigError, match="the weight 'W' cannot be written as sums: it has too many devices"):
        write_bundle(source, tmp_path / "out", (5, 4), formats=["sums"], dry_run=True)
    with pytest.raises(ConfigError, match="the weight 'W' cannot be written as sums: it has too many devices"):
        write_bundle(source, tmp_path / "out", (5, 4), formats=["sums"])
    assert not (tmp_path / "out").exists()


def test_a_data_file_may_not_stand_in_the_folder_of_a_format(new, mapped, tmp_path):
    source = mapped("Conv", external_data=True)
    model = onnx.load(source, load_external_data=False)
    (tmp_path / "sums").mkdir()
    source.with_name("model.gconv.onnx.data").rename(tmp_path / "sums" / "weights.bin")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "sums/weights.bin"
    source.write_bytes(model.SerializeToString())
    write_bundle(source, tmp_path / "out", (5, 4))
    new(Sums())
    with pytest.raises(ConfigError, match=r"data file 'sums/weights\.bin' has a name that the bundle needs"):
        write_bundle(source, tmp_path / "out", (5, 4), overwrite=True)


CODES = MappingScheme(
    converters.SinglePairConductanceConverter(g_max=40.0),
    Granularity(),
    levels=ConductanceLevels.uniform(300, 0.0, 40.0),
    storage="codes",
)


@pytest.mark.parametrize(
    ("holds", "op", "options", "note"),
    [
        ("holds_biases", "Conv", {}, "biases are not in it; "),
        ("holds_bias_rows", "Conv", {"bias_rows": 2}, "the rows of the bias are not in it; "),
        ("holds_tiles", "grouped Conv", {}, "several matrices (groups, batches, directions) are written one by one"),
        ("holds_codes", "MatMul", {}, "codes of levels are not in it, only their conductances"),
    ],
)
def test_what_a_format_does_not_hold_is_noted_and_what_it_holds_is_not(
    new, mapped, monkeypatch, holds, op, options, note
):
    new(Sums())
    source = mapped(op, scheme=CODES)
    for value in (False, True):
        monkeypatch.setattr(Sums, holds, value)
        report = write_bundle(source, array=(5, 4), formats=["sums"], dry_run=True, **options)
        assert any(text.startswith(f"sums: {note}") for text in report.notes) is not value
