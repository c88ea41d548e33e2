"""Train the models of this folder and write them as ONNX files, together with their test data.

Run ``python -m onnx_gconv.models.build``. It needs torch, onnxscript and scikit-learn, which are part of the ``dev``
extra.

Everything random is seeded, and the training runs in float64 on one thread with deterministic kernels: two runs with
the same versions write the same bytes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Digits", "DigitsCNN", "DigitsMLP", "build_files", "count_correct", "main", "read_digits"]

OPSET = 18
SEED = 0
TEST_FRACTION = 0.25
EPOCHS = 60
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
LARGEST_PIXEL = 16.0

Images: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """The digits, split into what the models learn from and what they are tested on.

    Attributes:
        train_images: Pixels in [0, 1], shape [n_train, 1, 8, 8].
        train_labels: The digits 0 to 9, shape [n_train].
        test_images: Pixels in [0, 1], shape [n_test, 1, 8, 8].
        test_labels: The digits 0 to 9, shape [n_test].
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


class DigitsMLP(nn.Module):
    """Three fully connected layers, 64 -> 64 -> 32 -> 10, with ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1: nn.Linear = nn.Linear(64, 64)
        self.hidden2: nn.Linear = nn.Linear(64, 32)
        self.classifier: nn.Linear = nn.Linear(32, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits, shape [batch, 10], of pixels, shape [batch, 64]."""
        hidden = torch.relu(self.hidden1(pixels))
        hidden = torch.relu(self.hidden2(hidden))
        logits: torch.Tensor = self.classifier(hidden)
        return logits


class DigitsCNN(nn.Module):
    """A dense, a depthwise and a pointwise convolution, max pooling, and two fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem: nn.Conv2d = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.depthwise: nn.Conv2d = nn.Conv2d(16, 16, kernel_size=3, padding=1, groups=16)
        self.pointwise: nn.Conv2d = nn.Conv2d(16, 32, kernel_size=1)
        self.pool: nn.MaxPool2d = nn.MaxPool2d(2)
        self.flatten: nn.Flatten = nn.Flatten()
        self.hidden: nn.Linear = nn.Linear(32 * 4 * 4, 64)
        self.classifier: nn.Linear = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, shape [batch, 10], of images, shape [batch, 1, 8, 8]."""
        features = torch.relu(self.stem(image))
        features = torch.relu(self.depthwise(features))
        features = torch.relu(self.pointwise(features))
        features = self.flatten(self.pool(features))
        features = torch.relu(self.hidden(features))
        logits: torch.Tensor = self.classifier(features)
        return logits


def read_digits() -> Digits:
    """Read scikit-learn's digits, scale their pixels to [0, 1] and split them by label.

    Returns:
        1347 images to train on and 450 to test on, each digit with the same share in both.
    """
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / LARGEST_PIXEL).astype(np.float32).reshape(-1, 1, 8, 8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        labels.astype(np.int64),
        test_size=TEST_FRACTION,
        stratify=labels,
        random_state=SEED,
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def train(model: nn.Module, inputs: Images, labels: Labels, epochs: int = EPOCHS) -> None:
    """Train a classifier in place with AdamW and a learning rate that falls along a cosine to zero.

    Training magnifies rounding errors, and these differ between processors: in float32, the same script gives weights
    that differ in the first decimals. So all of it runs in float64, from the first random weight on, where the
    magnified differences stay below the resolution of float32, and the result is rounded to float32 once at the end.

    Args:
        model: Maps a batch of inputs to logits. It is left in float32 and in evaluation mode.
        inputs: What the model takes, first axis samples.
        labels: The classes, shape [samples].
        epochs: Number of passes over the samples.
    """
    samples, targets = torch.from_numpy(inputs).double(), torch.from_numpy(labels)
    shuffler = torch.Generator().manual_seed(SEED)
    model.double()
    draw_weights(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(targets), generator=shuffler)
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(samples[batch]), targets[batch]))
            optimizer.step()
        schedule.step()
    model.float()
    model.eval()


def draw_weights(model: nn.Module) -> None:
    """Draw new initial weights for training from a fixed seed, in the current type of the model.

    Args:
        model: A model whose direct children are layers. They are changed.
    """
    torch.manual_seed(SEED)
    for layer in model.children():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.reset_parameters()


def export_dynamo(model: nn.Module, input_name: str, example: Images) -> bytes:
    """Export with torch's current exporter, which is built on ``torch.export``.

    Args:
        model: The trained model.
        input_name: The name of the ONNX model's input.
        example: A batch of two or more inputs; the batch size stays dynamic in the ONNX model.

    Returns:
        The ONNX model, weights included.
    """
    program = torch.onnx.export(
        model,
        (torch.from_numpy(example),),
        input_names=[input_name],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return without_traces(program.model_proto)


def export_torchscript(model: nn.Module, input_name: str, example: Images) -> bytes:
    """Export with torch's older exporter, which traces the model into TorchScript.

    Args:
        model: The trained model.
        input_name: The name of the ONNX model's input.
        example: A batch of inputs; the batch size stays dynamic in the ONNX model.

    Returns:
        The ONNX model, weights included.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "model.onnx"
        # torch deprecates this exporter, but it has made many models in use, so the folder has such a model.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.from_numpy(example),),
            path,
            input_names=[input_name],
            output_names=["logits"],
            dynamic_axes={input_name: {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return without_traces(onnx.load(path))


def without_traces(model: onnx.ModelProto) -> bytes:
    """Serialize a model without the exporter's notes on the Python code that each node comes from.

    The notes contain paths of the exporting machine, and differ between installations of torch.

    Args:
        model: A model without subgraphs and functions, fresh from an exporter. It is changed.

    Returns:
        The ONNX model; equal models give equal bytes.
    """
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def pack_arrays(**arrays: NDArray[np.generic]) -> bytes:
    """Pack arrays as a compressed ``.npz`` file; NumPy writes no time into it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def build_files(digits: Digits, epochs: int = EPOCHS) -> dict[str, bytes]:
    """Train both models and export them.

    Args:
        digits: The images for training and testing.
        epochs: Number of passes over the training images.

    Returns:
        The contents of each file of the folder by its name.
    """
    train_pixels = digits.train_images.reshape(-1, 64)
    mlp = DigitsMLP()
    train(mlp, train_pixels, digits.train_labels, epochs)
    cnn = DigitsCNN()
    train(cnn, digits.train_images, digits.train_labels, epochs)

    return {
        "digits_mlp.onnx": export_dynamo(mlp, "pixels", train_pixels[:2]),
        "digits_cnn.onnx": export_dynamo(cnn, "image", digits.train_images[:2]),
        "digits_cnn_torchscript.onnx": export_torchscript(cnn, "image", digits.train_images[:2]),
        "digits_test.npz": pack_arrays(images=digits.test_images, labels=digits.test_labels),
    }


def count_correct(model: bytes, images: Images, labels: Labels) -> int:
    """Run a model in ONNX Runtime and count the digits that it gets right.

    Args:
        model: The contents of an ONNX file whose first input takes images, flattened or not.
        images: Shape [n, 1, 8, 8].
        labels: Shape [n].

    Returns:
        Number of images, from 0 to n, for which the largest logit is that of the label.
    """
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    [logits] = session.run(None, {model_input.name: images.reshape(-1, *model_input.shape[1:])})
    return int(np.count_nonzero(np.argmax(logits, axis=1) == labels))


def count_parameters(model: bytes) -> int:
    """Number of floating point values among the initializers: weights and biases, but no shapes."""
    initializers = onnx.load_from_string(model).graph.initializer
    return sum(int(np.prod(tensor.dims)) for tensor in initializers if tensor.data_type == onnx.TensorProto.FLOAT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build all files, write them and print what ``README.md`` says about them.

    Args:
        arguments: Command line without the name of the program; the process' own if None.
    """
    parser = argparse.ArgumentParser(description="Train the digits models and export them to ONNX.")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="folder to write to, created if missing (default: the folder of this script)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        metavar="N",
        help="how long to train; the files of the repository need the default (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    output: Path = options.output

    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)
    digits = read_digits()
    files = build_files(digits, options.epochs)

    for name, contents in files.items():
        print(f"{name}: {len(contents)} bytes")
        if name.endswith(".onnx"):
            correct = count_correct(contents, digits.test_images, digits.test_labels)
            print(f"  {count_parameters(contents)} parameters, {correct} of {len(digits.test_labels)} correct")

    output.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (output / name).write_bytes(contents)


if __name__ == "__main__":
    main()
