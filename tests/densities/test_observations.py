import math

import pytest
import torch
from torch.distributions import Categorical

from lmeval.data.images import read_images
from lmeval.densities.modelfile import load_density
from lmeval.densities.networks import LayeredVAE
from lmeval.densities.observations import DiscretizedLogistic, bernoulli, categorical, discretized_logistic


def levels_column(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(n, dtype=dtype)[:, None]


EXTREME = torch.tensor([-1e6, -300.0, -1.0, 0.0, 0.5, 7.3, 16.0, 17.4, 5000.0, 1e6])
LOG_SCALES = torch.tensor([-1e4, -59.0, -20.0, -3.0, 0.0, 2.0, 9.0, 30.0, 1e4])


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_discretized_logistic_sums_to_one(levels: int, dtype: torch.dtype):
    mean, log_scale = (grid.flatten() for grid in torch.meshgrid(EXTREME.to(dtype), LOG_SCALES.to(dtype), indexing="ij"))
    total = DiscretizedLogistic(mean, log_scale, levels).log_prob(levels_column(levels, dtype)).double().exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=3e-6 if dtype == torch.float32 else 1e-12)


def test_a_discretized_logistic_is_the_difference_of_two_sigmoids():
    # Where differences of sigmoids do not cancel in float64, they are the reference, edges as the tails.
    levels, mean = 17, torch.linspace(-4, 20, 49, dtype=torch.float64)
    for scale in (0.4, 1.0, 3.7):
        k = levels_column(levels, torch.float64)
        upper = torch.sigmoid((k + 0.5 - mean) / scale)
        lower = torch.sigmoid((k - 0.5 - mean) / scale)
        upper[-1], lower[0] = 1, 0
        direct = upper - lower
        log_scale = torch.full_like(mean, math.log(scale))
        kept = direct > 1e-6
        found = DiscretizedLogistic(mean, log_scale, levels).log_prob(k)
        torch.testing.assert_close(found[kept], direct.log()[kept], rtol=1e-8, atol=1e-8)
        narrow = DiscretizedLogistic(mean.float(), log_scale.float(), levels).log_prob(k.float())
        torch.testing.assert_close(narrow, found.float(), rtol=1e-5, atol=1e-5)


def test_far_tails_keep_their_size():
    # S(a) - S(b) for a, b far below zero is e^a - e^b: at mean 0 and scale 1/10 level 9 lies at e^-85 - e^-95.
    found = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(math.log(0.1)), 17).log_prob(torch.tensor(9.0))
    assert float(found) == pytest.approx(-85 + math.log1p(-math.exp(-10)), rel=1e-6)
    on_the_other_side = DiscretizedLogistic(torch.tensor(16.0), torch.tensor(math.log(0.1)), 17).log_prob(torch.tensor(7.0))
    assert float(on_the_other_side) == pytest.approx(float(found), rel=1e-6)


def test_a_discretized_logistic_is_symmetric():
    mean, k = torch.tensor([3.25, 9.5, -2.0]), levels_column(17)
    one = DiscretizedLogistic(mean, torch.zeros(3), 17).log_prob(k)
    other = DiscretizedLogistic(16 - mean, torch.zeros(3), 17).log_prob(16 - k)
    torch.testing.assert_close(one, other)


def test_gradients_are_finite_and_right():
    mean, log_scale = torch.meshgrid(EXTREME, LOG_SCALES, indexing="ij")
    mean, log_scale = mean.clone().requires_grad_(), log_scale.clone().requires_grad_()
    DiscretizedLogistic(mean, log_scale, 17).log_prob(levels_column(17)[:, :, None]).sum().backward()
    assert mean.grad is not None and log_scale.grad is not None
    assert mean.grad.isfinite().all() and log_scale.grad.isfinite().all()
    inputs = [torch.linspace(-2, 18, 9, dtype=torch.float64, requires_grad=True), torch.linspace(-1, 2, 9).double()]
    inputs[1].requires_grad_()
    value = torch.tensor([0.0, 0, 5, 8, 8, 9, 16, 16, 3]).double()
    assert torch.autograd.gradcheck(lambda m, s: DiscretizedLogistic(m, s, 17).log_prob(value), inputs)


def test_samples_follow_the_probabilities():
    torch.manual_seed(0)
    mean, log_scale = torch.tensor([1.0, 8.0, 15.7]), torch.tensor([0.7, 0.0, 1.5])
    found = DiscretizedLogistic(mean, log_scale, 17)
    drawn = found.sample((40_000,))
    assert drawn.shape == (40_000, 3) and drawn.dtype == torch.float32
    shares = (drawn[None] == levels_column(17)[:, :, None]).float().mean(dim=1)
    torch.testing.assert_close(shares, found.log_prob(levels_column(17)).exp(), rtol=0, atol=0.01)


def test_values_that_are_no_levels_are_refused():
    found = DiscretizedLogistic(torch.zeros(2), torch.zeros(2), 17)
    for value in (17.0, -1.0, 0.5):
        with pytest.raises(ValueError, match="support"):
            found.log_prob(torch.full((2,), value))
    with pytest.raises(ValueError, match="at least 2"):
        DiscretizedLogistic(torch.zeros(2), torch.zeros(2), 1)
    with pytest.raises(ValueError, match="support"):
        bernoulli(torch.zeros(1, 2)).log_prob(torch.tensor([[0.5, 1.0]]))


def test_one_event_is_an_image():
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    logits = torch.tensor([[0.3, -2.0, 5.0], [0.0, 0.0, -7.0]])
    found = bernoulli(logits)
    assert found.batch_shape == (2,) and found.event_shape == (3,)
    p = torch.sigmoid(logits.double())
    torch.testing.assert_close(found.log_prob(x), torch.where(x > 0, p, 1 - p).log().sum(dim=1).float())
    wide = discretized_logistic(logits, torch.zeros(3), 5).expand((4, 2))
    assert wide.log_prob(x).shape == (4, 2) and wide.event_shape == (3,)


def test_categorical_levels_are_floats():
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 5)
    found = categorical(logits)
    x = found.sample((7,))
    assert x.shape == (7, 2, 3) and x.dtype == torch.float32
    torch.testing.assert_close(found.log_prob(x), Categorical(logits=logits).log_prob(x.long()).sum(dim=2))
    assert torch.equal(found.base_dist.mode, logits.argmax(dim=2).float())


def test_a_categorical_of_two_levels_is_a_bernoulli():
    logit = torch.tensor([[1.5, -0.3, 0.0]])
    x = torch.tensor([[1.0, 0.0, 1.0]])
    two = categorical(torch.stack([torch.zeros_like(logit), logit], dim=-1))
    torch.testing.assert_close(two.log_prob(x), bernoulli(logit).log_prob(x))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_means_are_expectations_over_the_levels(levels: int):
    k = levels_column(levels, torch.float64)
    location, log_scale = torch.meshgrid(EXTREME.double(), LOG_SCALES.double(), indexing="ij")
    logistic = DiscretizedLogistic(location.flatten(), log_scale.flatten(), levels)
    expected = (logistic.log_prob(k).exp() * k).sum(0)
    torch.testing.assert_close(logistic.mean, expected, rtol=1e-9, atol=1e-9)
    logits = torch.randn(6, levels, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    categories = categorical(logits)
    probs = torch.softmax(logits, -1)
    torch.testing.assert_close(categories.mean, (probs * k[:, 0]).sum(-1))
    spread = (probs * (k[:, 0] - categories.mean[:, None]) ** 2).sum(-1)
    torch.testing.assert_close(categories.variance, spread)


def test_means_agree_with_samples():
    torch.manual_seed(3)
    logistic = discretized_logistic(torch.tensor([-2.0, 3.3, 15.8]), torch.tensor([1.0, 0.2, 1.5]), 17)
    categories = categorical(torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]))
    for distribution in (logistic, categories):
        drawn = distribution.sample((40_000,))
        torch.testing.assert_close(distribution.mean, drawn.mean(0), rtol=0, atol=0.05)


def test_the_mean_of_the_bundled_vae_is_a_reconstruction():
    x = read_images("digits", split="test").x.float()
    vae = load_density("lmeval-digits-vae-v1").model
    assert isinstance(vae, LayeredVAE)
    with torch.no_grad():
        decoded = vae.decode(vae.encode(x).mean)
    location = decoded.base_dist.mean_level  # pyright: ignore[reportAttributeAccessIssue]

    def psnr(image: torch.Tensor) -> float:
        return 10 * math.log10(16**2 / float(((image - x) ** 2).mean()))

    assert psnr(decoded.mean) == pytest.approx(19.0, abs=0.3)
    assert psnr(location) < 7
