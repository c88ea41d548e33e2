"""Hand a model to a lab: the target conductance of every device, in one folder, with pairs in neighbouring columns."""

from pathlib import Path

import h5py

import onnx_gconv as gconv
from onnx_gconv.models import model_path

gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", preset="rram-neurram")
gconv.write_bundle("mapped.onnx", "chip", (64, 128), pair_layout="adjacent_columns")
print(sorted(file.name for file in Path("chip").iterdir()))

# A programming station reads the targets without this package:
with h5py.File("chip/conductances.h5") as arrays:
    targets = arrays["L000/T0000/g_plus"]
    print(targets.shape, f"{targets[()].min():.2f} to {targets[()].max():.2f} µS")

# With this package: the targets of all cells of an array of the chip, in the layout of the chip.
with gconv.open_bundle("chip") as bundle:
    [array] = bundle.tile("L000/T0000").physical_arrays("adjacent_columns")
    print(array.targets.shape, array.is_used.mean())

# Output:
# ['README.txt', 'conductances.h5', 'manifest.json', 'model.onnx', 'plain.onnx']
# (64, 64) 1.00 to 37.52 µS
# (64, 128) 1.0
