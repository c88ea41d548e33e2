#!/usr/bin/env bash
# Guess: convert_to_analog of aihwkit-lightning takes an nn.RNN whose nonlinearity is "relu", or refuses it, as it refuses
# batch_first and proj_size, which it does not have. Seen: aihwkit-lightning 2.1.0 converts it, and its cell has tanh written
# into it; outputs are those of the RNN with tanh. Nothing is said, and convert_to_digital gives an RNN with tanh back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tqdm==4.67.1 typing_extensions==4.15.0 2>/dev/null
"${pip[@]}" --no-deps aihwkit-lightning==2.1.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -v '^Could not import triton'
from importlib.metadata import version

import torch
from aihwkit_lightning.nn.conversion import convert_to_analog, convert_to_digital
from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
from torch import nn

torch.manual_seed(0)
x = torch.randn(5, 2, 3)


def run(model):
    with torch.no_grad():
        return model.eval()(x)[0]


print(f"aihwkit-lightning {version('aihwkit-lightning')}, torch {torch.__version__}")
relu = nn.RNN(3, 4, nonlinearity="relu")
tanh = nn.RNN(3, 4, nonlinearity="tanh")
tanh.load_state_dict(relu.state_dict())
analog = convert_to_analog(nn.Sequential(relu), TorchInferenceRPUConfig())
digital = convert_to_digital(analog)
to_relu, to_tanh = (float((run(analog) - run(model)).abs().max()) for model in (relu, tanh))
back = digital[0].nonlinearity
print(f"analog RNN: largest difference to the original {to_relu:.2f}, to the same with tanh {to_tanh:.1e}; converted back: {back}")
refused = {}
for option in ({"batch_first": True}, {"proj_size": 2}):
    try:
        convert_to_analog(nn.Sequential(nn.LSTM(3, 4, **option)), TorchInferenceRPUConfig())
        refused[next(iter(option))] = None
    except RuntimeError as error:
        refused[next(iter(option))] = str(error)
print(f"refused: {refused}")
assert to_relu > 0.1 and to_tanh < 1e-6 and back == "tanh" and all(refused.values()), "it behaves otherwise now"
PYTHON
