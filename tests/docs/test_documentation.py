"""The examples, manifests and tables of the documentation agree with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_gconv as gconv
from onnx_gconv.converters import CONVERTERS, SinglePairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.devices.registry import DEVICE_MODELS
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity, GranularityKind
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.weights import SkipReason
from tests.docs.pages import text_of, with_pages_below

ROOT = Path(__file__).resolve().parents[2]
DEVICES = text_of("docs/devices.md")
FORMAT = text_of(*with_pages_below("docs/format.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def save_example(path: Path) -> np.ndarray:
    weight = np.array([[0.5, -0.25, 0.0], [-1.0, 0.125, 0.75]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"], name="layer")],
        "example",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "W")],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return weight


def test_the_manifest_of_the_worked_example_is_the_one_that_mapping_writes(tmp_path: Path) -> None:
    save_example(tmp_path / "example.onnx")
    gconv.map_model(tmp_path / "example.onnx")
    mapped = onnx.load(tmp_path / "example.gconv.onnx")
    [documented] = [block for block in map(json.loads, blocks(FORMAT, "json")) if "format" in block]
    written = json.loads({entry.key: entry.value for entry in mapped.metadata_props}["onnx_gconv"])
    assert written | {"tool": documented["tool"]} == documented


EXAMPLES = [block for block in map(json.loads, blocks(FORMAT, "json")) if "format" not in block]


def scheme_of_example(example: dict) -> MappingScheme:
    converter = CONVERTERS[example["converter"]["name"]](**example["converter"]["parameters"])
    tile = tuple(example["tile"]) if "tile" in example else None
    levels = {key: value for key, value in example.get("levels", {}).items() if key != "storage"}
    return MappingScheme(
        converter,
        Granularity(example["granularity"], tile, example.get("partition", "equal")),
        Clipping(**example.get("clipping", {})),
        ConductanceLevels.from_manifest(levels) if levels else None,
        "codes" if example.get("levels", {}).get("storage", "float") != "float" else "float",
    )


def map_example(folder: Path, scheme: MappingScheme) -> Path:
    save_example(folder / "example.onnx")
    model = load_model(folder / "example.onnx")
    MapConductances(scheme=scheme)(model)
    save_model(model, folder / "mapped.onnx", inputs=[folder / "example.onnx"])
    return folder / "mapped.onnx"


def test_there_is_an_example_of_every_converter_and_granularity() -> None:
    assert {example["converter"]["name"] for example in EXAMPLES} == {*CONVERTERS}
    assert {example["granularity"] for example in EXAMPLES} == {*get_args(GranularityKind)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["converter"]["name"])
def test_a_worked_example_of_the_specification_is_what_mapping_writes(tmp_path: Path, example: dict) -> None:
    mapped = onnx.load(map_example(tmp_path, scheme_of_example(example)))
    manifest = json.loads({entry.key: entry.value for entry in mapped.metadata_props}["onnx_gconv"])
    [weight] = manifest["weights"]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in mapped.graph.initializer}
    assert [item["name"] for item in weight["conductances"]] == list(example["initializers"])
    assert [item["coefficient"] for item in weight["conductances"]] == example["coefficients"]
    for name, values in example["initializers"].items():
        np.testing.assert_allclose(tensors[name], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tensors[weight["scale"]["name"]], example["scale"], rtol=1e-5)
    np.testing.assert_allclose(
        [weight["offset_us"], weight["zero"]], [example["offset_us"], example["zero"]], rtol=1e-5
    )
    mapped.graph.output.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [2, 3]))
    session = onnxruntime.InferenceSession(mapped.SerializeToString(), providers=["CPUExecutionProvider"])
    [rebuilt] = session.run(["W"], {"x": np.zeros((1, 2), np.float32)})
    np.testing.assert_allclose(rebuilt, example["rebuilt"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["converter"]["name"])
def test_the_reader_of_the_specification_reads_every_worked_example(tmp_path: Path, example: dict) -> None:
    namespace: dict[str, object] = {}
    for block in blocks(FORMAT, "python"):
        exec(compile(block, "docs/format", "exec"), namespace)  # noqa: S102 - that is the test
    found = namespace["read_weights"](map_example(tmp_path, scheme_of_example(example)))["", "W"]
    np.testing.assert_allclose(found, example["rebuilt"], rtol=1e-5, atol=1e-6)


def test_the_reader_of_the_specification_rebuilds_weights(tmp_path: Path) -> None:
    weight = save_example(tmp_path / "example.onnx")
    gconv.map_model(tmp_path / "example.onnx")
    namespace: dict[str, object] = {}
    for block in blocks(FORMAT, "python"):
        exec(compile(block, "docs/format", "exec"), namespace)  # noqa: S102 - that is the test
    np.testing.assert_array_equal(namespace["read_weights"](tmp_path / "example.gconv.onnx")["", "W"], weight)


def test_the_matrix_view_of_the_specification_gives_the_matrices_of_a_grouped_convolution() -> None:
    namespace: dict[str, object] = {}
    exec(compile(blocks(FORMAT, "python")[0], "docs/format", "exec"), namespace)  # noqa: S102 - that is the test
    with_groups = next(
        consumer.matrix_view
        for item in gconv.inspect_model(model_path("digits_cnn.onnx")).mapped
        for consumer in item.consumers
        if consumer.matrix_view.matrices > 1
    )
    weight = np.arange(16 * 9, dtype=np.float32).reshape(16, 1, 3, 3)
    matrices = namespace["matrices"](weight, with_groups.model_dump())
    assert matrices.shape == (16, 9, 1)
    np.testing.assert_array_equal(matrices[5, :, 0], weight[5].reshape(-1))


def test_the_numbers_of_the_worked_example_are_those_of_the_converter(tmp_path: Path) -> None:
    (g_plus, g_minus), params = SinglePairConductanceConverter().convert_to_conductances(
        save_example(tmp_path / "example.onnx")
    )
    np.testing.assert_array_equal(g_plus, [[12.5, 0, 0], [0, 3.125, 18.75]])
    np.testing.assert_array_equal(g_minus, [[0, 6.25, 0], [25, 0, 0]])
    assert params["scale_ratio"] == 25


def test_the_specification_lists_every_reason_for_skipping_with_its_explanation() -> None:
    page = text_of("docs/format/skipped.md")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page[page.index("| reason | meaning |") :], re.MULTILINE))
    assert listed == {reason.value: reason.explanation for reason in SkipReason}


def test_the_page_about_devices_names_every_model() -> None:
    assert set(DEVICE_MODELS) <= set(
        re.findall(r"`([a-z0-9-]+)`", "".join(re.findall(r"^\| (`.*?) \|", DEVICES, flags=re.MULTILINE)))
    )


def test_the_readme_is_short_and_begins_with_what_it_is_for() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"\]\([^)]*\)", "]", readme)
    assert len(prose.split()) <= 700
    assert readme.split("\n\n")[1].startswith("Map any ONNX model")
    assert "\n    make test " in readme
