"""Hamiltonian Monte Carlo at one temperature of the path, exactly corrected, for all particles of all data at once.

The kernel leaves f_b invariant whatever its step and scale are, as long as they were fixed before (Neal 2011, Handbook of
MCMC, chapter 5). A proposal whose energy is not a number is rejected by selection: a masked sum would keep 0 * NaN for ever.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import State, Target, log_prob_and_grad, scale_vectors, scale_vectors_transposed


class Move(NamedTuple):
    """How to move at one temperature. `beta` and `step` are [batch]; `scale` [batch, d] is the inverse root of the diagonal
    mass, or [batch, d, d] its lower triangular factor; a step takes `leapfrogs` gradient evaluations."""

    beta: Tensor
    step: Tensor
    scale: Tensor
    leapfrogs: int


class StepResult(NamedTuple):
    """The particles after a move; the probability of acceptance of each [k, batch]; where a proposal was not finite."""

    state: State
    acceptance: Tensor
    lost: Tensor


JITTER = 0.2
"""Each trajectory's step is up to this share longer or shorter, at random: no orbit returns to where it began."""


def hmc_step(target: Target, state: State, move: Move, streams: Streams) -> StepResult:
    """One trajectory of every particle, accepted with probability min(1, exp(-change of energy))."""
    k, _, d = state.z.shape
    momentum = streams.normal(k, d)
    draws = streams.uniform(2 * k)
    beta = move.beta.to(state.z)
    step = (move.step.to(state.z) * (1 + JITTER * (2 * draws[k:] - 1)))[..., None]
    end, momentum_end = _trajectory(target, state, momentum, beta, step, move)
    rise = _log_density(end, beta) - _log_density(state, beta)
    rise = rise - 0.5 * ((momentum_end**2).sum(-1) - (momentum**2).sum(-1)).double()
    lost = ~(torch.isfinite(rise) & torch.isfinite(end.joint) & torch.isfinite(end.start))
    rise = torch.where(lost, -torch.inf, rise)
    accepted = draws[:k].double().log() < rise
    return StepResult(where_states(accepted, end, state), rise.clamp_max(0.0).exp(), lost)


def _trajectory(
    target: Target, state: State, momentum: Tensor, beta: Tensor, step: Tensor, move: Move
) -> tuple[State, Tensor]:
    momentum = momentum + 0.5 * step * scale_vectors_transposed(move.scale, _slope(state, beta))
    for i in range(move.leapfrogs):
        state = log_prob_and_grad(target, state.z + step * scale_vectors(move.scale, momentum))
        share = 1.0 if i + 1 < move.leapfrogs else 0.5
        momentum = momentum + share * step * scale_vectors_transposed(move.scale, _slope(state, beta))
    return state, momentum


def _slope(state: State, beta: Tensor) -> Tensor:
    return torch.lerp(state.start_slope, state.joint_slope, beta[..., None])


def _log_density(state: State, beta: Tensor) -> Tensor:
    beta = beta.double()
    return (1 - beta) * state.start.double() + beta * state.joint.double()


def where_states(condition: Tensor, yes: State, no: State) -> State:
    """Particles of `yes` where the condition [k, batch] holds, else of `no`."""
    wide = condition[..., None]
    return State(
        torch.where(wide, yes.z, no.z),
        torch.where(condition, yes.joint, no.joint),
        torch.where(condition, yes.start, no.start),
        torch.where(wide, yes.joint_slope, no.joint_slope),
        torch.where(wide, yes.start_slope, no.start_slope),
    )


def gather_states(state: State, index: Tensor) -> State:
    """Particle index[i, b] of datum b in place i."""
    wide = index[..., None].expand(*index.shape, state.z.shape[-1])
    return State(
        state.z.gather(0, wide),
        state.joint.gather(0, index),
        state.start.gather(0, index),
        state.joint_slope.gather(0, wide),
        state.start_slope.gather(0, wide),
    )
