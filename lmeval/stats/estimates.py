"""Means of items with their standard errors and intervals: Student's t, Wilson's for shares, cluster-robust errors."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import special

from lmeval.errors import EmptyInput
from lmeval.stats.clusters import cluster_codes

CONFIDENCE = 0.95


def student_quantile(degrees_of_freedom: int) -> float:
    """Two-sided 95% quantile of Student's t.

    Args:
        degrees_of_freedom: At least 1; for a mean, one less than there are independent units.

    Returns:
        The t for which 95% of the distribution lies in [-t, t]: how many standard errors an interval reaches to each side.

    >>> round(student_quantile(9), 3)
    2.262
    """
    return float(special.stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2))


class Estimate(NamedTuple):
    """A mean over items, or a ratio of sums over them, with its uncertainty, in its unit.

    `n` counts items, `n_clusters` the independent units that `stderr` rests on (clusters, or items where there are none).
    `stderr` and `ci95` are None where there are fewer than two such units: one says nothing about spread.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    n: int
    n_clusters: int


def wilson_interval(share: float, n: int | float, quantile: float | None = None) -> tuple[float, float]:
    """Score interval of a share of `n` independent items (Wilson 1927, J. Am. Stat. Assoc. 22): in [0, 1], never a point.

        (share + z^2 / 2n +- z sqrt(share (1 - share) / n + z^2 / 4n^2)) / (1 + z^2 / n),   z = `quantile`, 1.96 if None

    Args:
        share: The observed share, from 0 to 1.
        n: How many independent items it is of, more than 0. An effective number of items need not be whole.
        quantile: How many standard errors the interval reaches to each side; None takes the normal 95% quantile.

    Returns:
        The lower and the upper end.

    >>> tuple(round(x, 4) for x in wilson_interval(1.0, 10))
    (0.7225, 1.0)
    """
    z = float(special.ndtri(0.5 + CONFIDENCE / 2)) if quantile is None else quantile
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return 0.0 if share == 0.0 else max(0.0, low), 1.0 if share == 1.0 else min(1.0, high)


def mean_estimate(
    values: Float64[np.ndarray, " n"], clusters: Sequence[Hashable] | np.ndarray | None = None, share: bool | None = None
) -> Estimate:
    """Mean of items, its standard error, and a 95% interval. The order of the items changes nothing beyond rounding.

        se^2 = sum_i (v_i - mean)^2 / (n (n - 1))                                              no clusters
        se^2 = C / (C - 1) * sum_c (sum_{i in c} (v_i - mean))^2 / n^2                         C clusters

    The first is lm-evaluation-harness's `mean_stderr`, which knows no clusters; the second is the cluster-robust error of
    Miller (2024, arXiv 2411.00640) with the factor for few clusters, and equals the first where every cluster is one item.

    The interval is Student's t on one degree of freedom less than there are units. For a share (`share`; None: all values
    are 0 or 1) it is Wilson's instead. With clusters that takes the effective number of items n' = n * se_1^2 / se_C^2 (se_1
    as if there were no clusters), at most n, and C where all values are equal; with t in place of z (Dean & Pagano 2015,
    J. Survey Stat. Methodol. 3).

    Args:
        values: One number an item, float64 [n], in any unit.
        clusters: The cluster of each item, under any hashable name; None takes the items as independent.
        share: Whether the mean is a share; None finds out from the values.

    Returns:
        The mean with its standard error and interval, all in the unit of the values.

    Raises:
        EmptyInput: There are no values.
        InputError: There are not as many clusters as values.
    """
    n = len(values)
    if n == 0:
        raise EmptyInput("no items to average: give at least one")
    mean = math.fsum(values) / n
    codes = None if clusters is None else cluster_codes(clusters, n)
    units = n if codes is None else int(codes.max()) + 1
    if units < 2:
        return Estimate(mean, None, None, n, units)
    residuals = values - mean
    plain = stderr = math.sqrt(math.fsum(residuals * residuals) / (n - 1)) / math.sqrt(n)
    if codes is not None and units < n:
        sums = np.bincount(codes, weights=residuals)
        stderr = math.sqrt(math.fsum(sums * sums) * units / (units - 1)) / n
    quantile = student_quantile(units - 1)
    if not (np.isin(values, (0.0, 1.0)).all() if share is None else share):
        return Estimate(mean, stderr, (mean - quantile * stderr, mean + quantile * stderr), n, units)
    if units == n:
        return Estimate(mean, stderr, wilson_interval(mean, n), n, units)
    effective = float(units) if plain == 0.0 else n / max(1.0, (stderr / plain) ** 2)
    return Estimate(mean, stderr, wilson_interval(mean, effective, quantile), n, units)
