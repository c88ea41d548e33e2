"""Sessions of ONNX Runtime."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv.runtime.inputs import InputSpec
from onnx_gconv.runtime.session import OPTIMIZATIONS, ModelSession, Optimization, RuntimeRefusal, run_model
from tests import graphs

if TYPE_CHECKING:
    from pathlib import Path

X = np.array([1.0, 2.0], np.float32)


def save(
    path: Path, nodes: list[onnx.NodeProto], outputs: list[Any], *weights: onnx.TensorProto, **inputs: Any
) -> Path:
    """A model of opset 17; inputs are ``name=(element type, shape)``."""
    fed = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    onnx.save(graphs.model(nodes, fed, outputs, weights, domains=["", "ai.onnx.ml", "custom"]), path)
    return path


def tensor(name: str, element_type: int = TensorProto.FLOAT, shape: Any = (2,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return save(tmp_path / "doubling.onnx", [node], [tensor("y", shape=["n"])], x=(TensorProto.FLOAT, ["n"]))


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_a_model_gives_its_outputs_by_name(doubling: Path, optimization: Optimization) -> None:
    assert run_model(doubling, {"x": X}, optimization)["y"].tolist() == [2, 4]


def test_a_session_says_what_it_is_fed_with(doubling: Path) -> None:
    with ModelSession(doubling, "all") as session:
        assert session.read_input_specs() == (InputSpec("x", np.dtype(np.float32), ("n",)),)


def test_a_session_runs_again_after_inputs_that_it_refused(doubling: Path) -> None:
    with ModelSession(doubling, "all") as session:
        with pytest.raises(RuntimeRefusal, match="does not run the model"):
            session.run({"x": X.astype(np.float64)})
        assert session.run({"x": X})["y"].tolist() == [2, 4]


def test_the_memory_of_a_session_is_released_at_the_end_of_its_block(doubling: Path) -> None:
    with ModelSession(doubling, "all") as session:
        outputs = session.run({"x": X})
        alive = weakref.ref(session._session)
    assert alive() is None
    assert outputs["y"].flags.owndata


def test_external_data_is_found_next_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
    save(path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor("y", shape=[4096])], weight, x=(1, [1]))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.data", size_threshold=0)

    assert run_model(path, {"x": np.ones(1, np.float32)}, "none")["y"][-1] == 4096


def test_bfloat16_goes_in_and_comes_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT)]
    outputs = [tensor("y", TensorProto.BFLOAT16), tensor("z")]
    path = save(tmp_path / "model.onnx", nodes, outputs, x=(TensorProto.BFLOAT16, [2]), f=(TensorProto.FLOAT, [1]))
    x = X.astype(ml_dtypes.bfloat16)

    found = run_model(path, {"x": x, "f": np.ones(1, np.float32)}, "all")

    assert list(found) == ["y", "z"]
    assert found["y"].dtype == ml_dtypes.bfloat16
    assert found["y"].tolist() == found["z"].tolist() == [1, 2]


def test_an_empty_bfloat16_output_has_its_shape(tmp_path: Path) -> None:
    kind = (TensorProto.BFLOAT16, ["n", 3])
    path = save(tmp_path / "model.onnx", [helper.make_node("Identity", ["x"], ["y"])], [tensor("y", *kind)], x=kind)

    assert run_model(path, {"x": np.zeros((0, 3), ml_dtypes.bfloat16)}, "all")["y"].shape == (0, 3)


def test_a_sequence_is_a_list_of_arrays_of_their_own(tmp_path: Path) -> None:
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    path = save(tmp_path / "model.onnx", [node], [output], x=(TensorProto.FLOAT, [2]))

    found = run_model(path, {"x": X}, "all")["y"]

    assert [part.tolist() for part in found] == [[1, 2], [1, 2]]
    assert all(part.flags.owndata for part in found)


def test_a_file_that_is_no_model_is_refused_on_loading(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")

    with pytest.raises(RuntimeRefusal) as refused:
        run_model(path, {}, "all")
    assert refused.value.stage == "load"


def test_an_operator_of_an_unknown_domain_is_refused_on_loading(tmp_path: Path) -> None:
    node = helper.make_node("Sparkle", ["x"], ["y"], domain="custom")
    path = save(tmp_path / "model.onnx", [node], [tensor("y")], x=(TensorProto.FLOAT, [2]))

    with pytest.raises(RuntimeRefusal, match="Sparkle") as refused:
        run_model(path, {"x": X}, "none")
    assert refused.value.stage == "load"


@pytest.fixture
def reshaping(tmp_path: Path) -> Path:
    """A model that runs on three elements only."""
    shape = numpy_helper.from_array(np.array([3]), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    return save(tmp_path / "model.onnx", [node], [tensor("y", shape=[3])], shape, x=(TensorProto.FLOAT, ["n"]))


def test_inputs_that_the_model_cannot_take_are_refused_on_running_in_one_line(reshaping: Path) -> None:
    with pytest.raises(RuntimeRefusal, match="Reshape") as refused:
        run_model(reshaping, {"x": X}, "all")
    assert refused.value.stage == "run"
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("inputs", [{}, {"other": X}, {"x": X, "other": X}])
def test_other_inputs_than_the_model_has_are_refused_on_running(doubling: Path, inputs: dict[str, Any]) -> None:
    with pytest.raises(RuntimeRefusal) as refused:
        run_model(doubling, inputs, "all")
    assert refused.value.stage == "run"


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_the_runtime_prints_nothing(
    tmp_path: Path, reshaping: Path, capfd: pytest.CaptureFixture[str], optimization: Optimization
) -> None:
    wrong_shape = save(
        tmp_path / "warning.onnx",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [tensor("y", shape=[3])],
        numpy_helper.from_array(np.ones(2, np.float32), "nobody_uses_this"),
        x=(TensorProto.FLOAT, [2]),
    )
    run_model(wrong_shape, {"x": X}, optimization)
    with pytest.raises(RuntimeRefusal):
        run_model(reshaping, {"x": X}, optimization)
    with pytest.raises(RuntimeRefusal):
        run_model(tmp_path / "none.onnx", {"x": X}, optimization)

    assert capfd.readouterr() == ("", "")


def mapped_linear(path: Path, size: int) -> Path:
    """MatMul(x, Div(Sub(G+, G-), scale)) with a square weight."""
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    scale = np.float32(25.0) / np.abs(weight).max()
    arrays = {
        "w.g_plus": np.maximum(weight * scale, 0),
        "w.g_minus": np.maximum(-weight * scale, 0),
        "w.g_scale": np.asarray(scale),
    }
    nodes = [
        helper.make_node("Sub", ["w.g_plus", "w.g_minus"], ["w.g_difference"]),
        helper.make_node("Div", ["w.g_difference", "w.g_scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return save(path, nodes, [tensor("y", shape=["b", size])], *weights, x=(TensorProto.FLOAT, ["b", size]))


def test_without_optimization_rebuilt_weights_go_through_the_kernels_of_plain_ones(tmp_path: Path) -> None:
    size = 256
    mapped = mapped_linear(tmp_path / "mapped.onnx", size)
    arrays = {weight.name: numpy_helper.to_array(weight) for weight in onnx.load(mapped).graph.initializer}
    rebuilt = (arrays["w.g_plus"] - arrays["w.g_minus"]) / arrays["w.g_scale"]
    plain = save(
        tmp_path / "plain.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("y", shape=["b", size])],
        numpy_helper.from_array(rebuilt, "w"),
        x=(TensorProto.FLOAT, ["b", size]),
    )
    x = np.random.default_rng(1).standard_normal((1, size)).astype(np.float32)

    for optimization in OPTIMIZATIONS:
        one, other = (run_model(path, {"x": x}, optimization)["y"] for path in (plain, mapped))
        assert one.tobytes() == other.tobytes()


def test_a_session_of_one_thread_adds_in_the_order_of_one_thread(tmp_path: Path) -> None:
    x, w = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((32, 512), (512, 128)))
    kinds = {"x": (TensorProto.FLOAT, x.shape), "w": (TensorProto.FLOAT, w.shape)}
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = save(tmp_path / "product.onnx", [product], [tensor("y", shape=[32, 128])], **kinds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    one = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with ModelSession(model, "all", is_single_threaded=True) as session:
        assert np.array_equal(session.run({"x": x, "w": w})["y"], one.run(["y"], {"x": x, "w": w})[0])


def test_values_inside_a_model_are_outputs_too_and_external_data_is_found_next_to_it(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [tensor("y", shape=[1, 4])], numpy_helper.from_array(w, "w"),
                 x=(TensorProto.FLOAT, [1, 4]))  # fmt: skip
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="m.data", size_threshold=0)
    before, x = model.read_bytes(), np.ones((1, 4), np.float32)
    with ModelSession(model, "all", inner=["t", "y", "t"]) as session:
        found = session.run({"x": x})
    assert list(found) == ["y", "t"]
    np.testing.assert_allclose(found["t"], x @ w, rtol=1e-5)
    np.testing.assert_array_equal(found["y"], found["t"].clip(0))
    assert model.read_bytes() == before
