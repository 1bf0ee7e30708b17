import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmeval.errors import InputError
from lmeval.perplexity.tally import ENOUGH_DOCUMENTS
from lmeval.stats import (
    Moments,
    add_row,
    block_bootstrap,
    bootstrapped_ratio,
    linearised_ratio,
    no_moments,
    ratio_estimate,
)

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


def test_a_ratio_over_clusters_is_that_over_their_sums():
    rows = clusters(24, np.random.default_rng(4))
    assert ratio_estimate(rows) == linearised_ratio(moments_of(rows), Y, X)
    names = [f"c{i % 7}" for i in range(24)]
    sums = np.stack([rows[i::7].sum(axis=0) for i in range(7)])
    expected, found = linearised_ratio(moments_of(sums), Y, X), ratio_estimate(rows, names)
    assert (found.value, found.stderr) == (pytest.approx(expected.value), pytest.approx(expected.stderr))
    assert (found.n, found.n_clusters) == (7, 7)
    with pytest.raises(InputError, match="3 clusters for 24 items"):
        ratio_estimate(rows, names[:3])


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
    assert linearised_ratio(moments_of(np.array([[3.0, 2.0]])), Y, X) == (1.5, None, None, 1, 1)
    rows = np.array([[3.0, 2.0]])
    assert bootstrapped_ratio(rows.sum(axis=0), block_bootstrap(rows, 1, 0), Y, X) == (1.5, None, None, 1, 1)


def test_equal_units_have_no_spread():
    found = linearised_ratio(moments_of(np.tile([[0.1, 0.3]], (7, 1))), Y, X)
    assert found.stderr == pytest.approx(0.0, abs=1e-8)


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
