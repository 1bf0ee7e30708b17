"""The pilot: finds steps, masses, the length of the path and a better start, and is then thrown away.

What the weighted run uses was fixed before it began, from random numbers of its own: a kernel that adapts to the very chains
whose weights are averaged voids E[Z-hat] = Z, and with it every bound. The pilot may therefore adapt as it likes: it tempers
each datum at its own pace (increments of b of 1 / sd of the tilt, that is one unit of thermodynamic length), resamples, and
follows acceptance with the steps and the particles' spread with the masses.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmeval.errors import DensityError
from lmeval.likelihood.hmc import Move, gather_states, hmc_step, where_states
from lmeval.likelihood.ladder import LONGEST_ORBIT, Tuning
from lmeval.likelihood.noise import Key, Streams
from lmeval.likelihood.paths import Gaussian, State, Target, gaussian, init_particles

WANTED_ACCEPTANCE = 0.8
STRIDE = 1.0  # of a step of the pilot, in thermodynamic length
MOST_NODES = 400
MOST_DENSE = 128  # dimensions of z, for which a covariance can be fitted
FINAL_SWEEPS = 12
WIDER = 1.1  # than the pilot's particles: a start with thin tails would give a few of its draws all the weight


class PilotSettings(NamedTuple):
    """How much a pilot may spend: particles, trajectories at each temperature, gradient evaluations of a trajectory."""

    particles: int = 16
    sweeps: int = 1
    leapfrogs: int = 5


def run_pilot(target: Target, seed: int, keys: Sequence[Key], settings: PilotSettings, purpose: str) -> Tuning:
    """Walk the path once, adapting. A datum's tuning depends on nothing but its own numbers: one that has arrived waits."""
    streams = Streams(seed, purpose, keys, target.x)
    state = init_particles(target, settings.particles, streams)
    batch, d = state.z.shape[1:]
    dense = target.start is not None and target.start.scale.dim() == 3
    scale = _spread(state.z, torch.ones_like(state.z[0])) if target.start is None else target.start.scale
    beta = torch.zeros(batch, dtype=torch.float64, device=state.z.device)
    log_step = torch.full_like(beta, math.log(min(LONGEST_ORBIT / settings.leapfrogs, d**-0.25)))
    sd, length, nodes = _tilt_sd(state), torch.zeros_like(beta), []
    while True:
        nodes.append((beta, length, log_step, scale))
        walking = beta < 1
        if not bool(walking.any()):
            break
        if len(nodes) > MOST_NODES:
            raise _too_long(target, beta)
        rise = torch.minimum(STRIDE / sd.clamp_min(1e-12), 1 - beta)
        beta = torch.where(beta + rise > 1 - 1e-9, 1.0, beta + rise)
        before, step = state, log_step
        state = gather_states(state, systematic(rise * state.tilt, streams.uniform(1)[0].double()))
        for _ in range(settings.sweeps):
            state, step = _adapted(target, state, Move(beta, step.exp(), scale, settings.leapfrogs), streams)
        state = where_states(walking.expand_as(state.joint), state, before)
        log_step = torch.where(walking, step, log_step)
        scale = scale if dense else torch.where(walking[:, None], _spread(state.z, scale), scale)
        before_sd, sd = sd, _tilt_sd(state)
        length = length + rise * torch.where(sd > 0, (before_sd + sd) / 2, before_sd)
    betas, lengths, steps = (torch.stack([node[i] for node in nodes]) for i in range(3))
    scales = nodes[0][3] if dense else torch.stack([node[3] for node in nodes])
    streams = Streams(seed, f"{purpose} end", keys, target.x)
    positions = []
    for _ in range(FINAL_SWEEPS):
        state, log_step = _adapted(target, state, Move(beta, log_step.exp(), scale, settings.leapfrogs), streams)
        positions.append(state.z)
    steps = _smooth(torch.where(betas < 1, steps, log_step))
    sweeps = settings.sweeps * (len(nodes) - 1) + FINAL_SWEEPS
    cost = settings.particles * (1 + sweeps * settings.leapfrogs)
    return Tuning(betas, lengths, steps, scales, dense, _fit(torch.cat(positions)), cost)


def _too_long(target: Target, beta: Tensor) -> DensityError:
    i = int(beta.argmin())
    return DensityError(
        f"datum {target.ids[i]}: after {MOST_NODES} steps the pilot is at temperature {float(beta[i]):.2g} of 1: the "
        "posterior is too far from the start; start from an encoder, or rescale the model (tiny noise makes long paths)"
    )


def _adapted(target: Target, state: State, move: Move, streams: Streams) -> tuple[State, Tensor]:
    """A trajectory, and the log step moved towards the wanted acceptance."""
    done = hmc_step(target, state, move, streams)
    longest = math.log(LONGEST_ORBIT / move.leapfrogs)
    step = move.step.log() + (done.acceptance.mean(0) - WANTED_ACCEPTANCE)
    return done.state, step.clamp(-12.0, longest)


def _tilt_sd(state: State) -> Tensor:
    """Standard deviation of the tilt over particles [batch], of those where it is finite."""
    tilt = state.tilt
    good = torch.isfinite(tilt)
    n = good.sum(0).clamp_min(2)
    tilt = torch.where(good, tilt, 0.0)
    mean = tilt.sum(0) / n
    return (torch.where(good, (tilt - mean) ** 2, 0.0).sum(0) / (n - 1)).sqrt()


def _spread(z: Tensor, before: Tensor) -> Tensor:
    """Standard deviations over particles [batch, d], drawn towards those before: few particles measure them badly."""
    k = z.shape[0]
    return ((k * z.var(0) + 4 * before**2) / (k + 4)).sqrt()


def systematic(log_weight: Tensor, u: Tensor) -> Tensor:
    """Indices [k, batch] drawn by weight: the i-th is where the weights' running sum passes (i + u) / k."""
    k = log_weight.shape[0]
    weight = torch.softmax(torch.nan_to_num(log_weight, nan=-torch.inf), 0)
    weight = torch.nan_to_num(weight, nan=1 / k)  # no particle has weight: the caller sees it in its log-weights
    sums = weight.cumsum(0).mT.contiguous()
    places = (torch.arange(k, device=u.device, dtype=torch.float64) + u[:, None]) / k * sums[:, -1:]
    return torch.searchsorted(sums, places, right=True).clamp_max(k - 1).mT.contiguous()


def _smooth(steps: Tensor) -> Tensor:
    """Running means over three nodes: each step follows the noise of a few acceptances."""
    padded = torch.cat([steps[:1], steps, steps[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _fit(z: Tensor) -> Gaussian:
    """A normal distribution fitted to draws [n, batch, d], widened: mean and lower Cholesky factor of the covariance, its
    correlations shrunk as d more draws without any would. Above MOST_DENSE dimensions only standard deviations."""
    n, _, d = z.shape
    dtype, z = z.dtype, z.double()
    mean = z.mean(0)
    centred = z - mean
    if d > MOST_DENSE:
        return gaussian(mean.to(dtype), z.std(0).clamp_min(1e-6).to(dtype) * WIDER)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / (n - 1)
    variance = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12)
    covariance = (n * covariance + d * torch.diag_embed(variance)) / (n + d)
    return gaussian(mean.to(dtype), torch.linalg.cholesky(covariance).to(dtype) * WIDER)
