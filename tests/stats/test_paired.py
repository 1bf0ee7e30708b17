import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lmeval.stats import (
    mcnemar,
    mean_difference,
    paired_difference,
    ratio_difference,
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


def documents(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats and bytes of the same n documents under two models; the documents differ in length and difficulty."""
    n_bytes = rng.integers(50, 5000, n).astype(float)
    rates = 1.5 + rng.gamma(2.0, 0.3, n) + rng.normal(0, 0.1, (2, n))
    a, b = (np.stack([rate * n_bytes, n_bytes], axis=1) for rate in rates)
    return a, b


@given(st.integers(0, 10**6), st.integers(2, 50), st.booleans(), st.booleans())
def test_a_difference_of_ratios_turns_round(seed: int, n: int, ordered: bool, clustered: bool):
    a, b = documents(np.random.default_rng(seed), n)
    clusters = [i % 3 for i in range(n)] if clustered else None
    there, back = (ratio_difference(*pair, clusters, ordered=ordered) for pair in ((a, b), (b, a)))
    rates = [rows[:, 0].sum() / rows[:, 1].sum() for rows in (a, b)]
    assert (there.a, there.b) == (pytest.approx(rates[0], rel=1e-12), pytest.approx(rates[1], rel=1e-12))
    assert there.difference.value == pytest.approx(rates[0] - rates[1], rel=1e-9, abs=1e-12)
    assert there.difference.value == -back.difference.value
    assert there.difference.stderr == pytest.approx(back.difference.stderr, rel=1e-9)
    assert there.correlation == pytest.approx(back.correlation, rel=1e-9)
    assert there.method == back.method
    itself = ratio_difference(a, a, clusters, ordered=ordered)
    assert itself.difference[:3] == (0.0, 0.0, (0.0, 0.0)) and itself.correlation == pytest.approx(1.0)


def test_equal_denominators_make_the_difference_of_means():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, 40), rng.normal(2, 1, 40)
    ratio = ratio_difference(*(np.stack([v, np.ones(40)], axis=1) for v in (a, b)))
    mean = mean_difference(a, b)
    assert ratio.difference.value == pytest.approx(mean.difference.value, rel=1e-12)
    assert ratio.difference.stderr == pytest.approx(mean.difference.stderr, rel=1e-12)
    assert ratio.difference.ci95 == pytest.approx(mean.difference.ci95, rel=1e-12)
    assert ratio.correlation == pytest.approx(mean.correlation)


def resampled(a: np.ndarray, b: np.ndarray, units: np.ndarray, seed: int) -> float:
    """The standard error of a difference of ratios by drawing units anew with replacement, 4000 times."""
    rng, n = np.random.default_rng(seed), int(units.max()) + 1
    sums = [np.stack([np.bincount(units, rows[:, k]) for k in range(2)], axis=1) for rows in (a, b)]
    drawn = rng.integers(n, size=(4000, n))
    rates = [rows[drawn].sum(axis=1) for rows in sums]
    return float((rates[0][:, 0] / rates[0][:, 1] - rates[1][:, 0] / rates[1][:, 1]).std())


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_a_difference_of_ratios_is_that_of_drawing_documents_anew(seed: int):
    a, b = documents(np.random.default_rng(seed), 200)
    found = ratio_difference(a, b).difference
    assert found.stderr == pytest.approx(resampled(a, b, np.arange(200), seed), rel=0.08)
    apart = np.hypot(linearised(a), linearised(b))
    assert found.stderr < apart / 2  # what is hard for both cancels


def linearised(rows: np.ndarray) -> float:
    ratio = rows[:, 0].sum() / rows[:, 1].sum()
    return float(np.std(rows[:, 0] - ratio * rows[:, 1], ddof=1) / np.sqrt(len(rows)) / rows[:, 1].mean())


def test_the_error_over_clusters_is_that_of_drawing_clusters_anew():
    rng = np.random.default_rng(5)
    a, b = documents(rng, 400)
    units = np.arange(400) // 4
    a[:, 0] += np.repeat(rng.normal(0, 0.3, 100), 4) * a[:, 1]  # what a cluster shares, in one model alone
    found = ratio_difference(a, b, units.tolist()).difference
    assert found.n_clusters == 100
    assert found.stderr == pytest.approx(resampled(a, b, units, 5), rel=0.1)
    apart = ratio_difference(a, b).difference
    assert found.stderr is not None and apart.stderr is not None and found.stderr > 1.3 * apart.stderr


def test_neighbouring_pieces_are_drawn_in_blocks():
    rng = np.random.default_rng(6)
    pieces = np.full(300, 100.0)
    shared = np.convolve(rng.normal(0, 0.3, 320), np.ones(21) / 21, mode="valid")  # what neighbours share
    a = np.stack([(2.0 + shared) * pieces, pieces], axis=1)
    b = np.stack([np.full(300, 2.0) * pieces, pieces], axis=1)
    ordered, apart = ratio_difference(a, b, ordered=True), ratio_difference(a, b)
    assert ordered.difference.stderr is not None and apart.difference.stderr is not None
    assert ordered.difference.stderr > 2 * apart.difference.stderr
    assert ordered.difference.value == apart.difference.value and "blocks of" in ordered.method
    few = ratio_difference(a[:7], b[:7], ordered=True)
    assert few == ratio_difference(a[:7], b[:7])
    assert ratio_difference(a, b, ordered=True) == ordered  # by a seed


def test_correlation_is_pearson_s_over_what_varies():
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 30))
    assert mean_difference(a, b).correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert mean_difference(a, 2 * a + 1).correlation == pytest.approx(1.0)
    assert mean_difference(a, np.ones(30)).correlation is None
    assert mean_difference(a[:1], b[:1]).correlation is None
    rows_a, rows_b = documents(rng, 30)
    rows_a[3] = rows_b[3] = 0.0  # a document without text has no rate
    rates = [np.delete(rows, 3, axis=0) for rows in (rows_a, rows_b)]
    correlations = np.asarray(np.corrcoef(np.stack([rows[:, 0] / rows[:, 1] for rows in rates])))
    assert ratio_difference(rows_a, rows_b).correlation == pytest.approx(correlations[0, 1])
