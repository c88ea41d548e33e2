"""Reports as pandas data frames and as pictures, for notebooks. docs/guide/notebook.ipynb is a complete notebook."""

import onnx_gconv as gconv
from onnx_gconv.models import model_path

report = gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", g_max=25.0)
frame = report.to_frame()  # a notebook shows the report as a table if `report` is the last line of a cell
print(frame[["weight", "parameters", "largest_scale_us_per_unit"]].round(2).to_string(index=False))

simulation = gconv.simulate("mapped.onnx", "pcm", times=["1s", "1d"], repeats=3)
simulation.plot().savefig("sqnr.png")
print(simulation.to_frame("chips").shape)

# Output:
#            weight  parameters  largest_scale_us_per_unit
#    hidden1.weight        4096                      29.25
#    hidden2.weight        2048                      35.23
# classifier.weight         320                      30.82
# (6, 3)
