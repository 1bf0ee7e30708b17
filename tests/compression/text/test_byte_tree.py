import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmeval.compression.text import byte_tree, tree
from lmeval.compression.text.byte_tree import fill_trees, open_trees
from lmeval.compression.text.masses import LEAST_LOGIT
from lmeval.errors import NonFiniteScore

# As many ids as leaves, some fewer, and more, of which the tree has only the first.
SIZES = ((1, 2), (2, 3), (3, 8), (7, 100), (8, 200), (8, 255), (8, 256), (8, 257), (8, 300))


def logits_of(kind: str, rows: int, size: int, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(size)
    logits = rng.normal(0, {"tiny": 1e-9, "huge": 1e4}.get(kind, 4.0), (rows, size))
    if kind == "ruled out":
        logits[rng.random(logits.shape) < 0.4] = -np.inf
        logits[:, 0] = 1.0
    elif kind == "one":
        logits[:] = -np.inf
        logits[:, 1] = 5.0
    elif kind == "equal":
        logits[:] = -3.0
    return logits.astype(dtype)


def path_log_odds(logits: np.ndarray, ids: np.ndarray, depth: int) -> np.ndarray:
    log_odds = np.full((len(ids), depth), np.nan)
    byte_tree.path_log_odds(logits, ids, log_odds)
    return log_odds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["plain", "tiny", "huge", "ruled out", "one", "equal"])
@pytest.mark.parametrize(("depth", "size"), SIZES)
def test_log_odds_are_those_of_the_tree_of_any_vocabulary(depth: int, size: int, kind: str, dtype: Any):
    n_ids = min(size, 1 << depth)
    ids = np.arange(n_ids)
    logits = logits_of(kind, n_ids, size, dtype)
    expected = tree.path_log_odds(torch.from_numpy(logits), torch.from_numpy(ids), depth).numpy()
    log_odds = path_log_odds(logits, ids, depth)
    assert np.abs(log_odds - expected).max() < 1e-12
    assert not np.isnan(log_odds).any()


@pytest.mark.parametrize("kind", ["plain", "huge", "ruled out"])
@pytest.mark.parametrize(("depth", "size"), SIZES)
def test_every_node_has_the_mass_of_its_leaves(depth: int, size: int, kind: str):
    logits, n_ids = logits_of(kind, 5, size), min(size, 1 << depth)
    trees = open_trees(5, depth)
    trees[:] = 7.0  # of the step before
    fill_trees(logits, trees)
    relative = logits[:, :n_ids].astype(np.float64)
    relative = np.maximum(relative - relative.max(axis=1, keepdims=True), LEAST_LOGIT)
    masses = np.zeros((5, 1 << depth))
    masses[:, :n_ids] = np.exp(relative)
    level = 1 << depth
    while level:
        assert np.allclose(trees[:, level : 2 * level], masses, rtol=1e-15, atol=0)
        masses, level = masses[:, 0::2] + masses[:, 1::2], level >> 1


@given(st.lists(st.floats(LEAST_LOGIT - 5, 0.0), min_size=1, max_size=50))
def test_the_exponential_is_right_to_the_last_digit_but_one(values: list[float]):
    masses = np.array([0.0, LEAST_LOGIT, *values]) + 3.0
    relative = masses - 3.0
    byte_tree._exponentiate(masses, 3.0)
    for x, mass in zip(relative, masses, strict=True):
        assert mass == pytest.approx(math.exp(max(x, LEAST_LOGIT)), rel=4e-16, abs=0)
    assert masses[0] == 1.0


def test_rows_may_be_filled_a_few_at_a_time():
    logits, together, apart = logits_of("plain", 11, 257), open_trees(11), open_trees(11)
    fill_trees(logits, together)
    for rows in (slice(4, 11), slice(0, 1), slice(1, 4), slice(4, 4)):
        fill_trees(logits[rows], apart[rows])
    assert np.array_equal(apart, together)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 100, 255])
def test_numbers_that_say_nothing_are_refused(value: float, place: int):
    logits = logits_of("plain", 3, 257)
    logits[1, place if value != -np.inf else slice(0, 256)] = value
    with pytest.raises(NonFiniteScore, match="NaN or infinite"):
        fill_trees(logits, open_trees(3))
    with pytest.raises(NonFiniteScore, match="NaN or infinite"):
        path_log_odds(logits, np.zeros(3, dtype=np.int64), 8)


def test_ids_behind_the_tree_are_left_out():
    logits, ids = logits_of("plain", 4, 260), np.array([0, 255, 7, 100])
    expected = path_log_odds(logits, ids, 8)
    logits[:, 256:] = (np.nan, np.inf, -np.inf, 1e6)
    assert np.array_equal(path_log_odds(logits, ids, 8), expected)


@pytest.mark.parametrize("odd", [-1, 256, 1 << 40])
def test_ids_that_the_tree_does_not_have_are_refused(odd: int):
    with pytest.raises(ValueError, match="more than 8 bits"):
        path_log_odds(logits_of("plain", 2, 257), np.array([3, odd]), 8)


def test_no_rows_are_no_trouble():
    logits = np.zeros((0, 257), dtype=np.float32)
    fill_trees(logits, open_trees(0))
    assert path_log_odds(logits, np.zeros(0, dtype=np.int64), 8).shape == (0, 8)
