"""log p(x | z) summed over pixels for many particles: one pass forward, one back, and never a copy of x for each particle.

torch's own distributions give the same numbers (to rounding) in several passes over [k, batch, pixels], which is most of
what an evaluation of a small decoder costs.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_prob_of(distribution: Distribution, x: Tensor) -> Tensor:
    """log p(x) [k, batch] under a distribution of batch shape [k, batch]; x is [batch, *event].

    Only torch's own classes are known by what they are: one derived from them may have another log_prob.
    """
    if type(distribution) is Independent and len(distribution.event_shape) == 1:
        pixels = distribution.base_dist
        if type(pixels) is Bernoulli:
            return _BernoulliSum.apply(pixels.logits, x)
        if type(pixels) is Normal and not pixels.scale.requires_grad:
            # a number that was expanded to all pixels stays one number: its logarithm is taken once
            scale = pixels.scale if any(pixels.scale.stride()) else pixels.scale[(0,) * pixels.scale.dim()]
            log_det = scale.log() * x.shape[-1] if scale.dim() == 0 else scale.log().sum(-1)
            return _NormalSum.apply(pixels.loc, x, scale) - log_det - x.shape[-1] * _HALF_LOG_TWO_PI
    return distribution.log_prob(x)


class _BernoulliSum(torch.autograd.Function):
    """sum_i x_i l_i - log(1 + e^(l_i)) for log-odds l [k, batch, pixels]; its derivative is x - sigmoid(l)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        return torch.einsum("kbi,bi->kb", logits, x) - torch.nn.functional.softplus(logits).sum(-1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        mean = torch.sigmoid(logits)
        return torch.sub(x, mean, out=mean).mul_(slopes[0][..., None]), None


class _NormalSum(torch.autograd.Function):
    """-1/2 sum_i r_i^2 for r = (x - mean) / scale; its derivative with respect to the mean is r / scale."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        residual = torch.sub(x, mean).div_(scale)
        ctx.save_for_backward(residual, scale)
        return -0.5 * torch.linalg.vecdot(residual, residual)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        residual, scale = ctx.saved_tensors
        return (residual * slopes[0][..., None]).div_(scale), None, None
