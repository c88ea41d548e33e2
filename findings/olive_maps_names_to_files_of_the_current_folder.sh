#!/usr/bin/env bash
# Guess: in a workflow of Olive, "model_path": "chosen", "onnx_file_name": "model.onnx" is the file chosen/model.onnx. Seen:
# with olive-ai 0.13.0 it is the model.onnx of the current folder, if there is one, and nothing is said: every text of a
# workflow, options of passes included, that is the name of a file or folder where it runs becomes an absolute path.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-compile olive-ai==0.13.0 torch==2.13.0 transformers==5.24.0 \
    onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6 pydantic==2.13.5 requests==2.34.2 2>/dev/null
cd "$folder"
cat > setup.py <<'PYTHON'
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path, value, data_file=None):
    """A model that adds one number, in a data file if one is named."""
    Path(path).parent.mkdir(exist_ok=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    number = numpy_helper.from_array(np.full(1, value, np.float32), "number")
    graph = helper.make_graph([helper.make_node("Add", ["x", "number"], ["y"])], "g", [x], [y], [number])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path, save_as_external_data=data_file is not None, location=data_file, size_threshold=0)


def number(path):
    return float(numpy_helper.to_array(onnx.load(path).graph.initializer[0])[0])


def write(path, output, model, **more):
    passes = {"p": {"type": "OnnxPeepholeOptimizer"}}
    workflow = {"input_model": {"type": "ONNXModel", **model}, "passes": passes, "output_dir": output, **more}
    Path(path).write_text(json.dumps(workflow))
PYTHON
export CI=true  # it sends nothing then
venv/bin/python - <<'PYTHON'
from setup import save, write

save("chosen/model.onnx", 1.0)
save("model.onnx", 2.0)
write("workflow.json", "out", {"model_path": "chosen", "onnx_file_name": "model.onnx"})
PYTHON
venv/bin/olive run --config workflow.json > log.txt 2>&1
echo "olive run returned $?"
venv/bin/python -c '
from setup import number
print("chosen/model.onnx adds 1.0, model.onnx adds 2.0, the output adds", number("out/model.onnx"))
assert number("out/model.onnx") == 2.0, "it behaves otherwise now"'
