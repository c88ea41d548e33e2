"""Mean, standard deviation and confidence interval of a few numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "spread_of", "t_quantile"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """What repeats tell.

    Attributes:
        mean: Their mean; infinite if one of them is.
        std: Their standard deviation, of the sample (with one less than their number); 0 for one.
        low: The lower end of the 95 % confidence interval of the mean, by Student's t.
        high: Its upper end. Both are None for one repeat, and where one is infinite.
    """

    mean: float
    std: float
    low: float | None
    high: float | None


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one number."""
    if not all(map(math.isfinite, values)):
        return Spread(math.inf if max(values) == math.inf else -math.inf, 0.0, None, None)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean, 0.0, None, None)
    std = statistics.stdev(values, mean)
    reach = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * std / math.sqrt(len(values))
    return Spread(mean, std, mean - reach, mean + reach)


def t_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t distribution, to 3 digits for 3 and more degrees of freedom, and exactly for fewer.

    The series is that of M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 1964, equation 26.7.5.

    Args:
        share: From 0 to 1, exclusive.
        freedom: Degrees of freedom, at least 1.
    """
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:  # noqa: PLR2004 - a closed form
        centred = 2 * share - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    x = statistics.NormalDist().inv_cdf(share)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
