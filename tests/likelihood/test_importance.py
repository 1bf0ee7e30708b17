"""Independent weights: ELBO and importance-weighted bound, chunk by chunk."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from toy_densities import Amortised, Encoded, assert_below, assert_mean, linear, mean_and_se, standard, target_for

from lmeval.likelihood import importance
from lmeval.likelihood.diagnostics import pareto_k, tail_size
from lmeval.likelihood.importance import WeightSummary, weigh
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import Target, gaussian_of, log_weights, sample_start


def target_of(model: Any, x: Tensor, widen: float = 1.0) -> Target:
    return target_for(model, x, gaussian_of(model.encode(x), widen))


def drawn(target: Target, k: int, at_once: int, encoded: bool = False, purpose: str = "iwae") -> WeightSummary:
    return weigh(target, k, Streams(0, purpose, [(i, 0) for i in target.ids], target.x), at_once, encoded)


def test_all_numbers_are_those_of_the_weights():
    model = linear(3, 6, kind=Amortised, widen=1.3)
    target, k = target_of(model, model.sample(4)), 60
    found = drawn(target, k, k)
    w = log_weights(target, sample_start(target, k, Streams(0, "iwae", [(i, 0) for i in range(4)], target.x)))
    np.testing.assert_allclose(found.log_mean, w.exp().mean(0).log().numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.mean_log, w.mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.sd_log, w.std(0).numpy(), rtol=1e-9)
    np.testing.assert_allclose(found.ess, (w.exp().sum(0) ** 2 / (2 * w).exp().sum(0)).numpy(), rtol=1e-9)
    top = w.topk(tail_size(k) + 1, dim=0).values.numpy()
    np.testing.assert_allclose(found.pareto_k, pareto_k(top, k), rtol=1e-9)
    q = model.encode(target.x)
    z = sample_start(target, k, Streams(0, "iwae", [(i, 0) for i in range(4)], target.x))
    direct = model.prior.log_prob(z) + model.decode(z).log_prob(target.x) - q.log_prob(z)
    np.testing.assert_allclose(w.numpy(), direct.numpy(), rtol=1e-9)
    for part in found:
        assert part.shape == (4,) and part.dtype == np.float64


@pytest.mark.parametrize("at_once", [1, 7, 59, 60, 1000])
def test_chunks_change_nothing(at_once: int):
    model = linear(3, 6, kind=Amortised, widen=1.3)
    target = target_of(model, model.sample(4))
    for a, b in zip(drawn(target, 60, at_once), drawn(target, 60, 60), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_memory_does_not_grow_with_the_draws(monkeypatch: pytest.MonkeyPatch):
    model = linear(3, 6, kind=Amortised)
    target, sizes = target_of(model, model.sample(4)), []
    inner = importance.log_weights

    def watched(target: Target, z: Tensor) -> Tensor:
        sizes.append(len(z))
        return inner(target, z)

    monkeypatch.setattr(importance, "log_weights", watched)
    drawn(target, 1003, 100)
    assert sizes == [100] * 10 + [3]


@pytest.mark.parametrize("shape", ["encoder", "any family"])
def test_the_posterior_as_encoder_gives_weights_without_variance(shape: str):
    model = linear(5, 20, 0.1, kind=Encoded)
    x = model.sample(6)
    found = drawn(target_of(model, x), 40, 16, shape == "any family")
    assert found.sd_log.max() < 1e-9
    np.testing.assert_allclose(found.log_mean, model.log_p(x), atol=1e-9)
    np.testing.assert_allclose(found.mean_log, model.log_p(x), atol=1e-9)
    np.testing.assert_allclose(found.ess, 40, rtol=1e-9)
    assert (found.pareto_k == -math.inf).all()


def test_one_draw_is_the_elbo():
    model = linear(3, 6, kind=Amortised)
    found = drawn(target_of(model, model.sample(5)), 1, 10)
    np.testing.assert_allclose(found.log_mean, found.mean_log, rtol=1e-12)
    assert (found.sd_log == 0).all() and np.allclose(found.ess, 1)
    assert np.isnan(found.pareto_k).all()


def test_the_bound_rises_with_the_draws_towards_the_truth():
    model = linear(3, 6, 0.2, kind=Amortised, widen=0.8)
    x = model.sample(1).expand(1500, -1)
    truth = model.log_p(x[:1])[0]
    target = target_of(model, x)
    means, last = [], -math.inf
    for k in (1, 3, 10, 40):
        found = drawn(target, k, k, purpose=f"{k}")
        assert_below(found.log_mean - truth)
        if k > 3:
            assert_mean(np.exp(found.log_mean - truth), 1.0, 3.5)
        mean, se = mean_and_se(found.log_mean - truth)
        assert mean > last + 2 * se
        means.append(mean)
        last = mean
    # the ELBO is log p(x) - KL(q || posterior), whatever k is
    q, exact = model.encode(x[:1]), model.posterior(x[:1])
    q = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    assert_mean(drawn(target, 40, 40).mean_log - truth, -float(torch.distributions.kl_divergence(q, exact)))


class Bimodal(Amortised):
    """An encoder of another family."""

    def encode(self, x: Tensor) -> MixtureSameFamily:  # pyright: ignore[reportIncompatibleMethodOverride]
        exact = self.posterior(x)
        means = torch.stack([exact.mean - 0.3, exact.mean + 0.3], 1)
        parts = Independent(Normal(means, (exact.stddev * 1.2)[:, None].expand_as(means)), 1)
        return MixtureSameFamily(Categorical(torch.ones(len(x), 2).to(x)), parts)


def test_encoders_of_any_family():
    model = linear(3, 6, 0.5, kind=Bimodal)
    x = model.sample(40)
    truth = model.log_p(x)
    target = target_for(model, x)
    found = drawn(target, 800, 200, True)
    assert_below(found.log_mean - truth)
    np.testing.assert_allclose(found.log_mean, truth, atol=0.5)
    assert_mean(np.exp(found.log_mean - truth), 1.0, 3.5)
    alone = target._replace(x=x[7:8], ids=(7,))
    np.testing.assert_allclose(drawn(alone, 800, 200, True).log_mean[0], found.log_mean[7], rtol=1e-9)


def test_a_draw_without_probability_is_one():
    # half the draws have weight 0: the bound is the rest's, the ELBO is -inf, and both say so
    class Half:
        prior = standard(1)

        def decode(self, z: Tensor):
            return Independent(Normal(torch.where(z > 0, 0.0, math.inf), 1.0, validate_args=False), 1)

    target = target_for(Half(), torch.zeros(2, 1).double())
    found = drawn(target, 2000, 500)
    np.testing.assert_allclose(found.log_mean, Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) - math.log(2), atol=0.1)
    assert (found.mean_log == -math.inf).all()
    np.testing.assert_allclose(found.ess, 1000, rtol=0.1)
