"""Tails and effective sizes: samples whose shape is known."""

import math

import numpy as np
import pytest

from lmeval.likelihood.diagnostics import ESS_FOR_STDERR, log_estimate_stderr, pareto_k, tail_size


def log_pareto(k: float, n: int, columns: int, seed: int = 0) -> np.ndarray:
    """Logs of generalised Pareto numbers of shape k plus 1, [n, columns]."""
    u = np.random.default_rng(seed).random((n, columns))
    return np.log1p(np.expm1(-k * np.log(u)) / k)


def largest(log_w: np.ndarray) -> np.ndarray:
    return np.sort(log_w, axis=0)[-(tail_size(len(log_w)) + 1) :]


@pytest.mark.parametrize("k", [0.3, 0.5, 0.7, 1.0, 2.0])
def test_shapes_of_exact_samples(k: float):
    log_w = log_pareto(k, 100_000, 16)
    found = pareto_k(largest(log_w), 100_000)
    error = (1 + k) / math.sqrt(tail_size(100_000))  # of the likeliest shape, asymptotically
    np.testing.assert_allclose(found, k, atol=4 * error)
    assert found.mean() == pytest.approx(k, abs=4 * error / 4 + 0.01)
    assert found.std() == pytest.approx(error, rel=0.5)
    np.testing.assert_allclose(pareto_k(largest(log_w) - 3000, 100_000), found, rtol=1e-6)
    np.testing.assert_allclose(pareto_k(largest(log_w)[::-1], 100_000), found, rtol=1e-12)


def test_light_tails_are_below_the_limit_and_heavy_ones_above():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(5000, 20))
    assert (pareto_k(largest(0.5 * normal), 5000) < 0.5).all()
    assert (pareto_k(largest(6 * normal), 5000) > 0.7).all()
    assert pareto_k(largest(rng.exponential(size=(5000, 20)) / 3), 5000).mean() == pytest.approx(1 / 3, abs=0.1)  # exp of it


def test_few_weights_are_drawn_towards_a_half():
    # of 10 further weights with shape 0.5: at n = 50 the tail holds 10, and the estimate is half way
    raw = pareto_k(largest(log_pareto(1e-6, 50, 4000)), 50)
    assert 0.1 < raw.mean() < 0.4


@pytest.mark.parametrize("n", [1, 16, 20])
def test_too_few_weights_tell_nothing(n: int):
    assert np.isnan(pareto_k(largest(np.random.default_rng(0).normal(size=(n, 3))), n)).all()


def test_weights_without_a_tail():
    assert pareto_k(np.zeros((214, 2)), 5000).tolist() == [-math.inf, -math.inf]
    assert np.isnan(pareto_k(np.full((214, 1), -math.inf), 5000)).all()
    mixed = np.stack([np.zeros(214), np.linspace(0, 3, 214)], 1)
    found = pareto_k(mixed, 5000)
    assert found[0] == -math.inf and math.isfinite(found[1])


def test_a_single_weight_that_outweighs_all_is_flagged():
    log_w = 40 * np.random.default_rng(0).normal(size=(5000, 3))
    assert (pareto_k(largest(log_w), 5000) > 0.7).all()


def test_tail_sizes():
    assert [tail_size(n) for n in (1, 16, 100, 225, 500, 5000, 100_000)] == [1, 4, 20, 45, 68, 213, 949]


def test_errors_are_those_of_repeated_runs():
    rng = np.random.default_rng(0)
    k = 200
    log_w = 0.7 * rng.normal(size=(4000, k))
    w = np.exp(log_w)
    ess = w.sum(1) ** 2 / (w**2).sum(1)
    found = log_estimate_stderr(ess, k)
    np.testing.assert_allclose(found, w.std(1, ddof=1) / w.mean(1) / math.sqrt(k), rtol=1e-9)
    assert found.mean() == pytest.approx(np.log(w.mean(1)).std(), rel=0.05)


def test_no_error_where_weights_tell_too_little():
    assert np.isnan(log_estimate_stderr(np.array([1.0, 9.9]), 100)).all()
    assert np.isfinite(log_estimate_stderr(np.array([ESS_FOR_STDERR, 100.0]), 100)).all()
    assert log_estimate_stderr(np.array([100.0]), 100)[0] == 0
    assert np.isnan(log_estimate_stderr(np.array([1.0]), 1)).all()
    assert np.isnan(log_estimate_stderr(np.array([math.nan, 0.0]), 100)).all()
