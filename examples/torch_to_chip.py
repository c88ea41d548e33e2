"""Train a network in PyTorch, export and map it in one call, verify it, simulate a day of drift, and hand it off."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.integrations.torch import export

folder = Path("torch_to_chip")
folder.mkdir(exist_ok=True)
pixels, classes = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
is_test = torch.arange(len(labels)) % 4 == 0

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(images[~is_test]), labels[~is_test]).backward()
    optimizer.step()

of_torch = {"dynamic_shapes": ({0: "batch"},), "input_names": ["pixels"]}
report = export(module.eval(), (images[:2],), folder / "digits.gconv.onnx", preset="pcm-joshi", **of_torch)
print(report)

test = {"pixels": images[is_test].numpy()}
np.savez(folder / "test.npz", **test, labels=labels[is_test].numpy())
gconv.verify(report.program, report.output, inputs=test).raise_if_failed()
of_data = {"inputs": folder / "test.npz", "labels": "labels"}
print(gconv.simulate(report.output, "pcm", times=["1s", "1d"], drift_compensation="global", **of_data))
print(gconv.write_bundle(report.output, folder / "digits.gconv", (64, 64), overwrite=True))
