"""log p(x) of any density, datum by datum, with the side it lies on: the one way in to everything beneath.

>>> import torch
>>> from torch.distributions import Independent, Normal
>>> class Linear:
...     prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)
...     def decode(self, z):
...         return Independent(Normal(z, 1.0), 1)
>>> bounds = log_likelihood(Linear(), torch.tensor([[0.0], [2.0]]), "smc", BoundSettings(particles=64))
>>> exact = Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 2.0]))
>>> bool((abs(torch.from_numpy(bounds.nats) - exact) < 0.2).all()), bounds.side
(True, 'lower')
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmeval.compute.gather import as_place
from lmeval.compute.place import Place
from lmeval.densities.protocols import CheckedDensity, CheckedExact, CheckedLatent, Kind, check_density
from lmeval.errors import DensityError, InputError
from lmeval.likelihood.methods import BOUNDS, METHODS, Method
from lmeval.likelihood.result import Advance, Batch, DatumResult, LogLikelihood, as_columns
from lmeval.likelihood.settings import BoundSettings, FixedSettings, fix_settings
from lmeval.likelihood.workers import score_all
from lmeval.progress import SILENT, Progress

DEFAULTS = BoundSettings()


def log_likelihood(
    model: Any,
    x: Tensor,
    method: str | None = None,
    settings: BoundSettings = DEFAULTS,
    *,
    levels: int | None = None,
    place: Place | str = "cpu",
    progress: Progress = SILENT,
) -> LogLikelihood:
    """log p(x) of each datum under any density (`lmeval.densities`), in nats.

    Method "exact" is the model's own log_prob; the others, which `methods.METHODS` lists, are lower bounds. A datum's number
    does not depend on batch, order or number of processes, only on its content and the seed (in float32 up to rounding,
    which now and then decides an acceptance).

    Args:
        model: A density, or one that `check_density` has checked on these data.
        x: The data [n, *event], moved to the device of `place`; the model must lie there.
        method: A name of `methods.METHODS`; None takes "exact" where there is log_prob, else "smc".
        settings: Settings of the bound.
        levels: Says that x holds levels 0 .. levels - 1 of discrete data; then densities over real x are refused.
        place: A device, or the place of this process among several: each scores a part of the data, and all get all of it.
        progress: Told of one stage, in evaluations of the model.

    Returns:
        Numbers [n] with their side and diagnostics.

    Raises:
        DensityError: The model cannot be used, or not by this method.
        InputError: Data or settings cannot be used.
        NonFiniteScore: A number is not finite.
    """
    began, place = time.perf_counter(), as_place(place)
    x = torch.as_tensor(x).to(place.device)
    density = check_density(model, x, levels)
    how = _method_for(density.kind, method, settings)
    fixed = fix_settings(settings, how.particles, how.resample_below)
    if settings.gap is not None and how.plan and isinstance(density, CheckedLatent):
        fixed = how.plan(density, x, fixed, settings.gap).settings
    scored = score_checked(density, x, how, fixed, place=place, progress=progress)
    return replace(scored, seconds=time.perf_counter() - began)


def score_checked(
    density: CheckedDensity,
    x: Tensor,
    how: Method,
    fixed: FixedSettings,
    *,
    place: Place,
    progress: Progress = SILENT,
) -> LogLikelihood:
    """`log_likelihood` of a model that was checked on these data, by a method that suits it, with its settings filled in."""
    began = time.perf_counter()
    progress.stage(how.name, how.n_evaluations(fixed) * len(x), "evaluations")

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult]]:
        return [(result,) for result in how.score(density, fixed, batch, advance)]

    # other people's log_prob may keep state; decoders have been tried on several batches by then
    threads = how.kind == "latent"
    results = score_all(score, x, place, progress.advance, k=fixed.particles, threads=threads)
    side = density.side if isinstance(density, CheckedExact) else how.side
    seconds = time.perf_counter() - began
    return as_columns([result for (result,) in results], side, how.name, how.describe(fixed), seconds)


def _method_for(kind: Kind, name: str | None, settings: BoundSettings) -> Method:
    """The method, if it and what is asked of it suit the kind of the model."""
    name = name or ("exact" if kind == "exact" else "smc")
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': use one of {', '.join(METHODS)}")
    method = METHODS[name]
    if kind != method.kind:
        raise DensityError(_wrong_kind(kind, name))
    annealed = " and ".join(bound.name for bound in BOUNDS.values() if bound.annealed)
    if settings.gap is not None and (not method.annealed or settings.temperatures is not None):
        raise InputError(f"a gap plans the temperatures of {annealed}: with method '{name}' give it alone, or leave it out")
    if not method.annealed and settings.start == "pilot":
        raise InputError(f"start 'pilot' is for {annealed}, and the method is '{name}': use start 'encoder' or 'prior'")
    return method


def _wrong_kind(kind: Kind, method: str) -> str:
    if kind == "exact":
        return f"method '{method}' is for models with prior and decode(z); this one has log_prob: use method 'exact'"
    *others, last = BOUNDS
    return f"method 'exact' is for models with log_prob; this one has prior and decode(z): use {', '.join(others)} or {last}"
