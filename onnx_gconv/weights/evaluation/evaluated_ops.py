"""The table of ops that are computed from constants, with the versions of each that are known to be computed right.

The meaning of an op changes with the opset: Softmax flattened its input until opset 13, and the versions of
BatchNormalization train in different ways. A version stands in the table only if its results have been compared with
ONNX Runtime, see tests/weights/test_evaluated_ops.py. Other versions are refused, never computed by a newer rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx
import onnx.defs

from onnx_gconv.errors import GconvError

__all__ = ["EVALUATED_OPS", "EvaluatedOp", "EvaluationError", "Precision", "evaluated_op"]

Precision: TypeAlias = Literal["moved", "exact", "rounded"]


class EvaluationError(GconvError):
    """A constant value cannot be computed; the message says why in a few words."""


@dataclass(frozen=True)
class EvaluatedOp:
    """An op that is computed from constants.

    Attributes:
        op_type: The op type, in ONNX's own domain.
        versions: The opsets that introduced the versions of the op that are computed.
        precision: How far the standard determines the result. ``moved``: elements of the inputs, at most cast, or their
            shapes. ``exact``: an exact result, or one that is rounded once, the same in every runtime. ``rounded``:
            several roundings, or a function such as Exp, so that runtimes differ in the last bits.
    """

    op_type: str
    versions: frozenset[int]
    precision: Precision


def _rows(precision: Precision, table: str) -> dict[str, EvaluatedOp]:
    """Read a table with an op and its versions in each line."""
    rows = (line.split() for line in table.strip().splitlines())
    return {name: EvaluatedOp(name, frozenset(map(int, versions)), precision) for name, *versions in rows}


_MOVED = """
Cast 6 9 13 19 21 23 24 25 28
CastLike 15 19 21 23 24 25
CenterCropPad 18
Compress 9 11 28
Concat 4 11 13
ConcatFromSequence 11
ConstantOfShape 9 20 21 23 24 25
DepthToSpace 1 11 13 28
Dropout 7 10 12 13 22
Expand 8 13
EyeLike 9 22
Flatten 1 9 11 13 21 23 24 25
Gather 1 11 13
GatherElements 11 13
GatherND 11 12 13
Identity 1 13 14 16 19 21 23 24 25
NonZero 9 13
OneHot 9 11 28
Optional 15
OptionalGetElement 15 18
Pad 2 11 13 18 19 21 23 24 25
Reshape 5 13 14 19 21 23 24 25
ReverseSequence 10 28
ScatterElements 11 13 16 18
ScatterND 11 13 16 18
SequenceAt 11
SequenceConstruct 11
SequenceErase 11
SequenceInsert 11
SequenceLength 11
Shape 1 13 15 19 21 23 24 25
Size 1 13 19 21 23 24 25
Slice 1 10 11 13
SpaceToDepth 1 13 28
Split 2 11 13 18
SplitToSequence 11 24
Squeeze 1 11 13 21 23 24 25
Tile 6 13
TopK 1 10 11 24
Transpose 1 13 21 23 24 25
Trilu 14
Unsqueeze 1 11 13 21 23 24 25
Where 9 16
"""

_EXACT = """
Abs 6 13
Add 7 13 14
And 7
ArgMax 1 11 12 13
ArgMin 1 11 12 13
BitShift 11 28
BitwiseAnd 18
BitwiseNot 18
BitwiseOr 18
BitwiseXor 18
Ceil 6 13
Clip 6 11 12 13
ConvInteger 10
DequantizeLinear 10 13 19 21 23 24 25
Div 7 13 14
Equal 7 11 13 19
DynamicQuantizeLinear 11
Floor 6 13
GlobalMaxPool 1 22
Greater 7 9 13
GreaterOrEqual 12 16
Hardmax 1 11 13
IsInf 10 20
IsNaN 9 13 20
Less 7 9 13
LessOrEqual 12 16
MatMulInteger 10
Max 6 8 12 13
Min 6 8 12 13
Mod 10 13 28
Mul 7 13 14
Neg 6 13
Not 1
Or 7
QLinearMatMul 10 21
QuantizeLinear 10 13 19 21 23 24 25
Range 11 27
Reciprocal 6 13
ReduceMax 1 11 12 13 18 20
ReduceMin 1 11 12 13 18 20
Relu 6 13 14
Round 11 22
Sign 9 13
Sqrt 6 13
Sub 7 13 14
Xor 7
"""

_ROUNDED = """
Acos 7 22
Acosh 9 22
Asin 7 22
Asinh 9 22
Atan 7 22
Atanh 9 22
BatchNormalization 7 9 14 15
Celu 12 28
Conv 1 11 22
Cos 7 22
Cosh 9 22
CumProd 26
CumSum 11 14
Einsum 12 28
Elu 6 22
Erf 9 13
Exp 6 13
Gelu 20
Gemm 7 9 11 13
GlobalAveragePool 1 22
HardSigmoid 6 22
HardSwish 14 22
InstanceNormalization 6 22
LayerNormalization 17
LeakyRelu 6 16
Log 6 13
LogSoftmax 1 11 13
LpNormalization 1 22
MatMul 1 9 13
Mean 6 8 13
MeanVarianceNormalization 9 13
Mish 18 22
PRelu 7 9 16
Pow 7 12 13 15
ReduceL1 1 11 13 18
ReduceL2 1 11 13 18
ReduceLogSum 1 11 13 18 28
ReduceLogSumExp 1 11 13 18 28
ReduceMean 1 11 13 18
ReduceProd 1 11 13 18
ReduceSum 1 11 13
ReduceSumSquare 1 11 13 18
RMSNormalization 23
Selu 6 22
Sigmoid 6 13
Sin 7 22
Sinh 9 22
Softmax 1 11 13
Softplus 1 22
Softsign 1 22
Sum 6 8 13
Swish 24
Tan 7 22
Tanh 6 13
ThresholdedRelu 10 22
"""

EVALUATED_OPS: dict[str, EvaluatedOp] = {
    **_rows("moved", _MOVED),
    **_rows("exact", _EXACT),
    **_rows("rounded", _ROUNDED),
}


# The releases of onnx whose reference implementation computes an op wrongly: from the first, up to but without the
# second.
_WRONG_IN = {
    "Cast": ((0, 0), (1, 19)),
    "CastLike": ((0, 0), (1, 19)),
    "Div": ((1, 20), (1, 21)),
    "OneHot": ((0, 0), (1, 23)),
    "ReduceL1": ((0, 0), (1, 20)),
    "ReduceL2": ((0, 0), (1, 20)),
    "ReduceLogSum": ((0, 0), (1, 20)),
    "ScatterElements": ((0, 0), (1, 22)),
}


def evaluated_op(domain: str, op_type: str, opset: int | None) -> tuple[EvaluatedOp, onnx.defs.OpSchema]:
    """The row of an op, and its definition in an opset.

    Args:
        domain: The domain of the op.
        op_type: The op type.
        opset: The version of the domain that the model imports; None if it imports none.

    Raises:
        EvaluationError: If the op is not in the table, or not in this version, or if the installed onnx does not know
            the opset or computes the op wrongly.
    """
    if domain:
        raise EvaluationError(f"{op_type} of the domain '{domain}' is not computed")
    if opset is None:
        raise EvaluationError(f"{op_type} is not computed, as the model imports no version of ai.onnx")
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:  # onnx would give the newest definition that it has, which that opset may have changed
        raise EvaluationError(
            f"{op_type} as opset {opset} defines it is not computed, because the installed onnx {onnx.__version__} "
            f"knows opsets up to {newest}; install a newer onnx"
        )
    row = EVALUATED_OPS.get(op_type)
    if row is None or not onnx.defs.has(op_type, domain):
        raise EvaluationError(f"{op_type} is not among the ops that are computed")
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        raise EvaluationError(f"opset {opset} has no {op_type}") from None
    if schema.since_version not in row.versions:
        raise EvaluationError(
            f"{op_type} as opset {opset} defines it is not computed, because it has not been compared with a runtime"
        )
    first, fixed = _WRONG_IN.get(op_type, ((0, 0), (0, 0)))
    major, minor = onnx.__version__.split(".")[:2]
    if first <= (int(major), int(minor)) < fixed:
        needed = ".".join(map(str, fixed))
        raise EvaluationError(f"{op_type} is computed wrongly by onnx {onnx.__version__}; install {needed} or newer")
    return row, schema
