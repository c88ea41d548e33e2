"""Map a model: every weight becomes two conductances, a scale, and the nodes that rebuild it."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

report = gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", g_max=25.0)

for weight in report.mapped:
    reader = weight.consumers[0]
    print(f"{weight.name}: {weight.shape} {weight.dtype}, read by {reader.op_type} {reader.node}")
print(f"{report.mvm_share:.0%} of the parameters that ops multiply are mapped; skipped: {len(report.skipped)}")

# Output:
# hidden1.weight: (64, 64) float32, read by Gemm node_linear
# hidden2.weight: (32, 64) float32, read by Gemm node_linear_1
# classifier.weight: (10, 32) float32, read by Gemm node_linear_2
# 100% of the parameters that ops multiply are mapped; skipped: 0
