"""log p(x) of any density, datum by datum, with the side it lies on: the one way in to everything beneath.

>>> import torch
>>> from torch.distributions import Independent, Normal
>>> class Linear:
...     prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)
...     def decode(self, z):
...         return Independent(Normal(z, 1.0), 1)
>>> found = log_likelihood(Linear(), torch.tensor([[0.0], [2.0]]), "smc", particles=64)
>>> exact = Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 2.0]))
>>> bool((abs(torch.from_numpy(found.nats) - exact) < 0.2).all()), found.side
(True, 'lower')
"""

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmeval.compute.gather import connect
from lmeval.compute.place import Place
from lmeval.densities.protocols import LatentShape, check_exact, check_latent, kind_of
from lmeval.errors import DensityError, InputError
from lmeval.likelihood.annealing import forward
from lmeval.likelihood.bounds import weigh
from lmeval.likelihood.diagnostics import log_estimate_stderr
from lmeval.likelihood.noise import Key, Streams
from lmeval.likelihood.planner import plan_settings
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
from lmeval.likelihood.runs import (
    LEAPFROGS,
    RESAMPLE_BELOW,
    FixedSettings,
    encoder_start,
    fix_settings,
    prepare_run,
    target_of,
)
from lmeval.results import Side

METHODS = ("exact", "elbo", "iwae", "ais", "smc")
ANNEALED = ("ais", "smc")
PARTICLES = {"exact": 1, "elbo": 1, "iwae": 500, "ais": 16, "smc": 16}
ROWS, PIXELS = 4096, 1 << 22  # particles times data that go through a decoder at once, and their pixels, at most


def log_likelihood(
    model: Any,
    x: Tensor,
    method: str | None = None,
    *,
    particles: int | None = None,
    temperatures: int | None = None,
    gap: float | None = None,
    schedule: str = "thermodynamic",
    start: str = "auto",
    leapfrogs: int = LEAPFROGS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    place: Place | None = None,
    progress: Progress | None = None,
    levels: int | None = None,
) -> LogLikelihood:
    """log p(x) of each datum of x [n, *event] under any density (`lmeval.densities`), in nats.

    Methods: "exact" (the model's own log_prob); "elbo", the mean of `particles` log-weights; "iwae", the log of the mean of
    `particles` weights (the importance-weighted bound); "ais" and "smc", annealed in `temperatures` steps, or in as many as
    a planned `gap` in nats needs. None takes "exact" where there is log_prob, else "smc". All but "exact" are lower bounds.

    Annealed runs start at the "prior", at the widened "encoder", or where the "pilot" fitted a normal distribution to what
    it found of the posterior ("auto" is that). A datum's number does not depend on batch, order or number of processes, only
    on its content and `seed` (in float32 up to rounding, which now and then decides an acceptance).

    `levels` says that x holds levels of discrete data; then densities over real x are refused. With a `place` of processes
    each scores a part of the data and all get all of it. Raises DensityError, InputError, NonFiniteScore.
    """
    kind = kind_of(model)
    chosen = _method(kind, method, temperatures, gap, start)
    place = place or Place(0, 1, connect(str(device)).device)
    x = torch.as_tensor(x).to(place.device)
    k = PARTICLES[chosen] if particles is None else particles
    settings = fix_settings(k, temperatures, schedule, start, leapfrogs, RESAMPLE_BELOW if chosen == "smc" else 0.0, seed)
    began = time.perf_counter()
    if kind == "exact":
        side: Side = check_exact(model, x, levels)
        score, total = _exact_score(model), 1
    else:
        side, shape = "lower", check_latent(model, x, levels)
        if gap is not None:
            settings = plan_settings(model, shape, x, settings, gap).settings
        score = _latent_score(model, shape, chosen, settings)
        total = settings.n_gradients if chosen in ANNEALED else k
    tick = ticking(progress, total * len(x))
    # other people's log_prob may keep state; decoders have been tried on several batches by then
    rows = score_all(score, x, max(1, rows_at_once(x) // k), place, tick, k=k, threads=kind == "latent")
    return as_columns([row for (row,) in rows], side, chosen, settings, time.perf_counter() - began)


def rows_at_once(x: Tensor) -> int:
    """How many x may go through a decoder at once: memory then does not grow with images or data."""
    return max(1, min(ROWS, PIXELS // x[:1].numel()))


def _method(kind: str, method: str | None, temperatures: int | None, gap: float | None, start: str) -> str:
    """The method, if it and what is asked of it suit the model."""
    chosen = method or ("exact" if kind == "exact" else "smc")
    if chosen not in METHODS:
        raise InputError(f"unknown method '{chosen}': use one of {', '.join(METHODS)}")
    if kind == "implicit" or (kind == "exact") != (chosen == "exact"):
        raise DensityError(_wrong_kind(kind, chosen))
    if gap is not None and (chosen not in ANNEALED or temperatures is not None):
        raise InputError(
            f"a gap plans the temperatures of ais and smc: with method '{chosen}' give it alone, or leave it out"
        )
    if chosen not in ANNEALED and start == "pilot":
        raise InputError(f"start 'pilot' is for ais and smc, and the method is '{chosen}': use start 'encoder' or 'prior'")
    return chosen


def _wrong_kind(kind: str, method: str) -> str:
    if kind == "implicit":
        return "an implicit model has no likelihood: lmeval.likelihood.kde estimates a density from its samples"
    if kind == "exact":
        return f"method '{method}' is for models with prior and decode(z); this one has log_prob: use method 'exact'"
    return "method 'exact' is for models with log_prob; this one has prior and decode(z): use elbo, iwae, ais or smc"


def _exact_score(model: Any) -> Score:
    def score(x: Tensor, ids: tuple[int, ...], _: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        with torch.no_grad():
            found = model.log_prob(x).double().cpu()
        tick(1)
        if found.shape != (len(ids),):
            raise DensityError(f"log_prob of {len(ids)} data gives shape {list(found.shape)}, and must give [{len(ids)}]")
        return [(DatumResult(nats),) for nats in found.tolist()]

    return score


def _latent_score(model: Any, shape: LatentShape, method: str, settings: FixedSettings) -> Score:
    if method in ANNEALED:
        return lambda x, ids, keys, tick: _annealed(model, shape, settings, x, ids, keys, tick)
    if settings.start != "prior" and not shape.has_encoder:
        raise DensityError(
            f"{type(model).__name__} has no encode(x), from which '{method}' draws z: use method 'smc' or start 'prior'"
        )
    return lambda x, ids, keys, tick: _weighed(model, shape, method, settings, x, ids, keys, tick)


def _weighed(
    model: Any,
    shape: LatentShape,
    method: str,
    settings: FixedSettings,
    x: Tensor,
    ids: tuple[int, ...],
    keys: list[Key],
    tick: Tick,
) -> list[tuple[DatumResult, ...]]:
    k = settings.particles
    start = None if settings.start == "prior" else encoder_start(model, x, 1.0)
    target = target_of(model, shape, x, ids, start)
    encoded = settings.start != "prior" and start is None
    found = weigh(target, k, Streams(settings.seed, method, keys, x), max(1, rows_at_once(x) // len(ids)), encoded)
    tick(k)
    if method == "elbo":
        stderr = found.sd_log / math.sqrt(k) if k > 1 else np.full(len(ids), np.nan)
        return [
            (DatumResult(*row, n_evaluations=k),)
            for row in zip(found.mean_log, stderr, found.ess, found.pareto_k, strict=True)
        ]
    stderr = log_estimate_stderr(found.ess, k)
    return [
        (DatumResult(*row, n_evaluations=k),) for row in zip(found.log_mean, stderr, found.ess, found.pareto_k, strict=True)
    ]


def _annealed(
    model: Any, shape: LatentShape, settings: FixedSettings, x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick
) -> list[tuple[DatumResult, ...]]:
    ready = prepare_run(model, shape, x, ids, keys, settings)
    run = forward(ready.target, ready.ladder, settings.particles, Streams(settings.seed, "run", keys, x), tick)
    return [(row,) for row in results_of_run(run, ready, settings)]
