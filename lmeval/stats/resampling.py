"""The circular block bootstrap of a series whose neighbours depend on one another, and the length of its blocks."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


def automatic_block_length(series: Float64[np.ndarray, " n"]) -> int:
    """Block length for the circular block bootstrap of a mean, from the series' own autocorrelation.

    Politis & White (2004, Econometric Reviews 23), with the constant corrected by Patton, Politis & White (2009):
    b = (2 G^2 / D)^(1/3) n^(1/3), where G and D come from a flat-top lag window whose width is the first lag after which
    the autocorrelation stays insignificant. Between 1 and n / 3.

    Args:
        series: At least one value, in the order in which neighbours depend on one another, float64 [n].

    Returns:
        The number of consecutive values in a block; 1 for fewer than 9 values, and for a series that does not vary.
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

    Args:
        rows: The series in its order, float64 [n, columns].
        block: How many consecutive rows are drawn together, from 1 to n (`automatic_block_length`).
        seed: Of the draw of blocks.
        replicates: How many series are drawn.

    Returns:
        The column sums of every replicate. A replicate holds ceil(n / block) * block rows, which may be more than n: divide
        by that for a mean.
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
