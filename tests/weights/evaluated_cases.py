"""Nodes for every op that is computed from constants, at every one of its versions, for a comparison with ONNX Runtime.

A case has inputs of one type that is tried with all types that the op takes, and others of a certain type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

__all__ = ["CASES", "Case", "Tried", "array"]


@dataclass(frozen=True)
class Tried:
    """An input whose type is tried with all that the op takes.

    Attributes:
        shape: Its shape.
        kind: Which numbers it has: ``any``, ``positive`` (at least a half), ``unit`` (between -1 and 1), ``beyond``
            (above 1), ``ties`` (halves), ``nonzero``.
        seed: Another seed gives other numbers.
    """

    shape: tuple[int, ...]
    kind: str = "any"
    seed: int = 0


Input: TypeAlias = "Tried | np.ndarray[Any, Any] | list[Input] | None"


@dataclass(frozen=True)
class Case:
    """A node of an op, for the versions of the op from `since` to before `until`.

    `kinds` are the kinds of types that are tried, as NumPy calls them; all if it is empty.
    """

    op_type: str
    inputs: Sequence[Input]
    attributes: dict[str, Any] = field(default_factory=dict)
    since: int = 1
    until: int = 99
    outputs: int = 1
    kinds: str = ""


def array(item: Tried, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The numbers of an input in a type."""
    generator = np.random.default_rng(item.seed)
    if dtype.kind == "b":
        return generator.random(item.shape) < 0.5
    if dtype.kind in "iu":
        lowest = 0 if dtype.kind == "u" or item.kind in {"positive", "beyond"} else -5
        numbers = generator.integers(lowest, 9, item.shape)
        return (
            np.where(numbers == 0, 3, numbers).astype(dtype)
            if item.kind in {"nonzero", "positive"}
            else numbers.astype(dtype)
        )
    numbers = generator.normal(size=item.shape)
    if item.kind == "positive":
        numbers = np.abs(numbers) + 0.5
    elif item.kind == "beyond":
        numbers = np.abs(numbers) + 1.125
    elif item.kind == "unit":
        numbers = np.tanh(numbers)
    elif item.kind == "ties":
        numbers = np.round(numbers * 4) / 2
    return np.asarray(numbers).astype(dtype)


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


X = Tried((3, 4))
Y = Tried((3, 4), seed=1)
ROW = Tried((4,), seed=2)
ONE = Tried((), seed=3)
P = Tried((3, 4), "positive")
CUBE = Tried((2, 3, 4))
IMAGE = Tried((1, 4, 2, 6))
NONZERO = Tried((3, 4), "nonzero", 4)
BOOLS = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, False]])
CODES = np.random.default_rng(5).integers(-100, 100, (3, 4)).astype(np.int8)
BYTES = np.random.default_rng(6).integers(0, 255, (3, 4)).astype(np.uint8)
f32 = np.float32


_UNARY = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Log Mish Neg
NonZero Not Reciprocal Relu Round Shape Sigmoid Sign Sin Sinh Size Softplus Softsign Sqrt Tan Tanh Transpose
"""


def _unary() -> Iterator[Case]:
    kinds = {
        "Acos": "unit",
        "Acosh": "beyond",
        "Asin": "unit",
        "Atanh": "unit",
        "Log": "positive",
        "Sqrt": "positive",
        "Reciprocal": "positive",
        "Round": "ties",
        "Ceil": "ties",
        "Floor": "ties",
    }
    for name in _UNARY.split():
        yield Case(name, [Tried((3, 4), kinds.get(name, "any"))])
    for name in ("Celu", "Elu", "LeakyRelu", "ThresholdedRelu"):
        yield Case(name, [X])
        yield Case(name, [X], {"alpha": 0.3})
    yield Case("Selu", [X])
    yield Case("Selu", [X], {"alpha": 1.5, "gamma": 0.7})
    yield Case("HardSigmoid", [X])
    yield Case("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4})
    yield Case("Swish", [X])
    yield Case("Swish", [X], {"alpha": 0.5})
    yield Case("Gelu", [X])
    yield Case("Gelu", [X], {"approximate": "tanh"})
    yield Case("IsInf", [np.array([1, np.inf, -np.inf, np.nan], f32)])
    yield Case("IsInf", [np.array([1, np.inf, -np.inf], f32)], {"detect_negative": 0})
    yield Case("IsInf", [np.array([1, np.inf, -np.inf], f32)], {"detect_positive": 0})
    yield Case("IsNaN", [np.array([1, np.inf, np.nan], f32)])
    yield Case("Shape", [CUBE], {"start": 1, "end": -1}, since=15)
    yield Case("Transpose", [CUBE], {"perm": [2, 0, 1]})
    yield Case("Trilu", [X])
    yield Case("Trilu", [X, ints(1).reshape(())])
    yield Case("Trilu", [CUBE, ints(-1).reshape(())], {"upper": 0})


def _binary() -> Iterator[Case]:
    for name in ("Add", "Sub", "Mul", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        yield Case(name, [X, NONZERO])
        yield Case(name, [X, Tried((4,), "nonzero", 7)])
        yield Case(name, [Tried((3, 1)), Tried((2, 1, 4), "nonzero", 7)])
    for name in ("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        yield Case(name, [X, Y])
        yield Case(name, [X, ROW])
    yield Case("BitShift", [P, Tried((4,), "positive", 7)], {"direction": "LEFT"})
    yield Case("BitShift", [P, Tried((), "positive", 7)], {"direction": "RIGHT"})
    yield Case("Mod", [X, NONZERO], {"fmod": 1})
    yield Case("Mod", [np.arange(-6, 6, dtype=np.int32), np.int32(4) * np.ones(12, np.int32)])
    yield Case("Mod", [np.arange(-6, 6, dtype=np.int64), np.array(-4, np.int64)])
    yield Case("Mod", [np.arange(-6, 6, dtype=np.int8), np.array(-4, np.int8)], {"fmod": 1})
    yield Case("Pow", [P, Y], kinds="f")
    yield Case("Pow", [X, np.array(2, f32)], since=12)
    yield Case("Pow", [X, np.array(3, np.int64)], since=12)
    yield Case("Pow", [P, np.array([0.5, -1, 2, 1.5], f32)], since=12)
    yield Case("PRelu", [X, Tried((4,), "positive")])
    yield Case("PRelu", [X, Tried((1,), "positive")])
    for name in ("Max", "Min", "Sum", "Mean"):
        yield Case(name, [X])
        yield Case(name, [X, Y, X])
        yield Case(name, [X, Y, ROW], since=8)
    yield Case("Where", [BOOLS, X, ROW])
    for dtype in (f32, np.float64, np.int32, np.int64):
        yield Case("Range", [np.array(1, dtype), np.array(9, dtype), np.array(2, dtype)])
        yield Case("Range", [np.array(5, dtype), np.array(-6, dtype), np.array(-3, dtype)])


def _products() -> Iterator[Case]:
    yield Case("MatMul", [X, Tried((4, 5))])
    yield Case("MatMul", [Tried((2, 3, 4)), Tried((4,))])
    yield Case("MatMul", [Tried((2, 1, 3, 4)), Tried((5, 4, 2))])
    yield Case("Gemm", [X, Tried((4, 5)), Tried((5,))])
    yield Case(
        "Gemm", [Tried((4, 3)), Tried((5, 4)), Tried((3, 1))], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 0.25}
    )
    yield Case("Gemm", [X, Tried((4, 5))], since=11)
    yield Case("Einsum", [X, Tried((4, 5))], {"equation": "ij,jk->ik"})
    yield Case("Einsum", [CUBE], {"equation": "bij->bji"})
    yield Case("Einsum", [CUBE, Tried((2, 4, 3))], {"equation": "bij,bjk"})
    yield Case("Conv", [Tried((1, 2, 5, 5)), Tried((3, 2, 3, 3))])
    yield Case(
        "Conv",
        [Tried((1, 4, 6, 5)), Tried((6, 2, 2, 3)), Tried((6,))],
        {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2], "kernel_shape": [2, 3]},
    )
    yield Case("Conv", [Tried((1, 2, 5)), Tried((3, 2, 3))], {"auto_pad": "SAME_UPPER"})
    yield Case("MatMulInteger", [BYTES, BYTES.T.copy()])
    yield Case("MatMulInteger", [BYTES, CODES.T.copy(), np.uint8(7), np.int8(-3)])
    yield Case("ConvInteger", [BYTES.reshape(1, 1, 3, 4), CODES[:2, :2].reshape(1, 1, 2, 2)])
    yield Case(
        "ConvInteger",
        [BYTES.reshape(1, 1, 3, 4), CODES[:2, :2].reshape(1, 1, 2, 2), np.uint8(3), np.int8(1)],
        {"pads": [1, 1, 1, 1], "strides": [2, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [2, 2]},
    )
    yield Case(
        "ConvInteger", [BYTES.reshape(1, 1, 3, 4), BYTES[:2, :2].reshape(1, 1, 2, 2)], {"auto_pad": "SAME_LOWER"}
    )


def _reductions() -> Iterator[Case]:
    for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
        op, axes_input = f"Reduce{name}", 13 if name == "Sum" else 18
        cube = Tried((2, 3, 4), "unit" if name == "Prod" else "positive" if name == "LogSum" else "any")
        kinds = "f" if name.startswith(("LogSum", "Prod")) else ""
        yield Case(op, [cube], kinds=kinds)
        yield Case(op, [cube], {"keepdims": 0}, kinds=kinds)
        yield Case(op, [cube], {"axes": [0, -1], "keepdims": 0}, since=11, until=axes_input, kinds=kinds)
        yield Case(op, [cube], {"axes": [1]}, until=axes_input, kinds=kinds)
        yield Case(op, [cube, ints(0, -1)], {"keepdims": 0}, since=axes_input, kinds=kinds)
        yield Case(op, [cube, ints(1)], since=axes_input, kinds=kinds)
        yield Case(op, [cube], {"noop_with_empty_axes": 1}, since=axes_input, kinds=kinds)
        yield Case(op, [cube, ints()], {"noop_with_empty_axes": 0}, since=axes_input, kinds=kinds)
    yield Case("ReduceProd", [np.array([[2, 3], [-4, 5]], np.int64)], {"keepdims": 0})
    yield Case("ReduceProd", [np.array([[2, 3], [-4, 5]], np.int32)])
    for op in ("ArgMax", "ArgMin"):
        ties = Tried((2, 3, 4), "ties")
        yield Case(op, [ties])
        yield Case(op, [ties], {"axis": 1, "keepdims": 0})
        yield Case(op, [ties], {"axis": -1}, since=11)
        yield Case(op, [ties], {"axis": 2, "select_last_index": 1}, since=12)
    yield Case("CumSum", [X, np.array(0)])
    yield Case("CumSum", [X, np.array(-1, np.int32)], {"exclusive": 1, "reverse": 1})
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Case(op, [CUBE])
        yield Case(op, [CUBE], {"axis": 0})
        yield Case(op, [CUBE], {"axis": 1})
        yield Case(op, [CUBE], {"axis": 2})
        yield Case(op, [CUBE], {"axis": -2}, since=11)
    yield Case("LpNormalization", [CUBE])
    yield Case("LpNormalization", [CUBE], {"axis": 1, "p": 2})
    yield Case("GlobalAveragePool", [Tried((2, 3, 4, 5))])
    yield Case("GlobalMaxPool", [Tried((2, 3, 4, 5))])
    image = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(f32)
    yield Case("MeanVarianceNormalization", [image])
    yield Case("MeanVarianceNormalization", [image], {"axes": [2, 3]})
    yield Case("CumProd", [P, np.array(0)])
    yield Case("CumProd", [P, np.array(-1, np.int32)], {"exclusive": 1, "reverse": 1})


def _normalizations() -> Iterator[Case]:
    channels = [Tried((3,), seed=1), Tried((3,), seed=2), Tried((3,), seed=3), Tried((3,), "positive", 4)]
    for shape in ((2, 3, 4), (2, 3), (2, 3, 2, 2)):
        yield Case("BatchNormalization", [Tried(shape), *channels])
    yield Case("BatchNormalization", [CUBE, *channels], {"epsilon": 0.01, "momentum": 0.5})
    yield Case("BatchNormalization", [CUBE, *channels], {"spatial": 1}, until=9)
    yield Case("BatchNormalization", [CUBE, *channels], {"training_mode": 0}, since=14)
    yield Case("InstanceNormalization", [Tried((2, 3, 4)), Tried((3,), seed=1), Tried((3,), seed=2)])
    yield Case("InstanceNormalization", [Tried((2, 3, 4)), Tried((3,), seed=1), Tried((3,), seed=2)], {"epsilon": 0.01})
    yield Case("RMSNormalization", [CUBE, Tried((4,), seed=1)])
    yield Case("RMSNormalization", [CUBE, Tried((3, 4), seed=1)], {"axis": 1, "epsilon": 0.01, "stash_type": 1})
    yield Case("LayerNormalization", [CUBE, Tried((4,), seed=1), Tried((4,), seed=2)])
    yield Case("LayerNormalization", [CUBE, Tried((3, 4), seed=1)], {"axis": 1, "epsilon": 0.01, "stash_type": 1})


def _moves() -> Iterator[Case]:
    yield Case("Concat", [X, Y], {"axis": 0})
    yield Case("Concat", [X, Y, X], {"axis": 1})
    yield Case("Concat", [X, Y], {"axis": -1}, since=11)
    yield Case("Expand", [ROW, ints(2, 3, 4)])
    yield Case("Expand", [Tried((3, 1)), ints(1, 4)])
    yield Case("Flatten", [CUBE])
    yield Case("Flatten", [CUBE], {"axis": 2})
    yield Case("Flatten", [CUBE], {"axis": -1}, since=11)
    yield Case("Gather", [CUBE, ints(1, 0)])
    yield Case("Gather", [CUBE, np.array([[2, 0]], np.int32)], {"axis": 1})
    yield Case("Gather", [CUBE, ints(-1, 0)], {"axis": 2}, since=11)
    yield Case("GatherElements", [X, np.array([[0, 2, 1, 1]])])
    yield Case("GatherElements", [X, np.array([[0, -1], [1, 1], [2, 3]])], {"axis": 1})
    yield Case("GatherND", [CUBE, np.array([[0, 1], [1, -2]])])
    yield Case("GatherND", [CUBE, np.array([[1], [0]])], {"batch_dims": 1}, since=12)
    yield Case("Reshape", [CUBE, ints(4, 6)])
    yield Case("Reshape", [CUBE, ints(0, -1)])
    yield Case("Reshape", [Tried((0, 3)), ints(3, 0)], {"allowzero": 1}, since=14)
    yield Case("Slice", [CUBE], {"starts": [1, 0], "ends": [3, 2], "axes": [1, 2]}, until=10)
    yield Case("Slice", [CUBE], {"starts": [0], "ends": [-1]}, until=10)
    yield Case("Slice", [CUBE, ints(1, 0), ints(3, 2), ints(1, 2)], since=10)
    yield Case("Slice", [CUBE, ints(0), ints(1000)], since=10)
    yield Case("Slice", [CUBE, ints(-1), ints(-1000), ints(-1), ints(-2)], since=11)
    yield Case("Slice", [CUBE, ints(0, 3), ints(2, 0), ints(1, 2), ints(1, -1)], since=10)
    yield Case("Split", [Tried((4, 6))], {"axis": 1, "split": [1, 2, 3]}, outputs=3, until=13)
    yield Case("Split", [Tried((4, 6))], outputs=2, until=18)
    yield Case("Split", [Tried((4, 6)), ints(1, 2, 3)], {"axis": -1}, outputs=3, since=13)
    yield Case("Split", [Tried((5, 6))], {"num_outputs": 2}, outputs=2, since=18)
    yield Case("Squeeze", [Tried((1, 3, 1))])
    yield Case("Squeeze", [Tried((1, 3, 1))], {"axes": [0]}, until=13)
    yield Case("Squeeze", [Tried((1, 3, 1)), ints(-1)], since=13)
    yield Case("Unsqueeze", [X], {"axes": [0, 3]}, until=13)
    yield Case("Unsqueeze", [X], {"axes": [-1]}, since=11, until=13)
    yield Case("Unsqueeze", [X, ints(0, -1)], since=13)
    yield Case("Tile", [X, ints(2, 3)])
    yield Case("Pad", [X], {"pads": [1, 0, 0, 2]}, until=11)
    yield Case("Pad", [X], {"pads": [1, 0, 0, 2], "value": 1.5}, until=11)
    yield Case("Pad", [X], {"pads": [1, 0, 2, 3], "mode": "reflect"}, until=11)
    yield Case("Pad", [X], {"pads": [1, 0, 0, 2], "mode": "edge"}, until=11)
    yield Case("Pad", [X, ints(1, 0, 0, 2)], since=11)
    yield Case("Pad", [X, ints(1, 0, 0, 2), ONE], since=11)
    yield Case("Pad", [X, ints(1, 0, 2, 3)], {"mode": "reflect"}, since=11)
    yield Case("Pad", [X, ints(1, 0, 0, 2)], {"mode": "edge"}, since=11)
    yield Case("Pad", [X, ints(1, 0, 0, 2)], {"mode": "wrap"}, since=19)
    yield Case("Pad", [X, ints(1, 2), None, ints(1)], since=18)
    yield Case("DepthToSpace", [IMAGE], {"blocksize": 2})
    yield Case("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": "CRD"}, since=11)
    yield Case("SpaceToDepth", [IMAGE], {"blocksize": 2})
    yield Case("SpaceToDepth", [IMAGE], {"blocksize": 2, "mode": "CRD"}, since=28)
    yield Case("Compress", [X, np.array([True, False, True])], {"axis": 0})
    yield Case("Compress", [X, np.array([True, False, True, True, False])])
    yield Case("Compress", [X, np.array([False, True])], {"axis": -1}, since=11)
    yield Case("ReverseSequence", [X, ints(1, 3, 2, 1)])
    yield Case("ReverseSequence", [X, ints(4, 1, 2)], {"batch_axis": 0, "time_axis": 1})
    yield Case("ScatterElements", [X, np.array([[0, 2], [1, 1]]), Tried((2, 2), seed=9)])
    yield Case("ScatterElements", [X, np.array([[-1, 2]]), Tried((1, 2), seed=9)], {"axis": 1})
    for reduction in ("add", "mul", "min", "max"):
        since = 16 if reduction in {"add", "mul"} else 18
        yield Case(
            "ScatterElements",
            [X, np.array([[0, 0, 1, 0]]), Tried((1, 4), seed=9)],
            {"reduction": reduction},
            since=since,
        )
        yield Case("ScatterND", [X, np.array([[0], [0]]), Tried((2, 4), seed=9)], {"reduction": reduction}, since=since)
    yield Case("ScatterND", [X, np.array([[0, 1], [2, -1]]), Tried((2,), seed=9)])
    yield Case("TopK", [X], {"k": 2}, until=10, outputs=2)
    yield Case("TopK", [X], {"k": 2, "axis": 0}, until=10, outputs=2)
    yield Case("TopK", [X, ints(2)], since=10, outputs=2)
    yield Case("TopK", [X, ints(2)], {"axis": 0}, since=10, outputs=2)
    yield Case("TopK", [Tried((3, 4), "ties"), ints(3)], {"largest": 0, "sorted": 1, "axis": 0}, since=11, outputs=2)
    yield Case("CenterCropPad", [X, ints(5, 2)])
    yield Case("CenterCropPad", [X, ints(7)], {"axes": [1]})
    yield Case("Dropout", [X])
    yield Case("Dropout", [X], {"ratio": 0.3}, until=12)
    yield Case("Dropout", [X, np.array(0.3, f32), np.array(False)], {"seed": 3}, since=12)


def _made() -> Iterator[Case]:
    """Values that are made of shapes, and of sequences."""
    yield Case("ConstantOfShape", [ints(2, 3)])
    for dtype in (f32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, bool):
        tensor = onnx.numpy_helper.from_array(np.array([1], dtype))
        yield Case("ConstantOfShape", [ints(2, 3)], {"value": tensor})
    yield Case("EyeLike", [X])
    yield Case("EyeLike", [X], {"k": 1, "dtype": TensorProto.FLOAT})
    yield Case("OneHot", [ints(1, 0, 2), np.array(3), np.array([0.5, 2], f32)])
    yield Case("OneHot", [ints(1, -1, 2, 7), np.array(3), np.array([0.5, 2], f32)], since=11)
    yield Case("OneHot", [np.array([[1, 2]]), np.array(3), np.array([0, 1], np.int64)], {"axis": 0})
    pair: list[Input] = [X, Tried((2, 5), seed=1)]
    same: list[Input] = [X, Y]
    yield Case("SequenceAt", [pair, np.array(0)])
    yield Case("SequenceAt", [pair, np.array(-1)])
    yield Case("SequenceConstruct", pair)
    yield Case("SequenceErase", [pair, np.array(0)])
    yield Case("SequenceErase", [pair])
    yield Case("SequenceInsert", [pair, Y, np.array(1)])
    yield Case("SequenceInsert", [pair, Y])
    yield Case("SequenceLength", [pair])
    yield Case("ConcatFromSequence", [same], {"axis": 1})
    yield Case("ConcatFromSequence", [same], {"axis": 0, "new_axis": 1})
    yield Case("SplitToSequence", [X])
    yield Case("SplitToSequence", [X, ints(1, 2)], {"axis": 0})
    yield Case("SplitToSequence", [X, np.array(3)], {"axis": 1})
    yield Case("SplitToSequence", [X], {"axis": 1, "keepdims": 0})
    yield Case("Optional", [X])
    yield Case("OptionalGetElement", [X])


def _casts() -> Iterator[Case]:
    numbers = np.array([-3.5, -2.5, -0.5, 0, 0.5, 1.5, 2.7, 100], f32)
    for to in ("FLOAT", "DOUBLE", "FLOAT16", "INT32", "INT64", "INT8", "BOOL"):
        yield Case("Cast", [numbers], {"to": TensorProto.DataType.Value(to)})
        yield Case("Cast", [CODES], {"to": TensorProto.DataType.Value(to)})
    yield Case("Cast", [np.array([1e-8, 70000, 65519, 1 + 2**-11, 1 + 3 * 2**-11], f32)], {"to": TensorProto.FLOAT16})
    yield Case("Cast", [np.array([1 + 2**-24 + 2**-50, 1e-42, 1e300])], {"to": TensorProto.FLOAT})
    yield Case("Cast", [np.arange(-300, 300, 7, dtype=np.int32)], {"to": TensorProto.INT8})
    yield Case("Cast", [np.arange(0, 300, 7, dtype=np.int32)], {"to": TensorProto.UINT8})
    yield Case("Cast", [numbers], {"to": TensorProto.BFLOAT16}, since=13)
    yield Case("Cast", [np.array([1 + 2**-8, 1 + 3 * 2**-8, 3e38], f32)], {"to": TensorProto.BFLOAT16}, since=13)
    yield Case("Cast", [numbers.astype(ml_dtypes.bfloat16)], {"to": TensorProto.FLOAT}, since=13)
    wide = np.array([-500, -448, -3.3, 1e-3, 0.1, 17, 447, 449, 1e6], f32)
    for to in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"):
        number = TensorProto.DataType.Value(to)
        yield Case("Cast", [wide], {"to": number}, since=19)
        yield Case("Cast", [wide], {"to": number, "saturate": 0}, since=19)
        yield Case("Cast", [wide[:-1].astype(np.float16)], {"to": number}, since=19)
    fours = np.arange(-8, 8, dtype=np.int8)
    yield Case("Cast", [fours], {"to": TensorProto.INT4}, since=21)
    yield Case("Cast", [fours.astype(ml_dtypes.int4)], {"to": TensorProto.FLOAT}, since=21)
    yield Case("Cast", [np.arange(16, dtype=np.uint8).astype(ml_dtypes.uint4)], {"to": TensorProto.INT8}, since=21)
    yield Case("CastLike", [numbers, np.array(1, np.float16)])
    yield Case("CastLike", [numbers, np.array(1, np.int32)])
    yield Case("CastLike", [wide, np.array(1, ml_dtypes.float8_e4m3fn)], {"saturate": 0}, since=19)
    yield Case("CastLike", [wide, np.array(1, ml_dtypes.float8_e4m3fn)], since=19)


def _codes() -> Iterator[Case]:
    scales = np.array([0.1, 0.2, 0.3, 0.4], f32)
    by_axis = {0: {"axis": 0}, 1: {"axis": 1}, -1: {"axis": -1}}
    floats = np.random.default_rng(8).normal(size=(3, 4)).astype(f32) * 40
    floats[0] = [0.05, 0.15, 0.25, -0.05]
    for since, dtype in ((10, np.int8), (10, np.uint8), (21, np.int16), (21, np.uint16)):
        codes = (CODES.astype(np.int64) if dtype in (np.int8, np.int16) else BYTES.astype(np.int64)).astype(dtype)
        zeros, axis_since = np.array([1, 2, 3, 4], dtype), max(since, 13)
        yield Case("DequantizeLinear", [codes, np.array(0.1, f32), np.array(3, dtype)], since=since)
        yield Case("DequantizeLinear", [codes, scales, zeros], by_axis[1], since=axis_since)
        yield Case("DequantizeLinear", [codes, scales[:3]], by_axis[0], since=axis_since)
        yield Case("DequantizeLinear", [codes, scales], by_axis[-1], since=axis_since)
        yield Case("QuantizeLinear", [floats, np.array(0.1, f32), np.array(3, dtype)], since=since)
        yield Case("QuantizeLinear", [floats, scales, zeros], by_axis[1], since=axis_since)
        yield Case("QuantizeLinear", [floats, scales[:3], zeros[:3]], by_axis[0], since=axis_since)
    yield Case("QuantizeLinear", [floats, np.array(0.5, f32)])
    yield Case("DynamicQuantizeLinear", [floats], outputs=3)
    one, zero = np.array(0.02, f32), np.array(3, np.uint8)
    yield Case("QLinearMatMul", [BYTES, one, zero, BYTES.T.copy(), one, zero, np.array(5, f32), zero])
    yield Case("DequantizeLinear", [CODES, np.array(0.1, f32)])
    yield Case("DequantizeLinear", [CODES.astype(np.int32) * 1000001, np.array(0.1, f32)])
    yield Case("DequantizeLinear", [CODES, np.array(0.1, np.float16), np.array(3, np.int8)], since=19)
    many = (np.random.default_rng(9).normal(size=3000) * 40).astype(np.float16)
    yield Case("QuantizeLinear", [many, np.array(0.37, np.float16), np.array(3, np.int8)], since=19)
    yield Case("QuantizeLinear", [many, np.array(0.37, np.float16)], {"precision": TensorProto.FLOAT}, since=23)
    blocked = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], f32)
    of_blocks = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    blocks = {"axis": 1, "block_size": 2}
    yield Case("DequantizeLinear", [CODES, blocked, of_blocks], blocks, since=21)
    yield Case("QuantizeLinear", [floats, blocked, of_blocks], blocks, since=21)
    yield Case("QuantizeLinear", [floats, np.array(0.5, f32)], {"output_dtype": TensorProto.INT8}, since=21)
    yield Case("QuantizeLinear", [floats, np.array(0.5, f32)], {"precision": TensorProto.FLOAT}, since=23)
    yield Case("DequantizeLinear", [CODES, np.array(0.1, f32)], {"output_dtype": TensorProto.FLOAT16}, since=23)
    fours = np.arange(-6, 6).reshape(3, 4).astype(ml_dtypes.int4)
    yield Case(
        "DequantizeLinear", [fours, blocked, of_blocks.astype(ml_dtypes.int4)], {"axis": 1, "block_size": 2}, since=21
    )
    yield Case("DequantizeLinear", [fours, np.array(0.1, f32)], since=21)
    eights = floats.astype(ml_dtypes.float8_e4m3fn)
    yield Case("DequantizeLinear", [eights, np.array(0.1, f32)], since=19)
    for saturate in ({}, {"saturate": 0}):
        zero = np.array(0, ml_dtypes.float8_e4m3fn)
        yield Case("QuantizeLinear", [floats * 10, np.array(0.5, f32), zero], saturate, since=19)


def _clipped() -> Iterator[Case]:
    yield Case("Clip", [X])
    yield Case("Clip", [X], {"min": -0.5, "max": 0.75}, until=11)
    yield Case("Clip", [X, ONE, Tried((), "beyond")], since=11)
    yield Case("Clip", [X, None, ONE], since=11)


CASES: list[Case] = [
    case
    for group in (_unary, _binary, _products, _reductions, _normalizations, _moves, _made, _casts, _codes, _clipped)
    for case in group()
]
