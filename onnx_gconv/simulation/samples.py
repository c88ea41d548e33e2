"""The inputs that a simulation runs on: samples from a file, cut into batches, and their labels."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.given_inputs import check_inputs, not_finite, read_or_stored_arrays
from onnx_gconv.runtime.inputs import InputSpec
from onnx_gconv.runtime.prompts import may_be_generated
from onnx_gconv.runtime.stored_arrays import ArrayForm, StoredArray

__all__ = ["SampleArray", "SampleFile", "Samples", "load_samples"]

SampleArray: TypeAlias = NDArray[Any] | StoredArray
"""An array in memory, or one in a file whose rows are read when they are needed."""

_BATCH_OF_STORED = 1 << 26
"""Without --batch, a run gets at most this many bytes of samples that stay in a file, but at least one sample."""


@dataclass(frozen=True)
class SampleFile:
    """An .npz file from which samples are read batch by batch.

    Attributes:
        path: The file.
        labels: The name of the array of labels in the file; None if there are none.
        batch: How many samples go into one run.
        contents: The name, size and checksum of each array, to detect that another file has taken its place.
    """

    path: Path
    labels: str | None
    batch: int
    contents: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Samples:
    """The inputs on which a model runs, and their labels.

    Attributes:
        arrays: An array for each input, by its name. Inputs of `sliced` have the samples along their first axis; all
            batches share the others.
        sliced: The names of the inputs that are cut into batches.
        count: How many samples there are.
        batch: How many samples go into one run.
        labels: The class of each sample, or of each row of scores, in int64; or what a function of the user compares
            outputs with: floats or texts. None if there are none.
        labels_name: The name of the array of labels in the file; empty if there are none.
        source: Where the samples come from, for reports and messages.
        file: The file that holds the samples; None if they are in memory.
        notes: Notes for the report, a line each.
        unwritten: For each output that the model writes only in part: True for the elements that it does not write.
        completed: Inputs that were not given but generated to fit the first batch, which is the largest, by name. All
            batches share them.
        completed_along: The names of the generated inputs that have the samples along their first axis.
    """

    arrays: Mapping[str, SampleArray]
    sliced: frozenset[str]
    count: int
    batch: int
    labels: NDArray[Any] | None
    source: str
    labels_name: str = ""
    file: SampleFile | None = None
    notes: tuple[str, ...] = ()
    unwritten: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    completed: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    completed_along: frozenset[str] = frozenset()

    def batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The inputs of one run after the other, by name."""
        for rows in self.rows():
            count = rows.stop - rows.start
            yield {
                name: array[rows] if isinstance(array, StoredArray) or name in self.sliced else array
                for name, array in self.arrays.items()
            } | {
                name: array[:count] if name in self.completed_along else array for name, array in self.completed.items()
            }

    def rows(self) -> Iterator[slice]:
        """The numbers of the samples of one run after the other."""
        for start in range(0, max(self.count, 1), max(self.batch, 1)):
            yield slice(start, min(start + self.batch, self.count))

    def not_finite(self) -> str:
        """Where the inputs hold NaN or infinity, as a part of a message after a semicolon; empty if nowhere."""
        found = not_finite(self.arrays)
        return f"; {self.source}: {found}" if found else ""

    @property
    def is_of_one_run(self) -> bool:
        """Whether all samples go into one run. Outputs then need not have the samples along their first axis."""
        return self.count <= self.batch


def load_samples(path: Path, specs: Sequence[InputSpec], labels: str | None, batch: int | None, spool: Path) -> Samples:
    """Samples from an .npz file with an array for each input, and one for the labels.

    The first input that is not a scalar has the samples along its first axis. So has another input if its first axis
    is as long, and has the same name or size in the model or none. All batches share the remaining inputs.

    For a language model the tokens are enough; `Bench.samples` generates the other inputs.

    Large inputs are not held in memory, but read batch by batch: from the .npz file itself, or, if they are compressed,
    from a file into which they are unpacked.

    Args:
        path: The file.
        specs: The inputs of the model.
        labels: The name of the array of labels; None if there are none.
        batch: How many samples go into one run. If None: the batch of the model if it is fixed; else all samples, or as
            many as have 64 MiB if they stay in the file.
        spool: A folder for large inputs that are unpacked. It has to exist as long as the samples are used.

    Raises:
        ConfigError: If the file cannot be read, an array is missing or has a wrong type or shape, the numbers of labels
            and samples differ, or the samples cannot be cut into batches.
    """
    if labels is not None and labels in {spec.name for spec in specs}:
        raise ConfigError(f"{path}: the labels '{labels}' are an input of the model; give them another name")
    # The first axis may be that of all samples, so that it may be longer than the batch of the model.
    inputs = [replace(spec, shape=(None, *spec.shape[1:])) if spec.shape else spec for spec in specs]
    may_lack = may_be_generated(specs)

    def check(forms: Mapping[str, ArrayForm]) -> None:
        shapes = {spec.name: forms[spec.name].shape for spec in specs if spec.name in forms}
        count = _Cut.of(shapes, specs, batch, path).count
        if labels is not None:
            _check_labels(forms[labels], count, labels, path)

    arrays = read_or_stored_arrays(path, inputs, other=labels, check=check, spool=spool, may_lack=may_lack)
    found = None
    if labels is not None:
        found = _as_classes(np.asarray(arrays.pop(labels)))
        found.setflags(write=False)  # all chips share them
    cut = _Cut.of({name: array.shape for name, array in arrays.items()}, specs, batch, path)
    size = cut.size
    notes: tuple[str, ...] = ()
    stored = [array for name, array in arrays.items() if name in cut.along and isinstance(array, StoredArray)]
    if batch is None and not cut.is_fixed and stored:
        size = min(size, max(1, _BATCH_OF_STORED // max(1, sum(array.row_bytes for array in stored))))
        while size > 2 and cut.count % size == 1:  # noqa: PLR2004 - no last batch of one: its kernels round differently
            size -= 1
        mebibytes = sum(array.nbytes for array in stored) / 2**20
        notes = (f"the samples are {mebibytes:,.0f} MiB: a run takes {size:,} of them; --batch chooses another number",)
    sliced = cut.along if size < cut.count else frozenset()
    # Inputs that all batches share are held in memory, whatever their size.
    known = {
        name: array[:] if isinstance(array, StoredArray) and name not in sliced else array
        for name, array in arrays.items()
    }
    in_memory = [spec for spec in inputs if isinstance(known.get(spec.name), np.ndarray)]
    known |= check_inputs({spec.name: known[spec.name] for spec in in_memory}, in_memory, source=str(path))
    samples = Samples(known, sliced, cut.count, min(size, cut.count), found, str(path), labels or "", notes=notes)
    check_inputs(next(samples.batches()), specs, source=str(path), may_lack=may_lack)
    if len(in_memory) < len(known):
        return replace(samples, file=SampleFile(path.resolve(), labels, samples.batch, _contents(path)))
    return samples


@dataclass(frozen=True)
class _Cut:
    """How samples are cut into batches.

    Attributes:
        count: How many samples there are.
        size: How many samples go into one run.
        along: The names of the inputs that have the samples along their first axis.
        is_fixed: Whether the model takes batches of that size only.
    """

    count: int
    size: int
    along: frozenset[str]
    is_fixed: bool

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[int, ...]], specs: Sequence[InputSpec], batch: int | None, path: Path
    ) -> _Cut:
        """How inputs are cut into batches.

        Args:
            shapes: The shape of each array of samples, by the name of the input.
            specs: The inputs of the model.
            batch: The size of batches that was asked for; None to decide by the model.
            path: The file of the samples, for messages.

        Raises:
            ConfigError: If there are no samples, or the model does not take batches of that size.
        """
        with_axes = [spec for spec in specs if shapes.get(spec.name) and spec.shape]
        count = shapes[with_axes[0].name][0] if with_axes else 1
        if not count:
            raise ConfigError(f"{path}: there are no samples: the array '{with_axes[0].name}' is empty")
        axis = with_axes[0].shape[0] if with_axes else None
        along = [spec.name for spec in with_axes if shapes[spec.name][0] == count and spec.shape[0] in (axis, None)]
        size = axis if isinstance(axis, int) else count
        if batch is not None:
            if isinstance(axis, int) and axis != batch:
                raise ConfigError(f"{path}: the model takes batches of {axis}, not of {batch}; leave --batch out")
            size = batch
        if isinstance(axis, int) and count < size:
            raise ConfigError(f"{path}: the model takes {size} samples at once, but there are {count}; give more")
        if isinstance(axis, int) and count % size:
            raise ConfigError(
                f"{path}: {count} samples cannot be cut into batches of {size}, which is what the model takes; leave "
                f"out {count % size} of them"
            )
        return cls(count, size, frozenset(along), isinstance(axis, int))


def _check_labels(form: ArrayForm, count: int, labels: str, path: Path) -> None:
    if form.dtype.kind not in "iubfUS":
        raise ConfigError(f"{path}: the labels '{labels}' are {form.dtype}, but labels are numbers or texts")
    if not form.shape or form.shape[0] != count:
        many = form.shape[0] if form.shape else 1
        raise ConfigError(f"{path}: there are {many} labels '{labels}' for {count} samples; there is one for each")


def _as_classes(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as int64 where they are integers that fit; all others as they are, which no class has."""
    is_of_integers = labels.dtype.kind in "iub"
    fit = labels.dtype != np.uint64 or labels.max(initial=0) <= np.iinfo(np.int64).max
    return labels.astype(np.int64 if is_of_integers and fit else labels.dtype)


def _contents(path: Path) -> tuple[tuple[str, int, int], ...]:
    with zipfile.ZipFile(path) as archive:
        return tuple((info.filename, info.file_size, info.CRC) for info in archive.infolist())
