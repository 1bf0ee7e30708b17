"""Bounds from independent draws: ELBO and the importance-weighted bound, in memory that does not grow with the draws."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmeval.compute.seeds import seeded
from lmeval.densities.protocols import CheckedLatent
from lmeval.errors import DensityError
from lmeval.likelihood.diagnostics import log_estimate_stderr, pareto_k, tail_size
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import (
    Target,
    log_observation,
    log_prior,
    log_weights,
    sample_start,
    target_of,
)
from lmeval.likelihood.result import Advance, Batch, DatumResult
from lmeval.likelihood.settings import FixedSettings


class WeightSummary(NamedTuple):
    """Of each datum, float64 [batch]: log of the mean weight, mean log-weight and its standard deviation over draws,
    effective sample size, Pareto k."""

    log_mean: np.ndarray
    mean_log: np.ndarray
    sd_log: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray


def score_elbo(density: CheckedLatent, settings: FixedSettings, batch: Batch, advance: Advance) -> list[DatumResult]:
    """ELBO: the mean log-weight of `settings.particles` draws (Kingma & Welling 2014)."""
    k, summary = settings.particles, _weigh_batch(density, "elbo", settings, batch)
    advance(k)
    stderr = summary.sd_log / math.sqrt(k) if k > 1 else np.full(len(batch.ids), np.nan)
    return _results(summary.mean_log, stderr, summary, k)


def score_iwae(density: CheckedLatent, settings: FixedSettings, batch: Batch, advance: Advance) -> list[DatumResult]:
    """The importance-weighted bound: the log of the mean weight of `settings.particles` draws (Burda et al. 2016)."""
    k, summary = settings.particles, _weigh_batch(density, "iwae", settings, batch)
    advance(k)
    return _results(summary.log_mean, log_estimate_stderr(summary.ess, k), summary, k)


def _weigh_batch(density: CheckedLatent, purpose: str, settings: FixedSettings, batch: Batch) -> WeightSummary:
    """Weights of draws from the encoder or, if the settings say so, from the prior."""
    from_prior = settings.start == "prior"
    if not from_prior and not density.shape.has_encoder:
        raise DensityError(
            f"{type(density.model).__name__} has no encode(x), from which '{purpose}' draws z: use method 'smc' or start "
            "'prior'"
        )
    target = target_of(density, batch.x, batch.ids, "prior" if from_prior else "auto")
    streams = Streams(settings.seed, purpose, batch.keys, batch.x)
    at_once = max(1, batch.rows // len(batch.ids))
    return weigh(target, settings.particles, streams, at_once, encoded=not from_prior and target.start is None)


def _results(nats: np.ndarray, stderr: np.ndarray, summary: WeightSummary, k: int) -> list[DatumResult]:
    rows = zip(nats, stderr, summary.ess, summary.pareto_k, strict=True)
    return [DatumResult(*row, n_evaluations=k) for row in rows]


def weigh(target: Target, k: int, streams: Streams, at_once: int, encoded: bool) -> WeightSummary:
    """k independent log-weights log p(x, z) - log q(z) of each datum, `at_once` of them in memory.

    `encoded`: z comes from model.encode(x), whatever family that is; else from the target's start. The mean log-weight is
    the ELBO (Kingma & Welling 2014), the log of the mean weight the importance-weighted bound (Burda et al. 2016): it rises
    with k towards log p(x), and is below it in expectation for every k.
    """
    batch = len(target.x)
    top = torch.empty(0, batch, dtype=torch.float64, device=target.x.device)
    log_sum = torch.full((batch,), -torch.inf, dtype=torch.float64, device=target.x.device)
    log_squares, total, squares = log_sum.clone(), torch.zeros_like(log_sum), torch.zeros_like(log_sum)
    keep, shift = tail_size(k) + 1, None
    for first in range(0, k, at_once):
        n = min(at_once, k - first)
        w = _encoded_weights(target, n, streams) if encoded else log_weights(target, sample_start(target, n, streams))
        shift = w[0] if shift is None else shift
        log_sum = torch.logaddexp(log_sum, torch.logsumexp(w, 0))
        log_squares = torch.logaddexp(log_squares, torch.logsumexp(2 * w, 0))
        total, squares = total + w.sum(0), squares + ((w - shift) ** 2).sum(0)
        top = torch.cat([top, w]).topk(min(keep, len(top) + n), dim=0).values
    mean = total / k
    offset = mean - (shift if shift is not None else 0.0)
    variance = (squares / k - offset**2).clamp_min(0.0) * (k / max(1, k - 1))
    ess = torch.exp(2 * log_sum - log_squares)
    return WeightSummary(
        (log_sum - math.log(k)).cpu().numpy(),
        mean.cpu().numpy(),
        variance.sqrt().cpu().numpy(),
        ess.cpu().numpy(),
        pareto_k(top.cpu().numpy(), k),
    )


def _encoded_weights(target: Target, n: int, streams: Streams) -> Tensor:
    """Log-weights [n, batch] under an encoder of any family, each datum's draws from its own seed."""
    weights = []
    with torch.no_grad():
        for i, seed in enumerate(streams.torch_seeds()):
            q = target.model.encode(target.x[i : i + 1])
            with seeded(seed, target.x.device):
                z = q.sample(torch.Size([n]))  # [n, 1, d]
            one = target._replace(x=target.x[i : i + 1])
            w = log_observation(one, z).double() + log_prior(one, z).double() - q.log_prob(z).double()
            weights.append(w[:, 0])
    return torch.stack(weights, dim=1)
