"""Two models on the same items: the mean difference, and McNemar's test."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special

from lmeval.stats.estimates import Estimate, mean_estimate


def paired_difference(
    a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"], clusters: Sequence[Hashable] | np.ndarray | None = None
) -> Estimate:
    """Mean of a_i - b_i over the same items, with the t interval and errors of `mean_estimate`.

    se(a - b)^2 = se(a)^2 + se(b)^2 - 2 cov: items that are hard for both models cancel (Miller 2024). A z score
    from two separate standard errors, as lm-evaluation-harness's model comparator has it, leaves the covariance out.
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
    """
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    tail = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(1.0, 2 * tail))
