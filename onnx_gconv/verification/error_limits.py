"""How far the outputs of a mapped model may be from the original's: what a user asks for, and what is always said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.comparison import OutputComparison

__all__ = ["NO_LIMITS", "STATED_LIMITS", "ErrorLimits"]


@dataclass(frozen=True)
class ErrorLimits:
    """Limits of the errors of outputs against the untouched original. None sets no limit.

    Attributes:
        min_sqnr_db: The smallest signal to quantization noise ratio, in dB.
        min_agreement: The smallest share of rows whose largest element stands at the same place, from 0 to 1.
        max_error: The largest error, in units of the output.

    Raises:
        ConfigError: If a limit is no such number.
    """

    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.min_sqnr_db is not None and not math.isfinite(self.min_sqnr_db):
            raise ConfigError(f"the smallest SQNR should be a number of dB, but it is {self.min_sqnr_db}")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise ConfigError(
                f"the smallest agreement of argmax should be a share from 0 to 1, but it is {self.min_agreement:g}"
            )
        if self.max_error is not None and not 0 <= self.max_error < math.inf:
            raise ConfigError(f"the largest error should be a number from 0 on, but it is {self.max_error:g}")

    @property
    def are_given(self) -> bool:
        """Whether there is any."""
        return any(limit is not None for limit in (self.min_sqnr_db, self.min_agreement, self.max_error))

    def exceeded_by(self, item: OutputComparison) -> tuple[str, ...]:
        """Which limits an output does not keep, a phrase each: ``SQNR 7.1 dB, below 10 dB``."""
        found = []
        if self.min_sqnr_db is not None and item.sqnr_db is not None and item.sqnr_db < self.min_sqnr_db:
            found.append(f"SQNR {item.sqnr_db:.1f} dB, below {self.min_sqnr_db:g} dB")
        agreement = item.argmax_agreement
        if self.min_agreement is not None and agreement is not None and agreement < self.min_agreement:
            found.append(f"argmax agreement {agreement:.1%}, below {self.min_agreement:.4g}")
        if self.max_error is not None and item.max_abs_error is not None and item.max_abs_error > self.max_error:
            found.append(f"error {item.max_abs_error:.3g}, above {self.max_error:g}")
        return tuple(found)

    def not_judged(self, comparisons: Sequence[OutputComparison]) -> Iterator[str]:
        """The limits that could not be judged, a sentence each: no output that was compared has a figure for one.

        An output of zeros has no ratio to its error, and is named, too.

        Args:
            comparisons: All that were made; nothing is said if there are none, as that is said otherwise.
        """
        compared = [item for item in comparisons if not item.is_random]
        if not compared:
            return
        if self.min_sqnr_db is not None and all(item.tolerance is None for item in compared):
            yield "the smallest SQNR could not be judged, as no output that was compared is of floats"
        elif self.min_sqnr_db is not None:
            for item in compared:
                if item.sqnr_db is None and item.tolerance is not None and item.max_abs_error:
                    yield (
                        f"output '{item.name}' at optimization '{item.optimization}': its SQNR could not be judged, as "
                        f"it is 0 and its error {item.max_abs_error:.3g}"
                    )
        if self.min_agreement is not None and all(item.argmax_agreement is None for item in compared):
            yield (
                "the smallest agreement of argmax could not be judged, as no output that was compared has rows of two "
                "or more floats"
            )
        if self.max_error is not None and all(item.max_abs_error is None for item in compared):
            yield "the largest error could not be judged, as no output that was compared has one"


NO_LIMITS = ErrorLimits()

STATED_LIMITS = ErrorLimits(min_sqnr_db=10.0, min_agreement=0.9)
"""Beyond these, a report says that the outputs are far from the original's, whatever was asked for."""
