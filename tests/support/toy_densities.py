"""Small latent variable models whose log p(x) is known, and what the tests of likelihoods have in common."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
)

from lmeval.densities.protocols import check_latent
from lmeval.likelihood.annealed_run import FrozenRun, prepare_run
from lmeval.likelihood.ladder import Ladder
from lmeval.likelihood.noise import Key
from lmeval.likelihood.paths import Gaussian, Target, is_standard_normal
from lmeval.likelihood.result import Batch
from lmeval.likelihood.settings import FixedSettings


def standard(d: int, dtype: torch.dtype = torch.float64) -> Distribution:
    return Independent(Normal(torch.zeros(d, dtype=dtype), torch.ones(d, dtype=dtype)), 1)


@dataclass(frozen=True)
class LinearGaussian:
    """z ~ prior, x = W z + b + N(0, s2 I)."""

    weight: Tensor
    bias: Tensor
    s2: float
    prior: Distribution

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(z @ self.weight.T + self.bias, math.sqrt(self.s2), validate_args=False), 1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.decode(self.prior.sample(torch.Size([n]))).sample()

    def log_p(self, x: Tensor) -> np.ndarray:
        """The truth, of normal priors and mixtures of them."""
        x, w = x.double(), self.weight.double()
        noise = self.s2 * torch.eye(len(w), dtype=torch.float64)
        means, covariances, log_share = moments_of(self.prior)
        each = [
            MultivariateNormal(w @ m + self.bias.double(), w @ c @ w.T + noise).log_prob(x)
            for m, c in zip(means, covariances, strict=True)
        ]
        return torch.logsumexp(torch.stack(each) + log_share[:, None], 0).numpy()

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """Of a standard normal prior."""
        d = self.weight.shape[1]
        precision = torch.eye(d).to(self.weight) + self.weight.T @ self.weight / self.s2
        covariance = torch.linalg.inv(precision)
        mean = (x - self.bias) @ self.weight @ covariance / self.s2
        return MultivariateNormal(mean, covariance.expand(len(x), d, d))

    def tilt_sd(self, x: Tensor, start: Gaussian, beta: float) -> Tensor:
        """Standard deviation [n] of log p(z) p(x|z) - log q(z) under q^(1-b) p(z, x)^b, all normal, in closed form."""
        d = self.weight.shape[1]
        inverse = torch.linalg.inv(start.scale @ start.scale.mT)
        joint = torch.eye(d).to(self.weight) + self.weight.T @ self.weight / self.s2
        slope = (x - self.bias) @ self.weight / self.s2
        start_slope = (inverse @ start.mean[..., None])[..., 0]
        covariance = torch.linalg.inv((1 - beta) * inverse + beta * joint)
        mean = (covariance @ ((1 - beta) * start_slope + beta * slope)[..., None])[..., 0]
        curve = joint - inverse
        g = slope - start_slope - (curve @ mean[..., None])[..., 0]
        linear = torch.einsum("bi,bij,bj->b", g, covariance, g)
        square = curve @ covariance
        return (linear + 0.5 * (square @ square).diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()

    def length(self, x: Tensor, start: Gaussian, upto: float = 1.0, n: int = 1000) -> Tensor:
        """Thermodynamic length [n] of the path, by the trapezoid rule on a grid that is fine near 0."""
        grid = (torch.linspace(0, 1, n, dtype=torch.float64) ** 3 * upto).tolist()
        sds = torch.stack([self.tilt_sd(x, start, b) for b in grid])
        return torch.trapezoid(sds, torch.tensor(grid, dtype=torch.float64), dim=0)


def moments_of(prior: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """Means [c, d], covariances [c, d, d] and log-shares [c] of a normal distribution or a mixture of them."""
    parts, log_share = prior, torch.zeros(1, dtype=torch.float64)
    if isinstance(prior, MixtureSameFamily):
        parts, log_share = prior.component_distribution, prior.mixture_distribution.logits.double()  # pyright: ignore
    mean = parts.mean.double().reshape(len(log_share), -1)
    if isinstance(parts, MultivariateNormal):
        return mean, parts.covariance_matrix.double().reshape(len(log_share), *parts.covariance_matrix.shape[-2:]), log_share
    return mean, torch.diag_embed(parts.variance.double().reshape(len(log_share), -1)), log_share


@dataclass(frozen=True)
class Encoded(LinearGaussian):
    """With an encoder: the posterior itself with its standard deviations times `widen`, and its mean shifted."""

    widen: float = 1.0
    shift: float = 0.0

    def encode(self, x: Tensor) -> Distribution:
        exact = self.posterior(x)
        return MultivariateNormal(exact.mean + self.shift, scale_tril=exact.scale_tril * self.widen)


@dataclass(frozen=True)
class Amortised(LinearGaussian):
    """With an encoder of independent normals, as most networks have it: the posterior's own spreads."""

    widen: float = 1.0

    def encode(self, x: Tensor) -> Distribution:
        exact = self.posterior(x)
        return Independent(Normal(exact.mean, exact.stddev * self.widen), 1)


def linear(
    d: int = 4,
    n_dims: int = 10,
    s2: float = 0.1,
    seed: int = 0,
    kind: Callable[..., Any] = LinearGaussian,
    prior: Distribution | None = None,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> Any:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_dims, d, generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(n_dims, generator=g, dtype=torch.float64).to(dtype)
    return kind(weight, bias, s2, prior or standard(d, dtype), **more)


def two_states(d: int, apart: float = 2.0, spread: float = 0.5) -> Distribution:
    """Every coordinate of z sits near -apart or near apart / 2: 2^d states, enumerated."""
    means = torch.cartesian_prod(*[torch.tensor([-apart, apart / 2], dtype=torch.float64)] * d).reshape(2**d, d)
    shares = torch.softmax(torch.linspace(0, 1, 2**d, dtype=torch.float64), 0)
    parts = Independent(Normal(means, torch.full_like(means, spread)), 1)
    return MixtureSameFamily(Categorical(shares), parts)


PRIORS: dict[str, Callable[[], Distribution]] = {
    "standard": lambda: standard(3),
    "shifted": lambda: Independent(
        Normal(torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 2.0, 1.0]).double()), 1
    ),
    "correlated": lambda: MultivariateNormal(
        torch.tensor([0.5, 0.0, -1.0]).double(),
        torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.5, -0.4], [0.0, -0.4, 0.8]]).double(),
    ),
    "mixture": lambda: two_states(3),
}


@dataclass(frozen=True)
class Simple:
    """A model from functions."""

    prior: Distribution
    decoder: Callable[[Tensor], Distribution]

    def decode(self, z: Tensor) -> Distribution:
        return self.decoder(z)


def _banana(z: Tensor) -> Distribution:
    mean = torch.stack([z[..., 0], z[..., 1] + z[..., 0] ** 2 + torch.exp(0.5 * z[..., 0])], -1)
    return Independent(Normal(mean, torch.tensor([0.7, 0.25]).to(z)), 1)


ASYMMETRIC: dict[str, tuple[Simple, Tensor]] = {
    "banana": (Simple(standard(2), _banana), torch.tensor([[0.5, 3.0], [-1.5, 2.0], [1.0, -1.0]]).double()),
    "poisson": (
        Simple(standard(1), lambda z: Independent(Poisson(torch.exp(1.5 * z + 0.5)), 1)),
        torch.tensor([[0.0], [3.0], [40.0]]).double(),
    ),
    "exponential": (
        Simple(standard(1), lambda z: Independent(Exponential(torch.exp(2 * z)), 1)),
        torch.tensor([[0.01], [1.0], [30.0]]).double(),
    ),
    "bernoulli": (
        Simple(
            standard(1),
            lambda z: Independent(
                Bernoulli(logits=z * torch.tensor([4.0, -3.0, 2.0]).to(z) + torch.tensor([1.0, 2.0, -1.0])), 1
            ),
        ),
        torch.cartesian_prod(*[torch.arange(2.0)] * 3).double(),
    ),
}


def quadrature(model: Any, x: Tensor, half: float = 9.0, n: int = 1501) -> np.ndarray:
    """log p(x) by the trapezoid rule over z in one or two dimensions: exact to rounding for such smooth integrands."""
    d = model.prior.event_shape[0]
    line = torch.linspace(-half, half, n if d == 1 else 401, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * d).reshape(-1, d)
    volume = d * math.log(float(line[1] - line[0]))
    base, decoded = model.prior.log_prob(z), model.decode(z)
    found = [torch.logsumexp(base + decoded.log_prob(row.expand(len(z), -1)), 0) + volume for row in x]
    return torch.stack(found).numpy()


def target_for(model: Any, x: Tensor, start: Gaussian | None = None, batched: bool = True) -> Target:
    d = model.prior.event_shape[0]
    return Target(model, x, d, batched, is_standard_normal(model.prior), start, tuple(range(len(x))))


def settings_for(**changes: Any) -> FixedSettings:
    given = {"particles": 16, "temperatures": 20, "schedule": "thermodynamic", "start": "prior", "leapfrogs": 5}
    return FixedSettings(**(given | {"resample_below": 0.0, "seed": 0} | changes))


def ready_for(model: Any, x: Tensor, **changes: Any) -> FrozenRun:
    """Through the pilot, with what a caller would get."""
    keys = [(i, 0) for i in range(len(x))]
    return prepare_run(check_latent(model, x), Batch(x, tuple(range(len(x))), keys, 4096), settings_for(**changes))


def copies(ready: FrozenRun, n: int) -> tuple[Target, Ladder, list[Key]]:
    """One datum that has been through a pilot, n times over: runs of it differ in nothing but their random numbers."""
    target, ladder, tuning = ready.target, ready.ladder, ready.ladder.tuning
    assert len(target.x) == 1
    start = target.start and Gaussian(*(part.expand(n, *part.shape[1:]) for part in target.start))
    columns = {name: getattr(tuning, name).expand(-1, n) for name in ("beta", "length", "log_step")}
    scale = tuning.scale.expand(n, -1, -1) if tuning.dense else tuning.scale.expand(-1, n, -1)
    tuning = tuning._replace(**columns, scale=scale)
    target = target._replace(x=target.x.expand(n, -1), start=start, ids=tuple(range(n)))
    betas = ladder.betas.expand(-1, n).contiguous()
    return target, ladder._replace(betas=betas, tuning=tuning), [(i, 0) for i in range(n)]


def silent(_: int) -> None:
    pass


def mean_and_se(values: Any) -> tuple[float, float]:
    values = np.asarray(values, dtype=np.float64).ravel()
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def assert_mean(values: Any, expected: float, errors: float = 3.0, most: float = math.inf) -> None:
    """The mean of the values is `expected` within its standard errors, which say something: they are below `most`."""
    mean, se = mean_and_se(values)
    assert math.isfinite(mean) and se < most, f"mean {mean}, standard error {se}"
    assert abs(mean - expected) <= errors * se, (
        f"{mean} is not {expected}: {(mean - expected) / se:.1f} standard errors of {se}"
    )


def assert_below(values: Any, limit: float = 0.0, errors: float = 3.0) -> None:
    mean, se = mean_and_se(values)
    assert math.isfinite(mean)
    assert mean <= limit + errors * se, f"{mean} is above {limit} by {(mean - limit) / se:.1f} standard errors"
