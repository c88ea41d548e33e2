"""The conductances of a simulated device of a whole weight, computed while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import DeviceModel, FloatArray
from onnx_gconv.errors import ConfigError
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, element_chunks

__all__ = ["BLOCK_ELEMENTS", "SimulatedTensor", "Streams"]

BLOCK_ELEMENTS = 1 << 16
"""Elements that share a stream of random numbers. It is a part of what a seed means: another number gives others."""

Streams: TypeAlias = Callable[[str, int], np.random.Generator]
"""The stream of random numbers for a step and a block."""


class SimulatedTensor(StreamedTensor):
    """Conductances in µS of the shape of the weight, as devices have them after programming, or some time later.

    Any part of it is the same however it is asked for: each block of elements has random numbers of its own.

    Args:
        targets: The target conductances in µS, of any floating-point type. Half precision is computed in float32.
        model: What the devices do.
        seconds: How long ago programming ended.
        streams: The random numbers.
        moment: ``programmed`` gives what devices hold at the end of programming, ``read`` one reading at the time.
    """

    def __init__(
        self,
        targets: ir.TensorProtocol,
        model: DeviceModel,
        seconds: float,
        streams: Streams,
        moment: Literal["programmed", "read"] = "read",
    ) -> None:
        super().__init__(targets.dtype, ir.Shape(targets.shape.numpy()), targets.name)
        self._targets = targets
        self._model = model
        self._seconds = seconds
        self._streams = streams
        self._moment = moment

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The targets."""
        return (self._targets,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances from element `start` to `stop`, in row-major order.

        Raises:
            ConfigError: If a target is outside of the range of the model, or the model gives no conductances.
        """
        stop = self.size if stop is None else stop
        for first in range(start, stop, CHUNK_ELEMENTS):
            last = min(first + CHUNK_ELEMENTS, stop)
            begin = first // BLOCK_ELEMENTS * BLOCK_ELEMENTS
            end = min(-(-last // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, self.size)
            targets = np.concatenate([part.copy() for part in element_chunks(self._targets, begin, end)])
            found = np.empty(end - begin, self.dtype.numpy())
            for block in range(begin, end, BLOCK_ELEMENTS):
                part = slice(block - begin, block - begin + BLOCK_ELEMENTS)
                found[part] = self._block(block // BLOCK_ELEMENTS, targets[part])
            yield found[first - begin : last - begin]

    def _block(self, number: int, stored: NDArray[Any]) -> FloatArray:
        targets = stored if stored.dtype in (np.float32, np.float64) else stored.astype(np.float32)
        model, streams = self._model, self._streams
        devices = model.program(targets, streams("program", number))
        if self._moment == "programmed":
            found = devices.programmed_us
        else:
            devices = model.drift(devices, self._seconds, streams("drift", number))
            found = model.read(devices, self._seconds, streams(f"read at {self._seconds!r} s", number))
        if found.shape != targets.shape or not np.isfinite(found).all():
            what = f"the shape {list(found.shape)}" if found.shape != targets.shape else "no finite numbers"
            raise ConfigError(
                f"device {getattr(model, 'name', type(model).__name__)}: for {targets.size} targets it gives {what}; "
                "a device model gives one finite conductance for each target"
            )
        return found
