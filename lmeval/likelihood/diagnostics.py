"""Whether a few draws carry all the weight: effective sample size, and the shape of the weights' tail (Pareto k).

Neither proves that an estimate has converged; each can show that it has not. A bound stays a bound either way.
"""

import math

import numpy as np
from jaxtyping import Float64

PARETO_LIMIT = 0.7
"""A tail above it has no usable variance: the estimate is then a bound and nothing more (Vehtari et al. 2024, JMLR 25)."""
FEWEST_IN_TAIL = 5
ESS_FOR_STDERR = 10.0


def tail_size(n: int) -> int:
    """How many of n weights count as their tail: min(n / 5, 3 sqrt(n)), rounded up (Vehtari et al. 2024).

    >>> tail_size(16), tail_size(5000)
    (4, 213)
    """
    return math.ceil(min(n / 5, 3 * math.sqrt(n)))


def pareto_k(largest: Float64[np.ndarray, "m_plus_1 batch"], n: int) -> Float64[np.ndarray, " batch"]:
    """Shape k of a generalised Pareto distribution fitted to the largest weights of each datum.

    `largest` holds the m + 1 largest of n log-weights, in any order, m = `tail_size(n)`; the smallest of them is the cutoff.
    The fit is the empirical Bayes estimate of Zhang & Stephens (2009, Technometrics 51), drawn towards 0.5 as ten further
    weights would (Vehtari et al. 2024). NaN where fewer than FEWEST_IN_TAIL weights lie above the cutoff; where all weights
    of the tail are equal nothing is heavy about it, and it is -inf.
    """
    m = min(tail_size(n), len(largest) - 1)
    ordered = np.sort(largest, axis=0)[::-1][: m + 1]
    shapes = np.full(largest.shape[1], np.nan)
    if m < FEWEST_IN_TAIL:
        return shapes
    for i, column in enumerate(ordered.T):
        if not np.isfinite(column[0]):
            continue
        weights = np.exp(column - column[0])
        if weights[-1] > 1 - 1e-9:  # equal but for rounding
            shapes[i] = -np.inf
            continue
        above = np.sort(weights[:-1] - weights[-1])
        above = above[above > 0]
        if len(above) >= FEWEST_IN_TAIL:
            shapes[i] = _pareto_shape(above)
    return shapes


def _pareto_shape(x: Float64[np.ndarray, " m"]) -> float:
    """Shape of the excesses x, rising."""
    m = len(x)
    n_grid = 30 + int(math.sqrt(m))
    grid = 1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    b = grid / (3 * x[int(m / 4 + 0.5) - 1]) + 1 / x[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.log1p(-b[:, None] * x).mean(axis=1)
        profile = m * (np.log(-b / k) - k - 1)
    profile = np.where(np.isfinite(profile), profile, -np.inf)
    weight = np.exp(profile - profile.max())
    b_mean = float((b * weight).sum() / weight.sum())
    shape = float(np.log1p(-b_mean * x).mean())
    return (m * shape + 10 * 0.5) / (m + 10)


def log_estimate_stderr(ess: Float64[np.ndarray, " n"], k: int) -> Float64[np.ndarray, " n"]:
    """Standard error of the log of a mean of k weights by the delta method, sd(w) / (mean(w) sqrt(k)), in nats.

    With the effective sample size ESS = (sum w)^2 / sum w^2 it is sqrt((k / ESS - 1) / (k - 1)). NaN where ESS is below
    ESS_FOR_STDERR: the weights seen then say little of those not seen.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        stderr = np.sqrt(np.maximum(k / ess - 1, 0.0) / max(1, k - 1))
    return np.where((ess >= min(ESS_FOR_STDERR, k)) & (k > 1), stderr, np.nan)
