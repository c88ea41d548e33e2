"""The inputs that are damaged: tiny models of every kind, their mappings, a bundle, and measurements of it.

Everything is made when it is first asked for, and always the same.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_gconv import converters, map_model, read_back, write_bundle
from onnx_gconv.configuration import Configuration
from onnx_gconv.configuration.options import configuration_of
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.mapping import MANIFEST_KEY
from tests.fuzz.protobuf import Parts
from tests.generated.random_models import random_model

__all__ = [
    "MAPPINGS",
    "Mapping",
    "Seed",
    "bundle_files",
    "bundled_model",
    "external_model",
    "inputs_file",
    "mapped_seeds",
    "measured_files",
    "model_seeds",
    "with_manifest",
]

_SMALLEST_GENERATED = 1500
_GENERATED = 120

_TEXTS = {
    "MatMul": """17 | (float[1,3] x) => (float[1,4] y) { y = MatMul(x, W) }""",
    "Gemm": """13 | (float[1,3] x) => (float[1,4] y) { y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, V, b) }""",
    "Conv": """17 | (float[1,4,3,3] x) => (float[1,4,2,2] y) { c = Conv <group = 2> (x, K, b) y = Relu(c) }""",
    "shared": """17 | (float[3,3] x) => (float[3,3] y) {
        t = Transpose <perm = [1, 0]> (S) h = MatMul(x, t) y = MatMul(h, S) }""",
    "tied": """17 | (int64[2] i) => (float[2,3] y) { e = Gather(S, i) y = MatMul(e, S) }""",
    "Constant": """11 | (float[1,2] x) => (float[1,2] y) {
        C = Constant <value = float[2,2] {1.0, -2.0, 0.5, 3.0}> () y = MatMul(x, C) }""",
    "computed": """17 | (float[1,4] x) => (float[1,3] y) {
        h = Cast <to = 1> (H) t = Transpose <perm = [1, 0]> (h) y = MatMul(x, t) }""",
    "body": """17 | (float[1,3] x, bool c) => (float[1,4] y) {
        y = If (c) <then_branch = a () => (float[1,4] p) { p = MatMul(x, W) },
                    else_branch = e () => (float[1,4] q) { q = MatMul(x, Z) }> }""",
    "LSTM": """14 | (float[2,1,2] x) => (y) { y, h, s = LSTM <hidden_size = 1> (x, L, R, B) }""",
    "QDQ": """13 | (float[1,3] x) => (float[1,4] y) { w = DequantizeLinear <axis = 1> (Q, qs, qz) y = MatMul(x, w) }""",
    "integer": """10 | (uint8[1,3] x) => (int32[1,4] y) { y = MatMulInteger(x, Q, xz, z8) }""",
    "Einsum": """17 | (float[1,3] x) => (float[4,1] y) { y = Einsum <equation = "bi,io->ob"> (x, W) }""",
    "half": """17 | (float16[1,3] x) => (float16[1,4] y) { y = MatMul(x, H) }""",
    "bfloat16": """17 | (bfloat16[1,3] x) => (bfloat16[1,4] y) { y = MatMul(x, G) }""",
    "double": """17 | (double[1,3] x) => (double[1,4] y) { y = MatMul(x, D) }""",
}

_FUNCTION = """
<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
g (float[1,3] x) => (float[1,4] y) <float[3,4] W> { y = own.dense(x, W) }
<domain: "own", opset_import: ["" : 17]>
dense (a, w) => (r) { r = MatMul(a, w) }
"""


def _arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(14)
    w = random.normal(size=(3, 4)).astype(np.float32)
    return {
        "W": w,
        "Z": w[::-1].copy(),
        "V": random.normal(size=(4, 3)).astype(np.float32),
        "b": random.normal(size=4).astype(np.float32),
        "K": random.normal(size=(4, 2, 2, 2)).astype(np.float32),
        "S": random.normal(size=(3, 3)).astype(np.float32),
        "H": w.astype(np.float16),
        "G": w.astype(ml_dtypes.bfloat16),
        "D": random.normal(size=(3, 4)),
        "L": random.normal(size=(1, 4, 2)).astype(np.float32),
        "R": random.normal(size=(1, 4, 1)).astype(np.float32),
        "B": random.normal(size=(1, 8)).astype(np.float32),
        "Q": np.clip(np.rint(w * 60), -128, 127).astype(np.int8),
        "qs": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "qz": np.array([0, 1, -1, 2], np.int8),
        "xz": np.array(3, np.uint8),
        "z8": np.array(1, np.int8),
    }


@dataclass(frozen=True, eq=False)
class Mapping:
    """A way to map.

    Attributes:
        options: What `map_model` is given.
        off: How far weights may be off at most, as a part of the largest.
    """

    options: dict[str, Any]
    off: float = 1e-5

    def tolerance(self, array: np.ndarray) -> float:
        """How far the elements of a weight may be off at most; scales are made for weights of at least 1e-7."""
        return float(self.off * max(np.abs(array).max(), 1e-7))

    @functools.cached_property
    def configuration(self) -> Configuration:
        """The same for passes."""
        options = dict(self.options)
        return configuration_of(None, options.pop("converter", None), options)


_TABLE = [[0.0, 5.0, 10.0, 15.0, 20.0], [20.0, 15.0, 10.0, 5.0, 0.0]]
_LEVELS = ConductanceLevels.of_table([0.0, 3.0, 4.0, 11.0, 25.0])

MAPPINGS = {
    "single pair": Mapping({}),
    "above 0": Mapping({"converter": converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)}),
    "exact": Mapping({"converter": converters.SinglePairConductanceConverter(exact=True)}),
    "n pair": Mapping({"converter": converters.NPairConductanceConverter([1.0, 2.0])}),
    "dual pair": Mapping({"converter": converters.DualPairConductanceConverter([1.0, 3.0], g_min=0.5)}),
    "custom pair": Mapping({"converter": converters.CustomPairConductanceConverter([1.0], _TABLE)}, 1e-3),
    "single device": Mapping({"converter": converters.SingleDeviceConductanceConverter()}, 1e-4),
    "two-sided": Mapping({"converter": converters.TwoSidedPairConductanceConverter(g_max=40.0, g_min=1.0)}, 1e-4),
    "offset": Mapping({"converter": converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0)}, 1e-4),
    "bit slices": Mapping({"converter": converters.BitSlicedPairConductanceConverter(bits=8, slice_bits=4)}, 0.01),
    "offset slices": Mapping({"converter": converters.BitSlicedOffsetConductanceConverter(bits=9, slice_bits=4)}, 0.01),
    "channel": Mapping({"granularity": "channel"}),
    "tile": Mapping({"granularity": {"kind": "tile", "tile": "2x2"}}),
    "tile channel": Mapping({"granularity": {"kind": "tile-channel", "tile": "2x2"}}),
    "levels": Mapping({"levels": 64}, 0.02),
    "codes": Mapping({"levels": 64, "storage": "codes"}, 0.02),
    "many codes": Mapping({"levels": 5000, "storage": "codes", "granularity": "channel"}, 0.001),
    "table codes": Mapping({"levels": _LEVELS, "storage": "codes"}, 0.5),
    "half": Mapping({"conductance_dtype": "weight"}, 0.02),
    "split": Mapping({"shared": "split"}),
}


@dataclass(frozen=True, eq=False)
class Seed:
    """A model.

    Attributes:
        name: What it is.
        proto: It.
        content: Its bytes.
        mapping: How it is mapped; for an original, how it may be.
    """

    name: str
    proto: onnx.ModelProto
    content: bytes
    mapping: Mapping

    @functools.cached_property
    def parts(self) -> Parts:
        """What it is made of."""
        return Parts(self.proto)

    @functools.cached_property
    def manifest(self) -> str:
        """The manifest of a mapped model."""
        return next(item.value for item in self.proto.metadata_props if item.key == MANIFEST_KEY)

    @functools.cached_property
    def without_nodes(self) -> ir.Model:
        """A model with the same metadata, for what reads no more than that."""
        empty = onnx.ModelProto(ir_version=10, metadata_props=self.proto.metadata_props)
        return ir.from_proto(empty)


def _parsed(name: str, text: str) -> onnx.ModelProto:
    opset, _, graph = text.partition(" | ")
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {graph}')
    names = {item for node in model.graph.node for item in _inputs(node)}
    for key, array in _arrays().items():
        if key in names:
            model.graph.initializer.append(_tensor(array, key))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{name}{number}"
    return model


def _inputs(node: onnx.NodeProto) -> set[str]:
    inner = {item for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in a.g.node for item in n.input}
    return set(node.input) | inner


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(array, name)


@functools.cache
def model_seeds() -> tuple[Seed, ...]:
    """Originals: a model for each kind of weight, and small ones of the generator."""
    models = {name: _parsed(name, text) for name, text in _TEXTS.items()}
    function = parser.parse_model(_FUNCTION)
    del function.graph.value_info[:]
    function.graph.initializer.append(_tensor(_arrays()["W"], "W"))
    models["function"] = function
    for number in range(_GENERATED):
        proto = random_model(number).proto
        if proto.ByteSize() < _SMALLEST_GENERATED:
            models[f"generated {number}"] = proto
    ways = list(MAPPINGS.values())
    return tuple(
        Seed(name, proto, proto.SerializeToString(), ways[number % len(ways)])
        for number, (name, proto) in enumerate(models.items())
    )


@functools.cache
def mapped_seeds() -> tuple[Seed, ...]:
    """Mapped models: one by every way, of an op that is another each time, and every op by a single pair."""
    chosen = [
        *(("MatMul", way) for way in MAPPINGS),
        *(("Conv", way) for way in ("channel", "tile", "tile channel", "codes")),
        *((name, "single pair") for name in _TEXTS),
        *(("tied", "split"), ("half", "half"), ("shared", "tile"), ("QDQ", "exact"), ("LSTM", "channel")),
    ]
    originals = {seed.name: seed.proto for seed in model_seeds()}
    found = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for number, (op, way) in enumerate(chosen):
            onnx.save(originals[op], folder / "model.onnx")
            mapped = folder / f"{number}.onnx"
            map_model(folder / "model.onnx", mapped, external_data=False, **MAPPINGS[way].options)
            found.append(_seed(f"{op}, {way}", mapped, MAPPINGS[way]))
        files = measured_files()
        for path, content in {**bundle_files(), "measured.h5": files["measured.h5"]}.items():
            (folder / "bundle").mkdir(exist_ok=True)
            (folder / "bundle" / path).write_bytes(content)
        read_back(folder / "bundle/model.onnx", folder / "bundle", folder / "measured.onnx", external_data=False)
        found.append(_seed("measured", folder / "measured.onnx", MAPPINGS["single pair"]))
    return tuple(found)


def _seed(name: str, path: Path, mapping: Mapping) -> Seed:
    content = path.read_bytes()
    return Seed(name, onnx.load_from_string(content), content, mapping)


def with_manifest(model: onnx.ModelProto, text: str) -> bytes:
    """A model with another manifest."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for item in changed.metadata_props:
        if item.key == MANIFEST_KEY:
            item.value = text.encode(errors="replace").decode()
    return bytes(changed.SerializeToString())


@functools.cache
def bundled_model() -> Parts:
    """The mapped model of the bundle."""
    return Parts(onnx.load_from_string(bundle_files()["model.onnx"]))


@functools.cache
def external_model() -> tuple[onnx.ModelProto, bytes]:
    """A model whose two weights lie in a file of data, and that file."""
    arrays = _arrays()
    model = _parsed("chain", "17 | (float[1,3] x) => (float[1,3] y) { h = MatMul(x, W) y = MatMul(h, V) }")
    data = b""
    for tensor in model.graph.initializer:
        raw = arrays[tensor.name].tobytes()
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "model.data", "offset": len(data), "length": len(raw)}.items():
            tensor.external_data.add(key=key, value=str(value))
        data += raw
    return model, data


@functools.cache
def bundle_files(arrays: str = "hdf5") -> dict[str, bytes]:
    """The files of a bundle of four tiles with a bias, scales by channel, and stuck cells, by their names."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        weights = {"W": (6, 5), "V": (5, 3)}
        random = np.random.default_rng(3)
        gemm = helper.make_node("Gemm", ["x", "W", "b"], ["h"], name="one")
        nodes = [gemm, helper.make_node("MatMul", ["h", "V"], ["y"], name="two")]
        ends = [helper.make_tensor_value_info(*item) for item in (("x", 1, [1, 6]), ("y", 1, [1, 3]))]
        tensors = [_tensor(random.normal(size=shape).astype(np.float32), key) for key, shape in weights.items()]
        tensors.append(_tensor(random.normal(size=5).astype(np.float32), "b"))
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.save(model, folder / "model.onnx")
        map_model(folder / "model.onnx", folder / "mapped.onnx", granularity="channel", external_data=False)
        (folder / "defects.json").write_text(DEFECTS)
        options: dict[str, Any] = {"bias_rows": 1, "defects": folder / "defects.json", "arrays": arrays}
        write_bundle(folder / "mapped.onnx", folder / "bundle", (4, 4), **options)
        return {path.name: path.read_bytes() for path in sorted((folder / "bundle").iterdir())}


DEFECTS = json.dumps({
    "format": "onnx_gconv.defects",
    "format_version": 1,
    "array_count": 40,
    "array_size": [4, 4],
    "arrays": [
        {"array": 0, "unusable_rows": [1], "stuck_cells": [{"row": 0, "column": 0, "conductance_us": 0.0}]},
        {"array": 1, "unusable": True},
        {"array": 2, "stuck_cells": [{"row": row, "column": 1, "conductance_us": 25.0} for row in range(3)]},
        {"array": 4, "unusable_columns": [0, 2]},
    ],
})  # fmt: skip
"""A defect map for the arrays of the bundle."""


@functools.cache
def measured_files() -> dict[str, bytes]:
    """Measurements of that bundle as HDF5, as npz and as Octave writes them, some cells failed."""
    random = np.random.default_rng(8)
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(bundle_files()["conductances.h5"]), "r") as file:
        for key in _keys(file):
            if key.rpartition("/")[2] in {"g_plus", "g_minus"} and not key.startswith("L001/T0001"):
                targets = file[key][()]
                arrays[key] = np.clip(targets + random.normal(size=targets.shape), -1, 26).astype(np.float32)
    first = next(iter(arrays))
    arrays[f"{first}_success"] = random.random(arrays[first].shape) < 0.8
    buffer, npz = io.BytesIO(), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    np.savez(npz, **arrays)  # type: ignore[arg-type]
    return {"measured.h5": buffer.getvalue(), "measured.npz": npz.getvalue(), "octave.h5": _of_octave(arrays)}


def _of_octave(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as Octave writes them: each name is a group with the type and the value, matrices column by column."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, array in arrays.items():
            group = file
            for name in key.split("/"):
                group = group.require_group("value") if group != file else file
                group = group.require_group(name)
                group.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
                kind = "scalar struct" if name != key.rpartition("/")[2] else _OCTAVE_TYPES[array.dtype.kind]
                if "type" not in group:
                    group["type"] = np.bytes_(kind)
            group["value"] = array.T
    return buffer.getvalue()


_OCTAVE_TYPES = {"f": "float matrix", "b": "bool matrix"}


@functools.cache
def inputs_file() -> bytes:
    """Inputs of a model."""
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(12, dtype=np.float32).reshape(2, 6), ids=np.arange(2))
    return buffer.getvalue()


def _keys(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found
