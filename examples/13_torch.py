"""From a PyTorch module to a mapped model in one call, without a file of the plain model."""

import torch
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.integrations.torch import export

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()

report = export(module, (torch.zeros(2, 64),), "mapped.onnx", granularity="channel", dynamic_shapes=({0: "batch"},))
gconv.verify(report.program, report.output).raise_if_failed()
for weight in report.mapped:
    print(f"{weight.known_as or weight.name}: {weight.shape}")

# Output:
# 0.weight: (32, 64)
# 2.weight: (10, 32)
