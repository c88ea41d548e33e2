"""Puts all weights of a model on one chip after the other, and computes small weights together in shared arrays.

For a small array, the call of a NumPy function takes longer than its arithmetic; shared arrays need fewer calls. Each
weight equals what `WeightOnChips` gives, bit for bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import BaseDeviceModel, DeviceModel, Devices, is_pair_model
from onnx_gconv.devices.normal_numbers import MOST_SIDE_BY_SIDE, SideBySide
from onnx_gconv.devices.registry import is_of_this_package
from onnx_gconv.passes.replace_conductances import divided_scale
from onnx_gconv.simulation.chips.chip_weight import Chip, absolute_differences, ratios, summed
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedDevices
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.tensors.streamed import all_elements

__all__ = ["WeightsOnChips"]


class WeightsOnChips:
    """Puts all weights of a model on one chip after the other. Several threads may use it at once.

    Args:
        weights: The weights.
        model: The device model of the chips.
    """

    def __init__(self, weights: Sequence[WeightOnChips], model: DeviceModel) -> None:
        self._weights = tuple(weights)
        self._groups = tuple(
            _SideBySide([weights[number] for number in group], group) for group in _groups(weights, model)
        )
        together = {number for group in self._groups for number in group.numbers}
        self._alone = tuple(number for number in range(len(weights)) if number not in together)

    def on(self, chip: Chip) -> list[NDArray[Any]]:
        """Each weight as a chip of the device model gives it, in the order of the weights.

        A call takes less time if the call of this thread before was for the same chip at another time.
        """
        found = {number: self._weights[number].on(chip) for number in self._alone}
        for group in self._groups:
            found.update(zip(group.numbers, group.on(chip), strict=True))
        return [found[number] for number in range(len(self._weights))]


def _groups(weights: Sequence[WeightOnChips], model: DeviceModel) -> list[list[int]]:
    """The indices of weights that are computed together: equal decoding, and at most `MOST_SIDE_BY_SIDE` devices."""
    if not is_of_this_package(model) or is_pair_model(model):
        return []
    filling: dict[object, tuple[list[int], int]] = {}
    groups: list[list[int]] = []
    for number, weight in enumerate(weights):
        devices = sum(target.size for target in weight.targets)
        has_parts = bool(weight.mapped.record.parts)  # `drift_factor` adds up the sums of several groups for a part
        if not weight.is_decoded_only or devices > MOST_SIDE_BY_SIDE or has_parts:
            continue
        rule = weight.decoding.coefficients, weight.decoding.offset_us
        group, before = filling.get(rule, ([], MOST_SIDE_BY_SIDE))
        if before + devices > MOST_SIDE_BY_SIDE:
            group, before = [], 0
            groups.append(group)
        group.append(number)
        filling[rule] = group, before + devices
    return groups


@dataclass(frozen=True)
class _Programmed:
    """A programmed chip, which is kept to be read at other times.

    Attributes:
        chip: The chip, at the time of its first reading.
        devices: All devices of the weights.
        sums: What `_SideBySide.sums` gives at the end of programming; None if drift is not compensated.
    """

    chip: Chip
    devices: Devices
    sums: NDArray[np.float64] | None


class _SideBySide:
    """Several weights with equal decoding, whose devices stand in one array, [devices of an element, all elements].

    A row holds the same device, such as G+, of the elements of one weight after the other.

    Args:
        weights: The weights.
        numbers: The indices of these weights in the model.
    """

    def __init__(self, weights: Sequence[WeightOnChips], numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        self._weights = tuple(weights)
        self._records = [weight.mapped.record for weight in weights]
        decoding = weights[0].decoding
        self._devices = range(len(decoding.coefficients))
        self._targets = np.concatenate(
            [all_elements(weight.targets[device]).reshape(-1) for device in self._devices for weight in weights]
        )
        sizes = [math.prod(record.shape) for record in self._records]
        ends = np.cumsum(sizes).tolist()
        self._parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._sizes = tuple(sizes * len(self._devices))
        scales, of_elements, first = [], [], 0
        for weight, record, size in zip(weights, self._records, sizes, strict=True):
            scale = np.asarray(weight.decoding.scale, np.float64).reshape(-1)
            scales.append(scale)
            grid = record.grid
            of_elements.append(np.zeros(size, np.intp) if grid is None or scale.size == 1 else grid.groups(0, size))
            of_elements[-1] = of_elements[-1] + first
            first += scale.size
        self._decoding = replace(decoding, zero=0.0)
        self._scales = np.concatenate(scales)
        self._weight_of_scale = np.repeat(range(len(scales)), [each.size for each in scales])
        self._scale_of_element = np.concatenate(of_elements)
        self._programmed: dict[int, _Programmed] = {}  # by thread

    def on(self, chip: Chip) -> list[NDArray[Any]]:
        """Each weight as a chip gives it."""
        devices = SimulatedDevices(chip.model, chip.seconds, lambda step, _: self._streams(chip, step))
        programmed = self._programmed.get(threading.get_ident())
        if programmed is None or replace(programmed.chip, seconds=chip.seconds) != chip:
            programmed = self._program(chip, devices)
            self._programmed[threading.get_ident()] = programmed
        read = devices.read(programmed.devices, 0)
        scales: NDArray[np.floating[Any]] = self._scales
        if programmed.sums is not None:
            factors = ratios(programmed.sums, self.sums(read, chip))
            scales = divided_scale(
                scales, factors if factors.size == scales.size else factors[self._weight_of_scale], np.dtype(np.float32)
            )
        return self._decoded(read, scales)

    def _program(self, chip: Chip, devices: SimulatedDevices) -> _Programmed:
        programmed = devices.programmed(self._targets, 0)
        sums = None if chip.compensation == "none" else self.sums(programmed.programmed_us, chip)
        model = cast("BaseDeviceModel", chip.model)
        return _Programmed(chip, model.for_all_times(programmed, self._streams(chip, "drift")), sums)

    def sums(self, conductances_us: NDArray[Any], chip: Chip) -> NDArray[np.float64]:
        """The totals of `AbsoluteSums` for one weight after the other, in µS, joined in one array."""
        rows = self._rows(conductances_us)
        absolute = absolute_differences(self._records[0], rows, np.empty(rows[0].size))
        return np.concatenate(
            [
                summed(record, absolute[part], 0, chip.compensation)
                for record, part in zip(self._records, self._parts, strict=True)
            ]
        )

    def _decoded(self, read_us: NDArray[Any], scales: NDArray[np.floating[Any]]) -> list[NDArray[Any]]:
        single = np.dtype(np.float32)
        of_elements = scales.astype(single, copy=False)[self._scale_of_element]
        with np.errstate(all="ignore"):  # as in `RebuiltTensor`
            weights = replace(self._decoding, scale=of_elements).decode(self._rows(read_us), single)
        return [weights[part].reshape(record.shape) for record, part in zip(self._records, self._parts, strict=True)]

    def _rows(self, conductances_us: NDArray[Any]) -> list[NDArray[Any]]:
        """The conductances as an array for each device of an element, [all elements]."""
        return list(conductances_us.reshape(len(self._devices), -1))

    def _streams(self, chip: Chip, step: str) -> np.random.Generator:
        count = len(self._records)

        def generator(number: int) -> np.random.Generator:
            record = self._records[number % count]
            return chip.streams.generator((record.graph, record.name), number // count, step, 0)

        return cast("np.random.Generator", SideBySide(self._sizes, generator))
