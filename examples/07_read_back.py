"""Put measured conductances into the model, and see how far the real chip is from its targets."""

import h5py
import numpy as np

import onnx_gconv as gconv
from onnx_gconv.models import model_path

original = model_path("digits_mlp.onnx")
gconv.map_model(original, "mapped.onnx", g_max=25.0)
gconv.write_bundle("mapped.onnx", "chip", (64, 64))

rng = np.random.default_rng(7)  # in place of a chip: normally distributed errors with a standard deviation of 0.3 µS
with gconv.open_bundle("chip") as bundle, h5py.File("measured.h5", "w") as measured:
    for layer in bundle.layers:
        for tile in layer.tiles:
            for device, targets in tile.conductances().items():
                measured[f"{tile.record.id}/{device}"] = np.clip(targets + rng.normal(0, 0.3, targets.shape), 0, None)

report = gconv.read_back("mapped.onnx", "measured.h5", "measured.onnx", bundle="chip", tolerance_us=1.0)
errors = report.errors
print(f"{errors.measured} of {errors.cells} devices were measured, {errors.within_tolerance:.2%} within the tolerance")
outputs = gconv.verify(original, "measured.onnx").outputs.comparisons[0]
print(f"outputs of the chip: {outputs.sqnr_db:.1f} dB")

# Output:
# 12928 of 12928 devices were measured, 99.93% within the tolerance
# outputs of the chip: 22.9 dB
