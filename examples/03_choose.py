"""Choose which weights are mapped and how: default settings, overrides for some layers, and a layer left digital."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

configuration = gconv.Configuration.of(
    {
        "defaults": {"device": {"g_min": 1.0, "g_max": 40.0}, "granularity": "channel"},
        "overrides": [
            {"op": "Conv", "converter": {"name": "n-pair", "factors": [1, 3]}},
            {"weight": "classifier.*", "skip": True},
        ],
    }
)
report = gconv.map_model(model_path("digits_cnn.onnx"), "mapped.onnx", config=configuration)

for weight in report.mapped:
    print(f"{weight.name}: {weight.converter.name}, a scale for each {weight.granularity}")
for weight in report.skipped:
    print(f"{weight.name}: {weight.reason}")

# Output:
# stem.weight: NPairConductanceConverter, a scale for each channel
# depthwise.weight: NPairConductanceConverter, a scale for each channel
# pointwise.weight: NPairConductanceConverter, a scale for each channel
# hidden.weight: SinglePairConductanceConverter, a scale for each channel
# classifier.weight: not_selected
