"""Puts all weights of a model on chips, and computes small weights of several chips together in shared arrays.

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
from onnx_gconv.simulation.chips.chip_weight import Chip, absolute_differences, needs_grid, ratios, summed
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedDevices
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.tensors.streamed import all_elements

__all__ = ["WeightsOnChips"]


class WeightsOnChips:
    """Puts all weights of a model on chips. Several threads may use it at once.

    Attributes:
        most_chips: How many chips should be computed in one call of `on_each`: as many as fit into one shared array, or
            1 if a weight is computed alone.

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
        devices = sum(group.devices for group in self._groups)
        self.most_chips: int = 1 if self._alone or not devices else max(MOST_SIDE_BY_SIDE // devices, 1)

    def on(self, chip: Chip) -> list[NDArray[Any]]:
        """Each weight as a chip of the device model gives it, in the order of the weights.

        A call takes less time if the call of this thread before was for the same chip at another time.
        """
        return self.on_each([chip])[0]

    def on_each(self, chips: Sequence[Chip]) -> list[list[NDArray[Any]]]:
        """What `on` gives for each of some chips.

        Args:
            chips: At least one, and at most `most_chips`. They differ in their random numbers only.
        """
        found = [{number: self._weights[number].on(chip) for number in self._alone} for chip in chips]
        for group in self._groups:
            for of_chip, weights in zip(found, group.on_each(chips), strict=True):
                of_chip.update(zip(group.numbers, weights, strict=True))
        return [[of_chip[number] for number in range(len(self._weights))] for of_chip in found]


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
    """Programmed chips, which are kept to be read at other times.

    Attributes:
        chips: The chips, at the time of their first reading.
        devices: All devices of the weights on all chips.
        sums: What `_SideBySide.sums` gives at the end of programming; None if drift is not compensated.
    """

    chips: tuple[Chip, ...]
    devices: Devices
    sums: NDArray[np.float64] | None

    def are(self, chips: Sequence[Chip]) -> bool:
        """Whether these are the chips that were programmed; the times may differ."""
        return len(chips) == len(self.chips) and all(
            replace(mine, seconds=chip.seconds) == chip for mine, chip in zip(self.chips, chips, strict=True)
        )


class _SideBySide:
    """Several weights with equal decoding, whose devices on several chips stand in one array.

    The array is [devices of an element, chips, elements of all weights]: a row holds the same device, such as G+, of
    one weight after the other on the first chip, then on the second, and so on.

    Args:
        weights: The weights.
        numbers: The indices of these weights in the model.
    """

    def __init__(self, weights: Sequence[WeightOnChips], numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        self._records = [weight.mapped.record for weight in weights]
        decoding = weights[0].decoding
        self._coefficients = range(len(decoding.coefficients))
        self._targets = np.stack(
            [
                np.concatenate([all_elements(weight.targets[device]).reshape(-1) for weight in weights])
                for device in self._coefficients
            ]
        )
        self._sizes = [math.prod(record.shape) for record in self._records]
        ends = np.cumsum(self._sizes).tolist()
        self._parts = [slice(end - size, end) for end, size in zip(ends, self._sizes, strict=True)]
        scales, of_elements, first = [], [], 0
        for weight, record, size in zip(weights, self._records, self._sizes, strict=True):
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

    @property
    def devices(self) -> int:
        """How many devices the weights have on one chip."""
        return self._targets.size

    def on_each(self, chips: Sequence[Chip]) -> list[list[NDArray[Any]]]:
        """Each weight as each chip gives it."""
        first, count = chips[0], len(chips)
        devices = SimulatedDevices(first.model, first.seconds, lambda step, _: self._streams(chips, step))
        programmed = self._programmed.get(threading.get_ident())
        if programmed is None or not programmed.are(chips):
            programmed = self._program(chips, devices)
            self._programmed[threading.get_ident()] = programmed
        read = devices.read(programmed.devices, 0)
        scales: NDArray[np.floating[Any]] = np.broadcast_to(self._scales, (count, self._scales.size))
        if programmed.sums is not None:
            factors = ratios(programmed.sums, self.sums(read, first, count))
            if factors.shape != scales.shape:
                factors = factors.take(self._weight_of_scale, axis=1)
            scales = divided_scale(scales, factors, np.dtype(np.float32))
        return self._decoded(read, scales)

    def _program(self, chips: Sequence[Chip], devices: SimulatedDevices) -> _Programmed:
        first, count = chips[0], len(chips)
        targets = np.repeat(self._targets[:, None], count, axis=1).reshape(-1)
        programmed = devices.programmed(targets, 0)
        sums = None if first.compensation == "none" else self.sums(programmed.programmed_us, first, count)
        model = cast("BaseDeviceModel", first.model)
        return _Programmed(tuple(chips), model.for_all_times(programmed, self._streams(chips, "drift")), sums)

    def sums(self, conductances_us: NDArray[Any], chip: Chip, count: int) -> NDArray[np.float64]:
        """The totals of `AbsoluteSums` for one weight after the other, in µS, [chips, totals of all weights].

        Args:
            conductances_us: The conductances of all devices on all chips, in µS.
            chip: Says how drift is compensated.
            count: How many chips there are.
        """
        rows = self._rows(conductances_us)
        absolute = absolute_differences(self._records[0], rows, np.empty(rows[0].size)).reshape(count, -1)
        if not needs_grid(self._records, chip.compensation):
            return np.stack([absolute[:, part].sum(axis=1) for part in self._parts], axis=1)
        return np.stack(
            [
                np.concatenate(
                    [
                        summed(record, of_chip[part], 0, chip.compensation)
                        for record, part in zip(self._records, self._parts, strict=True)
                    ]
                )
                for of_chip in absolute
            ]
        )

    def _decoded(self, read_us: NDArray[Any], scales: NDArray[np.floating[Any]]) -> list[list[NDArray[Any]]]:
        """The weights of each chip, from readings in µS and scales, [chips, scales of all weights]."""
        single = np.dtype(np.float32)
        of_elements = scales.astype(single, copy=False).take(self._scale_of_element, axis=1).reshape(-1)
        with np.errstate(all="ignore"):  # as in `RebuiltTensor`
            weights = replace(self._decoding, scale=of_elements).decode(self._rows(read_us), single)
        return [
            [of_chip[part].reshape(record.shape) for record, part in zip(self._records, self._parts, strict=True)]
            for of_chip in weights.reshape(len(scales), -1)
        ]

    def _rows(self, conductances_us: NDArray[Any]) -> list[NDArray[Any]]:
        """The conductances as an array for each device of an element, [elements of all weights on all chips]."""
        return list(conductances_us.reshape(len(self._coefficients), -1))

    def _streams(self, chips: Sequence[Chip], step: str) -> np.random.Generator:
        """The random numbers of a step, for a weight after the other, on a chip after the other, device by device."""
        weights = len(self._records)

        def generator(number: int) -> np.random.Generator:
            rest, weight = divmod(number, weights)
            device, chip = divmod(rest, len(chips))
            record = self._records[weight]
            return chips[chip].streams.generator((record.graph, record.name), device, step, 0)

        sizes = tuple(self._sizes * len(chips) * len(self._coefficients))
        return cast("np.random.Generator", SideBySide(sizes, generator))
