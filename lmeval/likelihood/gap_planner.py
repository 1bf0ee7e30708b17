"""How many temperatures a wanted gap needs, and what they will cost, before they are run."""

import time
from typing import Any

import torch
from torch import Tensor

from lmeval.compute.threads import one_thread
from lmeval.densities.protocols import CheckedLatent, check_latent, kind_of
from lmeval.errors import DensityError, InputError, NonFiniteScore
from lmeval.likelihood.annealed_run import FrozenRun, prepare_run
from lmeval.likelihood.annealing import forward
from lmeval.likelihood.ladder import ladder_of
from lmeval.likelihood.methods import ANNEALED
from lmeval.likelihood.noise import Key, Streams, keys_of
from lmeval.likelihood.quiet import quiet_distributions
from lmeval.likelihood.result import Batch
from lmeval.likelihood.settings import BoundSettings, FixedSettings, Plan, fix_settings

DEFAULTS = BoundSettings()
MOST_DATA = 16
REPLICATES = 4
FIRST_TRY = 8
TRUSTED_GAP = 0.5  # nats: below it half the variance of log Z-hat is its gap
MOST_TEMPERATURES = 100_000


def plan(model: Any, x: Tensor, gap: float, settings: BoundSettings = DEFAULTS) -> Plan:
    """What `log_likelihood(model, x, "smc", BoundSettings(gap=gap))` would choose, and what it will cost.

    Args:
        model: A latent variable model.
        x: The data [n, *event].
        gap: Nats by which log Z-hat may lie below log p(x) on average.
        settings: The other settings; temperatures are the plan's to choose.

    Returns:
        The settings, with what they should cost.

    Raises:
        DensityError: The model cannot be annealed.
        InputError: The gap is no positive number, or settings cannot be used.
    """
    if kind_of(model) != "latent":
        raise DensityError("only models with prior and decode(z) are annealed: of others log p(x) is exact, or unknown")
    return plan_temperatures(check_latent(model, x), x, fix_settings(settings, ANNEALED.particles), gap)


def plan_temperatures(density: CheckedLatent, x: Tensor, settings: FixedSettings, gap: float) -> Plan:
    """The fewest temperatures for a gap in nats.

    The gap of a run with T temperatures falls as 1 / T: c length^2 / (2 T) with one particle, where c tells how slowly the
    kernels mix. c is measured: log Z-hat of a few data is estimated several times with few temperatures, each time with
    frozen kernels, and half its variance is the gap, where that is small (log Z-hat is then nearly normal, and
    E[Z-hat] = Z). Raises InputError for a gap that is no positive number.
    """
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not gap > 0:
        raise InputError(f"gap is {gap!r}: give nats above 0, such as 0.1")
    places = torch.linspace(0, len(x) - 1, min(len(x), MOST_DATA)).long().tolist()
    some, keys = x[places], keys_of(x[places])
    with quiet_distributions(), one_thread(x.device) as n_threads:
        began = time.perf_counter()
        run = prepare_run(density, Batch(some, tuple(places), keys, len(places) * settings.particles), settings)
        pilot_seconds = time.perf_counter() - began
        steps = FIRST_TRY
        while True:
            began = time.perf_counter()
            measured = _variance(run, settings._replace(temperatures=steps), keys, some) / 2
            seconds = (time.perf_counter() - began) / REPLICATES
            if measured <= TRUSTED_GAP or steps >= MOST_TEMPERATURES:
                break
            steps *= 4
    wanted = settings._replace(temperatures=max(2, min(MOST_TEMPERATURES, round(steps * measured / gap + 0.5))))
    share = wanted.n_gradients / settings._replace(temperatures=steps).n_gradients
    return Plan(
        wanted,
        measured * steps / wanted.temperatures,
        float(run.length.mean()),
        len(x) * (wanted.n_gradients + run.n_pilot),
        (pilot_seconds + seconds * share) * len(x) / len(some) / min(n_threads, len(x)),
        len(some),
    )


def _variance(run: FrozenRun, settings: FixedSettings, keys: list[Key], x: Tensor) -> float:
    """Variance of log Z-hat between replicates, mean over data."""
    ladder = ladder_of(run.ladder.tuning, settings, x.dtype)
    streams = [Streams(settings.seed, f"plan {i}", keys, x) for i in range(REPLICATES)]
    log_z = torch.stack([forward(run.target, ladder, settings.particles, s, lambda _: None).log_z for s in streams])
    lost = ~torch.isfinite(log_z).all(0)
    if bool(lost.any()):
        worst = run.target.ids[int(lost.int().argmax())]
        raise NonFiniteScore(
            f"datum {worst}: log p(x) is not finite in a trial run, so no gap can be planned "
            "for it: find out whether the model can give such data any probability"
        )
    return float(log_z.var(0).mean())
