"""Compare devices and mappings on the same samples, with the same random numbers."""

import numpy as np

import onnx_gconv as gconv
from onnx_gconv.models import model_path

with np.load(model_path("digits_test.npz")) as data:
    np.savez("data.npz", pixels=data["images"].reshape(-1, 64).astype(np.float32), labels=data["labels"])

comparison = gconv.compare(
    model_path("digits_mlp.onnx"),
    {
        "times": ["1d"],
        "repeats": 5,
        "candidates": [
            {"name": "PCM"},
            {"name": "PCM, compensated", "drift_compensation": "global"},
            {"name": "ReRAM", "device": "reram-cmo", "mapping": {"granularity": "channel"}},
        ],
    },
    inputs="data.npz",
    labels="labels",
)
for candidate in comparison.candidates:
    [day] = candidate.simulation.times
    print(f"{candidate.name}: {day.spread.mean:.4f} ± {day.spread.std:.4f}")
print("best after a day:", *comparison.best(86400.0))

# Output:
# PCM: 0.9658 ± 0.0025
# PCM, compensated: 0.9644 ± 0.0016
# ReRAM: 0.9720 ± 0.0020
# best after a day: ReRAM
