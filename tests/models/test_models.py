"""The small models are what their README says, run anywhere, and can be built again."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.models import model_names, model_path

README = Path(__file__).parents[2] / "models" / "README.md"
CNNS = ["digits_cnn.onnx", "digits_cnn_torchscript.onnx"]
MODELS = ["digits_mlp.onnx", *CNNS]
FILES = [*MODELS, "digits_test.npz"]
OPTIMIZATIONS = [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
BATCH_AND_SAMPLE = {
    "digits_mlp.onnx": ["batch", 64],
    "digits_cnn.onnx": ["batch", 1, 8, 8],
    "digits_cnn_torchscript.onnx": ["batch", 1, 8, 8],
}


def stated_row(name):
    """The row of the README's table that is about a file: parameters, correct images, tested images."""
    [row] = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}`")]
    return tuple(int(number) for number in re.search(r"\| (\d+) \| (\d+) of (\d+) ", row).groups())


def stated_version(package):
    return re.search(rf"{package} (\d+\.\d+\.\d+)", README.read_text(encoding="utf-8")).group(1)


def read_test_data(path=None):
    with np.load(path or model_path("digits_test.npz"), allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def initializers(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def run(path, images, optimization=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = optimization
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    [logits] = session.run(["logits"], {model_input.name: images.reshape(-1, *model_input.shape[1:])})
    return logits


def count_correct(path, data, optimization=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    return int(np.count_nonzero(run(path, data["images"], optimization).argmax(axis=1) == data["labels"]))


def test_the_folder_offers_exactly_the_documented_files():
    assert model_names() == tuple(sorted(FILES))
    assert all(f"`{name}`" in README.read_text(encoding="utf-8") for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_model_path_leads_to_the_file(name):
    path = model_path(name)
    assert path.is_absolute()
    assert path.is_file()
    assert path.name == name


@pytest.mark.parametrize("name", ["digits", "build.py", "../models/digits_cnn.onnx", ""])
def test_model_path_lists_what_there_is_when_the_name_is_unknown(name):
    with pytest.raises(ConfigError) as caught:
        model_path(name)
    message = str(caught.value)
    assert repr(name) in message
    assert all(known in message for known in FILES)
    assert "\n" not in message


def test_finding_the_models_needs_neither_onnx_nor_numpy():
    """An import that is cheap and never pulls in torch lets the command line offer the models at no cost."""
    heavy = ["numpy", "onnx", "onnxruntime", "sklearn", "torch"]
    code = f"import sys, onnx_gconv.models; print([name for name in {heavy} if name in sys.modules])"
    before = subprocess.run(
        [sys.executable, "-c", code.replace("onnx_gconv.models", "onnx_gconv.errors")],
        check=True,
        capture_output=True,
        text=True,
    )
    after = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert after.stdout == before.stdout


@pytest.mark.parametrize("name", MODELS)
def test_a_model_passes_the_checker(name):
    onnx.checker.check_model(model_path(name), full_check=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_in_runtimes_of_the_last_years_and_needs_no_second_file(name):
    model = onnx.load(model_path(name), load_external_data=False)
    assert model.ir_version <= 10
    assert [opset.domain for opset in model.opset_import] == [""]
    assert 17 <= model.opset_import[0].version <= 20
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small(name):
    assert model_path(name).stat().st_size < 200_000


@pytest.mark.parametrize("name", FILES)
def test_a_file_tells_nothing_about_the_machine_that_built_it(name):
    contents = model_path(name).read_bytes()
    for trace in [b"/work", b"/home", b"/root", b"/tmp", b"site-packages"]:
        assert trace not in contents


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_stated_input_and_output_with_an_open_batch(name):
    session = ort.InferenceSession(model_path(name), providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    [model_output] = session.get_outputs()
    assert model_input.name == ("pixels" if name == "digits_mlp.onnx" else "image")
    assert model_input.type == model_output.type == "tensor(float)"
    assert model_input.shape == BATCH_AND_SAMPLE[name]
    assert model_output.name == "logits"
    assert model_output.shape == ["batch", 10]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_batch_of_any_size_gives_the_logits_of_its_images(name, batch):
    images = read_test_data()["images"]
    logits = run(model_path(name), images[:batch])
    assert logits.shape == (batch, 10)
    np.testing.assert_allclose(logits, run(model_path(name), images)[:batch], rtol=0, atol=1e-4)


@pytest.mark.parametrize("optimization", OPTIMIZATIONS, ids=lambda level: level.name)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_gets_as_many_images_right_as_the_readme_says(name, optimization):
    _, correct, tested = stated_row(name)
    data = read_test_data()
    assert len(data["labels"]) == tested
    assert count_correct(model_path(name), data, optimization) == correct
    assert correct / tested >= 0.97


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_as_many_parameters_as_the_readme_says(name):
    parameters, _, _ = stated_row(name)
    assert (
        sum(array.size for array in initializers(model_path(name)).values() if array.dtype == np.float32) == parameters
    )


def test_the_cnn_has_a_depthwise_convolution():
    graph = onnx.load(model_path("digits_cnn.onnx")).graph
    groups = [
        attribute.i
        for node in graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert groups == [1, 16, 1]


@pytest.mark.parametrize("optimization", OPTIMIZATIONS, ids=lambda level: level.name)
def test_both_exporters_give_the_same_network(optimization):
    images = read_test_data()["images"]
    dynamo, torchscript = (run(model_path(name), images, optimization) for name in CNNS)
    np.testing.assert_allclose(torchscript, dynamo, rtol=0, atol=1e-5)


def test_the_test_data_are_images_and_labels():
    data = read_test_data()
    assert sorted(data) == ["images", "labels"]
    assert data["images"].shape == (450, 1, 8, 8)
    assert data["images"].dtype == np.float32
    assert data["images"].min() == 0
    assert data["images"].max() == 1
    assert data["labels"].shape == (450,)
    assert data["labels"].dtype == np.int64
    assert set(data["labels"].tolist()) == set(range(10))


def build(folder, hash_seed, **options):
    """Run the build script in a process of its own: torch's exporters warn, and the script sets global switches.

    Args:
        folder: Where the subfolders go.
        hash_seed: Python's.
        options: The subfolders, and the options of the script for each.
    """
    runs = [["--output", str(folder / name), *more] for name, more in options.items()]
    subprocess.run(
        [sys.executable, "-c", f"from onnx_gconv.models.build import main\nfor each in {runs!r}: main(each)"],
        check=True,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return folder


# Building takes a quarter of a minute, of which half is training. One epoch has every step that there is.
ONE_EPOCH = ["--epochs", "1"]
BUILT_ONCE = pytest.mark.xdist_group("rebuilt_models")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """A folder with newly built files, made with the versions that made the files of the repository."""
    for package in ["torch", "scikit-learn", "onnxscript"]:
        if importlib.util.find_spec("sklearn" if package == "scikit-learn" else package) is None:
            pytest.skip(f"{package} is not installed; it is part of the dev extra")
    for package in ["torch", "scikit-learn"]:
        version = importlib.metadata.version(package).partition("+")[0]
        if version != stated_version(package):
            pytest.skip(f"{package} is {version}, the files were built with {stated_version(package)}")
    return build(tmp_path_factory.mktemp("models"), "1", whole=[], short=ONE_EPOCH)


@pytest.mark.slow
@BUILT_ONCE
@pytest.mark.release
@pytest.mark.parametrize("name", MODELS)
def test_rebuilding_gives_the_same_weights(name, rebuilt):
    """The weights are close, and not always equal to the bit.

    Processors round differently. The training runs in float64, so that this reaches float32 in the last digit at most;
    1e-6 leaves room for a few such steps and is far below what another seed or split would change.
    """
    committed, new = initializers(model_path(name)), initializers(rebuilt / "whole" / name)
    assert list(new) == list(committed)
    for weight, values in committed.items():
        np.testing.assert_allclose(new[weight], values, rtol=0, atol=1e-6, err_msg=weight)


@pytest.mark.slow
@BUILT_ONCE
@pytest.mark.release
@pytest.mark.parametrize("name", MODELS)
def test_a_rebuilt_model_is_as_accurate(name, rebuilt):
    _, correct, _ = stated_row(name)
    assert abs(count_correct(rebuilt / "whole" / name, read_test_data()) - correct) <= 1


@pytest.mark.slow
@BUILT_ONCE
@pytest.mark.release
def test_rebuilding_gives_the_same_test_data(rebuilt):
    """The arrays are equal; the file may differ, as releases of zlib compress differently."""
    committed, new = read_test_data(), read_test_data(rebuilt / "whole" / "digits_test.npz")
    assert sorted(new) == sorted(committed)
    assert all(np.array_equal(new[name], committed[name]) for name in committed)


@pytest.mark.slow
@BUILT_ONCE
@pytest.mark.release
def test_two_builds_on_one_machine_write_the_same_bytes(rebuilt, tmp_path):
    again = build(tmp_path, "2", short=ONE_EPOCH)
    for folder in (rebuilt / "whole", rebuilt / "short", again / "short"):
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (again / "short" / name).read_bytes() == (rebuilt / "short" / name).read_bytes()
