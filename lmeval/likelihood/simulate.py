"""Both sides at once, on data that the model itself made: bidirectional Monte Carlo.

Only for such data is an exact posterior sample at hand (the z that made x), and with it an upper bound. The gap between the
bounds is a property of that population: real data may be harder, or easier.
"""

import time
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lmeval.compute.gather import connect
from lmeval.compute.place import Place
from lmeval.densities.checks import call_foreign, refuse_training_mode
from lmeval.densities.protocols import LatentShape, check_latent, kind_of
from lmeval.errors import DensityError, InputError
from lmeval.likelihood.annealing import backward, conditional, forward
from lmeval.likelihood.estimate import rows_at_once
from lmeval.likelihood.noise import Key, Streams, own_seed
from lmeval.likelihood.paths import is_standard_normal, sample_prior
from lmeval.likelihood.rows import (
    DatumResult,
    LogLikelihood,
    Progress,
    Score,
    Tick,
    as_columns,
    results_of_run,
    score_all,
    ticking,
)
from lmeval.likelihood.runs import LEAPFROGS, RESAMPLE_BELOW, FixedSettings, fix_settings, prepare_run
from lmeval.stats import Estimate, paired_difference


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Lower and upper bounds on the same simulated data x [n, *event], with the z [n, d] that made them."""

    lower: LogLikelihood
    upper: LogLikelihood
    x: Tensor
    z: Tensor

    @property
    def gap(self) -> Estimate:
        """Mean of upper minus lower, nats. In expectation it is at least 0; its parts are noisy."""
        return paired_difference(self.upper.nats, self.lower.nats)


def sandwich(
    model: Any,
    n: int = 100,
    *,
    particles: int = 16,
    temperatures: int | None = None,
    schedule: str = "thermodynamic",
    start: str = "auto",
    leapfrogs: int = LEAPFROGS,
    resample_below: float = RESAMPLE_BELOW,
    seed: int = 0,
    device: str | torch.device = "cpu",
    place: Place | None = None,
    progress: Progress | None = None,
) -> Sandwich:
    """Bound log p(x) from both sides for n data drawn from a latent variable model.

    Lower: sequential Monte Carlo. Upper: the same conditioned on a path from the z that made x. Both use the ladder and
    kernels that one pilot froze, which saw x and never z. Arguments as of `log_likelihood`.
    """
    if kind_of(model) != "latent":
        raise DensityError("a sandwich needs a model with prior and decode(z): of others log p(x) is exact, or unknown")
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise InputError(f"n is {n!r}: give the number of data to simulate, at least 1")
    n = int(n)
    settings = fix_settings(particles, temperatures, schedule, start, leapfrogs, resample_below, seed)
    place = place or Place(0, 1, connect(str(device)).device)
    refuse_training_mode(model)
    with torch.no_grad():
        name = type(model).__name__
        x, z = call_foreign(lambda: simulate_data(model, n, seed, place.device), f"simulating data from {name}", None)
    shape = check_latent(model, x)
    began = time.perf_counter()
    tick = ticking(progress, 2 * settings.n_gradients * n)
    at_once = max(1, rows_at_once(x) // particles)
    rows = score_all(_both(model, shape, settings, z), x, at_once, place, tick, k=particles)
    seconds = time.perf_counter() - began
    lower = as_columns([lower for lower, _ in rows], "lower", "smc", settings, seconds)
    upper = as_columns([upper for _, upper in rows], "upper", "conditional smc", settings, 0.0)
    return Sandwich(lower, upper, x, z)


def simulate_data(model: Any, n: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [n, *event] and the z [n, d] that made them; the first data are the same for every n."""
    with own_seed(seed):
        like = model.prior.sample()  # for its dtype and device
    streams = Streams(seed, "simulation", [(i, 0) for i in range(n)], like)
    (z,) = streams.normal(1, len(like)) if is_standard_normal(model.prior) else sample_prior(model.prior, 1, streams)
    made = []
    for i, chosen in enumerate(streams.torch_seeds()):
        with own_seed(chosen):
            made.append(model.decode(z[i : i + 1].to(device)).sample())
    return torch.cat(made), z.to(device)


def _both(model: Any, shape: LatentShape, settings: FixedSettings, z: Tensor) -> Score:
    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        k, seed = settings.particles, settings.seed
        ready = prepare_run(model, shape, x, ids, keys, settings)
        lower = forward(ready.target, ready.ladder, k, Streams(seed, "run", keys, x), tick)
        posterior = z[list(ids)][None]
        path = backward(ready.target, ready.ladder, posterior, Streams(seed, "backward", keys, x), tick)
        upper = conditional(ready.target, ready.ladder, k, path, Streams(seed, "conditional", keys, x), tick)
        return list(zip(results_of_run(lower, ready, settings), results_of_run(upper, ready, settings), strict=True))

    return score
