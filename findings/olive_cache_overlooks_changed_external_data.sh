#!/usr/bin/env bash
# Guess: Olive's cache, which takes a hash of the input model, notices when its weights have changed. Seen: with olive-ai 0.13.0
# the hash is of the .onnx file alone if model_path is that file; new weights in the data file beside it give the output of
# the old ones. With the folder as model_path, all its files count.
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
for value in 3.0 4.0; do
    rm -rf source
    venv/bin/python - "$value" <<'PYTHON'
import sys

from setup import save, write

save("source/m.onnx", float(sys.argv[1]), "weights.bin")
write("file.json", "of-file", {"model_path": "source/m.onnx"})
write("folder.json", "of-folder", {"model_path": "source", "onnx_file_name": "m.onnx"})
PYTHON
    venv/bin/olive run --config file.json > log.txt 2>&1
done
venv/bin/olive run --config folder.json > log.txt 2>&1
venv/bin/python -c '
from setup import number
found = number("of-file/model.onnx"), number("of-folder/model.onnx")
print("the data file has 4.0; output of the file: %s, of the folder: %s" % found)
assert found == (3.0, 4.0), "it behaves otherwise now"'
