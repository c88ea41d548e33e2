"""Devices with few conductance levels: the SQNR of each weight, and how often the class stays the same."""

import numpy as np

import onnx_gconv as gconv
from onnx_gconv.models import model_path

original = model_path("digits_mlp.onnx")
with np.load(model_path("digits_test.npz")) as data:
    images = {"pixels": data["images"].reshape(-1, 64).astype(np.float32)}

for levels in (4, 16, 256):
    report = gconv.map_model(original, f"levels{levels}.onnx", levels=levels, storage="codes")
    worst = report.to_frame()["sqnr_db"].min()
    outputs = gconv.verify(original, report.output, inputs=images).outputs.comparisons[0]
    print(f"{levels} levels: at least {worst:.1f} dB of each weight, {outputs.argmax_agreement:.1%} of the classes")

# Output:
# 4 levels: at least 7.3 dB of each weight, 93.1% of the classes
# 16 levels: at least 21.0 dB of each weight, 99.3% of the classes
# 256 levels: at least 45.7 dB of each weight, 100.0% of the classes
