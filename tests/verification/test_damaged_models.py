"""Models in which something else than a weight was changed after the mapping fail, however lossy the mapping is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_gconv import verify
from onnx_gconv.converters import BitSlicedOffsetConductanceConverter, BitSlicedPairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import VerificationError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import read_back, write_bundle
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.chip import programmed

LEVELS = ConductanceLevels.uniform(64, 0.0, 25.0)
SCHEMES = {
    "exact to rounding": MappingScheme(),
    "levels": MappingScheme(levels=LEVELS),
    "codes": MappingScheme(levels=LEVELS, storage="codes"),
    "clipping": MappingScheme(clipping=Clipping(percentile=99.0)),
    "bit slices": MappingScheme(BitSlicedPairConductanceConverter(bits=5, slice_bits=2)),
    "bit slices with an offset": MappingScheme(BitSlicedOffsetConductanceConverter(bits=6, slice_bits=2)),
}
MEASURED = {"measured": 0, "measured with rows for the bias": 1}

TEXT = """g (float[4,16] x) => (float[4,9] p, float[4,9] q) <float two = {2}> {
    h = MatMul(x, W)  s = Add(h, b)  r = LeakyRelu <alpha = 0.25> (s)  t = Gemm(r, V, c)
    d = Sub(t, two)  p = Softmax <axis = 1> (d)  q = Tanh(d)
}"""


def node(model, op_type):
    return next(node for node in model.graph.node if node.op_type == op_type)


def tensor(model, name):
    return next(item for item in model.graph.initializer if item.name == name)


def add(model, name, number):
    found = tensor(model, name)
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) + np.float32(number), name))


def exchange_outputs(model):
    names = {"p": "q", "q": "p"}
    for item in model.graph.node:
        for place, name in enumerate(item.output):
            item.output[place] = names.get(name, name)


def swap_inputs(model):
    found = node_that_reads(model, "two")
    found.input[0], found.input[1] = found.input[1], found.input[0]


def node_that_reads(model, name):
    return next(item for item in model.graph.node if name in item.input)


def set_alpha(model):
    node(model, "LeakyRelu").attribute[0].f = 0.75


def set_op_type(model):
    found = node(model, "LeakyRelu")
    found.op_type = "Relu"
    del found.attribute[:]


DAMAGES = {
    "bias of an Add node": lambda model: add(model, "b", 0.5),
    "bias of a Gemm node": lambda model: add(model, "c", 0.5),
    "constant": lambda model: add(model, "two", 1),
    "attribute": set_alpha,
    "op type": set_op_type,
    "order of inputs": swap_inputs,
    "graph outputs": exchange_outputs,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The path of an original, and a function that gives that of a model mapped in some way."""
    from tests.conftest import parse_model, random_array

    folder = tmp_path_factory.mktemp("damaged")
    original, found = folder / "model.onnx", {}
    biases = {"b": random_array(12, seed=2) / 4, "c": random_array(9, seed=3) / 4}
    weights = {"W": random_array(16, 12), "V": random_array(12, 9, seed=1)}
    save_model(parse_model(TEXT, **weights, **biases), original)

    def mapped(kind):
        if kind not in found:
            path = folder / f"{len(found)}.gconv.onnx"
            model = load_model(original)
            MapConductances(scheme=SCHEMES.get(kind, MappingScheme()))(model)
            save_model(model, path, inputs=[original])
            found[kind] = measured(path, MEASURED[kind]) if kind in MEASURED else path
        return found[kind]

    def measured(path, bias_rows):
        bundle = path.with_name(f"{path.stem}.bundle")
        write_bundle(path, bundle, (8, 8), bias_rows=bias_rows)
        programmed(bundle).write(bundle / "measured.h5")
        return read_back(path, bundle, path.with_name(f"{path.stem}.measured.onnx")).output

    return original, mapped


@pytest.mark.parametrize("kind", [*SCHEMES, *MEASURED])
def test_what_is_not_damaged_passes(models, kind):
    original, mapped = models
    verify(original, mapped(kind)).raise_if_failed()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [*SCHEMES, *MEASURED])
def test_what_is_damaged_fails(models, tmp_path, kind, damage):
    original, mapped = models
    model = onnx.load(mapped(kind))
    DAMAGES[damage](model)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "damaged.onnx")
    report = verify(original, tmp_path / "damaged.onnx")
    if kind == "measured with rows for the bias" and "bias" in damage:
        name = "b" if "Add" in damage else "c"
        assert any(note.startswith(f"the bias '{name}' was measured, too") for note in report.outputs.notes)
        return
    assert not report.passed
    with pytest.raises(VerificationError, match="is above the tolerance"):
        report.raise_if_failed()
