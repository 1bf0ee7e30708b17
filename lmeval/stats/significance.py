"""Tests: p-values of a mean, the effect that a test can find, and the adjustment for several tests."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from lmeval.errors import InputError
from lmeval.stats.estimates import Estimate


def t_test(estimate: Estimate) -> float | None:
    """Two-sided p-value of "the true mean is 0" by Student's t on n_clusters - 1 degrees of freedom; None without stderr.

    Of a paired difference it is the paired t test. Where nothing varies it is 1 at a mean of 0 and 0 elsewhere.

    Args:
        estimate: A mean or a mean difference with its standard error.

    Returns:
        The p-value, from 0 to 1, or None.
    """
    if estimate.stderr is None:
        return None
    if estimate.stderr == 0.0:
        return 1.0 if estimate.value == 0.0 else 0.0
    return float(2 * special.stdtr(estimate.n_clusters - 1, -abs(estimate.value) / estimate.stderr))


def minimum_detectable_effect(stderr: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true mean or difference, in the unit of `stderr`, that a two-sided test at `alpha` finds with `power`.

    (z_{1 - alpha/2} + z_power) * stderr (Miller 2024): 2.80 standard errors by default.

    Args:
        stderr: Standard error of the mean or difference.
        power: The probability with which the test is to find the effect, between 0 and 1.
        alpha: The probability with which it may find an effect where there is none, between 0 and 1.

    Returns:
        The size of the effect, whatever its sign.
    """
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power)) * stderr


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of m tests adjusted so that one below alpha is a finding at a familywise error rate of alpha, in input order.

    The i-th smallest becomes max_{j <= i} min(1, (m - j + 1) p_(j)) (Holm 1979, Scand. J. Statist. 6): valid under any
    dependence between the tests.

    Args:
        p_values: One of each test, from 0 to 1.

    Returns:
        The adjusted p-value of each test, in the order of the input.

    Raises:
        InputError: A p-value is NaN or lies outside [0, 1].

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
