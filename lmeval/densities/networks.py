"""Densities made of layers: a variational autoencoder, an autoregressive network, a dequantised flow and a sampler.

x holds levels 0..L-1 as floats, [n, D]. Before a network sees them they become `scaled_levels`: themselves where L = 2, else
numbers in [-1, 1]. Log-probabilities are in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import one_hot

from lmeval.densities.layers import Layers, Linear, linear_layers, run_layers
from lmeval.densities.observations import bernoulli, categorical, discretized_logistic
from lmeval.densities.spaces import dequantised_bound, logit_inverse, logit_map

OBSERVATIONS = ("bernoulli", "categorical", "discretized_logistic")


def scaled_levels(x: Tensor, levels: int) -> Tensor:
    """Levels as a network's input: 0 and 1 as they are, more levels as 2 x / (L-1) - 1."""
    return x if levels == 2 else x * (2 / (levels - 1)) - 1


def outputs_per_pixel(observation: str, levels: int) -> int:
    """How many numbers a network gives for a pixel."""
    return {"bernoulli": 1, "categorical": levels, "discretized_logistic": 2}[observation]


@dataclass(frozen=True, eq=False)
class LayeredVAE:
    """A variational autoencoder: z ~ N(0, I), x|z ~ `observation`, q(z|x) normal with diagonal covariance.

    `encoder` maps scaled levels [n, D] to features; `mean` and `log_std` map those to the mean and the LOGARITHM OF THE
    STANDARD DEVIATION of q; `decoder` maps z to the numbers of the observation:

    - "bernoulli": D log-odds
    - "categorical": D L logits, pixel after pixel
    - "discretized_logistic": D means in [-1, 1] units (level (m+1)/2 (L-1)), then D logarithms of scales in units of levels
    """

    encoder: Layers
    mean: Linear
    log_std: Linear
    decoder: Layers
    observation: str
    levels: int
    n_dims: int
    n_latent: int

    @cached_property
    def prior(self) -> Distribution:
        """p(z): standard normal, one event of `n_latent` numbers."""
        zeros = torch.zeros_like(self.mean.bias.detach())
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for levels x [n, D]."""
        h = run_layers(self.encoder, scaled_levels(x, self.levels))
        log_std = run_layers((self.log_std,), h)
        return Independent(Normal(run_layers((self.mean,), h), log_std.exp()), 1)

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) for z [..., n_latent]."""
        out = run_layers(self.decoder, z)
        if self.observation == "bernoulli":
            return bernoulli(out)
        if self.observation == "categorical":
            return categorical(out.unflatten(-1, (self.n_dims, self.levels)))
        mean, log_scale = out.split(self.n_dims, dim=-1)
        return discretized_logistic((mean + 1) * ((self.levels - 1) / 2), log_scale, self.levels)

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return n_weights((*self.encoder, self.mean, self.log_std, *self.decoder))


@dataclass(frozen=True, eq=False)
class Made:
    """An autoregressive density of levels (MADE, Germain et al. 2015), or an even mixture of some that share their weights.

    `networks` hold weights that are masked already (`masked_layers`), one network for each of `ranks`: ranks[k][i] is the
    place of pixel i in the order in which network k predicts pixels. Networks give one log-odds a pixel where L = 2 and L
    logits a pixel otherwise; `direct`, empty or one for each order, are affine maps from the inputs that are added.

    With p_k the product over pixels of P(x_i | pixels before i in order k), log P(x) = log mean_k p_k(x): exact, and its
    exponentials sum to 1 over all images.
    """

    networks: tuple[Layers, ...]
    ranks: tuple[Tensor, ...]
    levels: int
    n_dims: int
    one_hot: bool = False
    direct: tuple[Layers, ...] = ()
    side = "exact"

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log P(x) [n] for levels x [n, D]."""
        each = torch.stack([self.conditionals(x, k).log_prob(x) for k in range(len(self.networks))])
        return each.logsumexp(dim=0) - math.log(len(self.networks))

    def conditionals(self, x: Tensor, k: int = 0) -> Distribution:
        """P(x_i | pixels before i in order k) of all pixels at once, as one distribution of images [n, D]."""
        inputs = made_inputs(x, self.levels, one_hot_inputs=self.one_hot)
        out = run_layers(self.networks[k], inputs)
        if self.direct:
            out = out + run_layers(self.direct[k], inputs)
        return bernoulli(out) if self.levels == 2 else categorical(out.unflatten(-1, (self.n_dims, self.levels)))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images of levels [n, D]: a network for each by chance, then pixel after pixel in its order."""
        like = linear_layers(self.networks[0])[0].weight
        x = torch.zeros(n, self.n_dims, dtype=like.dtype, device=like.device)
        chosen = torch.randint(len(self.networks), (n,), device=like.device)
        for k, rank in enumerate(self.ranks):
            rows = torch.nonzero(chosen == k)[:, 0]
            for pixel in torch.argsort(rank).tolist() if len(rows) else ():
                x[rows, pixel] = self.conditionals(x[rows], k).sample()[:, pixel]
        return x

    @property
    def n_parameters(self) -> int:
        """Number of weights, those that masks set to zero included."""
        return n_weights(self.networks[0]) + (n_weights(self.direct[0]) if self.direct else 0)


@dataclass(frozen=True, eq=False)
class DequantisedFlow:
    """A continuous density of R^D as a lower bound on the log-probability of levels.

    Level k of L becomes v = (k + u)/L with u uniform in [0, 1), s = alpha + (1 - 2 alpha) v and y = log(s / (1 - s)). With f
    the density of `flow` at y, the change of variables gives the density per unit of level
    f(y) prod_i (1 - 2 alpha) / (L s_i (1 - s_i)), and P(x) is at least its mean over u (equal but for the mass that f puts
    outside the logits of [alpha, 1 - alpha]). `log_prob` is the logarithm of the average over `n_dequantisations` draws of
    u: its expectation is at most log P(x), and grows with the number of draws.

    Draws are seeded by an image's levels, so that an image's number depends on nothing but the image. `flow()` gives a torch
    Distribution over [D], as zuko's flows do.
    """

    flow: torch.nn.Module
    levels: int
    n_dims: int
    alpha: float
    n_dequantisations: int
    side = "lower"

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """The bound [n] in nats for levels x [n, D]."""
        if not len(x):
            return x.new_zeros(0)

        def log_density(rows: Tensor, noise: Tensor) -> Tensor:
            return self.log_density(rows + noise.to(rows.device, rows.dtype))

        return dequantised_bound(log_density, x, self.n_dequantisations).to(x.dtype)

    def log_density(self, values: Tensor) -> Tensor:
        """Log-density [...] of real values in (0, L)^D, [..., D], in nats per unit of level."""
        s = self.alpha + (1 - 2 * self.alpha) * values / self.levels
        y, log_volume = logit_map(s, math.log((1 - 2 * self.alpha) / self.levels))
        return self.flow().log_prob(y) + log_volume.sum(dim=-1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images of levels [n, D]; values that leave the range take the first or last level."""
        v = logit_inverse(self.flow().sample((n,)), self.alpha)
        return (v * self.levels).floor().clamp(0, self.levels - 1)

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.flow.parameters())


@dataclass(frozen=True, eq=False)
class Generator:
    """An implicit density: images (L-1) g(z), z ~ N(0, I), g a network into [0, 1]. It has samples and no likelihood."""

    layers: Layers
    levels: int
    n_dims: int
    n_latent: int

    def images(self, z: Tensor) -> Tensor:
        """Images [..., D] of z [..., n_latent]: real numbers in [0, L-1]."""
        return run_layers(self.layers, z) * (self.levels - 1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images [n, D], drawn with torch's global generator."""
        like = linear_layers(self.layers)[0].weight
        return self.images(torch.randn(n, self.n_latent, dtype=like.dtype, device=like.device))

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return n_weights(self.layers)


def n_weights(layers: Layers) -> int:
    """Number of weights and biases of a network."""
    return sum(layer.weight.numel() + layer.bias.numel() for layer in linear_layers(layers))


def made_inputs(x: Tensor, levels: int, *, one_hot_inputs: bool) -> Tensor:
    """A MADE's input: scaled levels [n, D], or D L zeros and ones, pixel after pixel."""
    return one_hot(x.long(), levels).to(x.dtype).flatten(-2) if one_hot_inputs else scaled_levels(x, levels)


def made_of(
    layers: Layers, orderings: Sequence[int], levels: int, n_dims: int, *, one_hot: bool = False, direct: Layers = ()
) -> Made:
    """A Made of layers without masks, for the orders of pixels that `orderings` seed (`order_ranks`)."""
    ranks = tuple(order_ranks(n_dims, seed) for seed in orderings)
    networks = tuple(masked_layers(layers, rank) for rank in ranks)
    return Made(networks, ranks, levels, n_dims, one_hot, tuple(masked_layers(direct, rank) for rank in ranks if direct))


def order_ranks(n_dims: int, seed: int) -> Tensor:
    """Places [D] of the pixels in an order: their own for seed 0, else a permutation drawn with that seed."""
    if seed == 0:
        return torch.arange(n_dims)
    return torch.randperm(n_dims, generator=torch.Generator().manual_seed(seed))


def masked_layers(layers: Layers, ranks: Tensor) -> Layers:
    """A network with every weight set to zero that would let an output see its own pixel or a later one.

    A hidden unit has a degree d in 0..D-2, evenly spread over its layer: it may see pixels of rank <= d, and hidden units of
    degree <= d. A pixel's outputs see hidden units of degree < its rank. Inputs and outputs are in pixel order, equally many
    for every pixel.
    """
    n_dims, affine = len(ranks), linear_layers(layers)
    below, masks = ranks.repeat_interleave(affine[0].weight.shape[1] // n_dims), []
    for layer in affine[:-1]:
        width = layer.weight.shape[0]
        degrees = torch.arange(width) * (n_dims - 1) // width
        masks.append(degrees[:, None] >= below)
        below = degrees
    last = ranks.repeat_interleave(affine[-1].weight.shape[0] // n_dims)
    # Without a hidden layer `below` are the pixels' own ranks, and the strict comparison is right for them too.
    masks.append(last[:, None] > below)
    unused_masks = iter(masks)
    return tuple(
        layer if isinstance(layer, str) else Linear(layer.weight * next(unused_masks).to(layer.weight), layer.bias)
        for layer in layers
    )
