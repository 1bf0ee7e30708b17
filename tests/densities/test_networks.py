import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from lmeval.densities.layers import Linear
from lmeval.densities.networks import (
    DequantisedFlow,
    Generator,
    LayeredVAE,
    Made,
    made_inputs,
    made_of,
    order_ranks,
    outputs_per_pixel,
    scaled_levels,
)


def linear(n_in: int, n_out: int, seed: int, size: float = 1.0) -> Linear:
    rng = torch.Generator().manual_seed(seed)
    return Linear(torch.randn(n_out, n_in, generator=rng) * size, torch.randn(n_out, generator=rng) * size)


def all_images(n_dims: int, levels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=n_dims)), dtype=torch.float32)


def small_made(
    n_dims: int, levels: int, seeds: tuple[int, ...] = (0,), *, hot: bool = False, depth: int = 2, direct: bool = False
) -> Made:
    n_in, n_out = n_dims * (levels if hot else 1), n_dims * (1 if levels == 2 else levels)
    widths = [n_in, *[11] * depth, n_out]
    layers: list[Linear | str] = []
    for i in range(len(widths) - 1):
        layers += [linear(widths[i], widths[i + 1], i), "tanh"]
    skip = (linear(n_in, n_out, 20),) if direct else ()
    return made_of(tuple(layers[:-1]), seeds, levels, n_dims, one_hot=hot, direct=skip)


def small_vae(observation: str, levels: int, seed: int = 0) -> LayeredVAE:
    n_out = 6 * outputs_per_pixel(observation, levels)
    encoder, decoder = (linear(6, 9, seed), "relu"), (linear(3, 9, seed + 1), "relu", linear(9, n_out, seed + 2, 0.3))
    return LayeredVAE(encoder, linear(9, 3, seed + 3, 0.3), linear(9, 3, seed + 4, 0.3), decoder, observation, levels, 6, 3)


CYCLE = 1  # the seed of an order of three pixels whose ranks are not their own inverse
MADES: list[dict[str, Any]] = [
    {"n_dims": 5, "levels": 2},
    {"n_dims": 5, "levels": 2, "seeds": (3, 0, 7), "depth": 1},
    {"n_dims": 3, "levels": 4, "seeds": (0, 2)},
    {"n_dims": 3, "levels": 4, "seeds": (1,), "hot": True},
    {"n_dims": 4, "levels": 3, "seeds": (5,), "depth": 0},
    {"n_dims": 4, "levels": 3, "seeds": (5, 6), "direct": True},
    {"n_dims": 3, "levels": 4, "hot": True, "direct": True},
]


@pytest.mark.parametrize("given", MADES)
def test_a_made_sums_to_one_over_all_images(given: dict[str, Any]):
    n_dims, levels = given["n_dims"], given["levels"]
    log_probs = small_made(**given).log_prob(all_images(n_dims, levels))
    assert log_probs.shape == (levels**n_dims,)
    assert float(log_probs.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(log_probs.std()) > 0.3  # and is far from uniform


@pytest.mark.parametrize("given", MADES)
def test_an_output_sees_earlier_pixels_and_no_others(given: dict[str, Any]):
    made, n_dims, levels = small_made(**given), given["n_dims"], given["levels"]
    x = all_images(n_dims, levels)
    for k, rank in enumerate(made.ranks):
        seen = torch.zeros(n_dims, n_dims, dtype=torch.bool)
        for pixel in range(n_dims):
            other = x.clone()
            other[:, pixel] = (other[:, pixel] + 1) % levels
            before, after = (made.conditionals(some, k).base_dist.logits for some in (x, other))  # pyright: ignore
            seen[:, pixel] = (before != after).reshape(len(x), n_dims, -1).any(dim=2).any(dim=0)
        allowed = rank[:, None] > rank[None, :]
        assert not (seen & ~allowed).any()
        assert (seen == allowed).all()  # and with a hidden layer of 11 every earlier one


def test_a_direct_layer_is_added():
    with_it, without = small_made(4, 3, direct=True), small_made(4, 3)
    x = all_images(4, 3)
    skip = with_it.direct[0][0]
    assert isinstance(skip, Linear)
    added = (x - 1) @ skip.weight.T + skip.bias
    logits = [made.conditionals(x).base_dist.logits for made in (with_it, without)]  # pyright: ignore
    torch.testing.assert_close(logits[0], (logits[1] + added.reshape(len(x), 4, 3)).log_softmax(dim=2))
    assert with_it.n_parameters == without.n_parameters + 4 * 12 + 12


def test_a_made_is_the_product_of_its_conditionals():
    # Chain rule by enumeration: the marginal of the first pixels in order is the sum over the later ones.
    made = small_made(4, 3, (6,))
    x, first = all_images(4, 3), torch.argsort(made.ranks[0])[0]
    marginal = torch.stack([made.log_prob(x[x[:, first] == level]).logsumexp(dim=0) for level in range(3)])
    conditional = torch.log_softmax(made.conditionals(torch.zeros(1, 4)).base_dist.logits[0, first], dim=0)  # pyright: ignore
    torch.testing.assert_close(marginal, conditional)


@pytest.mark.parametrize(("seeds", "hot"), [((CYCLE,), False), ((0, CYCLE), True)])
def test_samples_of_a_made_follow_its_probabilities(seeds, hot):
    torch.manual_seed(0)
    made = small_made(3, 3, seeds, hot=hot)
    drawn = made.sample(40_000)
    codes = (drawn @ torch.tensor([9.0, 3.0, 1.0])).long()
    shares = torch.bincount(codes, minlength=27) / len(codes)
    torch.testing.assert_close(shares, made.log_prob(all_images(3, 3)).exp(), rtol=0, atol=0.012)


def test_orders_of_pixels():
    assert order_ranks(6, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(order_ranks(50, 3).tolist()) == list(range(50)) and not torch.equal(order_ranks(50, 3), order_ranks(50, 4))
    assert torch.equal(order_ranks(50, 3), order_ranks(50, 3))


def test_inputs_of_networks():
    assert scaled_levels(torch.tensor([0.0, 1.0]), 2).tolist() == [0, 1]
    assert scaled_levels(torch.tensor([0.0, 8.0, 16.0]), 17).tolist() == [-1, 0, 1]
    assert made_inputs(torch.tensor([[2.0, 0.0]]), 3, one_hot_inputs=True).tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(("observation", "levels"), [("bernoulli", 2), ("categorical", 5), ("discretized_logistic", 5)])
def test_a_vae_has_the_parts_of_a_latent_model(observation: str, levels: int):
    vae, x, z = small_vae(observation, levels), all_images(6, 2)[:7], torch.randn(4, 7, 3)
    assert vae.prior.batch_shape == () and vae.prior.event_shape == (3,)
    q, p = vae.encode(x), vae.decode(z[0])
    assert q.batch_shape == (7,) and q.event_shape == (3,) and p.batch_shape == (7,) and p.event_shape == (6,)
    particles = vae.decode(z).log_prob(x)
    torch.testing.assert_close(particles[2], vae.decode(z[2]).log_prob(x))


@pytest.mark.parametrize(("observation", "levels"), [("bernoulli", 2), ("categorical", 3), ("discretized_logistic", 3)])
def test_a_decoder_sums_to_one_over_all_images(observation: str, levels: int):
    vae, x = small_vae(observation, levels), all_images(6, levels)
    found = vae.decode(torch.tensor([0.4, -1.0, 2.0])).log_prob(x)
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_posterior_is_normal_with_the_exponential_of_log_std():
    vae, x = small_vae("categorical", 5), torch.tensor([[0.0, 1, 2, 3, 4, 0]])
    h = torch.relu((x / 2 - 1) @ vae.encoder[0].weight.T + vae.encoder[0].bias)  # pyright: ignore
    mean, log_std = (h @ layer.weight.T + layer.bias for layer in (vae.mean, vae.log_std))
    z = torch.randn(1, 3)
    expected = (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=1)
    torch.testing.assert_close(vae.encode(x).log_prob(z), expected)


def test_means_of_a_discretized_logistic_are_in_units_of_the_range():
    decoder = (Linear(torch.zeros(12, 3), torch.tensor([-1.0, 0, 1, -1, 0, 1] + [-5.0] * 6)),)
    empty = Linear(torch.zeros(3, 6), torch.zeros(3))
    vae = LayeredVAE((), empty, empty, decoder, "discretized_logistic", 17, 6, 3)
    assert float(vae.decode(torch.zeros(1, 3)).log_prob(torch.tensor([[0.0, 8, 16, 0, 8, 16]]))) == pytest.approx(
        0, abs=1e-6
    )
    assert vae.n_parameters == 2 * (18 + 3) + 36 + 12


class _Fixed(torch.nn.Module):
    def __init__(self, distribution: torch.distributions.Distribution):
        super().__init__()
        self.distribution = distribution

    def forward(self):
        return self.distribution


class _Logits:
    """The density of the logits of uniform numbers in [alpha, 1 - alpha]^D: a flow that fits uniform levels."""

    def __init__(self, alpha: float):
        self.alpha = alpha

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        s = torch.sigmoid(y)
        return (torch.log(s * (1 - s)) - math.log(1 - 2 * self.alpha)).sum(dim=-1)


def test_a_flow_that_is_uniform_gives_the_logarithm_of_the_number_of_levels():
    for levels, alpha in ((256, 0.05), (17, 0.01), (2, 1e-4)):
        flow = DequantisedFlow(_Fixed(_Logits(alpha)), levels, 5, alpha, 3)  # pyright: ignore
        x = torch.randint(levels, (11, 5), generator=torch.Generator().manual_seed(1)).double()
        expected = torch.full((11,), -5 * math.log(levels), dtype=torch.float64)
        torch.testing.assert_close(flow.log_prob(x), expected)


def test_a_flow_is_a_lower_bound_that_grows_with_the_number_of_draws():
    # One pixel under a normal density of y: P(level) is a difference of two normal distribution functions.
    levels, alpha, normal = 9, 0.02, Normal(torch.tensor([0.3]).double(), torch.tensor([0.9]).double())
    x = torch.arange(levels)[:, None].double()
    edges = torch.logit(alpha + (1 - 2 * alpha) * torch.arange(levels + 1).double() / levels)
    exact = normal.cdf(edges).diff().log()
    few, some, many = (
        DequantisedFlow(_Fixed(Independent(normal, 1)), levels, 1, alpha, k).log_prob(x) for k in (1, 16, 50_000)
    )
    torch.testing.assert_close(many, exact, rtol=0, atol=0.01)
    assert float((few - exact).mean()) < float((some - exact).mean()) < 0.01
    assert float(many.exp().sum()) < 1 and float(many.exp().sum()) == pytest.approx(float(exact.exp().sum()), abs=0.01)


def test_a_flow_has_a_jacobian():
    # The density of v per unit of level integrates to the mass that the flow puts inside.
    normal = Normal(torch.tensor([-0.5]), torch.tensor([1.1]))
    flow = DequantisedFlow(_Fixed(Independent(normal, 1)), 4, 1, 0.01, 1)
    values = torch.linspace(0, 4, 40_001)[1:-1, None]
    mass = torch.trapezoid(flow.log_density(values).exp(), values[:, 0])
    edge = math.log(0.99 / 0.01)
    expected = normal.cdf(torch.tensor([edge])) - normal.cdf(torch.tensor([-edge]))
    assert float(mass) == pytest.approx(float(expected), abs=1e-4)


def test_a_flow_gives_an_image_the_same_number_in_any_batch():
    flow = DequantisedFlow(_Fixed(Independent(Normal(torch.zeros(6), torch.ones(6)), 1)), 17, 6, 0.01, 7)
    x = torch.randint(17, (20, 6), generator=torch.Generator().manual_seed(2)).float()
    before = torch.random.get_rng_state()
    found = flow.log_prob(x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(flow.log_prob(x.flip(0)).flip(0), found)
    assert torch.equal(torch.stack([flow.log_prob(row[None])[0] for row in x]), found)
    assert torch.equal(flow.log_prob(x.double()).float(), found) or torch.allclose(flow.log_prob(x.double()).float(), found)
    assert flow.log_prob(x[:0]).shape == (0,) and flow.side == "lower"
    twice = flow.log_prob(torch.stack([x[0], x[0]]))
    assert twice[0] == twice[1]


def test_draws_of_a_flow_differ_between_images():
    flow = DequantisedFlow(_Recorded(), 17, 6, 0.01, 3)
    flow.log_prob(torch.tensor([[0.0] * 6, [0, 0, 0, 0, 0, 1]]))
    v = (torch.sigmoid(torch.cat(flow.flow.seen)) - 0.01) / 0.98 * 17  # pyright: ignore
    assert v.shape == (3, 2, 6)
    draws = (v - v.floor())[:, :, :5].flatten()
    assert len(np.unique(draws.numpy().round(4))) == len(draws)


class _Recorded(torch.nn.Module):
    """A flow that keeps what it is asked for."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self):
        return self

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        self.seen.append(y)
        return y.sum(dim=-1)


def test_samples_of_a_flow_are_levels():
    torch.manual_seed(0)
    levels, alpha, normal = 5, 0.01, Normal(torch.tensor([0.4]), torch.tensor([1.2]))
    drawn = DequantisedFlow(_Fixed(Independent(normal, 1)), levels, 1, alpha, 1).sample(40_000)
    assert drawn.shape == (40_000, 1)
    edges = torch.logit(alpha + (1 - 2 * alpha) * torch.arange(levels + 1) / levels)
    edges[0], edges[-1] = -20, 20
    shares = torch.bincount(drawn[:, 0].long(), minlength=levels) / len(drawn)
    torch.testing.assert_close(shares, normal.cdf(edges).diff(), rtol=0, atol=0.01)


def test_a_generator_makes_images_within_the_levels():
    torch.manual_seed(3)
    generator = Generator((linear(2, 5, 0), "relu", linear(5, 6, 1), "sigmoid"), 17, 6, 2)
    drawn = generator.sample(50)
    assert drawn.shape == (50, 6) and float(drawn.min()) >= 0 and float(drawn.max()) <= 16 and float(drawn.std()) > 1
    torch.manual_seed(3)
    assert torch.equal(generator.images(torch.randn(50, 2)), drawn)
    assert generator.n_parameters == 2 * 5 + 5 + 5 * 6 + 6
