"""Simulated conductances of one device of each element of a weight, computed piece by piece or all at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

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
from onnx_gconv.devices.registry import is_of_this_package
from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.simulation.times import time_text
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, element_chunks, worker_count
from onnx_gconv.terminal_text import counted

__all__ = [
    "BLOCK_ELEMENTS",
    "InMemory",
    "Moment",
    "SimulatedDevices",
    "SimulatedOfPairs",
    "SimulatedTensor",
    "Streams",
    "Stretch",
    "in_memory",
    "read_again",
]

BLOCK_ELEMENTS = 1 << 18
"""How many elements share a stream of random numbers. Another number would give other chips for the same seed."""

_BLOCKS_OF_A_THREAD = 2  # a single block takes less time than the start of threads

Moment: TypeAlias = Literal["programmed", "read", "drifted", "spread"]
"""Which value of a device is asked for.

``programmed``: its conductance at the end of programming; ``read``: one reading at the time, with noise; ``drifted``
and ``spread``: the mean and the standard deviation of readings that are still to be drawn.
"""

Streams: TypeAlias = Callable[[str, int], np.random.Generator]
"""Gives the stream of random numbers for a step, such as ``program``, and the number of a block."""


@dataclass(frozen=True)
class SimulatedDevices:
    """Simulates one device of each element of a weight, on one chip, at one time.

    Each block of elements has random numbers of its own, so that a block has the same values whether it is computed
    alone or with others, and in any order.

    Attributes:
        model: The device model.
        seconds: How long after programming devices are read.
        streams: The random numbers.
    """

    model: DeviceModel
    seconds: float
    streams: Streams

    def programmed(self, stored: NDArray[Any], block: int) -> Devices:
        """The devices of a block at the end of programming.

        Args:
            stored: The targets of the block in µS; types other than float32 and float64 are computed in float32.
            block: The number of the block.

        Raises:
            ConfigError: If a target is outside of the range of the device model, or the model fails or returns
                something else than a valid conductance for each target.
        """
        targets = _computed(stored)
        if not is_of_this_package(self.model):
            targets = targets.view()
            targets.setflags(write=False)  # the targets of all chips, which a model could change in place
        with self._named():
            devices = self._program(targets, block)
        if not isinstance(devices, Devices):
            raise ConfigError(f"device {self._name}: `program` gives a {type(devices).__name__}, but no Devices")
        self._check(devices.programmed_us, targets, when="at the end of programming")
        return self._kept_as_they_are(devices)

    def unread(self, devices: Devices, block: int) -> tuple[FloatArray, ReadNoise | None]:
        """The mean of readings of the devices of a block in µS, and the noise of readings; None if there is no noise.

        Where the standard deviation of a device is 0, its mean is clipped to the limits of readings, as each reading
        would be. Without any noise the means are not clipped.

        Raises:
            ConfigError: If the device model fails, does not give the standard deviation of readings, or returns
                something else than a valid conductance for each target.
        """
        with self._named():
            later = self._drifted(devices, block)
            noise = read_noise_of(self.model, later, self.seconds)
        drifted = later.drifted_us
        if noise is not None:
            self._check(noise.sigma_us, devices.targets_us, " as the spread of readings")
            steady = np.clip(drifted, noise.low_us, noise.high_us)
            drifted = np.where(noise.sigma_us == 0, steady, drifted)
        self._check(drifted, devices.targets_us)
        return drifted, noise

    def of_moment(self, devices: Devices, block: int, moment: Moment) -> FloatArray:
        """The value of each device of a block that `moment` names, in µS.

        Raises:
            ConfigError: See `read` and `unread`.
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
            ConfigError: If the device model fails, or returns something else than a valid conductance for each target.
        """
        with self._named():
            later = self._drifted(devices, block)
            found = self.model.read(later, self.seconds, self.streams(f"read at {self.seconds!r} s", block))
        self._check(found, devices.targets_us)
        return found

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The tensors that the simulation reads besides the targets."""
        return ()

    def _program(self, targets: FloatArray, block: int) -> Devices:
        return self.model.program(targets, self.streams("program", block))

    def _drifted(self, devices: Devices, block: int) -> Devices:
        later = self.model.drift(devices, self.seconds, self.streams("drift", block))
        if not isinstance(later, Devices):
            raise ConfigError(f"device {self._name}: `drift` gives a {type(later).__name__}, but no Devices")
        return self._kept_as_they_are(later)

    def _kept_as_they_are(self, devices: Devices) -> Devices:
        """The same devices. If another package has the model, their arrays can no longer be changed.

        Devices are programmed once and read at several times. A model that changed their arrays in place would give
        figures that depend on what was computed before.
        """
        if not is_of_this_package(self.model):
            _make_read_only(devices)
        return devices

    @property
    def _name(self) -> str:
        return str(getattr(self.model, "name", type(self.model).__name__))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn an exception of the device model into a ConfigError that names the model.

        NumPy does not warn of overflows in models of this package: `_check` refuses results that are not finite. Who
        writes a model of their own sees its warnings.
        """
        try:
            with np.errstate(all="ignore") if is_of_this_package(self.model) else contextlib.nullcontext():
                yield
        except GconvError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())
            remedy = "; a device model returns new arrays, and leaves those that it is given as they are"
            raise ConfigError(
                f"device {self._name} fails: {type(error).__name__}: {reason}{remedy if 'read-only' in reason else ''}"
            ) from error

    def _check(self, found: FloatArray, targets: FloatArray, role: str = "", when: str = "") -> None:
        most = float(np.finfo(targets.dtype).max)
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            what = f"a {type(found).__name__}" if not isinstance(found, np.ndarray) else f"numbers of {found.dtype}"
        elif found.shape != targets.shape:
            what = f"the shape {list(found.shape)}"
        elif not (are_from_zero_to(found, most) or (found.min() >= 0 and float(found.max()) <= most)):  # NaN, too
            wrong = found[~((found >= 0) & (found.astype(np.float64) <= most))].flat[0]
            what = f"no finite numbers from 0, but {wrong:g} {when or f'after {time_text(self.seconds)}'}"
        else:
            return
        raise ConfigError(
            f"device {self._name}: for {counted(targets.size, 'target')} it gives {what}{role}; a device model gives "
            "one conductance in \u00b5S for each target"
        )


@dataclass(frozen=True)
class SimulatedOfPairs(SimulatedDevices):
    """Simulates G+ or G- of the conductance pair of each element, for a device model that programs pairs as a whole.

    The errors of the two devices of a pair depend on each other. G+ and G- are asked for separately, so each time both
    are drawn from the same stream of random numbers, and the other one is dropped.

    Attributes:
        model: The device model of pairs.
        partners: The targets of the other devices of the pairs in µS, of any floating-point type.
        is_plus: Whether this is G+.
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


def _make_read_only(devices: Devices) -> None:
    """Make all arrays of devices read-only, also those of devices within them."""
    for field in fields(devices):
        value = getattr(devices, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
        elif isinstance(value, Devices):
            _make_read_only(value)


def _elements(tensor: ir.TensorProtocol, start: int, stop: int) -> NDArray[Any]:
    """The elements from `start` to `stop` of a tensor, in one array that later reads do not overwrite.

    They are copied only if the tensor gives them in several chunks.
    """
    chunks = element_chunks(tensor, start, stop)
    first = next(chunks)
    if first.size == stop - start:
        return first
    return np.concatenate([first.copy(), *(chunk.copy() for chunk in chunks)])


def _computed(stored: NDArray[Any]) -> FloatArray:
    """Targets in the type of the computation: float32, or float64 if they are stored so."""
    return stored if stored.dtype in (np.float32, np.float64) else stored.astype(np.float32)


class Stretch(NamedTuple):
    """Consecutive elements of a simulated tensor, in the type in which targets are stored; each array is [elements].

    Attributes:
        targets: The targets in µS. The next stretch may overwrite them.
        programmed: The conductances at the end of programming, in µS.
        found: The value that the tensor holds, in µS.
    """

    targets: NDArray[Any]
    programmed: NDArray[Any]
    found: NDArray[Any]

    def part(self, part: slice) -> Stretch:
        """The stretch of a part of these elements."""
        return Stretch(self.targets[part], self.programmed[part], self.found[part])


class SimulatedTensor(StreamedTensor):
    """A tensor of simulated conductances in µS, [shape of the weight], which are computed chunk by chunk when read.

    Args:
        targets: The target conductances in µS, of any floating-point type.
        devices: Simulates the devices.
        moment: Which value of the devices the tensor holds.
    """

    def __init__(self, targets: ir.TensorProtocol, devices: SimulatedDevices, moment: Moment = "read") -> None:
        super().__init__(targets.dtype, ir.Shape(targets.shape.numpy()), targets.name)
        self._targets = targets
        self._devices = devices
        self._moment = moment

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The targets of these devices, and of other devices that the simulation depends on."""
        return (self._targets, *self._devices.sources)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances from element `start` to `stop`, in row-major order.

        Raises:
            ConfigError: See `SimulatedDevices.programmed` and `SimulatedDevices.of_moment`.
        """
        for stretch in self.stretches(start, stop):
            yield stretch.found

    def stretches(self, start: int = 0, stop: int | None = None) -> Iterator[Stretch]:
        """The chunks of `chunks`, each with the targets and the programmed conductances of the same devices.

        Raises:
            ConfigError: See `chunks`.
        """
        stop = self.size if stop is None else stop
        if start % BLOCK_ELEMENTS or CHUNK_ELEMENTS != BLOCK_ELEMENTS:
            yield from self._across_blocks(start, stop)
            return
        end = min(-(-stop // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, self.size)
        for number, targets in enumerate(element_chunks(self._targets, start, end), start // BLOCK_ELEMENTS):
            yield self._block(targets, number).part(slice(0, stop - number * BLOCK_ELEMENTS))

    def _across_blocks(self, start: int, stop: int) -> Iterator[Stretch]:
        """The stretches of `stretches` if chunks do not begin where blocks of random numbers begin."""
        for first in range(start, stop, CHUNK_ELEMENTS):
            last = min(first + CHUNK_ELEMENTS, stop)
            begin = first // BLOCK_ELEMENTS * BLOCK_ELEMENTS
            end = min(-(-last // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, self.size)
            targets = _elements(self._targets, begin, end)
            blocks = [
                self._block(targets[number * BLOCK_ELEMENTS - begin :][:BLOCK_ELEMENTS], number)
                for number in range(begin // BLOCK_ELEMENTS, -(-end // BLOCK_ELEMENTS))
            ]
            yield Stretch(*map(np.concatenate, zip(*blocks, strict=True))).part(slice(first - begin, last - begin))

    def _block(self, targets: NDArray[Any], number: int) -> Stretch:
        dtype = self.dtype.numpy()
        devices = self._devices.programmed(targets, number)
        found = self._devices.of_moment(devices, number, self._moment)
        return Stretch(targets, devices.programmed_us.astype(dtype, copy=False), found.astype(dtype, copy=False))


@dataclass(frozen=True)
class InMemory:
    """One device of each element of a weight, simulated in memory; values equal those of `SimulatedTensor` bit for bit.

    Attributes:
        shape: The shape of the weight.
        dtype: The type in which targets are stored.
        blocks: The devices at the end of programming, block by block; empty if they were not kept.
        programmed_us: Conductances at the end of programming in µS, [shape of the weight]; None if not asked for.
        read_us: One reading at the time in µS, [shape of the weight].
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
        devices: Simulates the devices.
        keeps_programmed: Whether to return the conductances at the end of programming, too.
        keeps_blocks: Whether to keep the devices, for `read_again`.
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
    """A reading of kept devices at another time, in µS, [shape of the weight].

    Args:
        found: The devices, which `in_memory` has kept.
        devices: Simulates the same devices at the other time.
    """
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
    """The result of `compute` for each block of a weight, in order; on several threads if there are enough blocks."""
    blocks = range(-(-size // BLOCK_ELEMENTS))
    if len(blocks) < _BLOCKS_OF_A_THREAD:
        yield from map(compute, blocks)
        return
    with ThreadPoolExecutor(worker_count()) as executor:
        yield from executor.map(compute, blocks)
