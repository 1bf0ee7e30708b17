"""A run that is fixed beforehand: inverse temperatures 0 = b_0 < ... < b_T = 1, and at each what a pilot tuned."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmeval.errors import InputError
from lmeval.likelihood.hmc import Move
from lmeval.likelihood.paths import Gaussian
from lmeval.likelihood.settings import SCHEDULES, FixedSettings

SIGMOID_RADIUS = 4.0
LONGEST_ORBIT = 2.0  # of a trajectory, in units of the target's standard deviations: beyond pi / 2 a Gaussian's turns back


class Tuning(NamedTuple):
    """What a pilot tuned, for each datum at its own temperatures (nodes), to be read between them by interpolation.

    `beta` and `length` are [nodes, batch], rising from 0; `length` is the thermodynamic length from the start, the integral
    of sd_b(tilt) db. `log_step` is [nodes, batch]. `scale` is [nodes, batch, d] (inverse root masses) or, if `dense`,
    [batch, d, d] (one triangular factor for the whole path). `fitted` is a normal distribution like
    the posterior. `n_gradients` counts evaluations for each datum.
    """

    beta: Tensor
    length: Tensor
    log_step: Tensor
    scale: Tensor
    dense: bool
    fitted: Gaussian
    n_gradients: int

    @property
    def total_length(self) -> Tensor:
        """Thermodynamic length of the whole path, [batch]."""
        return self.length[-1]


class Ladder(NamedTuple):
    """A run fixed beforehand: temperatures [T + 1, batch], what a pilot tuned, gradient evaluations of a trajectory, and the
    share of k below which the effective sample size calls for resampling (0: annealed importance sampling)."""

    betas: Tensor
    tuning: Tuning
    leapfrogs: int
    resample_below: float

    def move(self, t: int) -> Move:
        """How to move at temperature t."""
        return move_at(self.tuning, self.betas[t], self.leapfrogs)


def ladder_of(tuning: Tuning, settings: FixedSettings, dtype: torch.dtype) -> Ladder:
    """The ladder of a run in `dtype`, at temperatures that it can hold: weights and kernels must mean the same ones."""
    betas = temperatures_of(settings.schedule, settings.temperatures, tuning).to(dtype).double()
    return Ladder(betas, tuning, settings.leapfrogs, settings.resample_below)


def temperatures_of(schedule: str, n: int, tuning: Tuning) -> Tensor:
    """Inverse temperatures [n + 1, batch] in float64.

    "linear": b_t = t / n. "sigmoid": sigmoid(4 (2 t / n - 1)), normalised to 0 .. 1 (Wu et al. 2017). "thermodynamic": steps
    of equal thermodynamic length, as the pilot measured it, so db is proportional to 1 / sd_b(tilt): the schedule of least
    variance among those of many small steps (Gelman & Meng 1998, Statistical Science 13).
    """
    if n < 1:
        raise InputError(f"{n} temperatures: an annealed run needs at least 1")
    batch = tuning.beta.shape[1]
    if schedule == "thermodynamic":
        inner = [beta_at_length(tuning, t / n) for t in range(1, n)]
    elif schedule == "linear":
        inner = [torch.full((batch,), t / n, dtype=torch.float64) for t in range(1, n)]
    elif schedule == "sigmoid":
        inner = [torch.full((batch,), sigmoid_at(t / n), dtype=torch.float64) for t in range(1, n)]
    else:
        raise InputError(f"unknown schedule '{schedule}': use one of {', '.join(SCHEDULES)}")
    ends = (torch.zeros(batch, dtype=torch.float64), torch.ones(batch, dtype=torch.float64))
    return torch.stack([t.to(tuning.beta.device) for t in (ends[0], *inner, ends[1])])


def sigmoid_at(share: float) -> float:
    """The normalised sigmoid: 0 at 0, 1 at 1, steep in the middle.

    >>> sigmoid_at(0.0), sigmoid_at(0.5), sigmoid_at(1.0)
    (0.0, 0.5, 1.0)
    """

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    low, high = sigmoid(-SIGMOID_RADIUS), sigmoid(SIGMOID_RADIUS)
    return (sigmoid(SIGMOID_RADIUS * (2 * share - 1)) - low) / (high - low)


def move_at(tuning: Tuning, beta: Tensor, leapfrogs: int) -> Move:
    """How to move at temperatures beta [batch], between the pilot's nodes."""
    rows, share = _between(tuning.beta, beta)
    log_step = _mixed(tuning.log_step, rows, share)
    scale = tuning.scale
    if not tuning.dense:
        at = torch.arange(beta.shape[0], device=beta.device)
        low, high = scale[rows, at], scale[rows + 1, at]
        scale = torch.lerp(low, high, share[:, None].to(low))
    limit = LONGEST_ORBIT / leapfrogs
    return Move(beta, log_step.exp().clamp_max(limit), scale, leapfrogs)


def _between(grid: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Rows i of a rising grid [nodes, batch] with grid[i] <= value <= grid[i + 1], and how far between them value lies."""
    rows = torch.searchsorted(grid.mT.contiguous(), value[:, None], right=True)[:, 0] - 1
    rows = rows.clamp(0, grid.shape[0] - 2)
    at = torch.arange(value.shape[0], device=value.device)
    low, high = grid[rows, at], grid[rows + 1, at]
    return rows, ((value - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)


def _mixed(values: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    at = torch.arange(rows.shape[0], device=rows.device)
    return torch.lerp(values[rows, at], values[rows + 1, at], share)


def beta_at_length(tuning: Tuning, share: float) -> Tensor:
    """Temperatures [batch] up to which the path has covered this share of its thermodynamic length."""
    rows, between = _between(tuning.length, share * tuning.total_length)
    return _mixed(tuning.beta, rows, between)
