"""The path from a start that can be sampled to the posterior, and the value and gradient of its two ends at a point.

With a normalised start q(z) and the joint p(z) p(x | z), the path is log f_b(z) = (1 - b) log q(z) + b log p(z) p(x | z)
for an inverse temperature b in [0, 1]: its normalising constants are 1 at b = 0 and p(x) at b = 1 (Neal 2001). With q = p(z)
it is p(z) p(x | z)^b. The tilt log p(z) p(x | z) - log q(z) is the derivative of log f_b with respect to b.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints

from lmeval.compute.seeds import seeded
from lmeval.densities.protocols import CheckedLatent
from lmeval.errors import DensityError, NonFiniteScore
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.pixels import log_prob_of

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """Normal distributions, one for each datum: `mean` [batch, d]; `scale` is their standard deviations [batch, d] or
    lower Cholesky factors of their covariances [batch, d, d], and `precision` the inverse of variances or covariances."""

    mean: Tensor
    scale: Tensor
    precision: Tensor


def gaussian(mean: Tensor, scale: Tensor) -> Gaussian:
    """The normal distributions with these means and scales."""
    if scale.dim() == 2:
        return Gaussian(mean, scale, scale**-2)
    wide = scale.double()
    inverse = torch.linalg.solve_triangular(wide, torch.eye(wide.shape[-1]).to(wide).expand_as(wide), upper=False)
    return Gaussian(mean, scale, (inverse.mT @ inverse).to(scale))


class Target(NamedTuple):
    """The posterior of each datum, up to p(x), and where chains start. `batched`: decode takes [k, batch, d].

    `start` None means the prior. `standard` says that the prior is N(0, I), whose gradient needs no autograd. `ids` are the
    data's places in the caller's x, for messages.
    """

    model: Any
    x: Tensor
    d_latent: int
    batched: bool
    standard: bool
    start: Gaussian | None
    ids: tuple[int, ...]


class State(NamedTuple):
    """Particles z [k, batch, d] with the logarithms of both ends of the path there [k, batch] and their gradients."""

    z: Tensor
    joint: Tensor
    start: Tensor
    joint_slope: Tensor
    start_slope: Tensor

    @property
    def tilt(self) -> Tensor:
        """log p(z) p(x | z) - log q(z), in float64 [k, batch]."""
        return self.joint.double() - self.start.double()


def target_of(density: CheckedLatent, x: Tensor, ids: tuple[int, ...], start: str, widen: float = 1.0) -> Target:
    """The posteriors of the data, and where chains start.

    Args:
        density: The model, checked on the data.
        x: The data [batch, *event].
        ids: Their places in the caller's x.
        start: "prior", or anything else for the encoder's normal distributions, if it gives such. "encoder" insists on them.
        widen: A factor on their standard deviations.

    Raises:
        DensityError: The start is "encoder", and the model has none that gives normal distributions.
    """
    model, shape = density
    encoded = None
    if shape.has_encoder and start != "prior":
        with torch.no_grad():
            encoded = gaussian_of(model.encode(x), widen)
    if start == "encoder" and encoded is None:
        why = "gives no normal distribution" if shape.has_encoder else "is not there"
        raise DensityError(f"start 'encoder': encode(x) {why}: use start 'pilot' or 'prior'")
    return Target(model, x, shape.d_latent, shape.batched_particles, is_standard_normal(model.prior), encoded, ids)


def is_standard_normal(prior: Distribution) -> bool:
    """Whether a distribution is N(0, I) over vectors; one of a class derived from torch's may have another log_prob."""
    if type(prior) is not Independent or type(prior.base_dist) is not Normal:
        return False
    return bool((prior.base_dist.mean == 0).all() and (prior.base_dist.stddev == 1).all())


def gaussian_of(q: Distribution, widen: float) -> Gaussian | None:
    """A normal distribution over vectors with its standard deviations times `widen`; None for any other family."""
    if type(q) is Independent and type(q.base_dist) is Normal and len(q.event_shape) == 1:
        return gaussian(q.base_dist.mean, q.base_dist.stddev * widen)
    if type(q) is MultivariateNormal:
        return gaussian(q.mean, q.scale_tril * widen)
    return None


def scale_vectors(scale: Tensor, e: Tensor) -> Tensor:
    """Vectors e [k, batch, d] times scales [batch, d] or lower triangular factors [batch, d, d]."""
    return e * scale if scale.dim() == 2 else torch.einsum("bij,kbj->kbi", scale, e)


def scale_vectors_transposed(scale: Tensor, e: Tensor) -> Tensor:
    """The transposed of `scale_vectors`."""
    return e * scale if scale.dim() == 2 else torch.einsum("bji,kbj->kbi", scale, e)


def _gaussian_ends(q: Gaussian, z: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) [k, batch] and its gradient [k, batch, d]."""
    centred = z - q.mean
    if q.scale.dim() == 2:
        rise, log_det = q.precision * centred, q.scale.log().sum(-1)
    else:
        rise = torch.matmul(centred.transpose(0, 1), q.precision).transpose(0, 1)
        log_det = q.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (rise * centred).sum(-1) - log_det - z.shape[-1] * _HALF_LOG_TWO_PI, -rise


def log_observation(target: Target, z: Tensor) -> Tensor:
    """log p(x | z) [k, batch] for z [k, batch, d]."""
    k, batch, d = z.shape
    if target.batched:
        return log_prob_of(target.model.decode(z), target.x)
    decoded = target.model.decode(z.reshape(k * batch, d))
    x = target.x.expand(k, *target.x.shape).reshape(k * batch, *target.x.shape[1:])
    return decoded.log_prob(x).view(k, batch)


def log_prior(target: Target, z: Tensor) -> Tensor:
    """log p(z) [k, batch]."""
    if target.standard:
        return -0.5 * (z * z).sum(-1) - z.shape[-1] * _HALF_LOG_TWO_PI
    return target.model.prior.log_prob(z)


def log_prob_and_grad(target: Target, z: Tensor) -> State:
    """Both ends of the path at z, with gradients: one pass forward and one back through the decoder for each particle."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        joint = log_observation(target, z)
        if not target.standard:
            joint = joint + log_prior(target, z)
        (slope,) = torch.autograd.grad(joint.sum(), z)
    z, joint = z.detach(), joint.detach()
    if target.standard:
        prior, prior_slope = log_prior(target, z), -z
        joint, slope = joint + prior, slope + prior_slope
        if target.start is None:
            return State(z, joint, prior, slope, prior_slope)
    if target.start is not None:
        start, start_slope = _gaussian_ends(target.start, z)
        return State(z, joint, start, slope, start_slope)
    with torch.enable_grad():
        z = z.requires_grad_()
        prior = log_prior(target, z)
        (prior_slope,) = torch.autograd.grad(prior.sum(), z)
    return State(z.detach(), joint, prior.detach(), slope, prior_slope)


def log_weights(target: Target, z: Tensor) -> Tensor:
    """log p(z) p(x | z) - log q(z) in float64 [k, batch], without gradients."""
    with torch.no_grad():
        observed = log_observation(target, z).double()
        if target.start is None:
            return observed
        return observed + log_prior(target, z).double() - _gaussian_ends(target.start, z)[0].double()


def init_particles(target: Target, k: int, streams: Streams) -> State:
    """k particles of each datum drawn from the start. Raises NonFiniteScore where the model gives one of them NaN."""
    state = log_prob_and_grad(target, sample_start(target, k, streams))
    failed = torch.isnan(state.joint).sum(0)
    if bool(failed.any()):
        worst = int(failed.argmax())
        raise NonFiniteScore(
            f"datum {target.ids[worst]}: decode(z) gives log p(x | z) = NaN at {int(failed[worst])} of {k} starting points, "
            "and a chain from there has no weight: make the decoder finite for every z (clamp what it exponentiates)"
        )
    return state


def sample_start(target: Target, k: int, streams: Streams) -> Tensor:
    """Draws from the start, [k, batch, d]."""
    if target.start is not None:
        return target.start.mean + scale_vectors(target.start.scale, streams.normal(k, target.d_latent))
    if target.standard:
        return streams.normal(k, target.d_latent)
    return sample_prior(target.model.prior, k, streams).to(target.x)


def sample_prior(prior: Distribution, k: int, streams: Streams) -> Tensor:
    """Draws from any prior, [k, batch, d], each datum's from its own seed."""
    drawn = []
    for seed in streams.torch_seeds():
        with seeded(seed, streams.device):
            drawn.append(prior.sample(torch.Size([k])))
    return torch.stack(drawn, dim=1)


def check_unbounded(prior: Distribution) -> None:
    """Raises DensityError for a prior on part of space: Hamiltonian dynamics would leave it."""
    support = getattr(prior, "support", None)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint  # pyright: ignore[reportOptionalMemberAccess]
    if support is not None and support is not constraints.real:
        raise DensityError(
            f"the prior lives on {support}, not on all of space, and annealing moves by gradients: write the model with an "
            "unbounded latent (a TransformedDistribution of it), or use method 'iwae' with start='prior'"
        )
