import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lm_eval.api.metrics import mean_stderr
from scipy import stats

from lmeval.errors import EmptyInput, InputError
from lmeval.statistics import (
    Estimate,
    Moments,
    add_row,
    automatic_block_length,
    block_bootstrap,
    bootstrapped_ratio,
    cluster_codes,
    holm,
    linearised_ratio,
    mcnemar,
    mean_estimate,
    minimum_detectable_effect,
    no_moments,
    paired_difference,
    seed_variance,
    t_test,
    wilson_interval,
)
from lmeval.tally import ENOUGH_DOCUMENTS

Y, X = 0, 1


def moments_of(rows: np.ndarray) -> Moments:
    moments = no_moments(rows.shape[1])
    for row in rows:
        moments = add_row(moments, row)
    return moments


def clusters(n: int, rng: np.random.Generator) -> np.ndarray:
    """Documents of very unequal length whose rate depends on the length: ratio 2.5 in the population."""
    x = rng.lognormal(3.0, 0.7, size=n)
    y = x * (2.5 + 0.3 * rng.standard_normal(n))
    return np.stack([y, x], axis=1)


def ar1(n: int, phi: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(n + 200)
    series = np.zeros(n + 200)
    for t in range(1, n + 200):
        series[t] = phi * series[t - 1] + noise[t]
    return series[200:]


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)))
def test_streaming_moments_equal_batch_sums(rows: np.ndarray):
    moments = moments_of(rows)
    assert moments.n == len(rows)
    np.testing.assert_allclose(moments.total, rows.sum(axis=0), rtol=1e-12, atol=1e-6)
    np.testing.assert_allclose(moments.products, rows.T @ rows, rtol=1e-12, atol=1e-3)


def test_linearised_error_is_cochrans_formula():
    rows = clusters(25, np.random.default_rng(1))
    y, x = rows.T
    found = linearised_ratio(moments_of(rows), Y, X)
    residuals = y - (y.sum() / x.sum()) * x
    assert found.value == pytest.approx(y.sum() / x.sum(), rel=1e-13)
    assert found.stderr == pytest.approx(np.sqrt(25 / 24 * (residuals**2).sum()) / x.sum(), rel=1e-6)
    assert found.n == 25


def test_linearised_error_agrees_with_the_jackknife():
    rows = clusters(300, np.random.default_rng(2))
    without = (rows.sum(axis=0) - rows)[:, Y] / (rows.sum(axis=0) - rows)[:, X]
    jackknife = np.sqrt(299 / 300 * ((without - without.mean()) ** 2).sum())
    assert linearised_ratio(moments_of(rows), Y, X).stderr == pytest.approx(jackknife, rel=0.03)


def test_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(3).standard_normal(12)
    found = linearised_ratio(moments_of(np.stack([values, np.ones(12)], axis=1)), Y, X)
    assert found.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(12), rel=1e-10)
    assert found.ci95 is not None and found.stderr is not None
    assert found.ci95[1] - found.value == pytest.approx(2.200985 * found.stderr, rel=1e-6)  # t, 11 degrees of freedom


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(1000):
        ci = linearised_ratio(moments_of(clusters(ENOUGH_DOCUMENTS, rng)), Y, X).ci95
        assert ci is not None
        covered += ci[0] <= 2.5 <= ci[1]
    assert 0.925 <= covered / 1000 <= 0.975


def test_one_unit_says_nothing_about_spread():
    assert linearised_ratio(moments_of(np.array([[3.0, 2.0]])), Y, X) == (1.5, None, None, 1)
    rows = np.array([[3.0, 2.0]])
    assert bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, 1, 0), Y, X) == (1.5, None, None, 1)


def test_equal_units_have_no_spread():
    found = linearised_ratio(moments_of(np.tile([[0.1, 0.3]], (7, 1))), Y, X)
    assert found.stderr == pytest.approx(0.0, abs=1e-8)


def test_block_bootstrap_finds_the_long_run_error_of_a_correlated_series():
    n, phi = 4000, 0.8
    theory = 1 / (1 - phi) / np.sqrt(n)
    blocks, independent = [], []
    for seed in range(5):
        rows = np.stack([ar1(n, phi, seed) + 5, np.ones(n)], axis=1)
        length = automatic_block_length(rows[:, Y])
        blocks.append(bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, length, seed), Y, X).stderr)
        independent.append(bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, 1, seed), Y, X).stderr)
    assert np.mean(blocks) == pytest.approx(theory, rel=0.25)
    assert np.mean(independent) < theory / 2.5  # 1 / 3 in theory: what taking tokens as independent would claim


def test_bootstrapped_error_is_the_spread_of_replicates_and_not_of_their_mean():
    rows = np.stack([np.random.default_rng(5).standard_normal(500), np.ones(500)], axis=1)
    few, many = (bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, 1, 0, r), Y, X).stderr for r in (500, 4000))
    assert few == pytest.approx(rows[:, Y].std() / np.sqrt(500), rel=0.1)
    assert many == pytest.approx(few, rel=0.1)


def test_interval_of_the_bootstrap_is_the_middle_95_per_cent():
    rows = np.stack([np.random.default_rng(6).standard_normal(800), np.ones(800)], axis=1)
    found = bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, 1, 0), Y, X)
    assert found.ci95 is not None and found.stderr is not None
    assert found.ci95[0] == pytest.approx(found.value - 1.96 * found.stderr, abs=0.2 * found.stderr)
    assert found.ci95[1] == pytest.approx(found.value + 1.96 * found.stderr, abs=0.2 * found.stderr)


@pytest.mark.parametrize(("n", "block"), [(7, 1), (7, 3), (7, 7), (100, 33), (2, 1)])
def test_replicates_hold_whole_blocks_of_consecutive_rows(n: int, block: int):
    rows = np.stack([np.ones(n), 2.0 ** np.arange(n)], axis=1)
    found = block_bootstrap(rows, block, seed=3, replicates=50)
    n_blocks = -(-n // block)
    assert (found.sums[:, 0] == n_blocks * block).all()
    possible = {sum(2.0 ** ((start + i) % n) for i in range(block)) for start in range(n)}
    if n_blocks == 1:
        assert set(found.sums[:, 1]) <= possible


def test_every_row_is_drawn_equally_often():
    n, replicates = 11, 4000  # circular: without the wrap the first and last rows would be rarer
    found = block_bootstrap(np.eye(n), 4, seed=0, replicates=replicates)
    np.testing.assert_allclose(found.sums.mean(axis=0), 12 / 11, rtol=0.05)


def test_equal_seeds_give_equal_replicates():
    rows = np.random.default_rng(0).standard_normal((50, 2))
    assert np.array_equal(block_bootstrap(rows, 5, 1).sums, block_bootstrap(rows, 5, 1).sums)
    assert not np.array_equal(block_bootstrap(rows, 5, 1).sums, block_bootstrap(rows, 5, 2).sums)


def test_block_length_is_about_one_for_white_noise():
    assert np.median([automatic_block_length(ar1(2000, 0.0, seed)) for seed in range(15)]) <= 3


def test_block_length_grows_with_autocorrelation_as_theory_says():
    n = 4000
    lengths = {phi: np.median([automatic_block_length(ar1(n, phi, s)) for s in range(9)]) for phi in (0.3, 0.6, 0.9)}
    assert lengths[0.3] < lengths[0.6] < lengths[0.9]
    for phi, length in lengths.items():
        theory = 1.5 ** (1 / 3) * (2 * phi / (1 - phi**2)) ** (2 / 3) * n ** (1 / 3)
        assert length == pytest.approx(theory, rel=0.5)


@pytest.mark.parametrize("series", [np.zeros(100), np.ones(5), np.arange(9.0), np.tile([1.0, -1.0], 50), np.arange(400.0)])
def test_block_length_stays_between_one_and_a_third(series: np.ndarray):
    assert 1 <= automatic_block_length(series) <= max(1, len(series) // 3)


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


def test_codes_tell_any_names_apart():
    assert cluster_codes([("a", 1), None, ("a", 1), "x"], 4).tolist() == [0, 1, 0, 2]
    assert cluster_codes(np.array([9, 4, 9]), 3).tolist() == [0, 1, 0]


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


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(10)
    a, b = rng.normal(0.3, 1.0, 25), rng.standard_normal(25)
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((interval.low, interval.high), rel=1e-11)
    assert t_test(found) == pytest.approx(expected.pvalue, rel=1e-11)
    assert found.value == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert paired_difference(b, a).value == -found.value


def test_degrees_of_freedom_are_those_of_the_clusters():
    values, groups = np.array([1.0, 2.0, 1.5, 0.5, 3.0, 2.0]), [0, 0, 1, 1, 2, 2]
    found = paired_difference(values, np.zeros(6), groups)
    stderr, low, high = spread(found)
    p = t_test(found)
    assert p == pytest.approx(2 * stats.t.sf(found.value / stderr, 2), rel=1e-12)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * stderr, rel=1e-12)


def test_t_test_where_nothing_varies():
    assert t_test(mean_estimate(np.zeros(4), share=False)) == 1.0
    assert t_test(mean_estimate(np.full(4, 0.5))) == 0.0
    assert t_test(mean_estimate(np.array([2.0]))) is None


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


def crossed(rng: np.random.Generator, seeds: int, items: int, sd_seed: float, sd_item: float, sd_rest: float) -> np.ndarray:
    rest = sd_rest * rng.standard_normal((seeds, items))
    return 1.0 + sd_seed * rng.standard_normal((seeds, 1)) + sd_item * rng.standard_normal(items) + rest


def test_components_of_seeds_and_items_by_hand():
    # Grand mean 3; MS_seed = 3 * (1 + 1) = 6, MS_item = 2 * (1 + 1) / 2 = 2, MS_rest = 1.
    rest = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]])
    found = seed_variance(3 + np.array([[1.0], [-1.0]]) + np.array([1.0, 0.0, -1.0]) + rest)
    rest_variance = 0.5  # 4 * 0.25 / (1 * 2)
    item, seed = (2 - rest_variance) / 2, (6 - rest_variance) / 3
    assert found.mean == 3
    assert found.per_seed.tolist() == [4, 2]
    assert found.seed_sd == pytest.approx(math.sqrt(seed))
    assert found.item_stderr == pytest.approx(math.sqrt(item / 3 + rest_variance / 6))
    assert found.total_stderr == pytest.approx(math.sqrt(item / 3 + seed / 2 + rest_variance / 6))


def test_components_are_found_again_on_average():
    rng = np.random.default_rng(12)
    found = [seed_variance(crossed(rng, 6, 30, 0.4, 1.0, 0.5)) for _ in range(600)]
    assert np.mean([f.seed_sd**2 for f in found if f.seed_sd is not None]) == pytest.approx(0.16, rel=0.1)
    assert np.mean([f.total_stderr**2 for f in found if f.total_stderr is not None]) == pytest.approx(
        np.var([f.mean for f in found], ddof=1), rel=0.15
    )


def test_error_of_the_items_is_that_of_their_means_over_the_seeds():
    values = crossed(np.random.default_rng(13), 4, 50, 0.3, 1.0, 0.4)
    found = seed_variance(values)
    assert found.item_stderr == pytest.approx(mean_estimate(values.mean(axis=0)).stderr, rel=1e-10)


def test_seeds_that_change_nothing_add_nothing():
    values = np.tile(np.random.default_rng(14).standard_normal(20), (5, 1))
    found = seed_variance(values)
    assert found.seed_sd == pytest.approx(0.0, abs=1e-7)
    assert found.total_stderr == pytest.approx(mean_estimate(values[0]).stderr, rel=1e-9)  # not less for five copies


@pytest.mark.parametrize("seed", range(5))
def test_components_are_never_negative(seed: int):
    found = seed_variance(np.random.default_rng(seed).standard_normal((3, 4)))
    assert found.seed_sd is not None and found.total_stderr is not None and found.item_stderr is not None
    assert found.seed_sd >= 0
    assert found.total_stderr >= found.item_stderr > 0


def test_one_seed_or_one_item_says_nothing_about_the_other():
    values = np.array([[1.0, 2.0, 4.0]])
    assert seed_variance(values)[:4] == (pytest.approx(7 / 3), mean_estimate(values[0]).stderr, None, None)
    assert seed_variance(values.T)[:4] == (pytest.approx(7 / 3), None, None, None)
