"""The methods that give log p(x) or a bound on it: one entry here, and a function that scores a batch, add another.

    def score(density, settings, batch, advance):
        ...                       # log_weights of settings.particles draws for each datum of batch.x
        advance(settings.particles)
        return [DatumResult(nats, stderr, ess, pareto_k, n_evaluations=settings.particles) for ...]

A bound that is registered is a key of specs (`bounds: [mine, {mine: 20}]`), a method of `log_likelihood`, and a row of the
tables of `lmeval likelihood`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmeval.densities.protocols import CheckedExact, CheckedLatent, Kind
from lmeval.errors import DensityError
from lmeval.likelihood.annealed_run import score_annealed, score_both_sides
from lmeval.likelihood.gap_planner import Plan, plan_temperatures
from lmeval.likelihood.importance import score_elbo, score_iwae
from lmeval.likelihood.result import Advance, Batch, DatumResult
from lmeval.likelihood.settings import RESAMPLE_BELOW, FixedSettings
from lmeval.results import Side

Both = list[tuple[DatumResult, DatumResult]]


class Method(NamedTuple):
    """A way to log p(x).

    Attributes:
        name: What specs and `log_likelihood` call it.
        score: Gives a result for each datum of a batch; its first argument is the density, checked on the data.
        particles: How many particles, or draws, there are where nobody says.
        kind: The kind of density that it is for.
        side: On which side of log p(x) its numbers lie in expectation; "exact" leaves it to the density.
        annealed: Whether it moves particles over temperatures: it then takes all settings of `BoundSettings`.
        weighted: Whether effective sample size and tail of the weights tell how good its number is.
        resample_below: The share of the particles below which the effective sample size calls for resampling.
        plan: Chooses the temperatures that a gap in nats needs.
        score_both_sides: Bounds data that were simulated from z [batch, d] from below and from above.
    """

    name: str
    score: Callable[[Any, FixedSettings, Batch, Advance], list[DatumResult]]
    particles: int = 1
    kind: Kind = "latent"
    side: Side = "lower"
    annealed: bool = False
    weighted: bool = True
    resample_below: float = 0.0
    plan: Callable[[CheckedLatent, Tensor, FixedSettings, float], Plan] | None = None
    score_both_sides: Callable[[CheckedLatent, FixedSettings, Batch, Advance, Tensor], Both] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that a spec may give it."""
        annealed = ("temperatures", "gap", "schedule", "start", "leapfrogs") if self.annealed else ()
        return ("particles", *annealed)

    def n_evaluations(self, settings: FixedSettings) -> int:
        """Evaluations of the model for each datum, without those of a pilot."""
        return settings.n_gradients if self.annealed else settings.particles

    def describe(self, settings: FixedSettings) -> dict[str, Any]:
        """The settings that it used, JSON-ready."""
        if self.kind == "exact":
            return {}
        return settings._asdict() if self.annealed else {"particles": settings.particles, "seed": settings.seed}


def score_exact(density: CheckedExact, settings: FixedSettings, batch: Batch, advance: Advance) -> list[DatumResult]:
    """The model's own log_prob."""
    with torch.no_grad():
        log_probs = density.model.log_prob(batch.x).double().cpu()
    advance(1)
    n = len(batch.ids)
    if log_probs.shape != (n,):
        raise DensityError(f"log_prob of {n} data gives shape {list(log_probs.shape)}, and must give [{n}]")
    return [DatumResult(nats) for nats in log_probs.tolist()]


ANNEALED = Method(
    "smc",
    score_annealed,
    particles=16,
    annealed=True,
    resample_below=RESAMPLE_BELOW,
    plan=plan_temperatures,
    score_both_sides=score_both_sides,
)
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("exact", score_exact, kind="exact", side="exact", weighted=False),
        Method("elbo", score_elbo, weighted=False),
        Method("iwae", score_iwae, particles=500),
        ANNEALED._replace(name="ais", resample_below=0.0),
        ANNEALED,
    )
}
BOUNDS: Mapping[str, Method] = {name: method for name, method in METHODS.items() if method.kind == "latent"}
"""The methods that bound log p(x) of a latent variable model."""
