"""Several models on one data set: every bound of every model, and the report of them."""

import dataclasses
import time
from typing import Any, NamedTuple

from lmeval import results
from lmeval.compute.gather import as_place
from lmeval.compute.memory import settled
from lmeval.compute.place import Place, describe_place
from lmeval.densities.modelfile import LoadedDensity
from lmeval.errors import LmevalError
from lmeval.likelihood.estimate import log_likelihood
from lmeval.likelihood.kde import KdeSettings, kde_log_likelihood
from lmeval.likelihood.methods import METHODS
from lmeval.likelihood.prepare import Model, Prepared
from lmeval.likelihood.result import LogLikelihood
from lmeval.likelihood.settings import BoundSettings
from lmeval.likelihood.simulate import sandwich
from lmeval.likelihood.spec import BoundSpec, KdeSpec
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
            if model.spec.sandwich:
                sandwiches.append(_sandwich_model(model, prepared.spec.seed, place, progress))
        except LmevalError as error:
            raise type(error)(f"{model.spec.name}: {error}") from error
    provenance = results.provenance(
        "likelihood",
        inputs=_inputs(prepared),
        models=[
            {"name": model.spec.name, "model": model.spec.model, **describe(model.density)} for model in prepared.models
        ],
        place=describe_place(place),
        settings={"seed": prepared.spec.seed},
        seconds=time.perf_counter() - began,
    )
    return comparison_report(bounds, sandwiches, prepared.spec.paired, _ledger(prepared), provenance)


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
    if model.kind == "implicit":
        return [_estimate_density(model, prepared, place, progress)]
    wanted = model.bounds or (BoundSpec("exact", {}),)
    return [_score_bound(bound, model, prepared, place, progress) for bound in wanted]


def _score_bound(bound: BoundSpec, model: Model, prepared: Prepared, place: Place, progress: Progress) -> BoundResult:
    name, label = model.spec.name, bound.label if model.kind == "latent" else "log p"
    scored = log_likelihood(
        model.checked,
        prepared.x,
        bound.method,
        BoundSettings(**bound.settings, seed=prepared.spec.seed),
        place=place,
        progress=_Named(progress, f"{name}: {label}"),
    )
    # A model with log_prob that calls it a lower bound integrates over dequantised levels, by draws that it fixes itself.
    certified = model.kind == "latent" and scored.side == "lower"
    weighted = METHODS[bound.method].weighted
    return BoundResult(
        model=name,
        kind=model.density.kind,
        bound="dequantised" if model.kind == "exact" and scored.side == "lower" else label,
        side=scored.side,
        nats=scored.nats,
        ess=scored.ess if weighted else None,
        pareto_k=scored.pareto_k if weighted else None,
        n_evaluations=scored.n_evaluations,
        seconds=scored.seconds,
        certificate_nats=scored.certificate(DELTA) if certified else None,
        details=_details(scored) | ({"plan": dict(bound.plan)} if bound.plan else {}),
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


def _sandwich_model(model: Model, seed: int, place: Place, progress: Progress) -> SandwichResult:
    name, bound = model.spec.name, model.sandwich_bound
    sides = sandwich(
        model.checked,
        model.spec.sandwich,
        BoundSettings(**bound.settings, seed=seed, resample_below=METHODS[bound.method].resample_below),
        place=place,
        progress=_Named(progress, f"{name}: sandwich"),
    )
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


def describe(density: LoadedDensity) -> dict[str, Any]:
    """What a loaded density is, JSON-ready, for provenance."""
    return {
        "kind": density.kind,
        "weights_sha256": density.weights_sha256,
        "levels": density.levels,
        "shape": list(density.shape),
        "binarisation": density.binarisation,
    }


def _inputs(prepared: Prepared) -> dict[str, Any]:
    spec, data = prepared.spec, prepared.data
    return {
        "spec": {"name": spec.name, "sha256": results.files_sha256([str(spec.path)])},
        "data": {"name": data.name, "sha256": data.sha256},
    }


def _ledger(prepared: Prepared) -> dict[str, Any]:
    data = prepared.data
    return {
        "data": data.name,
        "n": len(data),
        "n_in_set": data.n_source,
        "n_dims": data.n_dims,
        "shape": list(data.shape),
        "tags": dataclasses.asdict(data.tags),
        "space": data.tags.describe(),
        "seed": prepared.spec.seed,
    }
