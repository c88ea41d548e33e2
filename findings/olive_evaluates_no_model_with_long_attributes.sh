#!/usr/bin/env bash
# Guess: the attributes of a model in Olive (model_attributes) hold any text. Seen: with olive-ai 0.13.0 a model one of whose
# attributes has a text of 256 bytes or more without a slash is exported and optimized, and cannot be evaluated (OSError,
# File name too long): before that, Olive asks of each text whether it is the path of a file. Inside a search, the points with
# such a text are lost, and `olive run` returns 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-compile olive-ai==0.13.0 torch==2.13.0 transformers==5.24.0 \
    onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6 pydantic==2.13.5 requests==2.34.2 2>/dev/null
cd "$folder"
CI=true venv/bin/python - <<'PYTHON'
from olive.cache import CacheConfig, OliveCache
from olive.model import ModelConfig

cache = OliveCache(CacheConfig(cache_dir=".cache"))  # what its systems prepare a model with before they evaluate it
for length in (255, 256):
    config = {"model_path": "model.onnx", "model_attributes": {"remark": "x" * length}}
    try:
        cache.prepare_resources_for_local(ModelConfig.model_validate({"type": "ONNXModel", "config": config}))
        print(length, "bytes: ready")
        assert length == 255, "it behaves otherwise now"
    except OSError as error:
        print(length, "bytes:", error.strerror)
        assert length == 256, "it behaves otherwise now"
PYTHON
