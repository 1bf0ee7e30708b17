import math

import numpy as np
import pytest

from lmeval.stats import (
    mean_estimate,
    seed_variance,
)


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
