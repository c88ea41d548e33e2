"""What device models are compared with: aihwkit's noise models, and formulas in double precision for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
from aihwkit.inference.noise import custom, hermes, pcm, reram

from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.devices.registry import device_model

HOUR, DAY, MONTH, YEAR = 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0
TIMES = (0.0, 1.0, HOUR, DAY, MONTH, YEAR)
RANGE_PARTS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)

Numbers = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Normal numbers for programming, drift and reading."""


class Reference(Protocol):
    """What conductances should be, in µS."""

    source: str

    def seed(self, seed: int) -> None:
        """Start its own random numbers from a seed."""

    def programmed(self, targets: np.ndarray, numbers: Numbers | None = None) -> np.ndarray:
        """Conductances at the end of programming, from the given numbers or its own."""

    def read(self, targets: np.ndarray, seconds: float, numbers: Numbers | None = None) -> np.ndarray:
        """A reading, after programming and drift."""


class Aihwkit:
    """A noise model of aihwkit, as it is called by `apply_noise`; its random numbers are torch's.

    Args:
        model: The noise model.
    """

    source = "aihwkit"

    def __init__(self, model: Any) -> None:
        self._model = model

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def programmed(self, targets: np.ndarray, numbers: Numbers | None = None) -> np.ndarray:
        with _given(numbers):
            return self._programmed(targets).numpy()

    def read(self, targets: np.ndarray, seconds: float, numbers: Numbers | None = None) -> np.ndarray:
        with _given(numbers):
            programmed = self._programmed(targets)
            drift = self._model.generate_drift_coefficients(torch.from_numpy(targets.copy()))
            return self._model.apply_drift_noise_to_conductance(programmed, drift, seconds).numpy()

    def _programmed(self, targets: np.ndarray) -> torch.Tensor:
        return self._model.apply_programming_noise_to_conductance(torch.from_numpy(targets.copy()))


def _given(numbers: Numbers | None) -> ExitStack:
    """Let aihwkit draw these numbers, in their order; it leaves out those that it does not need."""
    stack = ExitStack()
    if numbers is not None:
        left = list(numbers)
        for module in (pcm, custom, hermes, reram):
            stack.enter_context(
                patch.object(module, "randn_like", lambda like: torch.from_numpy(left.pop(0)).to(like.dtype))
            )
    return stack


class Formula:
    """A formula in double precision.

    Args:
        programmed: Gives programmed conductances from targets and numbers for programming.
        read: Gives readings from targets, programmed conductances, the time and all numbers; those if None.
    """

    source = "formula"

    def __init__(
        self,
        programmed: Callable[[np.ndarray, np.ndarray], np.ndarray],
        read: Callable[[np.ndarray, np.ndarray, float, Numbers], np.ndarray] | None = None,
    ) -> None:
        self._programmed, self._read = programmed, read
        self.seed(0)

    def seed(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def programmed(self, targets: np.ndarray, numbers: Numbers | None = None) -> np.ndarray:
        return self._programmed(targets.astype(np.float64), (numbers or self._numbers(targets))[0])

    def read(self, targets: np.ndarray, seconds: float, numbers: Numbers | None = None) -> np.ndarray:
        numbers = numbers or self._numbers(targets)
        programmed = self.programmed(targets, numbers)
        return programmed if self._read is None else self._read(targets, programmed, seconds, numbers)

    def _numbers(self, targets: np.ndarray) -> Numbers:
        return tuple(self._rng.standard_normal((3, *targets.shape)))


@dataclass(frozen=True)
class Case:
    """A device model and what it is compared with.

    Attributes:
        name: What tables call it.
        device: The model.
        reference: What it should do.
        seconds: Times after programming.
        parts: Targets as parts of the range; negative ones are those of the negative device, for models of pairs.
        not_asked: What is not compared, and why; empty for nothing.
    """

    name: str
    device: DeviceModel
    reference: Reference
    seconds: Sequence[float] = TIMES
    parts: Sequence[float] = RANGE_PARTS
    not_asked: str = ""

    def target(self, part: float) -> float:
        """The target of a part of the range, in µS."""
        low, high = self.device.g_min, self.device.g_max
        return part * high if part < 0 else low + part * (high - low)


DRIFT = {"g_us": [0.0, 10.0, 25.0], "nu_mean": [0.08, 0.06, 0.05], "nu_spread": [0.03, 0.02, 0.01]}


def _custom_drift() -> Aihwkit:
    lists = {"g_lst": DRIFT["g_us"], "nu_mean_lst": DRIFT["nu_mean"], "nu_std_lst": DRIFT["nu_spread"]}
    return Aihwkit(pcm.CustomDriftPCMLikeNoiseModel(lists, g_max=25.0))


def cases_of_aihwkit() -> tuple[Case, ...]:
    """The models that aihwkit has, too, with each of their settings."""
    scales = {"programming_scale": 2.0, "drift_scale": 0.5, "read_scale": 3.0, "t_0": 5.0}
    same = {"prog_noise_scale": 2.0, "drift_scale": 0.5, "read_noise_scale": 3.0, "t_0": 5.0}
    return (
        Case("pcm", device_model("pcm"), Aihwkit(pcm.PCMLikeNoiseModel(g_max=25.0))),
        Case(
            "pcm up to 10 \u00b5S",
            device_model("pcm", g_max=10.0, **scales),
            Aihwkit(pcm.PCMLikeNoiseModel(g_max=10.0, **same)),
        ),
        Case("pcm-joshi", device_model("pcm-joshi", g_min=0.0), Aihwkit(pcm.PCMLikeNoiseModel(g_max=25.0))),
        Case("pcm-custom-drift", device_model("pcm-custom-drift", **DRIFT), _custom_drift()),
        Case(
            "state-independent",
            device_model("state-independent"),
            Aihwkit(custom.StateIndependentNoiseModel(g_max=25.0)),
        ),
        Case("pcm-hermes-1", device_model("pcm-hermes-1"), Aihwkit(hermes.HermesNoiseModel(num_devices=1))),
        Case(
            "pcm-hermes-2 up to 15 \u00b5S",
            device_model("pcm-hermes-2", g_max=15.0),
            Aihwkit(hermes.HermesNoiseModel(num_devices=2, g_max=15.0)),
        ),
        Case(
            "reram-wan2022",
            device_model("reram-wan2022"),
            Aihwkit(reram.ReRamWan2022NoiseModel(g_max=40.0)),
            seconds=(0.0, 1.0, DAY, 2 * DAY),
        ),
        Case(
            "reram-cmo, 0.2 %",
            device_model("reram-cmo"),
            Aihwkit(reram.ReRamCMONoiseModel()),
            not_asked="below 9 \u00b5S: aihwkit gives NaN where relaxation leads below 0 \u00b5S",
        ),
        Case(
            "reram-cmo-hfox, 2 %",
            device_model("reram-cmo-hfox", acceptance_percent=2),
            Aihwkit(reram.ReRamCMONoiseModel(acceptance_range=2)),
        ),
    )


def _sigma_of_pairs(g: np.ndarray) -> np.ndarray:
    """As J. Büchel et al. have it, the highest power first."""
    up_to_52_5 = [2.939751381126213e-05, -0.00371581208142707, 0.22419685954327148, 2.5797410660159494]
    above = [1.2329755395573392e-05, -0.003054993405157235, 0.2453487119885723, 2.110295720240385]
    size = np.abs(g)
    return np.where(size > 52.5, np.polyval(above, size), np.polyval(up_to_52_5, size))


def _measured(targets: np.ndarray, _: np.ndarray, seconds: float, numbers: Numbers) -> np.ndarray:
    share = 0.0 if seconds <= 1 else np.log(seconds) / np.log(YEAR)
    mean = targets * (1 - 0.5 * share)
    return np.maximum(mean + (0.5 + 0.02 * targets) * (1 + share) * numbers[0], 0)


def other_cases() -> tuple[Case, ...]:
    """The models that aihwkit does not have."""
    errors = {"sigma_us": 0.3, "sigma_relative": 0.05, "read_sigma_us": 0.2, "read_sigma_relative": 0.02}
    table = {
        "target_us": [0, 25],
        "seconds": [1, YEAR],
        "mean_us": [[0, 0], [25, 12.5]],
        "sigma_us": [[0.5, 1], [1, 2]],
    }
    return (
        Case(
            "pcm-afm2025",
            device_model("pcm-afm2025"),
            Formula(lambda g, z: np.where(np.abs(g) < 0.6, 0, g + _sigma_of_pairs(g) * z)),
            seconds=(0.0, YEAR),
            parts=(-1.0, -0.4, -0.05, -0.004, 0.0, 0.002, 0.01, 0.15, 0.2917, 0.3, 0.6, 1.0),
        ),
        Case(
            "gaussian",
            device_model("gaussian", **errors),
            Formula(
                lambda g, z: np.maximum(g + np.hypot(0.3, 0.05 * g) * z, 0),
                lambda _, g, __, z: np.maximum(g + np.hypot(0.2, 0.02 * g) * z[2], 0),
            ),
            seconds=(0.0, YEAR),
        ),
        Case(
            "log-normal",
            device_model("log-normal", sigma=0.2),
            Formula(lambda g, z: g * np.exp(0.2 * z)),
            seconds=(0.0, YEAR),
        ),
        Case(
            "measured",
            device_model("measured", **table),
            Formula(lambda g, z: _measured(g, g, 0.0, (z, z, z)), _measured),
        ),
    )
