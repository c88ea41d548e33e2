"""A mapped model in ONNX Runtime, into which one chip after the other is put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.attempts import AllRefusedError, first_run
from onnx_gconv.runtime.inputs import InputSpec, ValueRange
from onnx_gconv.runtime.session import ModelSession, RuntimeRefusal
from onnx_gconv.simulation.metrics import Outputs
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

    def inputs_of_file(self, file: Path, labels: str | None, batch: int | None) -> Samples:
        """The samples and labels of an .npz file, see `load_samples`."""
        return load_samples(file, self._specs(), labels, batch)

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
                lambda feeds: self._run(weights, samples_of(feeds)), self._specs(), dims=dims, values=values, seed=seed
            )
        except AllRefusedError as refused:
            raise ConfigError(
                f"'{self._source}' does not run on generated inputs ({refused.first.message}); give inputs of its own"
            ) from None
        return samples_of(feeds)

    def run(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Outputs:
        """The outputs for all samples by name; those of several batches are joined along their first axis.

        Raises:
            ConfigError: If the model does not run on them, or an output cannot be joined.
        """
        try:
            return self._run(weights, samples)
        except RuntimeRefusal as refusal:
            raise ConfigError(f"{samples.source}: {refusal}") from None

    def _run(self, weights: Sequence[NDArray[Any]], samples: Samples) -> Outputs:
        of_chip = dict(zip(self._names, weights, strict=True))
        found = [self._session.run({**feeds, **of_chip}) for feeds in samples.batches()]
        if len(found) == 1:
            return found[0]
        return {name: _joined(name, [each[name] for each in found], samples) for name in found[0]}

    def _specs(self) -> list[InputSpec]:
        return [spec for spec in self._session.read_input_specs() if spec.name not in self._names]


def _joined(name: str, parts: list[Any], samples: Samples) -> NDArray[Any]:
    starts = range(0, samples.count, samples.batch)
    sizes = [min(samples.batch, samples.count - start) for start in starts]
    pairs = zip(parts, sizes, strict=True)
    is_whole = all(isinstance(part, np.ndarray) and part.ndim and len(part) == size for part, size in pairs)
    if not is_whole or len({part.shape[1:] for part in parts}) > 1:
        raise ConfigError(
            f"the output '{name}' cannot be joined from several batches; run all samples at once, with a larger --batch"
        )
    return np.concatenate(parts)
