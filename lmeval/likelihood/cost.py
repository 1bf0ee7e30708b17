"""What a comparison will cost, said before anything is computed."""

from lmeval.likelihood.kde import MAX_HELD_OUT
from lmeval.likelihood.methods import BOUNDS
from lmeval.likelihood.prepare import Prepared
from lmeval.likelihood.settings import LEAPFROGS
from lmeval.likelihood.spec import BoundSpec, KdeSpec


def cost_lines(prepared: Prepared) -> list[str]:
    """One line for each number that will be found: what it takes."""
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
        lines += [f"{name}: {bound.label}: {_cost(bound, n)}" for bound in model.bounds]
        if model.spec.sandwich:
            cost = _cost(model.sandwich_bound._replace(plan=None), model.spec.sandwich, "simulated data")
            lines.append(f"{name}: sandwich: {cost}, and as many again for the upper bound")
    return lines


def _cost(bound: BoundSpec, n: int, data: str = "data") -> str:
    """What a bound takes, as a product."""
    particles: int = bound.settings.get("particles", 1)
    if not BOUNDS[bound.method].annealed:
        return f"{n:,} {data} x {particles:,} draws = {n * particles:,} decoder evaluations"
    leapfrogs, steps = bound.settings.get("leapfrogs", LEAPFROGS), bound.settings["temperatures"]
    total = n * particles * (1 + (steps - 1) * leapfrogs)
    each = f"{n:,} {data} x {particles:,} particles x (1 + {steps - 1:,} temperatures x {leapfrogs} leapfrogs)"
    foreseen = ""
    if bound.plan:
        foreseen = f", planned for a gap of {bound.plan['wanted_gap_nats']:g} nats, about {bound.plan['seconds']:,.0f} s"
    return f"{each} = {total:,} decoder evaluations, behind a pilot{foreseen}"
