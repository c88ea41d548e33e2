"""Outputs of a model that come batch by batch: all outputs joined, or one output kept for later."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.samples import Samples

__all__ = ["KeptOutput", "Outputs", "joined"]

Outputs: TypeAlias = Mapping[str, Any]
"""The outputs of a model by name, for one batch or for all samples."""

_IN_MEMORY = 1 << 26
"""Outputs of at most this many bytes for all samples are kept in memory; so are those of a single run."""


class KeptOutput:
    """One output of a model, for all samples: in memory, or in a file if it is large.

    Args:
        name: The name of the output.
        samples: The samples on which the model runs.
        folder: The folder for the file. Who gives the folder removes it.
    """

    def __init__(self, name: str, samples: Samples, folder: Path) -> None:
        self._name = name
        self._samples = samples
        self._folder = folder
        self._parts: list[NDArray[Any]] = []
        self._file: Path | None = None
        self._row: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    @property
    def is_on_disk(self) -> bool:
        """Whether the output is in a file."""
        return self._file is not None

    def passing(self, batches: Iterable[Outputs]) -> Iterator[Outputs]:
        """The same batches, one after the other; the output of each batch is kept before the batch is yielded.

        Raises:
            ConfigError: If the output cannot be written to the disk.
        """
        file: IO[bytes] | None = None
        try:
            for outputs in batches:
                part: NDArray[Any] = outputs[self._name]
                if file is None and not self._parts and not self._samples.is_of_one_run:
                    self._row = part.shape[1:], part.dtype
                    if part.nbytes // max(1, len(part)) * self._samples.count > _IN_MEMORY:
                        # Unbuffered: whoever gets a batch may read its output from the file at once.
                        file = tempfile.NamedTemporaryFile("wb", 0, dir=self._folder, prefix="output-", delete=False)  # noqa: SIM115 - closed below
                        self._file = Path(file.name)
                if file is None:
                    self._parts.append(part)
                else:
                    self._write(file, part)
                yield outputs
        finally:
            if file is not None:
                file.close()

    def keep(self, batches: Iterable[Outputs]) -> None:
        """Keep the output of all batches."""
        for _ in self.passing(batches):
            pass

    def keep_array(self, array: NDArray[Any]) -> None:
        """Keep an output that is given for all samples."""
        self._parts = [array] if self._samples.is_of_one_run else [array[rows] for rows in self._samples.rows()]

    def _write(self, file: IO[bytes], part: NDArray[Any]) -> None:
        try:
            left = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            while left:  # `write` of a file without a buffer may write only a part
                left = left[file.write(left) :]
        except OSError as error:
            raise ConfigError(
                f"the outputs of the ideal model cannot be kept in '{self._folder}': {error.strerror}; make room, or "
                "let TMPDIR name a folder on a larger disk"
            ) from error

    def part(self, rows: slice) -> NDArray[Any]:
        """The output for the samples of one batch."""
        if self._file is None or self._row is None:
            number: int = rows.start // max(1, self._samples.batch)
            return self._parts[number]
        row, dtype = self._row
        shape = (rows.stop - rows.start, *row)
        row_bytes = int(np.prod(row, dtype=np.int64)) * dtype.itemsize
        # Read as bytes: `numpy.fromfile` cannot read the types of ml_dtypes, such as bfloat16.
        read = np.fromfile(self._file, np.uint8, shape[0] * row_bytes, offset=rows.start * row_bytes)
        part: NDArray[Any] = read.view(dtype).reshape(shape)
        return part

    def whole(self) -> NDArray[Any]:
        """The output for all samples."""
        parts = [self.part(rows) for rows in self._samples.rows()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def digest(self) -> str:
        """A hash of the output for all samples."""
        hashed = hashlib.sha256()
        for rows in self._samples.rows():
            part = self.part(rows)
            hashed.update(f"{part.dtype} {part.shape}".encode() + part.tobytes())
        return hashed.hexdigest()


def joined(batches: Iterable[Outputs]) -> Outputs:
    """The outputs for all samples, in memory."""
    found = list(batches)
    if len(found) == 1:
        return found[0]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}
