"""The inputs that a simulation runs on: samples from a file, cut into batches, and their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.given_inputs import check_inputs, read_arrays
from onnx_gconv.runtime.inputs import InputSpec

__all__ = ["Samples", "load_samples"]


@dataclass(frozen=True)
class Samples:
    """Inputs of a model.

    Attributes:
        arrays: By name of the input. Those of `sliced` have the samples along their first axis; others are the same
            for each batch.
        sliced: The names of these inputs.
        count: How many samples there are.
        batch: How many of them go into one run.
        labels: One for each sample, or row of scores; None if there are none.
        source: Where they come from.
    """

    arrays: Mapping[str, NDArray[Any]]
    sliced: frozenset[str]
    count: int
    batch: int
    labels: NDArray[Any] | None
    source: str

    def batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The inputs of one run after the other."""
        for start in range(0, max(self.count, 1), max(self.batch, 1)):
            yield {
                name: array[start : start + self.batch] if name in self.sliced else array
                for name, array in self.arrays.items()
            }


def load_samples(path: Path, specs: Sequence[InputSpec], labels: str | None, batch: int | None) -> Samples:
    """Samples from an .npz file with an array for each input, and one for the labels.

    The first axis of the first input, which is not a scalar, is that of the samples. Other inputs have it too if their
    first axis is as long, and of the same name or size in the model; all others are the same for each batch.

    Args:
        path: The file.
        specs: The inputs of the model.
        labels: The name of the array of labels.
        batch: How many samples go into one run; the model's batch if that is fixed, else all of them, if None.

    Raises:
        ConfigError: If the file cannot be read, an array is missing or of another type or shape, there are not as many
            labels as samples, or the samples cannot be cut into batches.
    """
    if labels is not None and labels in {spec.name for spec in specs}:
        raise ConfigError(f"{path}: the labels '{labels}' are an input of the model; give them another name")
    # The first axis may be that of the samples, and of any length.
    forms = [replace(spec, shape=(None, *spec.shape[1:])) if spec.shape else spec for spec in specs]
    arrays = read_arrays(path, specs, forms, [] if labels is None else [labels])
    found = None if labels is None else arrays.pop(labels)
    if found is not None and found.dtype.kind not in "iub":
        raise ConfigError(f"{path}: the labels '{labels}' are {found.dtype}, but classes are integers")
    samples = _cut(arrays, specs, batch, path)
    check_inputs(next(samples.batches()), specs, source=str(path))
    if found is not None and (not found.ndim or len(found) != samples.count):
        many = len(found) if found.ndim else 1
        raise ConfigError(f"{path}: there are {many} labels for {samples.count} samples; there is one for each")
    if found is not None:
        found = found.astype(np.int64)
        found.setflags(write=False)  # all chips share them
    return replace(samples, arrays=check_inputs(arrays, forms, source=str(path)), labels=found)


def _cut(arrays: dict[str, NDArray[Any]], specs: Sequence[InputSpec], batch: int | None, path: Path) -> Samples:
    """The samples without labels, in batches."""
    with_axes = [spec for spec in specs if spec.name in arrays and arrays[spec.name].ndim and spec.shape]
    count = len(arrays[with_axes[0].name]) if with_axes else 1
    if not count:
        raise ConfigError(f"{path}: there are no samples: the array '{with_axes[0].name}' is empty")
    axis = with_axes[0].shape[0] if with_axes else None
    along = [spec for spec in with_axes if len(arrays[spec.name]) == count and spec.shape[0] in (axis, None)]
    sliced = frozenset(spec.name for spec in along)
    size = axis if isinstance(axis, int) else count
    if batch is not None:
        if isinstance(axis, int) and axis != batch:
            raise ConfigError(f"{path}: the model takes batches of {axis}, not of {batch}; leave --batch out")
        size = batch
    if isinstance(axis, int) and count < size:
        raise ConfigError(f"{path}: the model takes {size} samples at once, but there are {count}; give more")
    if isinstance(axis, int) and count % size:
        raise ConfigError(
            f"{path}: {count} samples cannot be cut into batches of {size}, which is what the model takes; leave out "
            f"{count % size} of them"
        )
    if size >= count:
        return Samples(arrays, frozenset(), count, count, None, str(path))
    return Samples(arrays, sliced, count, size, None, str(path))
