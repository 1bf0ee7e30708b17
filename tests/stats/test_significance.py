import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmeval.errors import InputError
from lmeval.stats import holm, mean_estimate, minimum_detectable_effect, paired_difference, t_test


def test_degrees_of_freedom_are_those_of_the_clusters():
    values, groups = np.array([1.0, 2.0, 1.5, 0.5, 3.0, 2.0]), [0, 0, 1, 1, 2, 2]
    found = paired_difference(values, np.zeros(6), groups)
    assert found.stderr is not None and found.ci95 is not None
    stderr, (low, high) = found.stderr, found.ci95
    p = t_test(found)
    assert p == pytest.approx(2 * stats.t.sf(found.value / stderr, 2), rel=1e-12)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * stderr, rel=1e-12)


def test_t_test_where_nothing_varies():
    assert t_test(mean_estimate(np.zeros(4), share=False)) == 1.0
    assert t_test(mean_estimate(np.full(4, 0.5))) == 0.0
    assert t_test(mean_estimate(np.array([2.0]))) is None


def test_an_effect_of_that_size_is_found_as_often_as_the_power_says():
    assert minimum_detectable_effect(0.5) == pytest.approx((1.959964 + 0.841621) * 0.5, rel=1e-6)
    effect = minimum_detectable_effect(1.0, power=0.9, alpha=0.01)
    z = np.random.default_rng(11).standard_normal(40_000) + effect
    assert (np.abs(z) > stats.norm.ppf(0.995)).mean() == pytest.approx(0.9, abs=0.006)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize("p_values", [[0.1, -0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_no_p_value(p_values: list[float]):
    with pytest.raises(InputError, match="between 0 and 1"):
        holm(p_values)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_order_and_lies_between_none_and_bonferroni(p_values: list[float], random):
    adjusted = holm(p_values)
    for p, own in zip(p_values, adjusted, strict=True):
        assert p <= own <= min(1.0, len(p_values) * p) or own == pytest.approx(p)
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)
