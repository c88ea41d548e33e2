"""Cut weights into tiles that fit crossbar arrays, each with its own scale, and see which inputs and outputs it has."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

gconv.map_model(model_path("digits_cnn.onnx"), "mapped.onnx", granularity={"kind": "tile", "tile": "256x64"})
report = gconv.write_bundle("mapped.onnx", "chip", (256, 64))

print(f"{report.tiles} tiles on {report.arrays} arrays; {report.utilization:.1%} of their cells are used")
with gconv.open_bundle("chip") as bundle:
    for tile in bundle.layer("L003").tiles:
        record = tile.record
        print(
            f"{record.id}: inputs {record.inputs}, outputs {record.outputs}, scale {tile.scale().values.item():.2f} µS"
        )

# Output:
# 21 tiles on 42 arrays; 9.9% of their cells are used
# L003/T0000: inputs (0, 256), outputs (0, 64), scale 39.93 µS
# L003/T0001: inputs (256, 512), outputs (0, 64), scale 40.12 µS
