"""Finds generated inputs on which a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onnx_gconv.errors import GconvError
from onnx_gconv.runtime.decoder_inputs import asks_for_a_size, decoder_attempts, decoder_of
from onnx_gconv.runtime.inputs import InputSpec, ValueRange, generate_attempts
from onnx_gconv.runtime.session import RuntimeRefusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["AllRefusedError", "first_run"]

Outputs = TypeVar("Outputs")


class AllRefusedError(GconvError):
    """A model runs on none of the generated inputs.

    Attributes:
        telling: The refusal to report: the first one that is not about a size; if all are, the first one.
        is_first: Whether that is the refusal of the first inputs.
        count: Number of refused inputs.
    """

    def __init__(self, refusals: Sequence[RuntimeRefusal]) -> None:
        others = (refusal for refusal in refusals if not asks_for_a_size(refusal.message))
        self.telling: RuntimeRefusal = next(others, refusals[0])
        self.is_first: bool = self.telling is refusals[0]
        self.count: int = len(refusals)
        super().__init__(self.telling.message)


def first_run(
    run: Callable[[dict[str, NDArray[Any]]], Outputs],
    specs: Sequence[InputSpec],
    *,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    given: Mapping[str, NDArray[Any]] | None = None,
    flags: Mapping[str, bool] | None = None,
    tell: Callable[[dict[str, NDArray[Any]]], None] | None = None,
) -> tuple[dict[str, NDArray[Any]], Outputs]:
    """Return the first generated inputs on which a model runs, and its outputs.

    Inputs of a decoder are tried first, if the model is one; then inputs of sizes that are common in vision, text and
    audio.

    Args:
        run: Runs the model; raises a `RuntimeRefusal` if the model does not run on the inputs.
        specs: The inputs of the model.
        dims: Sizes by symbolic name or ``INPUT:AXIS``.
        values: Ranges by input name.
        seed: The same seed gives the same arrays.
        given: For a model that takes tokens: arrays of some inputs, by name, including the tokens.
        flags: Values of boolean scalar inputs, by name.
        tell: Called with the inputs of each attempt after the first.

    Raises:
        AllRefusedError: The model runs on none of them.
        ConfigError: A name is unknown, sizes contradict each other, or a range does not fit its input's type.
    """
    refusals: list[RuntimeRefusal] = []
    attempts = _attempts(specs, refusals, dims=dims, values=values, seed=seed, given=given or {}, flags=flags or {})
    for feeds in attempts:
        feeds |= {name: np.full_like(feeds[name], value) for name, value in (flags or {}).items()}
        if refusals and tell is not None:
            tell(feeds)
        try:
            return feeds, run(feeds)
        except RuntimeRefusal as refusal:
            refusals.append(refusal.with_traceback(None))  # a traceback would keep the inputs in memory
    raise AllRefusedError(refusals)


def _attempts(
    specs: Sequence[InputSpec],
    refusals: Sequence[RuntimeRefusal],
    *,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    given: Mapping[str, NDArray[Any]],
    flags: Mapping[str, bool],
) -> Iterator[dict[str, NDArray[Any]]]:
    decoder = decoder_of(specs, has_prompt=bool(given))
    if decoder is not None:
        attempts = decoder_attempts(decoder, dims=dims, values=values, seed=seed, given=given, flags=flags)
        feeds = next(attempts, None)
        while feeds is not None:
            yield feeds
            try:
                feeds = attempts.send(refusals[-1].message)
            except StopIteration:
                break
    if not given:
        yield from generate_attempts(specs, dims=dims, values=values, seed=seed)
