"""Adapters stay digital and as they are: inputs with defaults, matrices of LoRA, and data that is not there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnx_gconv
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.weights import find_weights
from tests.graphs import external_tensor, tensors, value
from tests.graphs import model as model_of

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(8, 6)).astype(np.float32)
A, B = RNG.normal(size=(8, 2)).astype(np.float32), RNG.normal(size=(2, 6)).astype(np.float32)
LORA_A, LORA_B = "layers.0.q_proj.lora_A.MatMul.weight", "layers.0.q_proj.lora_B.MatMul.weight"
X = RNG.normal(size=(3, 8)).astype(np.float32)


def lora_model(folder, *, inputs=(), initializers=None, ir_version=10):
    """``y = x @ W + scale * (x @ A @ B)``; the scale is a default without axes."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["base"], "base"),
        helper.make_node("MatMul", ["x", LORA_A], ["low"], "/layers.0/q_proj/lora_A/MatMul"),
        helper.make_node("MatMul", ["low", LORA_B], ["high"], "/layers.0/q_proj/lora_B/MatMul"),
        helper.make_node("Mul", ["high", "lora_scale"], ["scaled"], "scale"),
        helper.make_node("Add", ["base", "scaled"], ["y"], "add"),
    ]
    if initializers is None:
        initializers = tensors({"W": WEIGHT, LORA_A: A, LORA_B: B, "lora_scale": np.float32(0.5)})
    found = model_of(nodes, [value("x", shape=["n", 8]), *inputs], [value("y", shape=["n", 6])], initializers)
    found.ir_version = ir_version
    onnx.save(found, folder / "lora.onnx")
    return folder / "lora.onnx"


def mapped(path, **options):
    output = path.with_name("mapped.onnx")
    report = onnx_gconv.map_model(path, output, **options)
    onnx.checker.check_model(onnx.load(output, load_external_data=False))
    return report, onnx.load(output, load_external_data=False), output


def test_matrices_of_lora_stay_digital_unless_they_are_asked_for(tmp_path):
    source = lora_model(tmp_path)
    report, model, output = mapped(source)
    assert [weight.name for weight in report.mapped] == ["W"]
    assert [(item.name, item.reason, item.is_mvm) for item in report.skipped] == [
        (LORA_A, "adapter", True),
        (LORA_B, "adapter", True),
    ]
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert (arrays[LORA_A] == A).all()
    assert (arrays[LORA_B] == B).all()
    assert onnx_gconv.verify(source, output).passed
    file = tmp_path / "gconv.toml"
    file.write_text("[model]\ninclude_adapters = true\n")
    for options in ({"include_adapters": True}, {"config": file}):
        report, _, output = mapped(source, **options)
        assert [weight.name for weight in report.mapped] == ["W", LORA_A, LORA_B]
        assert onnx_gconv.verify(source, output).passed
    with pytest.raises(ConfigError, match=r"is skipped.*matrix of an adapter.*--include-adapters"):
        onnx_gconv.map_model(source, output, include=["*lora_A*"])


@pytest.mark.parametrize("ranks", [2, 0])
def test_inputs_with_defaults_keep_their_names_and_can_be_replaced(tmp_path, ranks):
    inputs = [
        value(LORA_A, shape=[8, "lora_r"]),
        value(LORA_A, shape=[8, "lora_r"]),  # Olive lists them twice
        value(LORA_B, shape=["lora_r", 6]),
        value("lora_scale", shape=[]),
    ]
    defaults = {"W": WEIGHT, LORA_A: A[:, :ranks], LORA_B: B[:ranks], "lora_scale": np.float32(0.5)}
    source = lora_model(tmp_path, inputs=inputs[1:], initializers=tensors(defaults))
    report, model, output = mapped(source, freeze_inputs=True)
    assert [weight.name for weight in report.mapped] == ["W"]
    assert {item.reason for item in report.skipped if item.is_mvm} == {"adapter"}
    assert [item.name for item in model.graph.input] == ["x", LORA_A, LORA_B, "lora_scale"]
    assert onnx_gconv.verify(source, output).passed
    restored = onnx_gconv.restore_model(output, tmp_path / "restored.onnx").output
    sessions = [onnxruntime.InferenceSession(path) for path in (source, output, restored)]
    other = {"x": X, LORA_A: 2 * A, LORA_B: B, "lora_scale": np.array(3, np.float32)}
    for given in ({"x": X}, other):
        plain, *others = (session.run(None, given)[0] for session in sessions)
        low, high, scale = (given.get(name, default) for name, default in list(defaults.items())[1:])
        np.testing.assert_allclose(plain, X @ WEIGHT + scale * (X @ low @ high), rtol=1e-4, atol=1e-4)
        assert all(np.allclose(found, plain, rtol=1e-4, atol=1e-4) for found in others)

    twice = lora_model(tmp_path, inputs=inputs, initializers=tensors(defaults))
    _, model, _ = mapped_without_check(twice)
    assert [item.name for item in model.graph.input] == ["x", LORA_A, LORA_A, LORA_B, "lora_scale"]
    if ranks:
        report, model, output = mapped(source, include_adapters=True)
        assert [weight.name for weight in report.mapped] == ["W", LORA_A, LORA_B]
        assert [item.name for item in model.graph.input] == ["x", "lora_scale"]
        assert onnx_gconv.verify(source, output).passed


def mapped_without_check(path):
    output = path.with_name("mapped.onnx")
    return onnx_gconv.map_model(path, output), onnx.load(output), output


def test_data_that_is_not_there_is_left_where_it_is_said_to_be(tmp_path):
    absent = [external_tensor(LORA_A, A.shape, "dummy.bin", 0), external_tensor(LORA_B, B.shape, "dummy.bin", A.nbytes)]
    for tensor in absent:
        del tensor.external_data[1:]  # as Olive writes them: without offset and length
    present = tensors({"W": WEIGHT, "lora_scale": np.float32(0.5)})
    source = lora_model(tmp_path, initializers=[*present, *absent])
    (tmp_path / "out").mkdir()
    note = (
        f"the data file 'dummy.bin' is not there: '{LORA_A}', '{LORA_B}' stay as they are; whoever runs the model puts "
        "the file beside it, or gives them to the session (add_external_initializers)"
    )
    assert onnx_gconv.inspect_model(source).notes == (note,)
    for external_data in (None, True):
        output = tmp_path / "out" / "mapped.onnx"
        report = onnx_gconv.map_model(source, output, external_data=external_data)
        assert report.notes == (note,)
        model = onnx.load(output, load_external_data=False)
        found = {item.name: item for item in model.graph.initializer}
        for tensor in absent:
            assert found[tensor.name].external_data == tensor.external_data
        onnx_gconv.restore_model(output, tmp_path / "out" / "restored.onnx")
        options = onnxruntime.SessionOptions()
        given = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (A, B)]
        options.add_external_initializers([LORA_A, LORA_B], given)
        for path in (output, tmp_path / "out" / "restored.onnx"):
            [y] = onnxruntime.InferenceSession(path, options).run(None, {"x": X})
            np.testing.assert_allclose(y, X @ WEIGHT + 0.5 * (X @ A @ B), rtol=1e-4, atol=1e-4)
    onnx_gconv.write_bundle(output, tmp_path / "bundle", (4, 4))
    [targets] = (tmp_path / "bundle").glob("*.h5")
    onnx_gconv.read_back(
        output, targets, tmp_path / "out" / "measured.onnx", bundle=tmp_path / "bundle", as_if_measured=True
    )
    onnx_gconv.program_model(output, tmp_path / "out" / "chip.onnx", "pcm")
    with pytest.raises(
        ModelError, match=rf"external data of tensor '{LORA_A}' cannot be read.*copy the data file there"
    ):
        onnx_gconv.map_model(source, output, include_adapters=True)
    (tmp_path / "out" / "dummy.bin").write_bytes(b"another file")
    with pytest.raises(
        ConfigError, match=r"would be read from the file .*dummy.bin' beside the output; choose another"
    ):
        onnx_gconv.map_model(source, output)


def test_a_new_data_file_never_takes_the_name_of_one_that_is_not_there(tmp_path):
    absent = [external_tensor(LORA_A, A.shape, "mapped.onnx.data"), *tensors({LORA_B: B})]
    large = np.tile(WEIGHT, (1, 20))[:, :6]
    source = lora_model(tmp_path, initializers=[*absent, *tensors({"W": large, "lora_scale": np.float32(0.5)})])
    report = onnx_gconv.map_model(source, tmp_path / "mapped.onnx", external_data=True)
    assert [file.name for file in report.files] in (["mapped.onnx"], ["mapped.onnx", "mapped.onnx.1.data"])
    assert not (tmp_path / "mapped.onnx.data").exists()


def test_a_weight_without_its_data_is_refused(tmp_path):
    present = tensors({LORA_A: A, LORA_B: B, "lora_scale": np.float32(1)})
    source = lora_model(tmp_path, initializers=[external_tensor("W", WEIGHT.shape, "gone.bin"), *present])
    with pytest.raises(ModelError, match=r"lora.onnx': external data of tensor 'W' cannot be read.*copy the data file"):
        onnx_gconv.map_model(source, tmp_path / "mapped.onnx")
    assert not (tmp_path / "mapped.onnx").exists()


@pytest.mark.parametrize(
    ("name", "is_adapter"),
    [
        ("base.model.q_proj.lora_A.default.weight", True),
        ("unet.down.0.attn.to_q.lora.down.weight", True),
        ("lora_unet_mid_block_attn.lora_up.weight", True),
        ("model.layers.0.attn.q_proj.lora_a.MatMul.weight_Q4", True),
        ("model.q_proj.hada_w1_a", True),
        ("base_model.model.q_proj.base_layer.weight", False),
        ("explora_a.weight", False),
        ("lora_table", False),
    ],
)
def test_names_of_adapters(parse, name, is_adapter):
    model = parse("g (float[2,8] x) => (float[2,6] y) { [node] y = MatMul(x, W) }", W=WEIGHT)
    model.graph.initializers["W"].name = name
    assert [item.reason.value for item in find_weights(model).skipped] == (["adapter"] if is_adapter else [])


def test_what_an_adapter_was_merged_into_is_a_weight(parse):
    model = parse("g (float[2,8] x) => (float[2,6] y) { [node] y = MatMul(x, val_1) }", val_1=WEIGHT)
    folded = model.graph.initializers["val_1"].metadata_props
    key = "pkg.onnxscript.optimizer.folded_from"
    folded[key] = "['q.base_layer.weight', 'q.lora_A.default.weight', 'q.lora_B.default.weight']"
    assert len(find_weights(model).weights) == 1
    folded[key] = "['q.lora_A.default.weight']"
    assert [item.reason.value for item in find_weights(model).skipped] == ["adapter"]
    del folded[key]
    model.graph[0].name = "/q/lora_A/default/MatMul"
    assert [item.reason.value for item in find_weights(model).skipped] == ["adapter"]
    assert len(find_weights(model, adapters=True).weights) == 1
