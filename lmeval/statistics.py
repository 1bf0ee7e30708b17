"""How sure a figure is: ratios of sums, means of items, differences between two runs, spread between seeds. Numbers alone.

A corpus figure is a ratio estimator R = sum_i y_i / sum_i x_i (nats over bytes, tokens, words). Its units i are documents
where there are enough of them, else consecutive pieces of one long text, which are correlated. A figure of a prompted task
is a mean over items, whose units are the items or, where items share a passage or a template, clusters of them.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special

from lmeval.errors import EmptyInput, InputError

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


class Estimate(NamedTuple):
    """A mean over items with its uncertainty, in the items' unit.

    `n` counts items, `n_clusters` the independent units behind `stderr` (clusters, or items where there are none).
    `stderr` and `ci95` are None where there are fewer than two such units.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    n: int
    n_clusters: int


def cluster_codes(clusters: Sequence[Hashable] | np.ndarray, n: int) -> Int64[np.ndarray, " n"]:
    """Clusters of `n` items as codes 0, 1, ... in order of first appearance. Raises InputError where there are not `n`.

    >>> cluster_codes(["b", "a", "b"], 3).tolist()
    [0, 1, 0]
    """
    names = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    if len(names) != n:
        raise InputError(f"{len(names)} clusters for {n} items: give every item exactly one")
    first_seen: dict[Hashable, int] = {}
    return np.array([first_seen.setdefault(name, len(first_seen)) for name in names], dtype=np.int64)


def wilson_interval(share: float, n: int | float, quantile: float | None = None) -> tuple[float, float]:
    """Score interval of a share of `n` independent items (Wilson 1927, J. Am. Stat. Assoc. 22): in [0, 1], never a point.

        (share + z^2 / 2n +- z sqrt(share (1 - share) / n + z^2 / 4n^2)) / (1 + z^2 / n),   z = `quantile`, 1.96 if None

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
    J. Survey Stat. Methodol. 3). Raises EmptyInput without values, InputError where clusters do not match them.
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


def paired_difference(
    a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"], clusters: Sequence[Hashable] | np.ndarray | None = None
) -> Estimate:
    """Mean of a_i - b_i over the same items, with the t interval and errors of `mean_estimate`.

    se(a - b)^2 = se(a)^2 + se(b)^2 - 2 cov: items that are hard for both models cancel (Miller 2024). A z score
    from two separate standard errors, as lm-evaluation-harness's model comparator has it, leaves the covariance out.
    """
    return mean_estimate(a - b, clusters, share=False)


def t_test(estimate: Estimate) -> float | None:
    """Two-sided p-value of "the true mean is 0" by Student's t on n_clusters - 1 degrees of freedom; None without stderr.

    Of a paired difference it is the paired t test. Where nothing varies it is 1 at a mean of 0 and 0 elsewhere.
    """
    if estimate.stderr is None:
        return None
    if estimate.stderr == 0.0:
        return 1.0 if estimate.value == 0.0 else 0.0
    return float(2 * special.stdtr(estimate.n_clusters - 1, -abs(estimate.value) / estimate.stderr))


class McNemar(NamedTuple):
    """Items that only a, and only b, has right, and the p-value of "each is as likely as the other"."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a_right: Bool[np.ndarray, " n"], b_right: Bool[np.ndarray, " n"]) -> McNemar:
    """McNemar's test (1947, Psychometrika 12) in its exact two-sided form: the discordant items are tosses of a fair coin.

    p = min(1, 2 P(X <= min(only_a, only_b))), X ~ Binomial(only_a + only_b, 1/2); 1 where no item is discordant. The
    chi-squared form of the same name is an approximation. It takes items as independent: no clusters.
    """
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    tail = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(1.0, 2 * tail))


def minimum_detectable_effect(stderr: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true mean or difference, in the unit of `stderr`, that a two-sided test at `alpha` finds with `power`.

    (z_{1 - alpha/2} + z_power) * stderr (Miller 2024): 2.80 standard errors by default.
    """
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power)) * stderr


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of m tests adjusted so that one below alpha is a finding at a familywise error rate of alpha, in input order.

    The i-th smallest becomes max_{j <= i} min(1, (m - j + 1) p_(j)) (Holm 1979, Scand. J. Statist. 6): valid under any
    dependence between the tests. Raises InputError for what is no p-value.

    >>> holm([0.04, 0.01])
    [0.04, 0.02]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values must lie between 0 and 1, these do not: {list(p_values)}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


class SeedSpread(NamedTuple):
    """A figure over several seeds, in the values' unit: see `seed_variance`. None where one seed or item says nothing."""

    mean: float
    item_stderr: float | None
    seed_sd: float | None
    total_stderr: float | None
    per_seed: Float64[np.ndarray, " seeds"]


def seed_variance(values: Float64[np.ndarray, "seeds items"]) -> SeedSpread:
    """What the draw of seeds (of examples, of orders) and the draw of items add to the error of the grand mean.

    Two-way random effects, every item under every seed: v_si = mean + seed_s + item_i + rest_si. With S seeds, I items and
    the mean squares of the two-way table, the components by the method of moments (Searle, Casella & McCulloch, Variance
    Components, 1992, chapter 4), each at least 0:

        var_rest = MS_rest,   var_item = (MS_item - MS_rest) / S,   var_seed = (MS_seed - MS_rest) / I
        item_stderr^2  = var_item / I + var_rest / (S I)      new items, the same seeds
        seed_sd^2      = var_seed                             one seed to another, over endless items
        total_stderr^2 = item_stderr^2 + var_seed / S         new items and new seeds

    The standard deviation of `per_seed` is something else: it holds the noise of the items, var_rest / I, as well. Several
    seeds do not count as S I independent items: the error falls with S only as far as var_seed and var_rest go.
    """
    seeds, items = values.shape
    if not values.size:
        raise EmptyInput("no values to take the spread of: give at least one seed and one item")
    mean, per_seed, per_item = math.fsum(values.ravel()) / values.size, values.mean(axis=1), values.mean(axis=0)
    if items < 2 or seeds < 2:
        item_stderr = mean_estimate(per_item).stderr
        return SeedSpread(mean, item_stderr, None, None, per_seed)
    rest = values - per_seed[:, None] - per_item[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
    ms_item = seeds * float(((per_item - mean) ** 2).sum()) / (items - 1)
    ms_seed = items * float(((per_seed - mean) ** 2).sum()) / (seeds - 1)
    var_item, var_seed = max(0.0, (ms_item - ms_rest) / seeds), max(0.0, (ms_seed - ms_rest) / items)
    from_items = var_item / items + ms_rest / (seeds * items)
    total = math.sqrt(from_items + var_seed / seeds)
    return SeedSpread(mean, math.sqrt(from_items), math.sqrt(var_seed), total, per_seed)
