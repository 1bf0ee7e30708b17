"""Ratios of sums with their standard errors and intervals: linearised over independent units, or bootstrapped."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval.stats.estimates import CONFIDENCE, Estimate, student_quantile
from lmeval.stats.resampling import BlockBootstrap


class Moments(NamedTuple):
    """Count, sums and second moments of rows, enough for any ratio estimate over them: constant memory for any corpus.

    `total` is [columns], `products` is [columns, columns] = sum_i row_i row_i^T, both float64.
    """

    n: int
    total: Float64[np.ndarray, " columns"]
    products: Float64[np.ndarray, "columns columns"]


def no_moments(columns: int) -> Moments:
    """The moments of no rows."""
    return Moments(0, np.zeros(columns), np.zeros((columns, columns)))


def add_row(moments: Moments, row: Float64[np.ndarray, " columns"]) -> Moments:
    """The moments with one row more."""
    return Moments(moments.n + 1, moments.total + row, moments.products + np.outer(row, row))


def linearised_ratio(moments: Moments, numerator: int, denominator: int) -> Estimate:
    """Ratio of two columns' sums over independent units, with the linearised (delta-method) standard error.

        se(R)^2 = n / (n - 1) * sum_i (y_i - R x_i)^2 / (sum_i x_i)^2

    with a Student t interval on n - 1 degrees of freedom (Cochran, Sampling Techniques, 3rd ed., section 6.4).
    """
    y, x = moments.total[numerator], moments.total[denominator]
    ratio = float(y / x)
    if moments.n < 2:
        return Estimate(ratio, None, None, moments.n, moments.n)
    squares = moments.products
    residual = (
        squares[numerator, numerator]
        - 2 * ratio * squares[numerator, denominator]
        + ratio**2 * squares[denominator, denominator]
    )
    stderr = math.sqrt(max(float(residual), 0.0) * moments.n / (moments.n - 1)) / float(x)
    half = student_quantile(moments.n - 1) * stderr
    return Estimate(ratio, stderr, (ratio - half, ratio + half), moments.n, moments.n)


def bootstrapped_ratio(
    total: Float64[np.ndarray, " columns"], bootstrap: BlockBootstrap, numerator: int, denominator: int
) -> Estimate:
    """Ratio of two columns' sums, standard error = standard deviation of the replicates, percentile interval.

    (The standard deviation itself: dividing it by the root of the number of replicates would measure the simulation.)
    """
    ratio = float(total[numerator] / total[denominator])
    if bootstrap.n < 2 or not bootstrap.sums[:, denominator].all():  # a resample without any unit has no ratio
        return Estimate(ratio, None, None, bootstrap.n, bootstrap.n)
    replicates = bootstrap.sums[:, numerator] / bootstrap.sums[:, denominator]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Estimate(ratio, float(replicates.std(ddof=1)), (float(low), float(high)), bootstrap.n, bootstrap.n)
