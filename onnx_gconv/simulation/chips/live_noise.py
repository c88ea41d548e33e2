"""Live read noise: the model of a simulated chip draws new readings itself, in each run of ONNX Runtime."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import save_model
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.read_noise import DrawnNoise, draw_readings
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.runtime.session import RuntimeRefusal, run_model
from onnx_gconv.simulation.chips.chip_weight import Chip, simulated_tensors
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedDevices
from onnx_gconv.tensors.types import type_name
from onnx_gconv.weights import default_opset

__all__ = ["LiveNoise", "live_noise"]

# ONNX holds the attribute `seed` in float32, which is exact for whole numbers below 2^24. Seeds begin at 1, since ONNX
# Runtime treats 0 like 1.
_SEEDS = 2**24

# The opsets at which ONNX Runtime 1.32 runs both Max and RandomNormalLike on the CPU.
_OPSETS = range(8, 22)

_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")  # the beginning of ONNX Runtime's messages

_LONGEST_REASON = 75

_PROBES = 5  # devices that are asked for the noise of their readings


@dataclass(frozen=True)
class LiveNoise:
    """How the model of a chip draws readings.

    Attributes:
        low_us: The smallest possible reading, in µS.
        high_us: The largest possible reading, in µS; None if there is no limit.
        seeds: For each weight, by its graph and name, a seed for each device of an element. No two seeds are equal.
    """

    low_us: float
    high_us: float | None
    seeds: Mapping[tuple[str, str], tuple[int, ...]]

    def of_weight(self, weight: MappedWeight, chip: Chip) -> tuple[DrawnNoise, ...]:
        """How the readings of each device of a weight are drawn.

        The standard deviations are tensors that are computed while they are written.
        """
        sigmas = simulated_tensors(weight, chip, "spread")
        seeds = self.seeds[weight.record.graph, weight.record.name]
        return tuple(
            DrawnNoise(sigma, seed, self.low_us, self.high_us) for sigma, seed in zip(sigmas, seeds, strict=True)
        )


def live_noise(model: ir.Model, weights: Sequence[MappedWeight], chip: Chip) -> LiveNoise | None:
    """How the model of a chip is to draw readings.

    Args:
        model: The mapped model.
        weights: The weights of the model.
        chip: The chip at the time of reading.

    Returns:
        The seeds and limits of readings; None if readings of these devices have no noise.

    Raises:
        ConfigError: If the device model does not give the standard deviation of readings.
        ModelError: If ONNX Runtime cannot run the nodes that draw readings in this model.
    """
    if not weights:
        return None
    # All devices have the same limits of readings. Some of them show both these and whether there is noise: one alone,
    # at g_min for example, may have none where noise grows with the conductance.
    devices = SimulatedDevices(chip.model, chip.seconds, partial(chip.streams.generator, ("", ""), 0))
    some = devices.programmed(np.linspace(chip.model.g_min, chip.model.g_max, _PROBES, dtype=np.float64), 0)
    _, noise = devices.unread(some, 0)
    if noise is None:
        return None
    for dtype in sorted({weight.record.ir_compute_dtype for weight in weights}):
        _require_runtime(dtype, default_opset(model), model.ir_version)
    return LiveNoise(noise.low_us, noise.high_us, _seeds(weights, chip))


def _seeds(weights: Sequence[MappedWeight], chip: Chip) -> dict[tuple[str, str], tuple[int, ...]]:
    """Different seeds for all devices of all weights, which depend on the chip, the time, the weight and the device.

    A node without a seed gets one from ONNX Runtime: its number within its graph. A node in a branch of an If could
    then draw the same numbers as a node of the outer graph. Sessions of one process draw the same numbers either way.
    """
    taken: set[int] = set()

    def new(*place: str | int) -> int:
        for attempt in itertools.count():
            streams = chip.streams
            key = json.dumps(["onnx_gconv.read_noise", streams.seed, streams.chip, chip.seconds, *place, attempt])
            digest = hashlib.sha256(key.encode("ascii")).digest()
            seed = 1 + int.from_bytes(digest[:8], "little") % (_SEEDS - 1)
            if seed not in taken:
                taken.add(seed)
                return seed
        raise AssertionError  # not reached: `itertools.count` does not end

    return {
        (weight.record.graph, weight.record.name): tuple(
            new(weight.record.graph, weight.record.name, device) for device in range(len(weight.record.conductances))
        )
        for weight in weights
    }


def _require_runtime(dtype: ir.DataType, opset: int | None, ir_version: int) -> None:
    """Raise ModelError unless ONNX Runtime runs the nodes that draw readings of this type at this opset."""
    number = ir.tensor(np.ones(1, dtype.numpy()), name="g")
    conductance = ir.Value(name="g", type=ir.TensorType(dtype), shape=ir.Shape([1]), const_value=number)
    reader = ir.node("Identity", [conductance])
    reader.outputs[0].name, reader.outputs[0].type, reader.outputs[0].shape = "y", ir.TensorType(dtype), ir.Shape([1])
    graph = ir.Graph(
        [], reader.outputs, nodes=[reader], initializers=[conductance], opset_imports={"": opset or 1}, name="probe"
    )
    probe = ir.Model(graph, ir_version=ir_version)
    sigma = ir.tensor(np.ones(1, dtype.numpy()))
    draw_readings((reader, 0), DrawnNoise(sigma, 1, 0.0, 1.0), "g", UniqueNames(probe))
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        file = Path(folder) / "probe.onnx"
        save_model(probe, file)
        try:
            run_model(file, {}, "none")
        except RuntimeRefusal as refusal:
            remedy = "map with conductances of float32" if opset in _OPSETS else "export it with opset 8 to 21"
            reason = _STATUS.sub("", refusal.message)
            raise ModelError(
                f"ONNX Runtime {onnxruntime.__version__} cannot draw readings of {type_name(dtype)} in a model of "
                f"opset {opset} ({reason[:_LONGEST_REASON]}); {remedy}, or read the chip once (read noise: fixed)"
            ) from None
