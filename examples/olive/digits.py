"""The network and the data of the workflows in this folder: handwritten digits to train with and to evaluate.

Olive imports this file by its path.
"""

import numpy as np
import torch
from olive.data.registry import Registry
from torch import nn

from onnx_gconv.models import model_path

_TO_LEARN = 300


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 8 x 8 pixels with values from 0 to 1, [images, 64], and the digits that they show, [images]."""
    with np.load(model_path("digits_test.npz")) as data:
        return torch.from_numpy(data["images"].reshape(-1, 64)), torch.from_numpy(data["labels"])


class Network(nn.Module):
    """A network of two layers. Olive passes inputs by name: the argument of `forward` has the name in the workflow."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.scores = nn.Linear(128, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """A score for each digit."""
        return self.scores(torch.relu(self.hidden(pixels)))


@torch.enable_grad()  # Olive turns gradients off when it evaluates, and also calls this function then
def load_model(_path: str | None = None) -> nn.Module:
    """A network that is trained on the first digits; each call gives the same one."""
    torch.manual_seed(0)
    network = Network()
    images, labels = (each[:_TO_LEARN] for each in _digits())
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def example_inputs(_model: object) -> dict[str, torch.Tensor]:
    """The inputs for the export, by name: Olive would treat a single tensor as a list of inputs."""
    return {"pixels": torch.zeros(2, 64)}


class _Digits(torch.utils.data.Dataset):
    """The digits that the network was not trained on, in the form that Olive needs: inputs by name, and the label."""

    def __init__(self) -> None:
        self.images, self.labels = (each[_TO_LEARN:] for each in _digits())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {"pixels": self.images[index]}, self.labels[index]


@Registry.register_dataset()
def unseen_digits(**_options: object) -> torch.utils.data.Dataset:
    """The data for the evaluation."""
    return _Digits()


@Registry.register_post_process()
def largest(outputs: torch.Tensor, **_options: object) -> torch.Tensor:
    """The digit with the highest score, for each image."""
    return outputs.argmax(dim=-1)
