"""The demo: maps a small trained network, verifies and restores it, and simulates it on chips."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.drawing import has_matplotlib
from onnx_gconv.models import model_path
from onnx_gconv.operations.operations import map_model, restore_model
from onnx_gconv.passes.report import MappingReport, RestoreReport
from onnx_gconv.runtime.session import run_model
from onnx_gconv.simulation import ProgramReport, SimulationReport, program_model, simulate
from onnx_gconv.simulation.results import check_results, write_results
from onnx_gconv.verification import VerificationReport, verify

__all__ = ["Accuracy", "DemoReport", "run_demo"]

_MODEL = "digits_cnn.onnx"
_WITH_LEVELS = "digits_cnn.levels.gconv.onnx"
_LEVELS = 256
_TEST_DATA = "digits_test.npz"
_CHIP = "digits_cnn.chip.onnx"
_INPUTS = "digits_inputs.npz"
_PICTURE = "accuracy.png"
_DEVICE = "pcm"
_CHIPS = 25
_SEED = 7


@dataclass(frozen=True)
class Accuracy:
    """How many test images a model recognizes.

    Attributes:
        model: The model.
        optimization: Optimization level of ONNX Runtime, "all" or "none".
        correct: Number of images that the model recognizes.
        images: Number of images.
    """

    model: Path
    optimization: str
    correct: int
    images: int


@dataclass(frozen=True)
class DemoReport:
    """The results of the demo.

    Attributes:
        folder: The folder of all files.
        mapping: The report of mapping the model to conductances without levels.
        verification: The report of verifying that mapped model against the original.
        restoring: The report of restoring plain weights from it.
        with_levels: The report of mapping the model to devices of 256 levels, stored as level codes.
        programming: The report of programming the first mapped model to a simulated chip of phase-change memory, one
            day after programming.
        simulation: The accuracy on many such chips over time.
        picture: That accuracy as a picture; None without Matplotlib.
        accuracies: The accuracies of all models except the chip; the model with levels is last.
    """

    folder: Path
    mapping: MappingReport
    verification: VerificationReport
    restoring: RestoreReport
    with_levels: MappingReport
    programming: ProgramReport
    simulation: SimulationReport
    picture: Path | None
    accuracies: tuple[Accuracy, ...]

    @property
    def passed(self) -> bool:
        """Whether verification passed, and mapped and restored model recognize as many images as the original."""
        lossless = {item.correct for item in self.accuracies if item.model != self.with_levels.output}
        return self.verification.passed and len(lossless) == 1

    @property
    def sizes(self) -> dict[Path, int]:
        """The sizes of the files of the original and of both mapped models, in bytes."""
        files = (self.mapping.model, self.mapping.output, self.with_levels.output)
        return {file: file.stat().st_size for file in files if file is not None}

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "folder": str(self.folder),
            "passed": self.passed,
            "map": self.mapping.to_json(),
            "verify": self.verification.to_json(),
            "restore": self.restoring.to_json(),
            "with_levels": self.with_levels.to_json(),
            "program": self.programming.to_json(),
            "simulate": self.simulation.to_json(),
            "picture": None if self.picture is None else str(self.picture),
            "sizes": {str(file): size for file, size in self.sizes.items()},
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
    """Map the digits CNN to pairs of 0 to 25 µS, verify, restore, map it to 256 levels, and simulate chips.

    All accuracies are measured by running the models in ONNX Runtime.

    Args:
        folder: The folder for all files; it is created if it does not exist.

    Raises:
        ConfigError: If the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        original = folder / _MODEL
        shutil.copyfile(model_path(_MODEL), original)
        shutil.copyfile(model_path(_TEST_DATA), folder / _TEST_DATA)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder '{folder}': {error.strerror}") from error
    mapping = map_model(original, converter=SinglePairConductanceConverter())
    assert mapping.output is not None  # noqa: S101 - only a dry run writes no model
    with np.load(folder / _TEST_DATA, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    verification = verify(original, mapping.output, inputs={"image": images})
    restoring = restore_model(mapping.output)
    assert restoring.output is not None  # noqa: S101 - None only for models in memory
    with_levels = map_model(original, folder / _WITH_LEVELS, granularity="channel", levels=_LEVELS, storage="codes")
    programming = program_model(
        mapping.output, folder / _CHIP, _DEVICE, time="1d", seed=_SEED, drift_compensation="global"
    )
    np.savez(folder / _INPUTS, image=images, labels=labels)
    simulation = simulate(
        mapping.output,
        _DEVICE,
        inputs=folder / _INPUTS,
        labels="labels",
        repeats=_CHIPS,
        seed=_SEED,
        drift_compensation="global",
    )
    picture = folder / _PICTURE if has_matplotlib() else None
    write_results(simulation, check_results(None, picture))
    models = [original, mapping.output, restoring.output, folder / _WITH_LEVELS]
    accuracies = tuple(_accuracies(models, images, labels))
    return DemoReport(
        folder, mapping, verification, restoring, with_levels, programming, simulation, picture, accuracies
    )


def _accuracies(models: list[Path], images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Iterator[Accuracy]:
    for model in models:
        for optimization in ("all", "none"):
            logits = run_model(model, {"image": images}, optimization)["logits"]
            correct = int((logits.argmax(axis=1) == labels).sum())
            yield Accuracy(model, optimization, correct, len(labels))
