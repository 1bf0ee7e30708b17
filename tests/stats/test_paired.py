import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lmeval.stats import (
    mcnemar,
    paired_difference,
    t_test,
)


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(10)
    a, b = rng.normal(0.3, 1.0, 25), rng.standard_normal(25)
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((interval.low, interval.high), rel=1e-11)
    assert t_test(found) == pytest.approx(expected.pvalue, rel=1e-11)
    assert found.value == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert paired_difference(b, a).value == -found.value


@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 80))))
def test_mcnemar_is_the_exact_binomial_test(right: np.ndarray):
    a, b = right
    found = mcnemar(a, b)
    assert found.only_a - found.only_b == int(a.sum()) - int(b.sum())
    assert found == (mcnemar(b, a).only_b, mcnemar(b, a).only_a, mcnemar(b, a).p_value)
    discordant = found.only_a + found.only_b
    assert discordant == int((a != b).sum())
    expected = stats.binomtest(found.only_a, discordant).pvalue if discordant else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-10)


def test_mcnemar_by_hand():
    a, b = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool), np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
    assert mcnemar(a, b) == (5, 1, pytest.approx(14 / 64))  # 2 (C(6, 0) + C(6, 1)) / 2^6
    assert mcnemar(a, a) == (0, 0, 1.0)
