"""A batch of data through pilot, ladder and weighted run: what `estimate`, `simulate` and `planner` share."""

from numbers import Integral
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from lmeval.densities.protocols import LatentShape
from lmeval.errors import DensityError, InputError
from lmeval.likelihood.annealing import Ladder
from lmeval.likelihood.noise import Key
from lmeval.likelihood.paths import Gaussian, Target, check_unbounded, gaussian_of, is_standard_normal
from lmeval.likelihood.pilot import PilotSettings, Tuning, run_pilot
from lmeval.likelihood.schedules import Schedule, temperatures_of

STARTS = ("auto", "pilot", "encoder", "prior")
TEMPERATURES = {"pilot": 30, "encoder": 60, "prior": 100}
LEAPFROGS = 5
RESAMPLE_BELOW = 0.5
ENCODER_WIDER = 1.2  # a start narrower than the posterior gives a few of its draws all the weight


class FixedSettings(NamedTuple):
    """How to anneal. `temperatures` is T, the number of steps from the start to the posterior, and `leapfrogs` the gradient
    evaluations of the one trajectory at each; `resample_below` is the share of the particles below which the effective
    sample size calls for resampling (0 is annealed importance sampling)."""

    particles: int
    temperatures: int
    schedule: str
    start: str
    leapfrogs: int
    resample_below: float
    seed: int

    @property
    def n_gradients(self) -> int:
        """Gradient evaluations of the weighted run, for each datum."""
        return self.particles * (1 + (self.temperatures - 1) * self.leapfrogs)


class FrozenRun(NamedTuple):
    """A batch that a pilot has been through: all is frozen now. `length` [batch] is the path's thermodynamic length."""

    target: Target
    ladder: Ladder
    length: Tensor
    n_pilot: int


def target_of(model: Any, shape: LatentShape, x: Tensor, ids: tuple[int, ...], start: Gaussian | None) -> Target:
    """The posteriors of the data x."""
    return Target(model, x, shape.d_latent, shape.batched_particles, is_standard_normal(model.prior), start, ids)


def encoder_start(model: Any, x: Tensor, widen: float) -> Gaussian | None:
    """Where the encoder puts each datum, if it does so by a normal distribution."""
    with torch.no_grad():
        return gaussian_of(model.encode(x), widen)


def prepare_run(
    model: Any, shape: LatentShape, x: Tensor, ids: tuple[int, ...], keys: list[Key], settings: FixedSettings
) -> FrozenRun:
    """Tune everything on random numbers of the pilot's own, and freeze it.

    start "pilot" walks twice: once from the encoder or the prior, to fit a normal distribution to the posterior, and again
    from that. It shortens the path of a published VAE from 11.8 to 2.6 in thermodynamic length, and the gap of a run with
    so many temperatures falls with the square of it.
    """
    check_unbounded(model.prior)
    if not shape.differentiable:
        raise DensityError(
            f"{type(model).__name__}: log p(x | z) has no finite gradient with respect to z, and annealing moves by it: "
            "keep decode(z) differentiable in z (no detach, no numpy), or use method 'iwae'"
        )
    start = encoder_start(model, x, ENCODER_WIDER) if shape.has_encoder and settings.start != "prior" else None
    if settings.start == "encoder" and start is None:
        why = "gives no normal distribution" if shape.has_encoder else "is not there"
        raise DensityError(f"start 'encoder': encode(x) {why}: use start 'pilot' or 'prior'")
    target = target_of(model, shape, x, ids, start)
    tuning = run_pilot(target, settings.seed, keys, PilotSettings(), "pilot")
    n_pilot = tuning.n_gradients
    if settings.start in ("auto", "pilot"):
        target = target._replace(start=tuning.fitted)
        tuning = run_pilot(target, settings.seed, keys, PilotSettings(), "second pilot")
        n_pilot += tuning.n_gradients
    return FrozenRun(target, ladder_of(tuning, settings, x.dtype), tuning.total_length, n_pilot)


def ladder_of(tuning: Tuning, settings: FixedSettings, dtype: torch.dtype) -> Ladder:
    """The ladder of a run in `dtype`, at temperatures that it can hold: weights and kernels must mean the same ones."""
    betas = temperatures_of(settings.schedule, settings.temperatures, tuning).to(dtype).double()
    return Ladder(betas, tuning, settings.leapfrogs, settings.resample_below)


def fix_settings(
    particles: int, temperatures: int | None, schedule: str, start: str, leapfrogs: int, resample_below: float, seed: int
) -> FixedSettings:
    """Settings with defaults filled in. Raises InputError."""
    if schedule not in get_args(Schedule):
        raise InputError(f"unknown schedule '{schedule}': use one of {', '.join(get_args(Schedule))}")
    if isinstance(resample_below, bool) or not isinstance(resample_below, int | float) or not 0 <= resample_below <= 1:
        raise InputError(f"resample_below is {resample_below!r}: give a share of the particles from 0 (never) to 1")
    if start not in STARTS:
        raise InputError(f"unknown start '{start}': use one of {', '.join(STARTS)}")
    steps = TEMPERATURES["pilot" if start == "auto" else start] if temperatures is None else temperatures
    for name, value in (("particles", particles), ("temperatures", steps), ("leapfrogs", leapfrogs)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} is {value!r}: give a whole number of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed is {seed!r}: give a whole number of at least 0")
    return FixedSettings(int(particles), int(steps), schedule, start, int(leapfrogs), float(resample_below), int(seed))
