"""Several models on one data set: every bound of every model, and the report of them."""

import time
from typing import Any, NamedTuple

from torch import Tensor

from lmeval import results
from lmeval.compute.gather import as_place
from lmeval.compute.memory import settled
from lmeval.compute.place import Place, describe_place
from lmeval.densities.protocols import CheckedLatent
from lmeval.errors import LmevalError
from lmeval.likelihood.estimate import score_checked
from lmeval.likelihood.kde import KdeSettings, kde_log_likelihood
from lmeval.likelihood.prepare import Model, Prepared, SettledBound
from lmeval.likelihood.result import LogLikelihood
from lmeval.likelihood.simulate import sandwich_checked
from lmeval.likelihood.spec import KdeSpec
from lmeval.likelihood.summary import DELTA, comparison_report
from lmeval.likelihood.tables import BoundResult, SandwichResult
from lmeval.progress import SILENT, Progress
from lmeval.results import Report


def compare(prepared: Prepared, *, place: Place | str = "cpu", progress: Progress = SILENT) -> Report:
    """Score every model on the same data. With several processes each scores a part of the data; all return the same.

    Args:
        prepared: Data and models, read and checked; bounds that name a gap have been planned.
        place: Where `prepared` lies.
        progress: Told of a stage for each bound of each model.

    Returns:
        A report of kind "likelihood": of each model and bound log p and bits a dimension, tables "bounds", "sandwiches" and
        "differences", and as items every number of every datum.

    Raises:
        LmevalError: With the model's name in front.
    """
    began, place = time.perf_counter(), settled(as_place(place))
    bounds, sandwiches = list[BoundResult](), list[SandwichResult]()
    for model in prepared.models:
        try:
            bounds += _score_model(model, prepared, place, progress)
            if model.sandwich is not None:
                sandwiches.append(_sandwich_model(model, model.sandwich, place, progress))
        except LmevalError as error:
            raise type(error)(f"{model.spec.name}: {error}") from error
    provenance = results.provenance(
        "likelihood",
        inputs=prepared.inputs,
        models=[_describe(model) for model in prepared.models],
        place=describe_place(place),
        settings={"seed": prepared.spec.seed},
        seconds=time.perf_counter() - began,
    )
    return comparison_report(bounds, sandwiches, prepared.spec.paired, prepared.ledger, provenance)


class _Named(NamedTuple):
    """A progress whose stages all have one name: that of a model and its bound."""

    progress: Progress
    name: str

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin the stage under the name given."""
        self.progress.stage(self.name, total, unit)

    def advance(self, n: int, note: str = "") -> None:
        """Pass it on."""
        self.progress.advance(n, note)


def _score_model(model: Model, prepared: Prepared, place: Place, progress: Progress) -> list[BoundResult]:
    """Every number of one model."""
    if model.checked is None:
        return [_estimate_density(model, prepared, place, progress)]
    return [_score_bound(bound, model, prepared.x, place, progress) for bound in model.bounds]


def _score_bound(bound: SettledBound, model: Model, x: Tensor, place: Place, progress: Progress) -> BoundResult:
    assert model.checked is not None
    name = model.spec.name
    named = _Named(progress, f"{name}: {bound.label}")
    scored = score_checked(model.checked, x, bound.method, bound.settings, place=place, progress=named)
    # A model with log_prob that calls it a lower bound integrates over dequantised levels, by draws that it fixes itself.
    certified = model.kind == "latent" and scored.side == "lower"
    weighted = bound.method.weighted
    return BoundResult(
        model=name,
        kind=model.density.kind,
        bound="dequantised" if model.kind == "exact" and scored.side == "lower" else bound.label,
        side=scored.side,
        nats=scored.nats,
        ess=scored.ess if weighted else None,
        pareto_k=scored.pareto_k if weighted else None,
        n_evaluations=scored.n_evaluations,
        seconds=scored.seconds,
        certificate_nats=scored.certificate(DELTA) if certified else None,
        details=_details(scored) | ({"plan": dict(bound.spec.plan)} if bound.spec.plan else {}),
    )


def _details(scored: LogLikelihood) -> dict[str, Any]:
    """Settings and costs, and the means over data of what chains tell, JSON-ready."""
    details: dict[str, Any] = {"method": scored.method, "settings": dict(scored.settings)}
    details |= {"n_gradients": scored.n_gradients, "n_pilot": scored.n_pilot, "n_lost": scored.n_lost}
    chains = {
        "mean_length": scored.lengths,
        "mean_acceptance": scored.acceptance,
        "expected_gap_nats": scored.expected_gap_nats,
    }
    return details | {key: None if values is None else float(values.mean()) for key, values in chains.items()}


def _estimate_density(model: Model, prepared: Prepared, place: Place, progress: Progress) -> BoundResult:
    name, kde = model.spec.name, model.spec.kde or KdeSpec()
    estimate = kde_log_likelihood(
        model.density.model,
        prepared.x.cpu(),
        model.density.levels,
        KdeSettings(kde.samples, kde.bandwidths, prepared.spec.seed),
        held_out=model.held_out,
        place=place,
        progress=_Named(progress, f"{name}: bandwidth"),
    )
    details = {key: value for key, value in estimate._asdict().items() if key not in ("nats", "seconds")}
    details["scores"] = [list(pair) for pair in estimate.scores]
    return BoundResult(
        model=name,
        kind=model.density.kind,
        bound="KDE",
        side="estimate",
        nats=estimate.nats,
        ess=None,
        pareto_k=None,
        n_evaluations=None,
        seconds=estimate.seconds,
        certificate_nats=None,
        details=details,
    )


def _sandwich_model(model: Model, bound: SettledBound, place: Place, progress: Progress) -> SandwichResult:
    assert isinstance(model.checked, CheckedLatent)
    name = model.spec.name
    named = _Named(progress, f"{name}: sandwich")
    sides = sandwich_checked(model.checked, model.spec.sandwich, bound.settings, place=place, progress=named)
    lower, upper = sides.lower, sides.upper
    return SandwichResult(
        name,
        bound.label,
        lower.nats,
        upper.nats,
        lower.n_evaluations + upper.n_evaluations - upper.n_pilot,  # one pilot served both
        lower.seconds + upper.seconds,
        {"lower": _details(lower), "upper": _details(upper)},
    )


def _describe(model: Model) -> dict[str, Any]:
    """What a model is, JSON-ready, for provenance."""
    density = model.density
    return {
        "name": model.spec.name,
        "model": model.spec.model,
        "kind": density.kind,
        "weights_sha256": density.weights_sha256,
        "levels": density.levels,
        "shape": list(density.shape),
        "binarisation": density.binarisation,
    }
