"""Sums over pixels against torch's own distributions: values, gradients, extremes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Laplace, Normal

from lmeval.likelihood.pixels import log_prob_of

G = torch.Generator().manual_seed(0)
K, BATCH, PIXELS = 5, 4, 7
SD = torch.rand(PIXELS, generator=G, dtype=torch.float64) + 0.3
WIDE = torch.rand(K, BATCH, PIXELS, generator=G, dtype=torch.float64) + 0.3
MADE: dict[str, Callable[[Tensor], Distribution]] = {
    "logits": lambda h: Bernoulli(logits=h),
    "probabilities": lambda h: Bernoulli(probs=torch.sigmoid(h)),
    "one number": lambda h: Normal(h, 0.4),
    "one tensor": lambda h: Normal(h, torch.tensor(0.4, dtype=h.dtype)),
    "by pixel": lambda h: Normal(h, SD.to(h)),
    "by datum": lambda h: Normal(h, WIDE[0, :, :1].to(h)),
    "by particle": lambda h: Normal(h, WIDE.to(h)),
    "of z": lambda h: Normal(h, torch.nn.functional.softplus(h) + 0.1),
    "one for all, of z": lambda h: Normal(h, (0.1 + h.square().mean()).expand_as(h)),
    "laplace": lambda h: Laplace(h, 0.4),
}


def data_for(law: Distribution, dtype: torch.dtype) -> Tensor:
    x = torch.randn(BATCH, PIXELS, generator=torch.Generator().manual_seed(1)).to(dtype)
    return (x > 0).to(dtype) if isinstance(law, Bernoulli) else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(MADE))
def test_they_are_torchs(name: str, dtype: torch.dtype):
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    h = (2 * torch.randn(K, BATCH, PIXELS, generator=G, dtype=torch.float64)).to(dtype).requires_grad_()
    law = MADE[name](h)
    x = data_for(law, dtype)
    ours, theirs = log_prob_of(Independent(law, 1), x), Independent(law, 1).log_prob(x)
    assert ours.shape == (K, BATCH) and ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    weights = torch.randn(K, BATCH, generator=G).to(dtype)  # each particle's own slope
    (a,) = torch.autograd.grad((weights * ours).sum(), h, retain_graph=True)
    (b,) = torch.autograd.grad((weights * theirs).sum(), h)
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(log_prob_of(Independent(MADE[name](h), 1), x), ours.detach())


def test_other_laws_take_their_own_way():
    logits = torch.randn(K, BATCH, PIXELS, 3, generator=G)
    law, x = Independent(Categorical(logits=logits), 1), torch.randint(3, (BATCH, PIXELS), generator=G)
    assert torch.equal(log_prob_of(law, x), law.log_prob(x))
    image = Independent(Normal(torch.randn(K, BATCH, 2, 3, generator=G), 0.5), 2)
    x = torch.randn(BATCH, 2, 3, generator=G)
    assert torch.equal(log_prob_of(image, x), image.log_prob(x))


def test_extremes():
    huge = Independent(Bernoulli(logits=torch.full((1, 1, 2), 1e4)), 1)
    assert log_prob_of(huge, torch.tensor([[0.0, 1.0]])).item() == -1e4
    lost = Independent(Normal(torch.full((1, 1, 2), math.nan), 1.0, validate_args=False), 1)
    assert torch.isnan(log_prob_of(lost, torch.zeros(1, 2))).all()
    lost = Independent(Bernoulli(logits=torch.full((1, 1, 2), math.nan), validate_args=False), 1)
    assert torch.isnan(log_prob_of(lost, torch.zeros(1, 2))).all()
    far = torch.full((1, 1, 2), 1e30, requires_grad=True)
    found = log_prob_of(Independent(Normal(far, 1.0), 1), torch.zeros(1, 2))
    assert found.item() == -math.inf


def test_data_stay_as_they_are():
    h = torch.randn(K, BATCH, PIXELS, generator=G, requires_grad=True)
    for name in ("logits", "by pixel"):
        law = MADE[name](h)
        x = data_for(law, torch.float32)
        before, at = x.clone(), h.detach().clone()
        found = log_prob_of(Independent(law, 1), x).sum()
        first = torch.autograd.grad(found, h, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(found, h)[0], first)  # twice the same: nothing saved was changed
        assert torch.equal(x, before) and torch.equal(h.detach(), at)


def test_a_derived_class_keeps_its_own_log_prob():
    class Rounded(Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return (self.cdf(value + 0.5) - self.cdf(value - 0.5)).log()

    h, x = torch.randn(K, BATCH, PIXELS, generator=G), torch.zeros(BATCH, PIXELS)
    law = Independent(Rounded(h, 0.4), 1)
    assert torch.equal(log_prob_of(law, x), law.log_prob(x))
    assert not torch.allclose(log_prob_of(law, x), log_prob_of(Independent(Normal(h, 0.4), 1), x))
