"""Annealed importance sampling and sequential Monte Carlo, forward and conditional, with everything fixed beforehand.

At each temperature the log-weight grows by (b_t - b_{t-1}) tilt(z_{t-1}); then particles may be resampled, and move by a
kernel that leaves f_{b_t} invariant. With fixed temperatures and kernels (Neal 2001; Del Moral, Doucet & Jasra 2006)

    E[Z-hat] = p(x),  so  E[log Z-hat] <= log p(x)                        forward: a lower bound
    E[1 / Z-hat] = 1 / p(x),  so  E[log Z-hat] >= log p(x)                conditional: an upper bound

The second holds if one of the particles is a path drawn backwards from an exact posterior sample, which resampling keeps
(Andrieu, Doucet & Holenstein 2010; Grosse, Ghahramani & Adams 2015). Such a sample exists for x simulated from the model.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmeval.densities.spaces import log_mean_exp
from lmeval.likelihood.hmc import gather_states, hmc_step
from lmeval.likelihood.ladder import Ladder
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import State, Target, init_particles, log_prob_and_grad
from lmeval.likelihood.pilot import systematic


class Annealed(NamedTuple):
    """`log_z` [batch], and the log-weights [k, batch] that the last particles carry since they were last resampled, float64.

    `acceptance` is the mean acceptance of each datum's moves, `n_resampled` how often it was resampled, `n_lost` how many
    proposals were rejected because they were not finite; each [batch].
    """

    log_z: Tensor
    log_weight: Tensor
    acceptance: Tensor
    n_resampled: Tensor
    n_lost: Tensor


def effective_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over particles, [batch]; 0 where no particle has weight.

    >>> effective_size(torch.zeros(4, 1))
    tensor([4.])
    """
    size = torch.exp(2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0))
    return torch.nan_to_num(size, nan=0.0)


def forward(target: Target, ladder: Ladder, k: int, streams: Streams, tick: Callable[[int], None]) -> Annealed:
    """Z-hat of each datum from k particles: (T - 1) moves each."""
    return _run(target, ladder, init_particles(target, k, streams), None, streams, tick)


def conditional(
    target: Target, ladder: Ladder, k: int, path: list[State], streams: Streams, tick: Callable[[int], None]
) -> Annealed:
    """The same with particle 0 held to a path that `backward` drew, and resampled around it."""
    first = path[0]
    if k > 1:
        first = concat_states(first, init_particles(target, k - 1, streams))
    return _run(target, ladder, first, path, streams, tick)


def backward(target: Target, ladder: Ladder, z: Tensor, streams: Streams, tick: Callable[[int], None]) -> list[State]:
    """Paths [z_0, ..., z_{T-1}] that end in exact posterior samples z [k, batch, d], drawn by the forward run's kernels.

    Each kernel is reversible, so that this is the time-reversed run whose last state is z.
    """
    state = log_prob_and_grad(target, z)
    path = [state]
    for t in range(len(ladder.betas) - 2, 0, -1):
        state = hmc_step(target, state, ladder.move(t), streams).state
        path.append(state)
        tick(len(z) * ladder.leapfrogs)
    return path[::-1]


def concat_states(a: State, b: State) -> State:
    """Particles of a, then those of b."""
    return State(*(torch.cat([x, y]) for x, y in zip(a, b, strict=True)))


def _run(
    target: Target, ladder: Ladder, state: State, path: list[State] | None, streams: Streams, tick: Callable[[int], None]
) -> Annealed:
    k, batch = state.joint.shape
    log_z = torch.zeros(batch, dtype=torch.float64, device=state.z.device)
    weight = torch.zeros(k, batch, dtype=torch.float64, device=state.z.device)
    accepted, n_resampled, n_lost = torch.zeros_like(log_z), torch.zeros_like(log_z), torch.zeros_like(log_z)
    last = len(ladder.betas) - 1
    tick(k)
    for t in range(1, last + 1):
        weight = weight + (ladder.betas[t] - ladder.betas[t - 1]) * state.tilt
        if t == last:
            break
        # the threshold's random numbers are drawn whether or not they are used: a datum's do not hang on its neighbours
        if ladder.resample_below > 0:
            index, resampled = _resampled(weight, ladder.resample_below, streams, conditional=path is not None)
            if bool(resampled.any()):
                log_z = torch.where(resampled, log_z + log_mean_exp(weight), log_z)
                weight = torch.where(resampled, 0.0, weight)
                state = gather_states(state, index)
            n_resampled = n_resampled + resampled
        move = ladder.move(t)
        if path is None:
            done = hmc_step(target, state, move, streams)
            state = done.state
        elif k > 1:
            done = hmc_step(target, State(*(part[1:] for part in state)), move, streams)
            state = concat_states(path[t], done.state)
        else:
            state = path[t]
            continue
        accepted = accepted + done.acceptance.mean(0)
        n_lost = n_lost + done.lost.sum(0)
        tick(ladder.leapfrogs * len(done.acceptance))
    return Annealed(log_z + log_mean_exp(weight), weight, accepted / max(1, last - 1), n_resampled, n_lost)


def _resampled(weight: Tensor, below: float, streams: Streams, *, conditional: bool) -> tuple[Tensor, Tensor]:
    """Indices [k, batch] (a datum's own where it is not resampled), and which data are [batch]."""
    k = len(weight)
    wanted = effective_size(weight) < below * k
    own = torch.arange(k, device=weight.device)[:, None].expand_as(weight)
    if conditional:  # multinomial, with particle 0 kept: the law that the conditional path was drawn under
        draws = streams.uniform(k).double()
        sums = torch.softmax(torch.nan_to_num(weight, nan=-torch.inf), 0).cumsum(0).mT.contiguous()
        index = torch.searchsorted(sums, (draws.mT * sums[:, -1:]).contiguous(), right=True).clamp_max(k - 1).mT
        index = torch.cat([torch.zeros_like(index[:1]), index[1:]])
    else:
        index = systematic(weight, streams.uniform(1)[0].double())
    return torch.where(wanted, index, own), wanted
