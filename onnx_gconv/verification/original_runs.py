"""Runs the original in ONNX Runtime, for the outputs with which those of the mapped model are compared."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.attempts import AllRefusedError, first_run
from onnx_gconv.runtime.comparison import Outputs, Spread, flatten_all, is_beyond_rounding, spread_between
from onnx_gconv.runtime.decoder_inputs import tokens_of
from onnx_gconv.runtime.fresh_memory import FILLS, filled_memory, unwritten_elements, unwritten_note, without
from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs
from onnx_gconv.runtime.inputs import InputSpec, ValueRange
from onnx_gconv.runtime.prompts import TokenIds, completed_note, may_be_generated
from onnx_gconv.runtime.session import ModelSession, Optimization, RuntimeRefusal, run_model
from onnx_gconv.verification.outputs_report import InputsDescription
from onnx_gconv.verification.random_numbers import random_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Generation", "GivenInputs", "OriginalRuns", "described"]

GivenInputs: TypeAlias = "Path | TokenIds | Mapping[str, NDArray[Any]]"
"""The user's inputs: an .npz file, the tokens of a prompt, or arrays by name."""


@dataclass(frozen=True)
class Generation:
    """Settings for generated inputs.

    Attributes:
        dims: Sizes of symbolic dimensions, by name or ``INPUT:AXIS``.
        values: Ranges of values, by input.
        seed: The same seed gives the same arrays.
        flags: Values of boolean scalar inputs, by name; other boolean inputs are drawn.
    """

    dims: Mapping[str, int]
    values: Mapping[str, ValueRange]
    seed: int
    flags: Mapping[str, bool] = field(default_factory=dict)


class OriginalRuns:
    """The original's outputs at each optimization level at which it runs, on the first inputs on which it runs."""

    def __init__(
        self,
        model: Path,
        inputs: GivenInputs | None,
        generation: Generation,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._given = inputs
        self._generation = generation
        self._tell = tell
        self._refusals: dict[Optimization, RuntimeRefusal] = {}
        self._unfit: ConfigError | None = None
        self._attempts = 0
        self._is_first_attempt = True
        self._completed: tuple[str, ...] = ()
        self._tokens: InputSpec | None = None
        self.unwritten: dict[str, NDArray[np.bool_]] = {}
        self.feeds: dict[str, NDArray[Any]] | None = None
        self.outputs: dict[Optimization, Outputs] = {}
        self.spreads: dict[str, Spread] = {}

    def run(self, optimization: Optimization) -> None:
        """Run the original at one optimization level, and measure how much it differs from its earlier runs."""
        self._tell(f"running the original, {described(optimization)}")
        try:
            with ModelSession(self._model, optimization) as session:
                with filled_memory(FILLS[0]):
                    found = self._first_accepted(session)
                if found is None:
                    return
                again = None
                if not self.outputs or self.unwritten:
                    with filled_memory(FILLS[1]):
                        again = flatten_all(session.run(self.feeds or {}))
                    self._note_unwritten(found, again)
                    found, again = self.written(found), self.written(again)
            if again is not None and not self.outputs:
                found = self._first_run(optimization, found, again)
        except RuntimeRefusal as refusal:
            self._refusals[optimization] = refusal.with_traceback(None)
            return
        for first in self.outputs.values():
            self._measure_spread(self.written(first), found)
        self.outputs[optimization] = found

    def written(self, outputs: Outputs) -> Outputs:
        """Return outputs with zeros for the elements that the original never writes."""
        return {name: without(output, self.unwritten.get(name)) for name, output in outputs.items()}

    def _note_unwritten(self, first: Outputs, second: Outputs) -> None:
        """Find the elements that were written in neither of two runs, from their different fill bytes of memory."""
        for name in first:
            found = unwritten_elements(first[name], second.get(name))
            if found is not None:
                known = self.unwritten.get(name)
                self.unwritten[name] = found if known is None or known.shape != found.shape else known | found

    def _first_run(self, optimization: Optimization, found: Outputs, again: Outputs) -> Outputs:
        """Return the outputs to compare, after a check whether two runs of one session are equal.

        If they differ because the model draws random numbers, the outputs are marked as random. If all these nodes have
        a seed, the first run of every session draws the same numbers: then the outputs of a first run are returned.
        """
        is_steady = not any(_differ(found[name], again.get(name)) for name in found)
        if is_steady or (drawn := random_numbers(self._model)) == "none":
            self._measure_spread(found, again)
            for name, spread in self.spreads.items():  # an unknown op may draw random numbers, too
                if not is_steady and is_beyond_rounding(found[name], spread):
                    self.spreads[name] = replace(spread, noise="random")
            return found
        first, second = found, again
        if drawn == "seeded":
            runs = (flatten_all(run_model(self._model, self.feeds or {}, optimization)) for _ in range(2))
            first, second = map(self.written, runs)
        for name in first:
            noise: Literal["seeded", "random"] = "random" if _differ(first[name], second.get(name)) else "seeded"
            self.spreads[name] = Spread(noise=noise)
        return first

    def tokens_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the token input on which the original ran; None if it has no token input."""
        return None if self._tokens is None or self.feeds is None else self.feeds[self._tokens.name].shape

    def flags(self, names: Iterable[str]) -> dict[str, bool]:
        """Return the values of those of the named inputs that were generated and are a single bool."""
        if self.feeds is None:
            return {}
        own = names if self._given is None else [name for name in names if name in self._completed]
        found = {name: self.feeds[name] for name in own if name in self.feeds}
        return {
            name: bool(value.item()) for name, value in found.items() if value.dtype.kind == "b" and value.size == 1
        }

    def why_not(self) -> str:
        """Return why the original runs at no optimization level.

        Raises:
            ConfigError: If the user's inputs are the reason.
        """
        if self._unfit is not None:
            return f"{self._model}: {self._unfit}"
        # The refusal to report is one of a level at which the model loads: it says more about the inputs.
        optimization, refusal = min(self._refusals.items(), key=lambda item: item[1].stage == "load")
        if refusal.stage == "load":
            return f"{self._model}: ONNX Runtime does not load the original: {refusal.message}"
        if self._given is not None:
            raise ConfigError(
                f"{self._source()}: ONNX Runtime does not run {self._model} on these inputs: {refusal.message}"
            )
        tries = "the generated inputs" if self._attempts == 1 else f"generated inputs of {self._attempts} sizes"
        which = "first" if self._is_first_attempt else "a later"
        return (
            f"{self._model}: ONNX Runtime does not run the original on {tries}; give inputs of your own, or sizes and "
            f"values ({described(optimization)}, {which} attempt: {refusal.message})"
        )

    def describe_inputs(self) -> InputsDescription:
        """Return a description of the inputs on which the original ran."""
        tensors = tuple(
            InputSpec(name, "string" if array.dtype.kind in "OSU" else array.dtype, array.shape)
            for name, array in (self.feeds or {}).items()
        )
        seed = self._generation.seed if self._given is None else None
        return InputsDescription(self._source(), seed, tensors)

    def notes(self) -> tuple[str, ...]:
        """Return notes on what limits the comparison, and on generated inputs."""
        return (*self._of_levels(), *self._of_completed(), *self._of_unwritten())

    def _of_levels(self) -> Iterable[str]:
        return (
            f"the original runs in ONNX Runtime at one level only, so nothing was compared {described(optimization)} "
            f"and the runtime's spread is known from two runs in a row alone: {refusal.message}"
            for optimization, refusal in self._refusals.items()
        )

    def _of_completed(self) -> Iterable[str]:
        if self._completed:
            yield completed_note(self._completed)

    def _of_unwritten(self) -> Iterable[str]:
        return (unwritten_note(name, elements) for name, elements in self.unwritten.items())

    def _source(self) -> str:
        if self._given is None:
            return "generated inputs"
        if isinstance(self._given, TokenIds):
            return self._given.source
        return str(self._given) if isinstance(self._given, Path) else "given inputs"

    def _first_accepted(self, session: ModelSession) -> Outputs | None:
        """Return the outputs for the first inputs on which the model runs; None if inputs cannot be generated."""
        if self.feeds is not None:
            return flatten_all(session.run(self.feeds))
        try:
            specs = session.read_input_specs()
        except ConfigError as error:
            self._unfit = error
            return None
        self._tokens = tokens_of(specs)
        given = self._read_given(specs)
        if given is not None and len(given) == len(specs):
            found = flatten_all(session.run(given))
            self.feeds = given
            return found
        generation = self._generation
        try:
            self.feeds, found = first_run(
                lambda feeds: flatten_all(session.run(feeds)),
                specs,
                dims=generation.dims,
                values=generation.values,
                seed=generation.seed,
                given=given,
                flags=generation.flags,
                tell=lambda feeds: self._tell(f"trying inputs {_listed_shapes(feeds)}"),
            )
        except AllRefusedError as refused:
            self._attempts, self._is_first_attempt = refused.count, refused.is_first
            raise refused.telling from None
        self._completed = tuple(name for name in self.feeds if name not in given) if given else ()
        return found

    def _read_given(self, specs: Sequence[InputSpec]) -> dict[str, NDArray[Any]] | None:
        """Return the user's inputs, of which a language model needs the tokens only; None if there are none.

        Raises:
            ConfigError: The inputs do not fit the model.
        """
        if self._given is None:
            return None
        may_lack = may_be_generated(specs)
        if isinstance(self._given, Path):
            return load_inputs(self._given, specs, may_lack)
        given = self._given.as_inputs(specs) if isinstance(self._given, TokenIds) else self._given
        return check_inputs(given, specs, source=self._source(), may_lack=may_lack)

    def _measure_spread(self, first: Outputs, second: Outputs) -> None:
        for name in first.keys() & second.keys():
            known, new = self.spreads.get(name, Spread()), spread_between(first[name], second[name])
            self.spreads[name] = Spread(
                max(known.distance, new.distance),
                max(known.mismatches, new.mismatches),
                known.same_shape and new.same_shape,
                known.noise,
            )


def described(optimization: Optimization) -> str:
    """Return a text for an optimization level."""
    return {"all": "optimized", "none": "not optimized"}[optimization]


def _listed_shapes(feeds: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())


def _differ(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    """Whether an output differs between two runs, bit for bit."""
    if one is None or other is None:
        return one is not other
    if one.dtype.kind in "OU":
        return not np.array_equal(one, other)
    return one.shape != other.shape or one.tobytes() != other.tobytes()
