"""Distributions of an image of levels given a network's output.

Images are float tensors that hold levels 0..L-1 (0 and 1 for binary images). Every function gives a torch Distribution whose
event is the whole image, so `log_prob(x)` has one number an image, in nats: exact log-probabilities of a discrete image.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, constraints
from torch.nn.functional import logsigmoid

LOG_SCALE_LIMIT = 60.0  # e^60 times any image's levels is still finite in float32


def bernoulli(logits: Tensor) -> Independent:
    """Independent binary pixels with log-odds `logits` [..., D]: log P(x) = sum of x l - log(1 + e^l), x in {0, 1}."""
    return Independent(Bernoulli(logits=logits), 1)


def categorical(logits: Tensor) -> Independent:
    """Independent pixels, each one of L levels given as floats 0..L-1, with unnormalised log-probabilities [..., D, L]."""
    return Independent(Levels(logits=logits), 1)


def discretized_logistic(mean: Tensor, log_scale: Tensor, levels: int) -> Independent:
    """Independent pixels [..., D], each a DiscretizedLogistic; mean and scale in units of levels."""
    return Independent(DiscretizedLogistic(mean, log_scale, levels), 1)


class Levels(Categorical):
    """torch's Categorical over levels that are floats, in samples too. torch has no mean of categories; levels have one."""

    @property
    def mean(self) -> Tensor:
        """The expected level, sum_k k P(k): what a reconstruction shows."""
        return (self.probs * self._levels).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the level, sum_k (k - mean)^2 P(k)."""
        return (self.probs * (self._levels - self.mean[..., None]) ** 2).sum(-1)

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)

    @property
    def mode(self) -> Tensor:
        """The likeliest level."""
        return super().mode.to(self.logits.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels 0..L-1 as floats, [*sample_shape, *batch_shape]."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)


class DiscretizedLogistic(Distribution):
    """A logistic variable rounded to the levels 0..L-1, whose first and last take the tails.

    With S the logistic function, P(k) = S((k + 1/2 - m)/s) - S((k - 1/2 - m)/s) for 0 < k < L-1, P(0) = S((1/2 - m)/s) and
    P(L-1) = 1 - S((L - 3/2 - m)/s): the levels' probabilities sum to 1 for every mean m and scale s. Differences of S cancel
    far from the mean, so the logarithm is taken of the product that they equal: with a > b the two arguments,
    S(a) - S(b) = S(a) S(-b) (1 - e^(b-a)), where no factor cancels. Nothing is clamped but log s to +-60, which changes the
    scale and not the normalisation.

    `mean` and `log_scale`, in units of levels, are broadcast against each other.
    """

    arg_constraints = {"mean_level": constraints.real, "log_scale": constraints.real}  # noqa: RUF012  # pyright: ignore

    def __init__(self, mean: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        if levels < 2:
            raise ValueError(f"levels is {levels}: a rounded variable has at least 2")
        self.mean_level, self.log_scale = torch.broadcast_tensors(mean, log_scale)
        self.levels = levels
        super().__init__(self.mean_level.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:  # pyright: ignore
        """Whole levels 0..L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        """The same distributions, repeated to a larger batch."""
        shape = torch.Size(batch_shape)
        return DiscretizedLogistic(self.mean_level.expand(shape), self.log_scale.expand(shape), self.levels, False)

    @property
    def mean(self) -> Tensor:
        """The expected level, sum_k k P(k) = sum_{k > 0} P(X >= k) with P(X >= k) = S((m - k + 1/2)/s).

        It is what a reconstruction shows. `mean_level` is the place of the logistic before it is rounded and its tails are
        cut, and may lie far outside the levels.
        """
        location = self.mean_level.double()
        inverse_scale = torch.exp(-self.log_scale.double().clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))
        expected = torch.zeros_like(location)
        for k in range(1, self.levels):  # one level at a time: all at once would be `levels` times the image
            expected += torch.sigmoid((location - k + 0.5) * inverse_scale)
        return expected.to(self.mean_level.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each level in nats."""
        if self._validate_args:
            self._validate_sample(value)
        inverse_scale = torch.exp(-self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))
        below = logsigmoid((value + 0.5 - self.mean_level) * inverse_scale)
        above = logsigmoid((self.mean_level - value + 0.5) * inverse_scale)
        width = torch.log(-torch.expm1(-inverse_scale))
        zero = torch.zeros_like(width)
        first, last = value <= 0, value >= self.levels - 1
        return torch.where(last, zero, below) + torch.where(first, zero, above) + torch.where(first | last, zero, width)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels as floats, [*sample_shape, *batch_shape]."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.mean_level.dtype, device=self.mean_level.device)
        scale = torch.exp(self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))
        return (self.mean_level + scale * torch.logit(uniform)).round().clamp(0, self.levels - 1)
