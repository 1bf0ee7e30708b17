"""The numbers of each model and bound, and the tables that they make: raw values in rows, columns that say what they hold.

Sides are those of log p. Bits a dimension are its negative, so a lower bound of log p is an upper bound of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval import stats
from lmeval.errors import NonFiniteScore
from lmeval.likelihood.diagnostics import PARETO_LIMIT
from lmeval.results import Column, Side, Table
from lmeval.results.measurement import difference_side
from lmeval.results.table import count, words
from lmeval.stats import Estimate, bits_per_dim

FLAGGED_SHARE = 0.05  # of data with such weights, from which the bound is flagged
FLAGGED_GAP = 0.1  # nats that an annealed bound may be expected to lack, from which it is flagged
FLAG = "bound, not converged"
NATS = "nats/datum"


class BoundResult(NamedTuple):
    """One number of one model for each datum: `nats` [n], on `side` of log p.

    `ess` (effective sample size) and `pareto_k` [n] are None where the method has no weights. `n_evaluations` counts
    evaluations of the model for each datum. `certificate_nats` is what their mean log p is at least, but for a chance of
    `summary.DELTA`; None where nothing can be certified. `details` is JSON-ready: settings, or what a kernel density
    estimate was made of.
    """

    model: str
    kind: str
    bound: str
    side: Side
    nats: Float64[np.ndarray, " n"]
    ess: Float64[np.ndarray, " n"] | None
    pareto_k: Float64[np.ndarray, " n"] | None
    n_evaluations: float | None
    seconds: float
    certificate_nats: float | None
    details: Mapping[str, Any]


class SandwichResult(NamedTuple):
    """Lower and upper bounds [n] on data simulated from the model itself."""

    model: str
    bound: str
    lower: Float64[np.ndarray, " n"]
    upper: Float64[np.ndarray, " n"]
    n_evaluations: float
    seconds: float
    details: Mapping[str, Any]


BOUND_COLUMNS = (
    words("model"),
    words("kind"),
    words("bound"),
    words("side"),
    count("n"),
    Column("nats", "log p, nats", NATS, 3),
    Column("nats_stderr", "s.e.", NATS, 3),
    Column("nats_ci95", "95% interval", NATS, 3),
    Column("bits_per_dim", "bits/dim", "bits/dim", 4),
    Column("bits_per_dim_stderr", "s.e.", "bits/dim", 4),
    Column("bits_per_dim_ci95", "95% interval", "bits/dim", 4),
    Column("certificate_nats", "certificate", NATS, 3),
    Column("median_ess", "ESS", digits=1),
    Column("share_pareto_k_high", "k > 0.7", style="percent"),
    Column("n_evaluations", "evaluations", digits=0),
    Column("seconds", "s", "s", 1),
    words("flag", ""),
    words("best"),
    words("details"),
)
SANDWICH_COLUMNS = (
    words("model"),
    words("bound"),
    count("n"),
    Column("lower_nats", "lower", NATS, 3),
    Column("upper_nats", "upper", NATS, 3),
    Column("gap_nats", "gap", NATS, 3),
    Column("gap_stderr", "s.e.", NATS, 3),
    Column("gap_ci95", "95% interval", NATS, 3),
    Column("n_evaluations", "evaluations", digits=0),
    Column("seconds", "s", "s", 1),
    words("details"),
)
DIFFERENCE_COLUMNS = (
    words("model"),
    words("bound"),
    words("model_side"),
    words("reference"),
    words("reference_bound"),
    words("reference_side"),
    words("name"),
    Column("value", "nats", NATS, 3, style="signed"),
    Column("stderr", "s.e.", NATS, 3),
    Column("ci95", "95% interval", NATS, 3),
    count("n"),
    words("unit"),
    words("side"),
    words("words", ""),
    words("verdict", "so"),
)


def bound_table(bounds: Sequence[BoundResult], n_dims: int) -> Table:
    """A row for each bound of each model; "best" marks the tightest of a model."""
    best = best_of(bounds)
    return Table(BOUND_COLUMNS, tuple(_bound_row(bound, n_dims, best[bound.model] is bound) for bound in bounds))


def best_of(bounds: Sequence[BoundResult]) -> dict[str, BoundResult]:
    """The tightest number of each model: the exact one, else the greatest of the lower bounds, else the first.

    The greatest of several lower bounds' means is a lower bound up to the noise of the draws.
    """
    best: dict[str, BoundResult] = {}
    for bound in bounds:
        before = best.get(bound.model)
        if before is None or (before.side == bound.side == "lower" and bound.nats.mean() > before.nats.mean()):
            best[bound.model] = bound
    return best


def _bound_row(bound: BoundResult, n_dims: int, best: bool) -> dict[str, Any]:
    nats = stats.mean_estimate(bound.nats, share=False)
    bits = in_bits_per_dim(nats, n_dims)
    known = None if bound.pareto_k is None else bound.pareto_k[~np.isnan(bound.pareto_k)]  # an infinite one is the worst
    share = None if known is None or not len(known) else float((known > PARETO_LIMIT).mean())
    expected_gap = bound.details.get("expected_gap_nats") or 0.0
    unconverged = expected_gap > FLAGGED_GAP or (share is not None and share >= FLAGGED_SHARE)
    ess = None if bound.ess is None or not np.isfinite(bound.ess).any() else float(np.nanmedian(bound.ess))
    return {
        "model": bound.model,
        "kind": bound.kind,
        "bound": bound.bound,
        "side": bound.side,
        "n": nats.n,
        "nats": nats.value,
        "nats_stderr": nats.stderr,
        "nats_ci95": _interval(nats),
        "bits_per_dim": bits.value,
        "bits_per_dim_stderr": bits.stderr,
        "bits_per_dim_ci95": _interval(bits),
        "certificate_nats": bound.certificate_nats,
        "median_ess": ess,
        "share_pareto_k_high": share,
        "flag": FLAG if bound.side == "lower" and unconverged else None,
        "n_evaluations": bound.n_evaluations,
        "seconds": round(bound.seconds, 3),
        "best": best,
        "details": dict(bound.details),
    }


def in_bits_per_dim(nats: Estimate, n_dims: int) -> Estimate:
    """An estimate of mean log p in nats, in bits a dimension: its interval turns round."""
    ends = None if nats.ci95 is None else tuple(bits_per_dim(end, n_dims) for end in reversed(nats.ci95))
    error = None if nats.stderr is None else abs(bits_per_dim(nats.stderr, n_dims))
    return nats._replace(value=bits_per_dim(nats.value, n_dims), stderr=error, ci95=ends)


def sandwich_table(sandwiches: Sequence[SandwichResult]) -> Table:
    """A row for each model whose gap was measured on simulated data. Raises NonFiniteScore."""
    return Table(SANDWICH_COLUMNS, tuple(map(_sandwich_row, sandwiches)))


def _sandwich_row(sandwich: SandwichResult) -> dict[str, Any]:
    for side in (sandwich.lower, sandwich.upper):
        if not np.isfinite(side).all():
            raise NonFiniteScore(
                f"{sandwich.model}: the sandwich of simulated datum {int((~np.isfinite(side)).argmax())} is not finite: "
                "give it more temperatures"
            )
    gap = stats.mean_estimate(sandwich.upper - sandwich.lower, share=False)
    return {
        "model": sandwich.model,
        "bound": sandwich.bound,
        "n": gap.n,
        "lower_nats": stats.mean_estimate(sandwich.lower, share=False).value,
        "upper_nats": stats.mean_estimate(sandwich.upper, share=False).value,
        "gap_nats": gap.value,
        "gap_stderr": gap.stderr,
        "gap_ci95": _interval(gap),
        "n_evaluations": sandwich.n_evaluations,
        "seconds": round(sandwich.seconds, 3),
        "details": dict(sandwich.details),
    }


def difference_table(best: Mapping[str, BoundResult], paired: str | None) -> Table:
    """Each model's best number less the reference's, datum by datum, in nats.

    Args:
        best: The number that counts of each model, by its name.
        paired: The reference; None for the first model whose numbers are exact, else the first.
    """
    if len(best) < 2:
        return Table(DIFFERENCE_COLUMNS, ())
    exact = [name for name, bound in best.items() if bound.side == "exact"]
    reference = best[paired or (exact or list(best))[0]]
    others = (bound for name, bound in best.items() if name != reference.model)
    return Table(DIFFERENCE_COLUMNS, tuple(_difference_row(bound, reference) for bound in others))


def _difference_row(bound: BoundResult, reference: BoundResult) -> dict[str, Any]:
    difference = stats.paired_difference(bound.nats, reference.nats)
    side = difference_side(bound.side, reference.side)
    return {
        "model": bound.model,
        "bound": bound.bound,
        "model_side": bound.side,
        "reference": reference.model,
        "reference_bound": reference.bound,
        "reference_side": reference.side,
        "name": "difference_nats",
        "value": difference.value,
        "stderr": difference.stderr,
        "ci95": _interval(difference),
        "n": difference.n,
        "unit": NATS,
        "side": side,
        "words": _difference_words(bound.side, reference.side, side),
        "verdict": _verdict(bound.model, reference.model, side, difference),
    }


def _difference_words(a: Side, b: Side, side: Side) -> str:
    """How the difference of two numbers of these sides compares with the true one."""
    if side == "estimate":
        why = "an estimate, of no side" if "estimate" in (a, b) else "a difference of two bounds has no side"
        return f"about ({why})"
    return {"exact": "equal to", "lower": "at least", "upper": "at most"}[side]


def _verdict(model: str, reference: str, side: Side, difference: Estimate) -> str:
    """What a paired difference of log p says, at 95%: a bound speaks for one direction only, an estimate for none."""
    if difference.ci95 is None:
        return "one datum says nothing of spread"
    low, high = difference.ci95
    if side in ("exact", "lower") and low > 0:
        return f"{model} is better"
    if side in ("exact", "upper") and high < 0:
        return f"{reference} is better"
    return "no difference seen" if side == "exact" else "does not order them"


def _interval(estimate: Estimate) -> list[float] | None:
    return None if estimate.ci95 is None else list(estimate.ci95)
