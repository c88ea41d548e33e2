#!/usr/bin/env bash
# Guess: quantize_static of ONNX Runtime keeps what a Gemm computes, alpha A B + beta C, but for rounding. Seen: onnxruntime
# 1.32.0 divides the codes of the bias by beta, multiplies their scale by beta, and sets beta to 1, so that the bias
# counts once instead of beta times. Where the integer kernel runs (the format QOperator, or QDQ once a session has
# optimized it), the scale of the bias is that of A times that of B again: the bias is divided by beta where it should
# be multiplied, and in QOperator it is multiplied by alpha as well. Nothing is said; the error is as large as the bias.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable(logging.CRITICAL)
random = np.random.default_rng(0)
weight = random.standard_normal((6, 8)).astype(np.float32)
bias = np.array([1, -1, 1, -1, 1, -1], np.float32)
samples = [random.uniform(-1, 1, (3, 8)).astype(np.float32) for _ in range(20)]


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter(samples)

    def get_next(self):
        return next(({"x": sample} for sample in self.rest), None)


def factor_of_bias(name, level):
    """How often the bias counts: outputs for an input of zeros, over the bias."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    return float(np.mean(session.run(None, {"x": np.zeros((3, 8), np.float32)})[0] / bias))


print(f"onnxruntime {onnxruntime.__version__}: how often the bias of a Gemm counts")
found = {}
for alpha, beta in ((1.0, 1.0), (1.0, 3.0), (0.5, 1.0)):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W", "b"], ["y"], name="gemm", transB=1, alpha=alpha, beta=beta)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 6])],
        [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    factors = [factor_of_bias("float.onnx", "ENABLE_ALL")]
    for kind in (QuantFormat.QDQ, QuantFormat.QOperator):
        quantize_static("float.onnx", f"{kind.name}.onnx", Samples(), quant_format=kind)
    factors.append(factor_of_bias("QDQ.onnx", "DISABLE_ALL"))
    factors.append(factor_of_bias("QDQ.onnx", "ENABLE_ALL"))
    factors.append(factor_of_bias("QOperator.onnx", "ENABLE_ALL"))
    found[alpha, beta] = factors
    words = ", ".join(f"{factor:.2f}" for factor in factors)
    print(f"alpha {alpha}, beta {beta}: float, QDQ not optimized, QDQ optimized, QOperator: {words}")
expected = {(1.0, 1.0): [1, 1, 1, 1], (1.0, 3.0): [3, 1, 1 / 3, 1 / 3], (0.5, 1.0): [1, 1, 1, 0.5]}
for case, factors in expected.items():
    assert np.allclose(found[case], factors, atol=0.05), "it behaves otherwise now"
PYTHON
