"""The methods that give log p(x) or a bound on it: one entry of `METHODS`, and a function that scores a batch, add another.

    def score(density, settings, batch, advance):
        ...                       # log_weights of settings.particles draws for each datum of batch.x
        advance(settings.particles)
        return [DatumResult(nats, stderr, ess, pareto_k, n_evaluations=settings.particles) for ...]

A bound that is registered is a key of specs (`bounds: [mine, {mine: 20}]`), a method of `log_likelihood`, and a row of the
tables of `lmeval likelihood`. Specs are read before PyTorch is imported: functions that need it are named here, and imported
when they are called.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lmeval import lazy
from lmeval.likelihood.settings import RESAMPLE_BELOW, FixedSettings, Plan
from lmeval.results import Side

if TYPE_CHECKING:
    from torch import Tensor

    from lmeval.densities.protocols import CheckedLatent, Kind
    from lmeval.likelihood.result import Advance, Batch, DatumResult

    Both = list[tuple[DatumResult, DatumResult]]

PATH = ("particles", "temperatures", "gap", "schedule", "start", "leapfrogs")
"""The settings of methods that move particles over temperatures."""


def label_by_draws(name: str, settings: Mapping[str, Any]) -> str:
    """The name of a bound from independent draws.

    >>> label_by_draws("iwae", {"particles": 500}), label_by_draws("elbo", {})
    ('IWAE-500', 'ELBO')
    """
    particles = settings.get("particles")
    return name.upper() + (f"-{particles}" if particles else "")


def label_by_path(name: str, settings: Mapping[str, Any]) -> str:
    """The name of a bound from particles that move over temperatures, or over as many as a gap needs.

    >>> label_by_path("smc", {"particles": 16, "temperatures": 30}), label_by_path("smc", {"particles": 16, "gap": 0.1})
    ('SMC 16 x 30', 'SMC 16, gap 0.1')
    """
    steps, gap = settings.get("temperatures"), settings.get("gap")
    size = f"{settings.get('particles')}" + (f" x {steps}" if steps else "") + (f", gap {gap:g}" if gap else "")
    return f"{name.upper()} {size}"


class Method(NamedTuple):
    """A way to log p(x).

    Attributes:
        name: What specs and `log_likelihood` call it.
        score: Gives a result for each datum of a batch; its first argument is the density, checked on the data.
        particles: How many particles, or draws, there are where nobody says.
        settings: The fields of `BoundSettings` that a spec may give it; none where there is nothing to set.
        label: Its name in tables, of its own name and its settings (with the gap that they were planned for).
        kind: The kind of density that it is for.
        side: On which side of log p(x) its numbers lie in expectation; "exact" leaves it to the density.
        weighted: Whether effective sample size and tail of the weights tell how good its number is.
        resample_below: The share of the particles below which the effective sample size calls for resampling.
        plan: Chooses the temperatures that a gap in nats needs.
        score_both_sides: "Callable[[CheckedLatent, FixedSettings, Batch, Advance, Tensor], Both] | None" = None
    """

    name: str
    score: "Callable[[Any, FixedSettings, Batch, Advance], list[DatumResult]]"
    particles: int = 1
    settings: tuple[str, ...] = ("particles",)
    label: Callable[[str, Mapping[str, Any]], str] = label_by_draws
    kind: "Kind" = "latent"
    side: Side = "lower"
    weighted: bool = True
    resample_below: float = 0.0
    plan: "Callable[[CheckedLatent, Tensor, FixedSettings, float], Plan] | None" = None
    score_both_sides: "Callable[[CheckedLatent, FixedSettings, Batch, Advance, Tensor], Both] | None" = None

    @property
    def annealed(self) -> bool:
        """Whether it moves particles over temperatures."""
        return "temperatures" in self.settings

    def n_evaluations(self, settings: FixedSettings) -> int:
        """Evaluations of the model for each datum, without those of a pilot."""
        if self.annealed:
            return settings.n_gradients
        return settings.particles if self.settings else 1

    def describe(self, settings: FixedSettings) -> dict[str, Any]:
        """The settings that it used, JSON-ready."""
        if self.annealed:
            return settings._asdict()
        return {"particles": settings.particles, "seed": settings.seed} if self.settings else {}


_IMPORTANCE, _ANNEALED = "lmeval.likelihood.importance", "lmeval.likelihood.annealed_run"
ANNEALED = Method(
    "smc",
    lazy.function(_ANNEALED, "score_annealed"),
    particles=16,
    settings=PATH,
    label=label_by_path,
    resample_below=RESAMPLE_BELOW,
    plan=lazy.function("lmeval.likelihood.gap_planner", "plan_temperatures"),
    score_both_sides=lazy.function(_ANNEALED, "score_both_sides"),
)
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "exact",
            lazy.function("lmeval.likelihood.exact", "score_exact"),
            settings=(),
            label=lambda name, settings: "log p",
            kind="exact",
            side="exact",
            weighted=False,
        ),
        Method("elbo", lazy.function(_IMPORTANCE, "score_elbo"), weighted=False),
        Method("iwae", lazy.function(_IMPORTANCE, "score_iwae"), particles=500),
        ANNEALED._replace(name="ais", resample_below=0.0),
        ANNEALED,
    )
}
BOUNDS: Mapping[str, Method] = {name: method for name, method in METHODS.items() if method.kind == "latent"}
"""The methods that bound log p(x) of a latent variable model."""
