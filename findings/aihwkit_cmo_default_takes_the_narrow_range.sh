#!/usr/bin/env bash
# Guess: ReRamCMONoiseModel of aihwkit, whose acceptance_range is 2e-2 by default, programs devices to within 2 % of their
# targets; its docstring speaks of 0.2 % and 2 %. Seen: aihwkit 1.1.0 has its two tables under the keys 0.2 and 2 (percent),
# finds no key 0.02, and takes the table of 0.2 % without a word, for the default and for every other unknown value. Errors
# of programming are ten times smaller than the default says: 0.11 % of the target instead of 1.15 %.
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
from aihwkit.inference.noise.reram import ReRamCMONoiseModel


def percent(model):
    torch.manual_seed(0)
    targets = torch.full((200_000,), 50.0)
    return float((model.apply_programming_noise_to_conductance(targets) - targets).std()) / 50 * 100


models = {
    "default": ReRamCMONoiseModel(),
    "0.02": ReRamCMONoiseModel(acceptance_range=0.02),
    "17": ReRamCMONoiseModel(acceptance_range=17),
    "0.2": ReRamCMONoiseModel(acceptance_range=0.2),
    "2": ReRamCMONoiseModel(acceptance_range=2),
}
errors = {name: percent(model) for name, model in models.items()}
print(f"aihwkit {version('aihwkit')}, torch {torch.__version__}")
print("standard deviation of programming errors at 50 uS, in percent of the target:")
for name, error in errors.items():
    print(f"  acceptance_range {name}: {error:.3f}")
narrow = [errors[name] for name in ("default", "0.02", "17", "0.2")]
assert max(narrow) == min(narrow) < 0.12 and errors["2"] > 1.1, "it behaves otherwise now"
PYTHON
