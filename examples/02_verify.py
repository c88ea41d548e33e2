"""Prove that a mapped model computes what the original does, and see the errors of a lossy mapping."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

original = model_path("digits_mlp.onnx")

gconv.map_model(original, "exact.onnx", gconv.SinglePairConductanceConverter(exact=True))
exact = gconv.verify(original, "exact.onnx")
print(exact.passed, [weight.bit_identical for weight in exact.weights])

gconv.map_model(original, "rough.onnx", levels=8)
rough = gconv.verify(original, "rough.onnx", min_sqnr_db=30.0)
print(rough.passed)
for problem in rough.problems:
    print(problem.split(";")[0])

# Output:
# True [True, True, True]
# False
# output 'logits' at optimization 'all': SQNR 14.3 dB, below 30 dB
# output 'logits' at optimization 'none': SQNR 14.3 dB, below 30 dB
