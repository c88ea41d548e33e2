"""Simulate several chips over a year: mean accuracy, standard deviation, and the worst chip."""

import numpy as np

import onnx_gconv as gconv
from onnx_gconv.models import model_path

with np.load(model_path("digits_test.npz")) as data:
    np.savez("data.npz", pixels=data["images"].reshape(-1, 64).astype(np.float32), labels=data["labels"])

gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", g_max=25.0)
report = gconv.simulate(
    "mapped.onnx",
    "pcm",
    times=["1s", "1d", "1y"],
    repeats=10,
    drift_compensation="global",
    inputs="data.npz",
    labels="labels",
)
print(f"ideal: {report.ideal:.4f}")
for time in report.times:
    print(
        f"{time.seconds:.0f} s: {time.spread.mean:.4f} ± {time.spread.std:.4f}, the worst chip {min(time.values):.4f}"
    )
report.plot().savefig("accuracy.png")

# Output:
# ideal: 0.9733
# 1 s: 0.9673 ± 0.0083, the worst chip 0.9489
# 86400 s: 0.9640 ± 0.0025, the worst chip 0.9600
# 31536000 s: 0.9573 ± 0.0085, the worst chip 0.9356
