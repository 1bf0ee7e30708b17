import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lm_eval.api.metrics import mean_stderr
from scipy import stats

from lmeval.errors import EmptyInput, InputError
from lmeval.stats import (
    Estimate,
    mean_estimate,
    paired_difference,
    seed_variance,
    wilson_interval,
)

VALUES = hnp.arrays(np.float64, st.integers(2, 50), elements=st.floats(-1e3, 1e3, width=32))


def spread(found: Estimate) -> tuple[float, float, float]:
    """Standard error and interval of an estimate that has them."""
    assert found.stderr is not None
    assert found.ci95 is not None
    return found.stderr, *found.ci95


@given(VALUES)
def test_error_of_a_mean_is_the_harness_one(values: np.ndarray):
    found = mean_estimate(values)
    assert found.stderr == pytest.approx(mean_stderr(values.tolist()), rel=1e-12, abs=1e-12)
    assert (found.n, found.n_clusters) == (len(values), len(values))


def test_accuracy_and_its_error_are_the_harness_numbers_to_the_digit():
    for n, right in [(100, 37), (1319, 700), (17, 16)]:
        items = [1.0] * right + [0.0] * (n - right)
        found = mean_estimate(np.array(items))
        assert (found.value, found.stderr) == (sum(items) / n, pytest.approx(mean_stderr(items), rel=1e-14))


def test_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(7).exponential(size=15)
    _, low, high = spread(mean_estimate(values))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx(tuple(expected), rel=1e-12)


@given(VALUES, st.randoms(use_true_random=False))
def test_order_of_items_changes_nothing(values: np.ndarray, random):
    groups = np.array([random.randrange(4) for _ in values])
    order = random.sample(range(len(values)), len(values))
    assert mean_estimate(values[order]) == mean_estimate(values)
    a, b = mean_estimate(values, groups), mean_estimate(values[order], groups[order])
    assert a.value == b.value
    assert a.n_clusters == b.n_clusters
    assert a.stderr is None or a.stderr == pytest.approx(b.stderr, rel=1e-9, abs=1e-9)


@given(VALUES)
def test_clusters_of_one_item_are_no_clusters(values: np.ndarray):
    assert mean_estimate(values, [f"item {i}" for i in range(len(values))]) == mean_estimate(values)


def test_the_cluster_sum_with_single_items_is_the_plain_error():
    # The same law of the formula itself: two items of one cluster that add up to one item's residual.
    values = np.array([1.0, 4.0, 6.0, 9.0])
    halves = np.concatenate([values, values])
    clustered = mean_estimate(halves, [0, 1, 2, 3] * 2)
    assert spread(clustered) == pytest.approx(spread(mean_estimate(values)), rel=1e-12)
    assert (clustered.n, clustered.n_clusters) == (8, 4)


@given(VALUES, st.integers(2, 5))
def test_repeating_items_within_their_cluster_adds_nothing(values: np.ndarray, times: int):
    groups = np.arange(len(values)) % max(2, len(values) // 2)
    once, often = mean_estimate(values, groups), mean_estimate(np.repeat(values, times), np.repeat(groups, times))
    assert often.stderr == pytest.approx(once.stderr, rel=1e-9, abs=1e-9)
    assert often.n == times * once.n
    assert often.n_clusters == once.n_clusters


def test_clustered_error_by_hand():
    # Mean 2; sums of residuals -2 (0 and 2), 0 (2), 2 (3 and 3): se^2 = 3/2 * 8 / 25.
    found = mean_estimate(np.array([0.0, 2.0, 2.0, 3.0, 3.0]), ["p", "p", "q", "r", "r"])
    stderr, low, high = spread(found)
    assert stderr == pytest.approx(math.sqrt(0.48), rel=1e-14)
    assert (low, high) == pytest.approx((2 - 4.302653 * stderr, 2 + 4.302653 * stderr), rel=1e-6)  # t, 2 degrees of freedom


@pytest.mark.parametrize("groups", [None, ["only"]])
def test_one_item_says_nothing_about_spread(groups: list[str] | None):
    assert mean_estimate(np.array([0.3]), groups) == (0.3, None, None, 1, 1)


def test_one_cluster_says_nothing_about_spread():
    assert mean_estimate(np.array([0.0, 1.0, 1.0, 0.0]), [7, 7, 7, 7]) == (0.5, None, None, 4, 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(EmptyInput, match="at least one"):
        mean_estimate(np.array([]))
    with pytest.raises(InputError, match="2 clusters for 3 items"):
        mean_estimate(np.ones(3), [0, 1])
    with pytest.raises(EmptyInput):
        seed_variance(np.ones((0, 3)))


@pytest.mark.parametrize(("right", "n"), [(0, 6), (0, 7), (10, 10), (1, 2), (37, 100), (999, 1000), (0, 1)])
def test_score_interval_is_scipys(right: int, n: int):
    low, high = wilson_interval(right / n, n)
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low < high <= 1
    assert (low == 0) == (right == 0)
    assert (high == 1) == (right == n)


@given(st.integers(2, 60), st.integers(0, 60), st.integers(2, 20))
def test_interval_of_an_accuracy_stays_inside_and_is_never_a_point(n: int, right: int, n_groups: int):
    values = (np.arange(n) < right).astype(np.float64)
    for groups in (None, np.arange(n) % n_groups, np.arange(n) * n_groups // (n + 1)):
        found = mean_estimate(values, groups)
        if found.n_clusters > 1:
            _, low, high = spread(found)
            assert 0 <= low <= found.value <= high <= 1
            assert high - low > 0.01


def test_an_unclustered_accuracy_has_wilsons_interval_and_other_means_do_not():
    values = np.array([1.0, 0.0, 1.0, 1.0])
    assert mean_estimate(values).ci95 == wilson_interval(0.75, 4)
    stderr, low, high = spread(mean_estimate(values, share=False))
    assert high - low == pytest.approx(2 * 3.182446 * stderr, rel=1e-6)  # t, 3 degrees of freedom
    assert paired_difference(np.ones(3), np.array([0.0, 0.0, 1.0])).ci95 != wilson_interval(2 / 3, 3)


def test_clusters_count_once_where_all_of_their_items_agree():
    found = mean_estimate(np.ones(40), np.arange(40) // 10)
    assert found.ci95 == pytest.approx(wilson_interval(1.0, 4, 3.182446), rel=1e-6)  # 4 clusters; t, 3 degrees of freedom


def coverage(truth: float, draw, trials: int = 1000) -> float:
    held = 0
    for _ in range(trials):
        _, low, high = spread(draw())
        held += low <= truth <= high
    return held / trials


def clustered_accuracy(rng: np.random.Generator, n_clusters: int, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of 1 to 8 items, whose own accuracies are spread widely (beta, concentration 3) around `accuracy`."""
    own = rng.beta(3 * accuracy, 3 * (1 - accuracy), n_clusters)
    groups = np.repeat(np.arange(n_clusters), rng.integers(1, 9, n_clusters))
    return (rng.random(len(groups)) < own[groups]).astype(np.float64), groups


def test_intervals_of_means_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(8)
    assert 0.93 <= coverage(0.0, lambda: mean_estimate(rng.standard_normal(10))) <= 0.97
    assert 0.93 <= coverage(0.9, lambda: mean_estimate((rng.random(40) < 0.9).astype(np.float64))) <= 0.98
    for n, accuracy in [(20, 0.9), (20, 0.5), (40, 0.7)]:
        found = coverage(accuracy, lambda n=n, p=accuracy: mean_estimate(*clustered_accuracy(rng, n, p)))
        assert 0.92 <= found <= 0.98


def test_clusters_taken_as_independent_items_would_claim_too_much():
    rng = np.random.default_rng(9)
    assert coverage(0.7, lambda: mean_estimate(clustered_accuracy(rng, 40, 0.7)[0]), 400) < 0.88
