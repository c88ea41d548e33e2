"""Helpers of all tests: tiny models from text, their outputs in ONNX Runtime, and random arrays."""

from __future__ import annotations

import functools
import gc

import hypothesis
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

OPTIMIZATIONS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

# Examples have no deadline, and the time to generate them no limit: a shared machine may stall for a moment. Each run
# tries other examples.
UNTIMED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("onnx_gconv", UNTIMED, max_examples=60)
hypothesis.settings.register_profile("long", UNTIMED, max_examples=1000)
hypothesis.settings.load_profile("onnx_gconv")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector from scanning the half million objects of imports and tests, which all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def parse_model(text, *, opsets='"" : 17', ir_version=10, **initializers):
    """A model from ONNX's text format, with its main graph first; arrays become initializers of that graph."""
    proto = onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{opsets}]>\n{text}")
    for name, array in initializers.items():
        proto.graph.initializer.append(ir.to_proto(ir.tensor(array, name=name)))
    return ir.from_proto(proto)


def run_model(model, optimization="all", optimized_model=None, **inputs):
    """The outputs that ONNX Runtime gives for a model, or for the bytes of one."""
    options = ort.SessionOptions()
    options.graph_optimization_level = OPTIMIZATIONS[optimization]
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    if optimized_model is not None:
        options.optimized_model_filepath = str(optimized_model)
    content = model if isinstance(model, bytes) else model_bytes(model)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def model_bytes(model):
    """The bytes of a model's file; equal bytes mean equal models."""
    return ir.to_proto(model).SerializeToString(deterministic=True)


def random_array(*shape, dtype=np.float32, seed=0):
    """An array of numbers from the standard normal distribution."""
    return np.asarray(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


# Tests get these functions as fixtures, since they cannot import this module.


@pytest.fixture(scope="session")
def parse():
    return parse_model


@pytest.fixture(scope="session")
def run():
    return run_model


@pytest.fixture(scope="session")
def serialized():
    return model_bytes


@pytest.fixture(scope="session")
def normal():
    return random_array


@pytest.fixture(scope="session")
def operators_read_once():
    """Let torch's exporter parse the sources of its operators only once; it would parse them again for each model."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
