"""One job of `benchmarks.convert`, for a process of its own: ``python -m benchmarks.convert_job JOB ...``.

- ``time CONVERTER WIDTH THREADS REPEATS`` converts a weight with our converter and with aihwkit's in turn, and prints
  the seconds of each conversion;
- ``ours CONVERTER WIDTH THREADS`` and ``aihwkit CONVERTER WIDTH THREADS`` convert it once, and print how much anonymous
  memory was in use before the conversion.

THREADS is the number of threads of our converter; torch chooses its own number.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters import CONVERTERS, ConductanceConverter, weight_statistics
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS

__all__ = ["PARAMETERS", "convert_in_chunks", "main", "normal_weights"]

_RISING = [0.0, 0.0, 0.0, 0.0, 0.0, 6.25, 12.5, 18.75, 25.0]

PARAMETERS: dict[str, dict[str, Any]] = {
    "SinglePairConductanceConverter": {},
    "DualPairConductanceConverter": {"f_lst": [1.0, 3.0]},
    "NPairConductanceConverter": {"f_lst": [1.0, 2.0, 3.0]},
    "CustomPairConductanceConverter": {"f_lst": [1.0], "g_lst": [_RISING, _RISING[::-1]]},
    "SingleDeviceConductanceConverter": {},
    "TwoSidedPairConductanceConverter": {},
    "OffsetConductanceConverter": {},
    "BitSlicedPairConductanceConverter": {},
    "BitSlicedOffsetConductanceConverter": {},
}
"""The parameters with which each converter is measured; aihwkit's converters get the same ones."""

_ANONYMOUS = re.compile(r"^RssAnon:\s*(\d+) kB", re.MULTILINE)


def normal_weights(width: int) -> NDArray[np.float32]:
    """A float32 weight of width x width from N(0, 0.02)."""
    weights = np.random.default_rng(0).standard_normal((width, width), np.float32)
    weights *= np.float32(0.02)
    return weights


def convert_in_chunks(converter: ConductanceConverter, weights: NDArray[np.float32], threads: int) -> None:
    """Convert a weight as `map_model` does while it writes a file: chunk by chunk into the same buffers.

    Args:
        converter: The converter.
        weights: The weight.
        threads: How many threads share the work; each scans and converts an equal part.
    """
    flat, dtype = weights.reshape(-1), np.dtype(np.float32)
    part = -(-flat.size // threads)

    def chunks(start: int) -> Sequence[NDArray[np.float32]]:
        stop = min(start + part, flat.size)
        return [flat[first : min(first + CHUNK_ELEMENTS, stop)] for first in range(start, stop, CHUNK_ELEMENTS)]

    def convert(start: int) -> None:
        buffers = [np.empty(min(CHUNK_ELEMENTS, part), dtype) for _ in converter.device_names]
        for chunk in chunks(start):
            converter.convert_chunk(chunk, scaling, [buffer[: chunk.size] for buffer in buffers])

    with ThreadPoolExecutor(threads) as executor:
        starts = range(0, flat.size, part)
        first, *rest = executor.map(lambda start: weight_statistics(chunks(start)), starts)
        for statistics in rest:
            first |= statistics
        scaling = converter.scaling(first, dtype)
        list(executor.map(convert, starts))


def _ours(name: str, weights: NDArray[np.float32], threads: int) -> Callable[[], object]:
    converter = CONVERTERS[name](**PARAMETERS[name])
    return lambda: convert_in_chunks(converter, weights, threads)


def _aihwkit(name: str, weights: NDArray[np.float32], _threads: int) -> Callable[[], object] | None:
    torch = importlib.import_module("torch")
    module = importlib.import_module("aihwkit.inference.converter.conductance")
    if not hasattr(module, name):
        return None
    converter, tensor = getattr(module, name)(**PARAMETERS[name]), torch.from_numpy(weights)
    return lambda: converter.convert_to_conductances(tensor)


_SIDES = {"ours": _ours, "aihwkit": _aihwkit}


def _time(name: str, width: int, threads: int, repeats: int) -> dict[str, list[float]]:
    """The seconds of each conversion by both packages in turn, without the first one, which warms up."""
    weights = normal_weights(width)
    sides = {side: work for side, make in _SIDES.items() if (work := make(name, weights, threads)) is not None}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(repeats + 1):
        for side, work in sides.items():
            start = time.perf_counter()
            result = work()
            elapsed = time.perf_counter() - start
            del result
            if number:
                seconds[side].append(elapsed)
    return seconds


def _convert_once(side: str, name: str, width: int, threads: int) -> dict[str, int]:
    """Convert a weight, and return the anonymous memory in use before; the parent process measures the peak."""
    work = _SIDES[side](name, normal_weights(width), threads)
    if work is None:
        raise ValueError(f"{side} has no {name}")
    found = _ANONYMOUS.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    before = int(found[1]) << 10 if found else 0
    work()
    return {"before_bytes": before}


def main() -> None:
    job, name, *numbers = sys.argv[1:]
    if job == "time":
        print(json.dumps(_time(name, *(int(number) for number in numbers))))
    else:
        print(json.dumps(_convert_once(job, name, *(int(number) for number in numbers))))


if __name__ == "__main__":
    main()
