"""Mean, standard deviation and confidence interval of a metric over several chips."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "spread_of", "t_quantile"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and confidence interval of the values of several repeats.

    Attributes:
        mean: The mean; infinite if one of the values is.
        std: The standard deviation of the sample, with n - 1 in the denominator; 0 for a single value, and if a value
            is infinite.
        low: The lower end of the 95 % confidence interval of the mean, by Student's t distribution; see `spread_of`.
        high: The upper end. Both ends are None for a single value, and if a value is infinite.
    """

    mean: float
    std: float
    low: float | None
    high: float | None


def spread_of(values: Sequence[float], bounds: tuple[float, float] | None = None) -> Spread:
    """The spread of at least one number.

    The interval is ``mean - t * e`` to ``mean + t * e`` with the standard error e = std / sqrt(n) and the quantile t of
    Student's distribution with n - 1 degrees of freedom.

    Numbers between bounds, such as accuracies, have the same interval on the logit scale, so that it ends between the
    bounds, too: ``p = (mean - lowest) / (highest - lowest)`` becomes ``log(p / (1 - p))``, and e is divided by
    ``(highest - lowest) * p * (1 - p)``, the derivative of the inverse (delta method). This is the logit interval of
    L. D. Brown, T. T. Cai and A. DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16 (2001)
    with the error of the chips in place of the binomial one, as in ``svyciprop(method = "logit")`` of R's package
    survey. For figures from -1 to 1 it is Fisher's z transformation.

    Args:
        values: The numbers.
        bounds: The lowest and the highest number that there can be; None if there are no bounds.
    """
    if not all(map(math.isfinite, values)):
        return Spread(math.inf if max(values) == math.inf else -math.inf, 0.0, None, None)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean, 0.0, None, None)
    std = statistics.stdev(values, mean)
    reach = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * std / math.sqrt(len(values))
    if bounds is None or not reach:
        return Spread(mean, std, mean - reach, mean + reach)
    lowest, highest = bounds
    share = (mean - lowest) / (highest - lowest)
    if not 0 < share < 1:  # all values are at one bound, except for roundings
        end = min(max(mean, lowest), highest)
        return Spread(mean, std, end, end)
    middle = math.log(share / (1 - share))
    reach /= (highest - lowest) * share * (1 - share)
    low, high = ((1 + math.tanh(end / 2)) / 2 for end in (middle - reach, middle + reach))  # back from the logit scale
    return Spread(mean, std, lowest + (highest - lowest) * low, lowest + (highest - lowest) * high)


def t_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t distribution: exact for 1 and 2 degrees of freedom, to 3 digits for more.

    The series is equation 26.7.5 of M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 1964.

    Args:
        share: The probability of a value below the quantile, between 0 and 1.
        freedom: The degrees of freedom, at least 1.
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
