"""A session of ONNX Runtime for a model that gets the weights of one simulated chip after the other as inputs."""

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

__all__ = ["RANDOM_INPUTS", "AskedInputs", "Bench"]

RANDOM_INPUTS = (
    "the inputs are random, so that these figures say little about the accuracy on real data; --inputs takes an .npz "
    "file with samples"
)
"""The note of reports on generated inputs."""


@dataclass(frozen=True)
class AskedInputs:
    """The inputs that a caller asks for: the samples of a file, the tokens of a prompt, or else generated inputs.

    Attributes:
        file: An .npz file with samples.
        labels: The name of the array of labels in the file.
        batch: How many samples of the file go into one run; None to let the model or the size of samples decide.
        token_ids: The tokens of a prompt.
        dims: For generated inputs: sizes of symbolic dimensions, by name or ``INPUT:AXIS``.
        values: For generated inputs: ranges of values, by the name of the input.
        seed: The seed of generated inputs.
    """

    file: Path | None = None
    labels: str | None = None
    batch: int | None = None
    token_ids: TokenIds | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, ValueRange] = field(default_factory=dict)
    seed: int = 0


class Bench:
    """A session of ONNX Runtime for a model whose weights are inputs. Leaving the ``with`` block releases the session.

    Args:
        file: The model whose weights are inputs.
        weights: The names of these inputs.
        source: The model of the user, for messages.

    Raises:
        ModelError: If ONNX Runtime does not load the model.
    """

    def __init__(self, file: Path, weights: Sequence[str], source: Path) -> None:
        self._source = source
        self._names = tuple(weights)
        try:
            # One thread a run: results do not depend on the number of processors, and several chips run at once.
            self._session = ModelSession(file, "all", is_single_threaded=True)
        except RuntimeRefusal as refusal:
            raise ModelError(f"'{source}' cannot be simulated: {refusal}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.__exit__()

    def inputs_of_file(self, file: Path, labels: str | None, batch: int | None, spool: Path) -> Samples:
        """The samples and labels of an .npz file; see `load_samples`."""
        return load_samples(file, self._specs(), labels, batch, spool)

    def samples(self, weights: Sequence[NDArray[Any]], asked: AskedInputs, spool: Path) -> Samples:
        """The inputs that were asked for, completed with generated inputs where a language model needs more.

        Args:
            weights: Weights with which the model can be tried on inputs, in the order of their names.
            asked: The inputs that were asked for.
            spool: A folder for large inputs that are unpacked. It has to exist as long as the samples are used.

        Raises:
            ConfigError: If the file cannot be read, inputs do not fit the model, or the model does not run on them.
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
        """Generated inputs: the first attempt on which the model runs."""

        def samples_of(feeds: dict[str, NDArray[Any]]) -> Samples:
            source = f"generated inputs, seed {asked.seed}"
            return Samples(feeds, frozenset(), 1, 1, None, source, notes=(RANDOM_INPUTS,) if feeds else ())

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
        """The samples; inputs that a language model needs besides its tokens are generated if they are missing."""
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
        """The samples, with the elements of outputs that a decoder leaves unwritten. Such elements do not count.

        Two runs in memory that was filled with different values show which elements are not written.

        Raises:
            ConfigError: If the model does not run on the samples.
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
        """The outputs by name, of one batch of samples after the other. Only one batch is in memory at a time.

        Args:
            weights: The weights of a chip, in the order of their names.
            samples: The samples.

        Raises:
            ConfigError: If the model does not run on the samples, or they are cut into batches and an output does not
                have them along its first axis.
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
    """Raise ConfigError if the output of one batch cannot be joined with those of the other batches.

    Args:
        name: The name of the output.
        part: The output for this batch.
        count: How many samples are in this batch.
        shapes: The shapes of the outputs of earlier batches without the first axis, by name; that of this output is
            added if it is the first.
    """
    if not isinstance(part, np.ndarray) or not part.ndim or len(part) != count:
        is_part = False
    else:
        is_part = shapes.setdefault(name, part.shape[1:]) == part.shape[1:]
    if not is_part:
        raise ConfigError(
            f"the output '{name}' cannot be joined from several batches; run all samples at once, with a larger --batch"
        )
