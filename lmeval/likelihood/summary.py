"""What was found of several models on one data set -> rows, paired differences, report. Arithmetic only: no model, no file.

Sides are those of log p. Bits a dimension are its negative, so a lower bound of log p is an upper bound of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval import results, stats
from lmeval.errors import NonFiniteScore
from lmeval.likelihood.diagnostics import PARETO_LIMIT
from lmeval.results import Measurement, Report, Side
from lmeval.results.table import untyped
from lmeval.stats import Estimate

DELTA = 0.01  # of the certificate: it fails once in a hundred runs
FLAGGED_SHARE = 0.05  # of data with such weights, from which the bound is flagged
FLAGGED_GAP = 0.1  # nats that an annealed bound may be expected to lack, from which it is flagged
FLAG = "bound, not converged"
NO_SIDE = "a difference of two bounds has no side"


class BoundResult(NamedTuple):
    """One number of one model for each datum: `nats` [n], on `side` of log p.

    `ess` (effective sample size) and `pareto_k` [n] are None where the method has no weights. `n_evaluations` counts
    evaluations of the model for each datum. `certificate_nats` is what their mean log p is at least, but for a chance of
    DELTA; None where nothing can be certified. `details` is JSON-ready: settings, or what a kernel density estimate was made
    of.
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


@dataclass(frozen=True)
class Comparison:
    """Several models on the same data. `of` names model and bound of each of the report's measurements, `found` holds what
    was found of each datum."""

    report: Report
    of: tuple[tuple[str, str], ...]
    found: tuple[BoundResult, ...]


def comparison_report(
    found: Sequence[BoundResult],
    sandwiches: Sequence[SandwichResult],
    n_dims: int,
    paired: str | None,
    ledger: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Comparison:
    """The report of all that was found. `paired` names the reference of the paired differences (None: the first model whose
    numbers are exact, else the first). Raises NonFiniteScore for what is no finite number."""
    for one in found:
        _check_finite(one)
    best = best_of(found)
    rows = [_row(one, n_dims, best[one.model] is one) for one in found]
    measured = [m for one in found for m in _measurements(one, n_dims)]
    gaps = [_sandwich_row(one) for one in sandwiches]
    differences = paired_rows(best, paired)
    tables = {"bounds": rows, "sandwiches": gaps, "differences": differences}
    report = Report(
        "likelihood",
        tuple(m for _, m in measured),
        {name: untyped(rows) for name, rows in tables.items()},
        ledger,
        provenance,
    )
    return Comparison(report, tuple(of for of, _ in measured), tuple(found))


def as_json(compared: Comparison) -> dict[str, Any]:
    """JSON-ready data: the report's, with model and bound in each result. Raises NonFiniteScore."""
    data = results.as_json(compared.report)
    named = zip(compared.of, data["results"], strict=True)
    return data | {"results": [{"model": model, "bound": bound, **result} for (model, bound), result in named]}


def records(compared: Comparison) -> list[dict[str, Any]]:
    """What was found of each datum, JSON-ready: one row for each model, bound and datum."""
    rows = []
    for one in compared.found:
        for i, nats in enumerate(one.nats.tolist()):
            extra = {"ess": one.ess, "pareto_k": one.pareto_k}
            values = {name: _finite(values[i]) for name, values in extra.items() if values is not None}
            rows.append({"datum": i, "model": one.model, "bound": one.bound, "side": one.side, "nats": nats, **values})
    return rows


def best_of(found: Sequence[BoundResult]) -> dict[str, BoundResult]:
    """The tightest number of each model: the exact one, else the greatest of the lower bounds, else the first.

    The greatest of several lower bounds' means is a lower bound up to the noise of the draws.
    """
    best: dict[str, BoundResult] = {}
    for one in found:
        before = best.get(one.model)
        if before is None or (before.side == one.side == "lower" and one.nats.mean() > before.nats.mean()):
            best[one.model] = one
    return best


def difference_side(a: Side, b: Side) -> tuple[Side, str]:
    """On which side of log p_a - log p_b the difference of two numbers lies, and the words for it.

    >>> difference_side("lower", "exact"), difference_side("exact", "lower")
    (('lower', 'at least'), ('upper', 'at most'))
    """
    if "estimate" in (a, b):
        return "estimate", "about (an estimate, of no side)"
    if a == b == "exact":
        return "exact", "equal to"
    if (a, b) in (("lower", "exact"), ("exact", "upper"), ("lower", "upper")):
        return "lower", "at least"
    if (a, b) in (("exact", "lower"), ("upper", "exact"), ("upper", "lower")):
        return "upper", "at most"
    return "estimate", f"about ({NO_SIDE})"


def paired_rows(best: Mapping[str, BoundResult], paired: str | None) -> list[dict[str, Any]]:
    """Each model's best number less the reference's, datum by datum, in nats."""
    if len(best) < 2:
        return []
    exact = [name for name, one in best.items() if one.side == "exact"]
    reference = best[paired or (exact or list(best))[0]]
    rows = []
    for name, one in best.items():
        if name == reference.model:
            continue
        difference = stats.paired_difference(one.nats, reference.nats)
        side, words = difference_side(one.side, reference.side)
        rows.append(
            {
                "model": name,
                "bound": one.bound,
                "model_side": one.side,
                "reference": reference.model,
                "reference_bound": reference.bound,
                "reference_side": reference.side,
                "name": "difference_nats",
                **_json(difference),
                "unit": "nats/datum",
                "side": side,
                "words": words,
                "verdict": verdict(name, reference.model, side, difference),
            }
        )
    return rows


def verdict(model: str, reference: str, side: Side, difference: Estimate) -> str:
    """What a paired difference of log p says, at 95%: a bound speaks for one direction only, an estimate for none."""
    if difference.ci95 is None:
        return "one datum says nothing of spread"
    low, high = difference.ci95
    if side in ("exact", "lower") and low > 0:
        return f"{model} is better"
    if side in ("exact", "upper") and high < 0:
        return f"{reference} is better"
    return "no difference seen" if side == "exact" else "does not order them"


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """The estimate in another unit; a negative factor turns its interval round."""
    ends = None if estimate.ci95 is None else sorted(end * factor for end in estimate.ci95)
    error = None if estimate.stderr is None else estimate.stderr * abs(factor)
    return estimate._replace(value=estimate.value * factor, stderr=error, ci95=ends and (ends[0], ends[1]))


def flipped(side: Side) -> Side:
    """The side of the negative."""
    return {"lower": "upper", "upper": "lower"}.get(side, side)  # pyright: ignore[reportReturnType]


def _check_finite(one: BoundResult) -> None:
    bad = ~np.isfinite(one.nats)
    if bad.any():
        first = int(bad.argmax())
        raise NonFiniteScore(
            f"{one.model}, {one.bound}: log p of datum {first} is {one.nats[first]} ({int(bad.sum())} of {len(bad)} are not "
            "finite): a mean must not leave them out; look at the model there"
        )


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _json(estimate: Estimate) -> dict[str, Any]:
    ci95 = None if estimate.ci95 is None else list(estimate.ci95)
    return {"value": estimate.value, "stderr": estimate.stderr, "ci95": ci95, "n": estimate.n}


def _measurements(one: BoundResult, n_dims: int) -> list[tuple[tuple[str, str], Measurement]]:
    nats = stats.mean_estimate(one.nats, share=False)
    bits = scaled(nats, -1 / (n_dims * math.log(2)))
    found = [
        Measurement("log_likelihood_nats", nats.value, "nats/datum", one.side, nats.stderr, nats.ci95, nats.n, True),
        Measurement("bits_per_dim", bits.value, "bits/dim", flipped(one.side), bits.stderr, bits.ci95, bits.n, False),
    ]
    if one.certificate_nats is not None:
        found.append(Measurement("certificate_nats", one.certificate_nats, "nats/datum", "lower", None, None, nats.n, True))
    return [((one.model, one.bound), m) for m in found]


def _row(one: BoundResult, n_dims: int, best: bool) -> dict[str, Any]:
    nats = stats.mean_estimate(one.nats, share=False)
    bits = scaled(nats, -1 / (n_dims * math.log(2)))
    known = None if one.pareto_k is None else one.pareto_k[~np.isnan(one.pareto_k)]  # an infinite one is the worst
    share = None if known is None or not len(known) else float((known > PARETO_LIMIT).mean())
    expected_gap = one.details.get("expected_gap_nats") or 0.0
    unconverged = expected_gap > FLAGGED_GAP or (share is not None and share >= FLAGGED_SHARE)
    ess = None if one.ess is None or not np.isfinite(one.ess).any() else float(np.nanmedian(one.ess))
    return {
        "model": one.model,
        "kind": one.kind,
        "bound": one.bound,
        "side": one.side,
        "n": nats.n,
        "nats": nats.value,
        "nats_stderr": nats.stderr,
        "nats_ci95": None if nats.ci95 is None else list(nats.ci95),
        "bits_per_dim": bits.value,
        "bits_per_dim_ci95": None if bits.ci95 is None else list(bits.ci95),
        "certificate_nats": one.certificate_nats,
        "median_ess": ess,
        "share_pareto_k_high": share,
        "flag": FLAG if one.side == "lower" and unconverged else None,
        "n_evaluations": one.n_evaluations,
        "seconds": round(one.seconds, 3),
        "best": best,
        "details": dict(one.details),
    }


def _sandwich_row(one: SandwichResult) -> dict[str, Any]:
    for side in (one.lower, one.upper):
        if not np.isfinite(side).all():
            raise NonFiniteScore(
                f"{one.model}: the sandwich of simulated datum {int((~np.isfinite(side)).argmax())} is not finite: "
                "give it more temperatures"
            )
    gap = stats.mean_estimate(one.upper - one.lower, share=False)
    return {
        "model": one.model,
        "bound": one.bound,
        "n": gap.n,
        "lower_nats": stats.mean_estimate(one.lower, share=False).value,
        "upper_nats": stats.mean_estimate(one.upper, share=False).value,
        "gap_nats": gap.value,
        "gap_stderr": gap.stderr,
        "gap_ci95": None if gap.ci95 is None else list(gap.ci95),
        "n_evaluations": one.n_evaluations,
        "seconds": round(one.seconds, 3),
        "details": dict(one.details),
    }
