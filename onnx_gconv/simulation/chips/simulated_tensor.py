"""The conductances of a simulated device of a whole weight, computed while they are read, or at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import (
    DeviceModel,
    Devices,
    FloatArray,
    PairModel,
    ReadNoise,
    are_from_zero_to,
)
from onnx_gconv.devices.read_noise import read_noise_of
from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, element_chunks, worker_count

__all__ = [
    "BLOCK_ELEMENTS",
    "InMemory",
    "Moment",
    "SimulatedDevices",
    "SimulatedOfPairs",
    "SimulatedTensor",
    "Streams",
    "in_memory",
    "read_again",
]

BLOCK_ELEMENTS = 1 << 18
"""Elements that share a stream of random numbers. It is a part of what a seed means: another number gives others."""

_BLOCKS_OF_A_THREAD = 2  # one is done sooner than threads are started

Moment: TypeAlias = Literal["programmed", "read", "drifted", "spread"]
"""What of a device: its conductance at the end of programming, one reading at the time, or, for readings that are still
to be drawn, the conductance that they are spread around, and their standard deviation."""

Streams: TypeAlias = Callable[[str, int], np.random.Generator]
"""The stream of random numbers for a step and a block."""


@dataclass(frozen=True)
class SimulatedDevices:
    """One device of each element of a weight, on one chip, at one time.

    Each block of elements has random numbers of its own, so that any part is the same however it is asked for.

    Attributes:
        model: What the devices do.
        seconds: How long ago programming ended.
        streams: The random numbers.
    """

    model: DeviceModel
    seconds: float
    streams: Streams

    def programmed(self, stored: NDArray[Any], block: int) -> Devices:
        """The devices of a block when programming has ended; targets of half precision are computed in float32.

        Raises:
            ConfigError: If a target is outside of the range of the model, or the model fails or gives no conductances.
        """
        targets = _computed(stored)
        with self._named():
            devices = self._program(targets, block)
        if not isinstance(devices, Devices):
            raise ConfigError(f"device {self._name}: `program` gives a {type(devices).__name__}, but no Devices")
        self._check(devices.programmed_us, targets)
        return devices

    def unread(self, devices: Devices, block: int) -> tuple[FloatArray, ReadNoise | None]:
        """What readings of the devices of a block are spread around at the time, in µS, and how.

        A device without a spread has what each reading of it gives. Where no reading has noise, nothing is cut.

        Raises:
            ConfigError: If the model fails, gives no conductances, or does not say how readings are spread.
        """
        with self._named():
            later = self.model.drift(devices, self.seconds, self.streams("drift", block))
            noise = read_noise_of(self.model, later, self.seconds)
        drifted = later.drifted_us
        if noise is not None:
            self._check(noise.sigma_us, devices.targets_us, " as the spread of readings")
            steady = np.clip(drifted, noise.low_us, noise.high_us)
            drifted = np.where(noise.sigma_us == 0, steady, drifted)
        self._check(drifted, devices.targets_us)
        return drifted, noise

    def of_moment(self, devices: Devices, block: int, moment: Moment) -> FloatArray:
        """What is asked for of the devices of a block, in µS.

        Raises:
            ConfigError: As for `read` and `unread`.
        """
        if moment == "programmed":
            return devices.programmed_us
        if moment == "read":
            return self.read(devices, block)
        drifted, noise = self.unread(devices, block)
        if moment == "drifted":
            return drifted
        return np.zeros_like(drifted) if noise is None else noise.sigma_us

    def read(self, devices: Devices, block: int) -> FloatArray:
        """One reading of the devices of a block at the time, in µS.

        Raises:
            ConfigError: If the model fails or gives no conductances.
        """
        with self._named():
            later = self.model.drift(devices, self.seconds, self.streams("drift", block))
            found = self.model.read(later, self.seconds, self.streams(f"read at {self.seconds!r} s", block))
        self._check(found, devices.targets_us)
        return found

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The tensors that they depend on besides their targets."""
        return ()

    def _program(self, targets: FloatArray, block: int) -> Devices:
        return self.model.program(targets, self.streams("program", block))

    @property
    def _name(self) -> str:
        return str(getattr(self.model, "name", type(self.model).__name__))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say which device model has failed."""
        try:
            yield
        except GconvError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"device {self._name} fails: {type(error).__name__}: {reason}") from error

    def _check(self, found: FloatArray, targets: FloatArray, role: str = "") -> None:
        most = float(np.finfo(targets.dtype).max)
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            what = f"a {type(found).__name__}" if not isinstance(found, np.ndarray) else f"numbers of {found.dtype}"
        elif found.shape != targets.shape:
            what = f"the shape {list(found.shape)}"
        elif not (are_from_zero_to(found, most) or (found.min() >= 0 and found.max() <= most)):  # NaN is neither
            what = "no finite numbers from 0"
        else:
            return
        raise ConfigError(
            f"device {self._name}: for {targets.size} targets it gives {what}{role}; a device model gives one "
            "conductance in \u00b5S for each target"
        )


@dataclass(frozen=True)
class SimulatedOfPairs(SimulatedDevices):
    """One device of the pair of each element of a weight, for a model of pairs.

    Both devices of a pair are drawn from one stream each time that one of them is asked for, so that they fit together.

    Attributes:
        model: What the pairs do.
        partners: The targets of the other devices of the pairs in µS, of any floating-point type.
        is_plus: Whether these devices are the positive ones of the pairs.
        streams_of_pairs: The random numbers that both devices share.
    """

    model: PairModel
    partners: ir.TensorProtocol
    is_plus: bool
    streams_of_pairs: Streams

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The targets of the other devices."""
        return (self.partners,)

    def _program(self, targets: FloatArray, block: int) -> Devices:
        first = block * BLOCK_ELEMENTS
        partners = _computed(_elements(self.partners, first, first + targets.size))
        pair = (targets, partners) if self.is_plus else (partners, targets)
        plus, minus = self.model.program_pair(*pair, self.streams_of_pairs("program", block))
        return plus if self.is_plus else minus


def _elements(tensor: ir.TensorProtocol, start: int, stop: int) -> NDArray[Any]:
    """Elements of a tensor in an array that stays as it is; it is copied only if it comes in several chunks."""
    chunks = element_chunks(tensor, start, stop)
    first = next(chunks)
    if first.size == stop - start:
        return first
    return np.concatenate([first.copy(), *(chunk.copy() for chunk in chunks)])


def _computed(stored: NDArray[Any]) -> FloatArray:
    """Targets in the type in which they are computed."""
    return stored if stored.dtype in (np.float32, np.float64) else stored.astype(np.float32)


class SimulatedTensor(StreamedTensor):
    """Conductances in µS of the shape of the weight, as devices have them after programming, or some time later.

    Args:
        targets: The target conductances in µS, of any floating-point type.
        devices: What becomes of them.
        moment: What of the devices.
    """

    def __init__(self, targets: ir.TensorProtocol, devices: SimulatedDevices, moment: Moment = "read") -> None:
        super().__init__(targets.dtype, ir.Shape(targets.shape.numpy()), targets.name)
        self._targets = targets
        self._devices = devices
        self._moment = moment

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The targets, and those of other devices that these depend on."""
        return (self._targets, *self._devices.sources)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances from element `start` to `stop`, in row-major order.

        Raises:
            ConfigError: If a target is outside of the range of the model, or the model gives no conductances.
        """
        for _, found in self.with_programmed(start, stop):
            yield found

    def with_programmed(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """What the same devices have when programming has ended, in µS, beside each of `chunks`.

        Raises:
            ConfigError: As for `chunks`.
        """
        stop = self.size if stop is None else stop
        for first in range(start, stop, CHUNK_ELEMENTS):
            last = min(first + CHUNK_ELEMENTS, stop)
            begin = first // BLOCK_ELEMENTS * BLOCK_ELEMENTS
            end = min(-(-last // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, self.size)
            targets = _elements(self._targets, begin, end)
            blocks = [
                self._block(targets[number * BLOCK_ELEMENTS - begin :][:BLOCK_ELEMENTS], number)
                for number in range(begin // BLOCK_ELEMENTS, -(-end // BLOCK_ELEMENTS))
            ]
            part = slice(first - begin, last - begin)
            programmed, found = blocks[0] if len(blocks) == 1 else map(np.concatenate, zip(*blocks, strict=True))
            yield programmed[part], found[part]

    def _block(self, targets: NDArray[Any], number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        dtype = self.dtype.numpy()
        devices = self._devices.programmed(targets, number)
        found = self._devices.of_moment(devices, number, self._moment)
        return devices.programmed_us.astype(dtype, copy=False), found.astype(dtype, copy=False)


@dataclass(frozen=True)
class InMemory:
    """The devices of a whole weight in memory, with what `SimulatedTensor` gives of them, bit for bit.

    Attributes:
        shape: Of the weight.
        dtype: The type in which targets are stored.
        blocks: The devices when programming has ended, block by block; empty if they were not kept.
        programmed_us: What they hold then, in µS; None if it was not asked for.
        read_us: One reading at the time, in µS.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: tuple[Devices, ...]
    programmed_us: NDArray[Any] | None
    read_us: NDArray[Any]


def in_memory(
    targets: NDArray[Any],
    devices: SimulatedDevices,
    *,
    keeps_programmed: bool,
    keeps_blocks: bool = False,
) -> InMemory:
    """Program all devices of a weight at once, and read them at the time.

    Args:
        targets: The target conductances in µS, [any shape].
        devices: What becomes of them.
        keeps_programmed: Whether conductances at the end of programming are asked for.
        keeps_blocks: Whether devices are kept to be read again.
    """
    flat = targets.reshape(-1)
    read = np.empty_like(flat)
    programmed = np.empty_like(flat) if keeps_programmed else None

    def compute(number: int) -> Devices | None:
        part = slice(number * BLOCK_ELEMENTS, (number + 1) * BLOCK_ELEMENTS)
        block = devices.programmed(flat[part], number)
        if programmed is not None:
            programmed[part] = block.programmed_us
        read[part] = devices.read(block, number)
        return block if keeps_blocks else None

    blocks = tuple(block for block in _for_each_block(flat.size, compute) if block is not None)
    before = None if programmed is None else programmed.reshape(targets.shape)
    return InMemory(targets.shape, flat.dtype, blocks, before, read.reshape(targets.shape))


def read_again(found: InMemory, devices: SimulatedDevices) -> NDArray[Any]:
    """A reading at another time of devices that were kept, in µS."""
    size = math.prod(found.shape)
    read = np.empty(size, found.dtype)

    def compute(number: int) -> None:
        part = slice(number * BLOCK_ELEMENTS, (number + 1) * BLOCK_ELEMENTS)
        read[part] = devices.read(found.blocks[number], number)

    for _ in _for_each_block(size, compute):
        pass
    return read.reshape(found.shape)


_T = TypeVar("_T")


def _for_each_block(size: int, compute: Callable[[int], _T]) -> Iterator[_T]:
    """What is computed for each block of a weight, in their order, on all processors if that is worth it."""
    blocks = range(-(-size // BLOCK_ELEMENTS))
    if len(blocks) < _BLOCKS_OF_A_THREAD:
        yield from map(compute, blocks)
        return
    with ThreadPoolExecutor(worker_count()) as executor:
        yield from executor.map(compute, blocks)
