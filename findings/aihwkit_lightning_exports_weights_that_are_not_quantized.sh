#!/usr/bin/env bash
# Guess: export_to_aihwkit gives an aihwkit model that computes what the aihwkit-lightning model computes in evaluation,
# where weights are quantized if the configuration says so; it warns of settings that it cannot keep. Seen: with
# aihwkit-lightning 2.1.0 and aihwkit 1.1.0 the exported model has weights of full resolution. The number of levels is copied,
# the type beside it is made from the type of the noise alone, and aihwkit ignores the levels. convert_to_digital, the
# way to ONNX, leaves out the quantization as well. Nothing is said; without quantization both ways are exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.8.0 requests==2.32.5 tqdm==4.67.1 typing_extensions==4.15.0 2>/dev/null
"${pip[@]}" --no-deps aihwkit==1.1.0 aihwkit-lightning==2.1.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null | grep -v '^Could not import triton'
import warnings
from importlib.metadata import version

import torch
from aihwkit_lightning.nn.conversion import convert_to_analog, convert_to_digital
from aihwkit_lightning.nn.export import export_to_aihwkit
from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightQuantizationType

torch.manual_seed(0)
x = torch.randn(100, 8)
layer = torch.nn.Sequential(torch.nn.Linear(8, 4))


def run(model):
    with torch.no_grad():
        return model.eval()(x)


print(f"aihwkit-lightning {version('aihwkit-lightning')}, aihwkit {version('aihwkit')}, torch {torch.__version__}")
print("largest differences of outputs to those of the lightning model, weights of 4 bits:")
for name in ("NONE", "DISCRETIZE", "DISCRETIZE_PER_CHANNEL"):
    config = TorchInferenceRPUConfig()
    config.modifier.quantization_type = WeightQuantizationType[name]
    config.modifier.res = 2**4 - 2
    model = convert_to_analog(layer, config).eval()
    expected = run(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        exported = export_to_aihwkit(model)
    settings = next(exported.analog_tiles()).rpu_config.modifier
    words = [str(warning.message) for warning in said if "quant" in str(warning.message) or "modifier" in str(warning.message)]
    to_aihwkit, to_digital = (float((run(other) - expected).abs().max()) for other in (exported, convert_to_digital(model)))
    print(f"{name}: exported {to_aihwkit:.1e} ({settings.type.name}, {settings.res} levels), digital {to_digital:.1e}; warnings of it: {words}")
    if name == "NONE":
        assert to_aihwkit < 1e-5 and to_digital < 1e-5, "it behaves otherwise now"
    else:
        assert to_aihwkit > 0.05 and to_digital > 0.05 and settings.type.name == "NONE" and not words, "it behaves otherwise now"
PYTHON
