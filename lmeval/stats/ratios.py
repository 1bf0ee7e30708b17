"""Ratios of sums with their standard errors and intervals: linearised over independent units, or bootstrapped."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval.stats.clusters import cluster_codes
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
    """The moments of no rows, to which `add_row` adds.

    Args:
        columns: How many numbers each row will have.

    Returns:
        A count of 0, and zeros of shapes [columns] and [columns, columns].
    """
    return Moments(0, np.zeros(columns), np.zeros((columns, columns)))


def add_row(moments: Moments, row: Float64[np.ndarray, " columns"]) -> Moments:
    """The moments with one row more.

    Args:
        moments: Those of the rows before; they are not changed.
        row: What one independent unit (a document, an item) adds to each column's sum, [columns].

    Returns:
        New moments of one row more.
    """
    return Moments(moments.n + 1, moments.total + row, moments.products + np.outer(row, row))


def linearised_ratio(moments: Moments, numerator: int, denominator: int) -> Estimate:
    """Ratio of two columns' sums over independent units, with the linearised (delta-method) standard error.

        se(R)^2 = n / (n - 1) * sum_i (y_i - R x_i)^2 / (sum_i x_i)^2

    with a Student t interval on n - 1 degrees of freedom (Cochran, Sampling Techniques, 3rd ed., section 6.4).

    Args:
        moments: The moments of the rows, one row a unit.
        numerator: Index of the column of y.
        denominator: Index of the column of x, whose sum must not be 0.

    Returns:
        R = sum_i y_i / sum_i x_i with its uncertainty, in the unit of y over that of x. `stderr` and `ci95` are None for
        fewer than two rows.
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


def ratio_estimate(rows: Float64[np.ndarray, "n 2"], clusters: Sequence[Hashable] | np.ndarray | None = None) -> Estimate:
    """Ratio of the sums of two columns (`linearised_ratio`) over items or, where these are not independent, over clusters.

    Args:
        rows: Of each item, what it adds above and below the fraction line, float64 [n, 2]. The sum below must not be 0.
        clusters: The cluster of each item, under any hashable name; None takes the items as independent.

    Returns:
        The ratio with its uncertainty; `n` and `n_clusters` both count the independent units.

    Raises:
        InputError: There are not as many clusters as rows.
    """
    codes = np.arange(len(rows)) if clusters is None else cluster_codes(clusters, len(rows))
    moments = no_moments(2)
    for row in zip(np.bincount(codes, rows[:, 0]), np.bincount(codes, rows[:, 1]), strict=True):
        moments = add_row(moments, np.array(row))
    return linearised_ratio(moments, 0, 1)


def bootstrapped_ratio(
    total: Float64[np.ndarray, " columns"], bootstrap: BlockBootstrap, numerator: int, denominator: int
) -> Estimate:
    """Ratio of two columns' sums, standard error = standard deviation of the replicates, percentile interval.

    (The standard deviation itself: dividing it by the root of the number of replicates would measure the simulation.)

    Args:
        total: The sum of each column over all rows as they were observed, float64 [columns].
        bootstrap: The same sums of resampled rows (`block_bootstrap`).
        numerator: Index of the column above the fraction line.
        denominator: Index of the column below it, whose sum must not be 0.

    Returns:
        The ratio of the observed sums with its uncertainty, in the unit of numerator over denominator. `stderr` and `ci95`
        are None for fewer than two rows, and where a resample's denominators sum to 0.
    """
    ratio = float(total[numerator] / total[denominator])
    if bootstrap.n < 2 or not bootstrap.sums[:, denominator].all():  # a resample without any unit has no ratio
        return Estimate(ratio, None, None, bootstrap.n, bootstrap.n)
    replicates = bootstrap.sums[:, numerator] / bootstrap.sums[:, denominator]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Estimate(ratio, float(replicates.std(ddof=1)), (float(low), float(high)), bootstrap.n, bootstrap.n)
