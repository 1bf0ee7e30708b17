"""Inverse temperatures 0 = b_0 < ... < b_T = 1 of an annealed run, fixed before it begins."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lmeval.errors import InputError
from lmeval.likelihood.pilot import Tuning, beta_at_length

Schedule = Literal["thermodynamic", "sigmoid", "linear"]
SIGMOID_RADIUS = 4.0


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
        raise InputError(f"unknown schedule '{schedule}': use one of {', '.join(get_args(Schedule))}")
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
