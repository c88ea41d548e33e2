"""Write a simulated chip as an ONNX model, with programming noise, a day of drift, and read noise."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

original = model_path("digits_mlp.onnx")
gconv.map_model(original, "mapped.onnx", g_max=25.0)

for time in ("1s", "1d"):
    report = gconv.program_model(
        "mapped.onnx", f"after-{time}.onnx", "pcm", time=time, seed=7, drift_compensation="global"
    )
    outputs = gconv.verify(original, report.output).outputs.comparisons[0]
    print(f"after {time}: {outputs.sqnr_db:.1f} dB")

# Output:
# after 1s: 17.8 dB
# after 1d: 15.1 dB
