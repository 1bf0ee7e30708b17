"""Two models on the same items: the mean difference, and McNemar's test."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special

from lmeval.stats.estimates import CONFIDENCE, Estimate, mean_estimate
from lmeval.stats.resampling import automatic_block_length, block_bootstrap

ENOUGH_BLOCKS = 8  # consecutive pieces of text for a bootstrap; with fewer they are taken as independent


def paired_difference(
    a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"], clusters: Sequence[Hashable] | np.ndarray | None = None
) -> Estimate:
    """Mean of a_i - b_i over the same items, with the t interval and errors of `mean_estimate`.

    se(a - b)^2 = se(a)^2 + se(b)^2 - 2 cov: items that are hard for both models cancel (Miller 2024). A z score
    from two separate standard errors, as lm-evaluation-harness's model comparator has it, leaves the covariance out.

    Args:
        a: One number an item in run a, float64 [n].
        b: The same of run b, in the same order and unit.
        clusters: The cluster of each item, for items that are not independent; None takes them as independent.

    Returns:
        The mean difference with its standard error and interval, in the unit of the values. The interval is Student's t
        even where all differences are 0 or 1.

    Raises:
        EmptyInput: There are no items.
        InputError: There are not as many clusters as items.
    """
    return mean_estimate(a - b, clusters, share=False)


class McNemar(NamedTuple):
    """Items that only a, and only b, has right, and the p-value of "each is as likely as the other"."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a_right: Bool[np.ndarray, " n"], b_right: Bool[np.ndarray, " n"]) -> McNemar:
    """McNemar's test (1947, Psychometrika 12) in its exact two-sided form: the discordant items are tosses of a fair coin.

    p = min(1, 2 P(X <= min(only_a, only_b))), X ~ Binomial(only_a + only_b, 1/2); 1 where no item is discordant. The
    chi-squared form of the same name is an approximation. It takes items as independent: no clusters.

    Args:
        a_right: Whether run a has each item right, bool [n].
        b_right: The same of run b, in the same order.

    Returns:
        How many items only a has right, how many only b, and p.
    """
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    tail = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(1.0, 2 * tail))


class Difference(NamedTuple):
    """Two runs over the same items: their values, a - b with its uncertainty, and how alike their items are.

    `correlation` is Pearson's over items (for ratios: over each item's own rate, items without a denominator left out), None
    where one run does not vary. `method` says what the interval rests on.
    """

    a: float
    b: float
    difference: Estimate
    correlation: float | None
    method: str


def mean_difference(
    a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"], clusters: Sequence[Hashable] | np.ndarray | None = None
) -> Difference:
    """The mean of a_i - b_i over items (`paired_difference`), beside the two means and the correlation of the items.

    Args:
        a: One number an item in run a, float64 [n].
        b: The same of run b, in the same order and unit.
        clusters: The cluster of each item, for items that are not independent; None takes them as independent.

    Returns:
        Both means, their difference with its uncertainty (all in the unit of the values), and the items' correlation.

    Raises:
        EmptyInput: There are no items.
        InputError: There are not as many clusters as items.
    """
    difference = paired_difference(a, b, clusters)
    method = "paired items" if clusters is None else "paired items, by clusters"
    values = [mean_estimate(values).value for values in (a, b)]
    return Difference(values[0], values[1], difference, _correlation(a, b), method)


def ratio_difference(
    a: Float64[np.ndarray, "n 2"],
    b: Float64[np.ndarray, "n 2"],
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    *,
    ordered: bool = False,
    seed: int = 0,
) -> Difference:
    """Difference of two ratios of sums over the same items, such as the bits per byte of two models on the same documents.

    With numerators y and denominators x, R = sum_i y_i / sum_i x_i, and each item's linearised share of the difference

        e_i = (y_ai - R_a x_ai) / mean(x_a) - (y_bi - R_b x_bi) / mean(x_b)

    which sums to 0, the standard error of R_a - R_b is that of the mean of e_i (delta method; Cochran, Sampling Techniques,
    3rd ed., section 6.4, applied to a difference): over items, over clusters, or, where items are consecutive pieces of one
    text (`ordered`), by a circular block bootstrap of e with an automatic block length.

    Args:
        a: Numerator and denominator of each item in run a, float64 [n, 2].
        b: The same of run b, in the same order.
        clusters: What items share that are not independent.
        ordered: Whether neighbours in the order are related; clusters are then not used.
        seed: Of the bootstrap.

    Returns:
        R_a, R_b and R_a - R_b with its uncertainty, in the unit of numerator over denominator. Its `n_clusters` counts
        items, clusters, or the whole blocks of the bootstrap, which is used only for ENOUGH_BLOCKS items or more.

    Raises:
        ZeroDivisionError: The denominators of a run sum to 0, as they do without items.
        InputError: There are not as many clusters as items, and clusters are used.
    """
    ratios = [float(math.fsum(rows[:, 0]) / math.fsum(rows[:, 1])) for rows in (a, b)]
    shares = [(rows[:, 0] - ratio * rows[:, 1]) / rows[:, 1].mean() for rows, ratio in zip((a, b), ratios, strict=True)]
    residuals = shares[0] - shares[1]
    value = ratios[0] - ratios[1]
    correlation = _correlation(*_rates(a, b))
    if ordered and len(residuals) >= ENOUGH_BLOCKS:
        block = automatic_block_length(residuals)
        means = block_bootstrap(residuals[:, None], block, seed).sums[:, 0] / (math.ceil(len(residuals) / block) * block)
        stderr = float(means.std(ddof=1))
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        estimate = Estimate(
            value, stderr, (value + float(low), value + float(high)), len(residuals), len(residuals) // block
        )
        method = f"paired pieces of text, bootstrap in blocks of {block}"
        return Difference(ratios[0], ratios[1], estimate, correlation, method)
    spread = mean_estimate(residuals, clusters, share=False)
    ends = None if spread.ci95 is None else (value + spread.ci95[0] - spread.value, value + spread.ci95[1] - spread.value)
    method = "paired items" if clusters is None else "paired items, by clusters"
    return Difference(ratios[0], ratios[1], spread._replace(value=value, ci95=ends), correlation, method)


def _rates(a: Float64[np.ndarray, "n 2"], b: Float64[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Each item's own ratio in both runs, for the items that have one."""
    whole = (a[:, 1] > 0) & (b[:, 1] > 0)
    return a[whole, 0] / a[whole, 1], b[whole, 0] / b[whole, 1]


def _correlation(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> float | None:
    if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
