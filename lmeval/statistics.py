"""Intervals for ratios of sums, such as bits per byte: linearised over independent units, or block bootstrap along a series.

Every corpus figure here is a ratio estimator R = sum_i y_i / sum_i x_i (nats over bytes, tokens, words). Its units i are
documents where there are enough of them, else consecutive pieces of one long text, which are correlated.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import special

CONFIDENCE = 0.95


class RatioEstimate(NamedTuple):
    """A ratio of sums with its uncertainty, in the units of numerator / denominator.

    `stderr` and `ci95` are None where fewer than two units were seen: one unit says nothing about spread. `n` counts the
    units that the standard error rests on.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    n: int


def student_quantile(degrees_of_freedom: int) -> float:
    """Two-sided 95% quantile of Student's t.

    >>> round(student_quantile(9), 3)
    2.262
    """
    return float(special.stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2))


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


def linearised_ratio(moments: Moments, numerator: int, denominator: int) -> RatioEstimate:
    """Ratio of two columns' sums over independent units, with the linearised (delta-method) standard error.

        se(R)^2 = n / (n - 1) * sum_i (y_i - R x_i)^2 / (sum_i x_i)^2

    with a Student t interval on n - 1 degrees of freedom (Cochran, Sampling Techniques, 3rd ed., section 6.4).
    """
    y, x = moments.total[numerator], moments.total[denominator]
    ratio = float(y / x)
    if moments.n < 2:
        return RatioEstimate(ratio, None, None, moments.n)
    squares = moments.products
    residual = (
        squares[numerator, numerator]
        - 2 * ratio * squares[numerator, denominator]
        + ratio**2 * squares[denominator, denominator]
    )
    stderr = math.sqrt(max(float(residual), 0.0) * moments.n / (moments.n - 1)) / float(x)
    half = student_quantile(moments.n - 1) * stderr
    return RatioEstimate(ratio, stderr, (ratio - half, ratio + half), moments.n)


def automatic_block_length(series: Float64[np.ndarray, " n"]) -> int:
    """Block length for the circular block bootstrap of a mean, from the series' own autocorrelation.

    Politis & White (2004, Econometric Reviews 23), with the constant corrected by Patton, Politis & White (2009):
    b = (2 G^2 / D)^(1/3) n^(1/3), where G and D come from a flat-top lag window whose width is the first lag after which
    the autocorrelation stays insignificant. Between 1 and n / 3.
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred) / n
    if n < 9 or variance == 0.0:
        return 1
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    longest = min(n - 1, math.ceil(math.sqrt(n)) + run)
    lags = np.array([float(centred[: n - k] @ centred[k:]) / n for k in range(longest + 1)])
    quiet = np.abs(lags[1:] / variance) < 2 * math.sqrt(math.log10(n) / n)
    starts = (k for k in range(len(quiet) - run + 1) if quiet[k : k + run].all())
    significant = np.flatnonzero(~quiet)
    cut = next(starts, int(significant[-1]) + 1 if len(significant) else 0)
    width = min(2 * max(cut, 1), longest)
    k = np.arange(1, width + 1)
    window = np.clip(2 * (1 - k / width), 0.0, 1.0)
    g = 2 * float(np.sum(window * k * lags[1 : width + 1]))
    spectrum = variance + 2 * float(np.sum(window * lags[1 : width + 1]))
    d = 4 / 3 * spectrum**2
    if d == 0.0:
        return 1
    return int(np.clip(round((2 * g**2 / d) ** (1 / 3) * n ** (1 / 3)), 1, max(1, n // 3)))


class BlockBootstrap(NamedTuple):
    """Column sums of resampled series: `sums` is [replicates, columns] float64; blocks of `block` of the `n` rows."""

    sums: Float64[np.ndarray, "replicates columns"]
    block: int
    n: int


def block_bootstrap(rows: Float64[np.ndarray, "n columns"], block: int, seed: int, replicates: int = 2000) -> BlockBootstrap:
    """Circular block bootstrap (Politis & Romano 1992): resample the series in blocks of `block` consecutive rows.

    Each replicate holds ceil(n / block) blocks with starts drawn uniformly with replacement, so that dependence over
    distances shorter than a block is kept. Equal seeds give equal replicates.
    """
    n = len(rows)
    blocks = math.ceil(n / block)
    around = np.concatenate([rows, rows[: block - 1]]) if block > 1 else rows
    running = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(around, axis=0)])
    block_sums = running[block : block + n] - running[:n]
    rng = np.random.default_rng(seed)
    sums = np.empty((replicates, rows.shape[1]))
    for r in range(replicates):
        sums[r] = block_sums[rng.integers(n, size=blocks)].sum(axis=0)
    return BlockBootstrap(sums, block, n)


def bootstrapped_ratio(
    total: Float64[np.ndarray, " columns"], bootstrap: BlockBootstrap, numerator: int, denominator: int
) -> RatioEstimate:
    """Ratio of two columns' sums, standard error = standard deviation of the replicates, percentile interval.

    (The standard deviation itself: dividing it by the root of the number of replicates would measure the simulation.)
    """
    ratio = float(total[numerator] / total[denominator])
    if bootstrap.n < 2 or not bootstrap.sums[:, denominator].all():  # a resample without any unit has no ratio
        return RatioEstimate(ratio, None, None, bootstrap.n)
    replicates = bootstrap.sums[:, numerator] / bootstrap.sums[:, denominator]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return RatioEstimate(ratio, float(replicates.std(ddof=1)), (float(low), float(high)), bootstrap.n)
