"""A mapped model in ONNX Runtime, into which one chip after the other is put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.attempts import AllRefusedError, first_run
from onnx_gconv.runtime.decoder_inputs import decoder_of, tokens_of
from onnx_gconv.runtime.fresh_memory import FILLS, filled_memory, unwritten_elements, unwritten_note, without
from onnx_gconv.runtime.given_inputs import check_inputs
from onnx_gconv.runtime.inputs import InputSpec, ValueRange
from onnx_gconv.runtime.prompts import TokenIds, completed_note, may_be_generated
from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal
from onnx_gconv.simulation.outputs import Outputs
from onnx_gconv.simulation.samples import Samples, load_samples

__all__ = ["AskedInputs", "Bench"]


@dataclass(frozen=True)
class AskedInputs:
    """What a model is to run on: the samples of a file, the tokens of a prompt, or else generated inputs.

    Attributes:
        file: An .npz file.
        labels: The name of its array of labels.
        batch: How many of its samples go into one run; None to let the model or their size decide.
        token_ids: The tokens.
        dims: For generated inputs: sizes of symbolic dimensions, by name or ``INPUT:AXIS``.
        values: For generated inputs: ranges of values, by input.
        seed: Of all that is generated.
    """

    file: Path | None = None
    labels: str | None = None
    batch: int | None = None
    token_ids: TokenIds | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, ValueRange] = field(default_factory=dict)
    seed: int = 0


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

    def samples(self, weights: Sequence[NDArray[Any]], asked: AskedInputs, spool: Path) -> Samples:
        """The inputs that were asked for, with what is to be generated to go with them.

        Args:
            weights: Weights with which the model runs.
            asked: What was asked for.
            spool: A folder for large inputs that are unpacked, which has to stay as long as the samples are used.

        Raises:
            ConfigError: If the file cannot be read, inputs do not fit the model, or it does not run on them.
        """
        if asked.file is not None:
            samples = self.inputs_of_file(asked.file, asked.labels, asked.batch, spool)
        elif asked.token_ids is not None:
            specs, source = self._specs(), asked.token_ids.source
            given = asked.token_ids.as_inputs(specs)
            given = check_inputs(given, specs, source=source, may_lack=may_be_generated(specs))
            samples = Samples(given, frozenset(), 1, 1, None, source)
        else:
            samples = self._generated(weights, asked)
        return self._with_unwritten(weights, self._completed(weights, samples, asked.seed))

    def _generated(self, weights: Sequence[NDArray[Any]], asked: AskedInputs) -> Samples:
        """Generated inputs, the first that the model runs on with some weights."""

        def samples_of(feeds: dict[str, NDArray[Any]]) -> Samples:
            return Samples(feeds, frozenset(), 1, 1, None, f"generated inputs, seed {asked.seed}")

        try:
            feeds, _ = first_run(
                lambda feeds: next(self._run(weights, samples_of(feeds))),
                self._specs(),
                dims=asked.dims,
                values=asked.values,
                seed=asked.seed,
            )
        except AllRefusedError as refused:
            raise ConfigError(
                f"'{self._source}' does not run on generated inputs ({refused.telling.message}); give inputs of its own"
            ) from None
        return samples_of(feeds)

    def _completed(self, weights: Sequence[NDArray[Any]], samples: Samples, seed: int) -> Samples:
        """The samples, with the inputs of a language model that go with its tokens, if they are not all there."""
        specs = self._specs()
        lacking = [spec for spec in specs if spec.name not in samples.arrays]
        if not lacking:
            return samples
        first = next(samples.batches())
        of_first = replace(samples, count=min(samples.count, samples.batch), labels=None)

        def run(feeds: dict[str, NDArray[Any]]) -> Outputs:
            return next(self._run(weights, replace(of_first, arrays=feeds, sliced=frozenset())))

        try:
            feeds, _ = first_run(run, specs, dims={}, values={}, seed=seed, given=first)
        except AllRefusedError as refused:
            raise ConfigError(
                f"{samples.source}: '{self._source}' does not run on these inputs ({refused.telling.message}); give "
                "all inputs that it has"
            ) from None
        tokens = tokens_of(specs)
        names = [spec.name for spec in lacking]
        along = [
            spec.name
            for spec in lacking
            if tokens is not None
            and feeds[spec.name].ndim
            and len(feeds[spec.name]) == len(feeds[tokens.name])
            and spec.shape[0] in (tokens.shape[0], None)
        ]
        return replace(
            samples,
            completed={name: feeds[name] for name in names},
            completed_along=frozenset(along),
            notes=(*samples.notes, completed_note(names)),
        )

    def _with_unwritten(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Samples:
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
        types = {spec.name: spec.dtype for spec in self._session.read_input_specs()}
        of_chip = {
            name: weight if weight.dtype == types[name] else weight.astype(types[name])  # see `weights_as_inputs`
            for name, weight in zip(self._names, weights, strict=True)
        }
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
