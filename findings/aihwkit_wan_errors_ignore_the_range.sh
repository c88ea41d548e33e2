#!/usr/bin/env bash
# Guess: ReRamWan2022NoiseModel of aihwkit, whose errors were fitted for devices of up to 40 uS, gives smaller errors in uS
# for a smaller g_max, as PCMLikeNoiseModel does; it has an argument for the reference range. Seen: in aihwkit 1.1.0 the
# errors at half of g_max are 2.0 uS for every g_max, so that relative errors are four times larger at 10 uS than at 40 uS:
# the 40 uS are stored under another name than the one that is read. Sweeps of g_max compare different devices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.8.0 requests==2.32.5 tqdm==4.67.1 2>/dev/null
"${pip[@]}" --no-deps aihwkit==1.1.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
from aihwkit.inference.noise.reram import ReRamWan2022NoiseModel


def error_us(model, g_max):
    torch.manual_seed(0)
    targets = torch.full((200_000,), g_max / 2)
    return float((model.apply_programming_noise_to_conductance(targets) - targets).std())


ranges = (10.0, 25.0, 40.0)
wan = [error_us(ReRamWan2022NoiseModel(g_max=g_max), g_max) for g_max in ranges]
pcm = [error_us(PCMLikeNoiseModel(g_max=g_max), g_max) for g_max in ranges]
print(f"aihwkit {version('aihwkit')}, torch {torch.__version__}")
print("standard deviation of programming errors at half of g_max, in uS:")
for name, errors in (("ReRamWan2022NoiseModel", wan), ("PCMLikeNoiseModel", pcm)):
    print(f"  {name}: " + ", ".join(f"{error:.2f} at g_max {g_max:g}" for error, g_max in zip(errors, ranges)))
assert max(wan) < 1.02 * min(wan) and pcm[2] > 3.9 * pcm[0], "it behaves otherwise now"
PYTHON
