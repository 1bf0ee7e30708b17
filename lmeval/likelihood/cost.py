"""What a comparison will cost, said before anything is computed."""

from lmeval.likelihood.kde import MAX_HELD_OUT
from lmeval.likelihood.prepare import Prepared, SettledBound
from lmeval.likelihood.spec import KdeSpec


def cost_lines(prepared: Prepared) -> list[str]:
    """A line for each number of each model: what it takes."""
    lines, n = [], len(prepared.x)
    for model in prepared.models:
        name = model.spec.name
        if model.kind == "exact":
            lines.append(f"{name}: log p of {n:,} data")
        if model.kind == "implicit":
            kde = model.spec.kde or KdeSpec()
            others = "its own samples"
            if model.held_out is not None:
                others = f"{min(len(model.held_out), MAX_HELD_OUT):,} held-out data"
            lines.append(
                f"{name}: kernel density estimate of {n:,} data from {kde.samples:,} samples, bandwidth by {others}"
            )
        if model.kind == "latent":
            lines += [f"{name}: {bound.label}: {_cost(bound, n)}{_foreseen(bound)}" for bound in model.bounds]
        if model.sandwich is not None:
            cost = _cost(model.sandwich, model.spec.sandwich, "simulated data")
            lines.append(f"{name}: sandwich: {cost}, and as many again for the upper bound")
    return lines


def _cost(bound: SettledBound, n: int, data: str = "data") -> str:
    """What a bound takes, as a product."""
    k, steps, leapfrogs = bound.settings.particles, bound.settings.temperatures, bound.settings.leapfrogs
    total = n * bound.method.n_evaluations(bound.settings)
    if not bound.method.annealed:
        return f"{n:,} {data} x {k:,} draws = {total:,} decoder evaluations"
    each = f"{n:,} {data} x {k:,} particles x (1 + {steps - 1:,} temperatures x {leapfrogs} leapfrogs)"
    return f"{each} = {total:,} decoder evaluations, after a pilot"


def _foreseen(bound: SettledBound) -> str:
    plan = bound.spec.plan
    return "" if plan is None else f", planned for a gap of {plan['wanted_gap_nats']:g} nats, about {plan['seconds']:,.0f} s"
