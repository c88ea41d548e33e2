"""The table of simulated ops."""

from __future__ import annotations

from collections.abc import Callable

from tests.handoff.rounded import Rounded
from tests.handoff.simulated_convolutions import (
    causal_conv,
    causal_conv_of_tokens,
    conv,
    conv_integer,
    conv_transpose,
    deform_conv,
    qlinear_conv,
)
from tests.handoff.simulated_products import (
    MICROSOFT,
    Operands,
    dynamic_quantize_matmul,
    einsum,
    fused_matmul,
    gather,
    gemm,
    matmul,
    matmul_integer,
    matmul_integer_to_float,
    qgemm,
    qlinear_matmul,
)
from tests.handoff.simulated_sequences import (
    QuantizedGates,
    attention,
    experts,
    gru_cell,
    lstm_cell,
    quantized_attention,
    recurrent,
    rnn_cell,
)

Op = Callable[[Operands], list[Rounded]]

# By domain and op type
OPS: dict[tuple[str, str], Op] = {
    ("", "MatMul"): matmul,
    ("", "Gemm"): gemm,
    ("", "Conv"): conv,
    ("", "ConvTranspose"): conv_transpose,
    ("", "DeformConv"): deform_conv,
    ("", "Einsum"): einsum,
    ("", "Gather"): gather,
    (MICROSOFT, "FusedMatMul"): fused_matmul,
    (MICROSOFT, "TransposeMatMul"): fused_matmul,
    (MICROSOFT, "FusedGemm"): gemm,
    (MICROSOFT, "FusedConv"): conv,
    (MICROSOFT, "CausalConvWithState"): causal_conv,
    (MICROSOFT, "VarlenCausalConvWithState"): causal_conv_of_tokens,
    (MICROSOFT, "MatMulInteger16"): matmul_integer,
    ("", "MatMulInteger"): matmul_integer,
    ("", "QLinearMatMul"): qlinear_matmul,
    ("", "ConvInteger"): conv_integer,
    ("", "QLinearConv"): qlinear_conv,
    (MICROSOFT, "QLinearConv"): qlinear_conv,
    (MICROSOFT, "QGemm"): qgemm,
    (MICROSOFT, "MatMulIntegerToFloat"): matmul_integer_to_float,
    (MICROSOFT, "DynamicQuantizeMatMul"): dynamic_quantize_matmul,
    ("", "LSTM"): recurrent(4, lstm_cell, (5, 6)),
    ("", "GRU"): recurrent(3, gru_cell, (5,)),
    ("", "RNN"): recurrent(1, rnn_cell, (5,)),
    (MICROSOFT, "DynamicQuantizeLSTM"): recurrent(4, lstm_cell, (5, 6), QuantizedGates),
    (MICROSOFT, "Attention"): attention,
    (MICROSOFT, "QAttention"): quantized_attention,
    (MICROSOFT, "MoE"): experts,
}
