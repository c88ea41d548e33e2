"""Models of ops that read packed codes: MatMulNBits, QMoE, and GatherBlockQuantized with a tied table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "Quantized",
    "blocked_model",
    "bnb4_model",
    "experts_model",
    "matmul_model",
    "packed",
    "packed_bnb4",
    "quantized",
    "run",
    "saved",
    "tied_model",
]

Points = Literal["none", "packed", "float"]


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes side by side in bytes along the last axis, the first one in the low bits, code by code."""
    per_byte = 8 // bits
    rows = codes.reshape(-1, codes.shape[-1])
    found = np.zeros((rows.shape[0], math.ceil(codes.shape[-1] / per_byte)), np.uint8)
    for column in range(codes.shape[-1]):
        found[:, column // per_byte] |= (rows[:, column] << (bits * (column % per_byte))).astype(np.uint8)
    return found.reshape(*codes.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix of codes, or several, as ops read it.

    Attributes:
        bits: Bits of a code.
        block: Inputs of a block.
        codes: [..., outputs, inputs], without padding.
        stored: The bytes, [..., outputs, blocks, bytes of a block].
        scales: [..., outputs, blocks].
        points: Zero points of blocks, [..., outputs, blocks].
        stored_points: As the op reads them; None if it has its own.
    """

    bits: int
    block: int
    codes: NDArray[np.uint8]
    stored: NDArray[np.uint8]
    scales: NDArray[np.floating]
    points: NDArray[np.floating]
    stored_points: NDArray[Any] | None

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The codes less their zero points, [..., outputs, inputs]."""
        points = np.repeat(self.points, self.block, axis=-1)[..., : self.codes.shape[-1]]
        return self.codes - points.astype(np.float64)

    @property
    def scale_of_each(self) -> NDArray[np.floating]:
        """The scale of each code."""
        return np.repeat(self.scales, self.block, axis=-1)[..., : self.codes.shape[-1]]


def quantized(
    *shape: int, bits: int = 4, block: int = 16, points: Points = "none", dtype: Any = np.float32, seed: int = 0
) -> Quantized:
    """Random codes, with anything in the padding of rows that do not fill their last block."""
    rng, columns = np.random.default_rng(seed), shape[-1]
    blocks = math.ceil(columns / block)
    whole = rng.integers(0, 2**bits, (*shape[:-1], blocks * block), np.uint8)
    stored = packed(whole, bits).reshape(*shape[:-1], blocks, block * bits // 8)
    scales = rng.uniform(0.01, 0.1, (*shape[:-1], blocks)).astype(dtype)
    found: NDArray[Any] = np.full((*shape[:-1], blocks), float(2 ** (bits - 1)))
    stored_points: NDArray[Any] | None = None
    if points == "packed":
        found = rng.integers(0, 2**bits, found.shape, np.uint8)
        stored_points, found = packed(found, bits), found.astype(np.float64)
    elif points == "float":
        found = stored_points = rng.uniform(0, 2**bits - 1, found.shape).astype(dtype)
    return Quantized(bits, block, whole[..., :columns], stored, scales, found, stored_points)


def matmul_model(weight: Quantized, *, accuracy_level: int = 0, opset: int = 21, **attributes: int) -> onnx.ModelProto:
    """``y = MatMulNBits(x, W)`` with x [rows, inputs]; attributes replace those of the node."""
    outputs, inputs = weight.codes.shape
    said = {"K": inputs, "N": outputs, "bits": weight.bits, "block_size": weight.block, **attributes}
    arrays = {"W": weight.stored, "W_scales": weight.scales}
    if weight.stored_points is not None:
        arrays["W_points"] = weight.stored_points
    node = helper.make_node(
        "MatMulNBits",
        ["x", *arrays],
        ["y"],
        "layer",
        domain="com.microsoft",
        accuracy_level=accuracy_level,
        **said,
    )
    element = helper.np_dtype_to_tensor_dtype(weight.scales.dtype)
    ends = [helper.make_tensor_value_info(name, element, ["rows", None]) for name in "xy"]
    return _model([node], ends[:1], ends[1:], arrays, opset)


def experts_model(
    first: Quantized, second: Quantized, *, experts: int, prepacked: int | None = 0, is_blocked: bool = True
) -> onnx.ModelProto:
    """``y = QMoE(x, router)`` of SwiGLU experts, first [E, 2 * I, H] and second [E, H, I], two of them a token."""
    arrays = {}
    for name, weight in (("fc1", first), ("fc2", second)):
        arrays[name] = weight.stored.reshape(*weight.codes.shape[:-1], -1)
        arrays[f"{name}_scales"] = weight.scales if is_blocked else weight.scales[..., 0]
    points = [first.stored_points, second.stored_points]
    arrays.update({f"fc{number + 1}_points": item for number, item in enumerate(points) if item is not None})
    inputs = ["x", "router", "fc1", "fc1_scales", "", "fc2", "fc2_scales", "", "", "", ""]
    inputs += [f"fc{number + 1}_points" for number, item in enumerate(points) if item is not None]
    said: dict[str, Any] = {"k": 2, "expert_weight_bits": first.bits, "activation_type": "swiglu", "swiglu_fusion": 1}
    said["normalize_routing_weights"] = 1
    if is_blocked:
        said["block_size"] = first.block
    if prepacked is not None:
        said["weights_prepacked"] = prepacked
    node = helper.make_node("QMoE", inputs, ["y"], "experts", domain="com.microsoft", **said)
    hidden = first.codes.shape[-1]
    shapes = {"x": ["rows", hidden], "router": ["rows", experts], "y": ["rows", hidden]}
    x, router, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in shapes)
    return _model([node], [x, router], [y], arrays)


def tied_model(weight: Quantized) -> onnx.ModelProto:
    """``y = MatMulNBits(GatherBlockQuantized(W, tokens), W)``: the table of the lookup is the matrix of the product."""
    outputs, inputs = weight.codes.shape
    arrays = {"W": weight.stored, "W_scales": weight.scales, "rows": np.array([outputs, -1], np.int64)}
    points = []
    if weight.stored_points is not None:
        arrays["W_points"], points = weight.stored_points, ["W_points"]
    said = {"bits": weight.bits, "block_size": weight.block}
    nodes = [
        helper.make_node("Reshape", ["W", "rows"], ["table"], "reshape"),
        helper.make_node(
            "GatherBlockQuantized",
            ["table", "tokens", "W_scales", *points],
            ["x"],
            "lookup",
            domain="com.microsoft",
            gather_axis=0,
            quantize_axis=1,
            **said,
        ),
        helper.make_node(
            "MatMulNBits",
            ["x", "W", "W_scales", *points],
            ["y"],
            "head",
            domain="com.microsoft",
            K=inputs,
            N=outputs,
            **said,
        ),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])
    return _model(nodes, [tokens], [y], arrays)


def blocked_model(
    inputs: int, outputs: int, *, block: int, dtype: Any = np.uint8, is_transposed: bool = False, seed: int = 0
) -> onnx.ModelProto:
    """``y = x @ DequantizeLinear(W)``, each block of inputs with a scale and a zero point of its own.

    Args:
        inputs: Rows of the matrix.
        outputs: Columns of it.
        block: Inputs of a block.
        dtype: The type of the codes.
        is_transposed: Whether W is [outputs, inputs], and transposed behind DequantizeLinear.
        seed: Draws codes, scales and zero points.
    """
    rng, is_small = np.random.default_rng(seed), np.dtype(dtype).name in {"int4", "uint4"}
    low, high = (-8 if is_small else -128, 8 if is_small else 128)
    if np.dtype(dtype).name.startswith("u"):
        low, high = 0, high - low
    shape, axis = ((outputs, inputs), 1) if is_transposed else ((inputs, outputs), 0)
    of_blocks = [math.ceil(size / block) if place == axis else size for place, size in enumerate(shape)]
    arrays = {
        "W": rng.integers(low, high, shape).astype(dtype),
        "W_scales": rng.uniform(0.01, 0.1, of_blocks).astype(np.float32),
        "W_points": rng.integers(low, high, of_blocks).astype(dtype),
    }
    said = {"axis": axis, "block_size": block}
    nodes = [helper.make_node("DequantizeLinear", list(arrays), ["w"], "dequantize", **said)]
    if is_transposed:
        nodes.append(helper.make_node("Transpose", ["w"], ["t"], "transpose", perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", "t" if is_transposed else "w"], ["y"], "layer"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", None]) for name in "xy"]
    return _model(nodes, ends[:1], ends[1:], arrays)


def packed_bnb4(
    inputs: int, outputs: int, *, block: int, is_normal: bool, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The bytes and the scales of a random weight for MatMulBnb4, as `bnb4_model` has it."""
    rng, size = np.random.default_rng(seed), inputs * outputs
    codes = rng.choice(16, 2 * math.ceil(size / 2))
    codes[:size:block] = rng.choice([0, 15] if is_normal else [3, 11], math.ceil(size / block))
    stored = (codes[::2] << 4 | codes[1::2]).astype(np.uint8)  # the first code in the high bits
    return stored, rng.uniform(0.1, 2, math.ceil(size / block)).astype(np.float32)


def bnb4_model(
    inputs: int, outputs: int, *, block: int, is_normal: bool, seed: int = 0, **said: int
) -> onnx.ModelProto:
    """``y = MatMulBnb4(x, W)`` as quantizers write it: each block has an element of the magnitude of its scale.

    Args:
        inputs: K.
        outputs: N.
        block: Neighbours of the flat weight that share a scale.
        is_normal: Whether codes are those of NF4; else of FP4, of which one stands for -0.
        seed: Draws codes and scales.
        **said: Attributes that replace those of the node.
    """
    arrays = dict(
        zip(("W", "W_absmax"), packed_bnb4(inputs, outputs, block=block, is_normal=is_normal, seed=seed), strict=True)
    )
    attributes = {"K": inputs, "N": outputs, "block_size": block, "quant_type": int(is_normal), **said}
    node = helper.make_node("MatMulBnb4", ["x", *arrays], ["y"], "layer", domain="com.microsoft", **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", None]) for name in "xy"]
    return _model([node], ends[:1], ends[1:], arrays)


def _model(nodes: Any, inputs: Any, outputs: Any, arrays: dict[str, NDArray[Any]], opset: int = 21) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The file of a model."""
    onnx.save(model, folder / name)
    return folder / name


def run(model: Path, inputs: dict[str, NDArray[Any]], *, optimized: bool = True) -> dict[str, NDArray[Any]]:
    """The outputs of a model in ONNX Runtime, without prepacking where it is not optimized."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
