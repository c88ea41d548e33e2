"""A mapped model in ONNX Runtime, into which one chip after the other is put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.attempts import AllRefusedError, first_run
from onnx_gconv.runtime.decoder_inputs import decoder_of
from onnx_gconv.runtime.fresh_memory import FILLS, filled_memory, unwritten_elements, unwritten_note, without
from onnx_gconv.runtime.inputs import InputSpec, ValueRange
from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal
from onnx_gconv.simulation.outputs import Outputs
from onnx_gconv.simulation.samples import Samples, load_samples

__all__ = ["Bench"]


class Bench:
    """One session of a model whose weights are inputs; leaving the ``with`` block releases it.

    Args:
        file: The model.
        weights: The names of these inputs.
        source: The model of the user, for messages.

    Raises:
        ModelError: If ONNX Runtime does not load it.
    """

    def __init__(self, file: Path, weights: Sequence[str], source: Path) -> None:
        self._source = source
        self._names = tuple(weights)
        try:
            # Figures are the same on each machine, and several chips are computed at once.
            self._session = ModelSession(file, "all", is_single_threaded=True)
        except RuntimeRefusal as refusal:
            raise ModelError(f"'{source}' cannot be simulated: {refusal}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.__exit__()

    def inputs_of_file(self, file: Path, labels: str | None, batch: int | None, spool: Path) -> Samples:
        """The samples and labels of an .npz file, see `load_samples`."""
        return load_samples(file, self._specs(), labels, batch, spool)

    def generated_inputs(
        self,
        weights: Sequence[NDArray[Any]],
        dims: Mapping[str, int],
        values: Mapping[str, ValueRange],
        seed: int,
    ) -> Samples:
        """Generated inputs, the first that the model runs on with some weights.

        Raises:
            ConfigError: If it runs on none, or a size or value does not fit.
        """

        def samples_of(feeds: dict[str, NDArray[Any]]) -> Samples:
            return Samples(feeds, frozenset(), 1, 1, None, f"generated inputs, seed {seed}")

        try:
            feeds, _ = first_run(
                lambda feeds: next(self._run(weights, samples_of(feeds))),
                self._specs(),
                dims=dims,
                values=values,
                seed=seed,
            )
        except AllRefusedError as refused:
            raise ConfigError(
                f"'{self._source}' does not run on generated inputs ({refused.first.message}); give inputs of its own"
            ) from None
        return samples_of(feeds)

    def with_unwritten(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Samples:
        """The samples, with the elements of outputs that a decoder does not write for them, which count for nothing.

        Raises:
            ConfigError: If the model does not run on them.
        """
        if not samples.is_of_one_run or decoder_of(self._specs()) is None:
            return samples
        runs: list[Outputs] = []
        for fill in FILLS:
            with filled_memory(fill):
                runs.extend(self.run(weights, samples))
        first, second = runs
        found = {name: unwritten_elements(first[name], second[name]) for name in first}
        unwritten = {name: elements for name, elements in found.items() if elements is not None}
        notes = (unwritten_note(name, elements) for name, elements in unwritten.items())
        return replace(samples, unwritten=unwritten, notes=(*samples.notes, *notes))

    def run(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Iterator[Outputs]:
        """The outputs by name, of one batch of samples after the other. One batch at a time is in memory.

        Raises:
            ConfigError: If the model does not run on them, or an output has not the samples along its first axis.
        """
        try:
            yield from self._run(weights, samples)
        except RuntimeRefusal as refusal:
            raise ConfigError(f"{samples.source}: {refusal}") from None

    def _run(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Iterator[Outputs]:
        of_chip = dict(zip(self._names, weights, strict=True))
        shapes: dict[str, tuple[int, ...]] = {}
        for rows, feeds in zip(samples.rows(), samples.batches(), strict=True):
            outputs = self._session.run({**feeds, **of_chip})
            for name, elements in samples.unwritten.items():
                outputs[name] = without(outputs[name], elements)
            if not samples.is_of_one_run:
                for name, found in outputs.items():
                    _check_part(name, found, rows.stop - rows.start, shapes)
            yield outputs

    def _specs(self) -> list[InputSpec]:
        return [spec for spec in self._session.read_input_specs() if spec.name not in self._names]


def _check_part(name: str, part: object, count: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse an output of one of several batches that is no part of one output for all samples.

    Args:
        name: Its name.
        part: It.
        count: How many samples there are in the batch.
        shapes: Those of outputs of batches before, without their first axes. Others are added.
    """
    if not isinstance(part, np.ndarray) or not part.ndim or len(part) != count:
        is_part = False
    else:
        is_part = shapes.setdefault(name, part.shape[1:]) == part.shape[1:]
    if not is_part:
        raise ConfigError(
            f"the output '{name}' cannot be joined from several batches; run all samples at once, with a larger --batch"
        )
