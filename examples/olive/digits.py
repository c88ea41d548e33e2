"""What the workflows beside this file need: a small network, and handwritten digits to train and to evaluate it with.

Olive imports this file by its path.
"""

import numpy as np
import torch
from olive.data.registry import Registry
from torch import nn

from onnx_gconv.models import model_path

_TO_LEARN = 300


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 8 x 8 pixels, as rows of 64 numbers from 0 to 1, and the digits that they show."""
    with np.load(model_path("digits_test.npz")) as data:
        return torch.from_numpy(data["images"].reshape(-1, 64)), torch.from_numpy(data["labels"])


class Network(nn.Module):
    """Two layers. Olive gives inputs by their names, so that the one of `forward` is that of the workflow."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.scores = nn.Linear(128, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """A score for each digit."""
        return self.scores(torch.relu(self.hidden(pixels)))


@torch.enable_grad()  # which Olive turns off where it evaluates
def load_model(_path: str | None = None) -> nn.Module:
    """A network that has learnt the first digits; the same one in every run."""
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
    """What the network is exported with: inputs by name, as Olive would take a tensor alone for a list of inputs."""
    return {"pixels": torch.zeros(2, 64)}


class _Digits(torch.utils.data.Dataset):
    """The digits that the network has not seen, as Olive takes them: inputs by name, and the label."""

    def __init__(self) -> None:
        self.images, self.labels = (each[_TO_LEARN:] for each in _digits())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {"pixels": self.images[index]}, self.labels[index]


@Registry.register_dataset()
def unseen_digits(**_options: object) -> torch.utils.data.Dataset:
    """The data to evaluate with."""
    return _Digits()


@Registry.register_post_process()
def largest(outputs: torch.Tensor, **_options: object) -> torch.Tensor:
    """The digit that the network takes an image for."""
    return outputs.argmax(dim=-1)
