"""Limits for the errors of a mapped model's outputs: those of the user, and those below which a report warns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError
from onnx_gconv.runtime.comparison import OutputComparison

__all__ = ["NO_LIMITS", "STATED_LIMITS", "ErrorLimits"]


@dataclass(frozen=True)
class ErrorLimits:
    """A user's limits for the errors of outputs against the original. None sets no limit.

    Attributes:
        min_sqnr_db: The smallest signal to quantization noise ratio, in dB.
        min_agreement: The smallest share of rows with the largest element at the same position, from 0 to 1.
        max_error: The largest error, in units of the output.

    Raises:
        ConfigError: If a limit has an invalid value.
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
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.min_sqnr_db, self.min_agreement, self.max_error))

    def exceeded_by(self, item: OutputComparison) -> tuple[str, ...]:
        """Return which limits an output exceeds, a phrase each: ``SQNR 7.1 dB, below 10 dB``."""
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
        """Yield a sentence for each limit that could not be judged, because no compared output has such a figure.

        An output of zeros has no SQNR and is named, too.

        Args:
            comparisons: All comparisons. If there are none, nothing is yielded: the report says that elsewhere.
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
"""The limits beyond which a report says that outputs are far from the original's, whatever the user's limits are."""
