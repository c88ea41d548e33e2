"""Maps a small trained network, proves that nothing changed, and restores it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError
from onnx_gconv.file_operations import map_model, restore_model
from onnx_gconv.mapping_report import MappingReport, RestoreReport
from onnx_gconv.models import model_path
from onnx_gconv.verification import VerificationReport, verify
from onnx_gconv.verification.runtime import run_model

__all__ = ["Accuracy", "DemoReport", "run_demo"]

_MODEL = "digits_cnn.onnx"
_TEST_DATA = "digits_test.npz"


@dataclass(frozen=True)
class Accuracy:
    """How many test images a model recognizes.

    Attributes:
        model: The model.
        optimization: Optimization of ONNX Runtime, "all" or "none".
        correct: Number of images it recognizes.
        images: Number of images.
    """

    model: Path
    optimization: str
    correct: int
    images: int


@dataclass(frozen=True)
class DemoReport:
    """What the demo did: `steps` in the order in which they ran."""

    folder: Path
    mapping: MappingReport
    verification: VerificationReport
    restoring: RestoreReport
    accuracies: tuple[Accuracy, ...]

    @property
    def passed(self) -> bool:
        """Whether the mapped model verifies and recognizes exactly as many images as the original."""
        return self.verification.passed and len({item.correct for item in self.accuracies}) == 1

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "folder": str(self.folder),
            "passed": self.passed,
            "map": self.mapping.to_json(),
            "verify": self.verification.to_json(),
            "restore": self.restoring.to_json(),
            "accuracies": [
                {
                    "model": str(item.model),
                    "optimization": item.optimization,
                    "correct": item.correct,
                    "images": item.images,
                }
                for item in self.accuracies
            ],
        }


def run_demo(folder: Path) -> DemoReport:
    """Map the digits CNN to pairs of 0 to 25 µS, verify, measure the accuracy before and after, and restore.

    Args:
        folder: Where all files go; it is made if it does not exist.

    Raises:
        ConfigError: If the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        original = folder / _MODEL
        shutil.copyfile(model_path(_MODEL), original)
        shutil.copyfile(model_path(_TEST_DATA), folder / _TEST_DATA)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder '{folder}': {error.strerror}") from error
    mapping = map_model(original, converter=SinglePairConductanceConverter())
    assert mapping.output is not None  # noqa: S101 - it was no dry run
    with np.load(folder / _TEST_DATA, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    verification = verify(original, mapping.output, inputs={"image": images})
    restoring = restore_model(mapping.output)
    accuracies = tuple(_accuracies([original, mapping.output, restoring.output], images, labels))
    return DemoReport(folder, mapping, verification, restoring, accuracies)


def _accuracies(models: list[Path], images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Iterator[Accuracy]:
    for model in models:
        for optimization in ("all", "none"):
            logits = run_model(model, {"image": images}, optimization)["logits"]
            correct = int((logits.argmax(axis=1) == labels).sum())
            yield Accuracy(model, optimization, correct, len(labels))
