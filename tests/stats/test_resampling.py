import numpy as np
import pytest

from lmeval.stats import (
    automatic_block_length,
    block_bootstrap,
    bootstrapped_ratio,
)

Y, X = 0, 1


def ar1(n: int, phi: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(n + 200)
    series = np.zeros(n + 200)
    for t in range(1, n + 200):
        series[t] = phi * series[t - 1] + noise[t]
    return series[200:]


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
