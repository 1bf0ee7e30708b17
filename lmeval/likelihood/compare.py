"""Several models on one data set: every bound of every model, and the report of them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from lmeval import results
from lmeval.compute.place import Place
from lmeval.errors import LmevalError
from lmeval.likelihood.estimate import log_likelihood
from lmeval.likelihood.kde import kde_log_likelihood
from lmeval.likelihood.prepare import Model, Prepared
from lmeval.likelihood.rows import LogLikelihood
from lmeval.likelihood.simulate import sandwich
from lmeval.likelihood.spec import ANNEALED, BoundSpec, KdeSpec
from lmeval.likelihood.summary import DELTA, BoundResult, Comparison, SandwichResult, comparison_report

Watch = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def compare(prepared: Prepared, place: Place, watch: Watch | None = None) -> Comparison:
    """Score every model on the same data. With several processes each scores a part of the data; all return the same.

    Raises LmevalError, with the model's name in front.
    """
    began, found, sandwiches = time.perf_counter(), list[BoundResult](), list[SandwichResult]()
    for model in prepared.models:
        try:
            found += _found(model, prepared, place, watch or _nothing)
            if model.spec.sandwich:
                sandwiches.append(_sandwiched(model, prepared.spec.seed, place, watch or _nothing))
        except LmevalError as error:
            raise type(error)(f"{model.spec.name}: {error}") from error
    provenance = _provenance(prepared, place) | {"seconds": round(time.perf_counter() - began, 3)}
    return comparison_report(found, sandwiches, prepared.data.n_dims, prepared.spec.paired, _ledger(prepared), provenance)


def _nothing(_: str, __: int, ___: int) -> None:
    """A watch that does not look."""


def _found(model: Model, prepared: Prepared, place: Place, watch: Watch) -> list[BoundResult]:
    """Every number of one model."""
    if model.kind == "implicit":
        return [_kde_found(model, prepared, place, watch)]
    wanted = model.bounds or (BoundSpec("exact", {}),)
    return [_bound_found(bound, model, prepared, place, watch) for bound in wanted]


def _bound_found(bound: BoundSpec, model: Model, prepared: Prepared, place: Place, watch: Watch) -> BoundResult:
    name, label = model.spec.name, bound.label if model.kind == "latent" else "log p"
    done = log_likelihood(
        model.density.model,
        prepared.x,
        bound.method,
        **bound.settings,
        seed=prepared.spec.seed,
        device=place.device,
        place=place,
        progress=lambda done, total: watch(f"{name}: {label}", done, total),
    )
    # A model with log_prob that calls it a lower bound integrates over dequantised levels, by draws that it fixes itself.
    certified = model.kind == "latent" and done.side == "lower"
    weighted = bound.method in ("iwae", *ANNEALED)
    return BoundResult(
        model=name,
        kind=model.density.kind,
        bound="dequantised" if model.kind == "exact" and done.side == "lower" else label,
        side=done.side,
        nats=done.nats,
        ess=done.ess if weighted else None,
        pareto_k=done.pareto_k if weighted else None,
        n_evaluations=done.n_evaluations,
        seconds=done.seconds,
        certificate_nats=done.certificate(DELTA) if certified else None,
        details=_details(done) | ({"plan": dict(bound.plan)} if bound.plan else {}),
    )


def _details(done: LogLikelihood) -> dict[str, Any]:
    found: dict[str, Any] = {"method": done.method, "settings": dict(done.settings)}
    found |= {"n_gradients": done.n_gradients, "n_pilot": done.n_pilot, "n_lost": done.n_lost}
    means = {"mean_length": done.lengths, "mean_acceptance": done.acceptance, "expected_gap_nats": done.expected_gap_nats}
    for key, values in means.items():
        found[key] = None if values is None else float(values.mean())
    return found


def _kde_found(model: Model, prepared: Prepared, place: Place, watch: Watch) -> BoundResult:
    name, kde = model.spec.name, model.spec.kde or KdeSpec()
    done = kde_log_likelihood(
        model.density.model,
        prepared.x.cpu(),
        levels=model.density.levels,
        samples=kde.samples,
        bandwidths=kde.bandwidths,
        held_out=model.held_out,
        seed=prepared.spec.seed,
        place=place,
        progress=lambda done, total: watch(f"{name}: bandwidth", done, total),
    )
    details = {key: value for key, value in done._asdict().items() if key not in ("nats", "seconds")}
    details["scores"] = [list(pair) for pair in done.scores]
    return BoundResult(name, model.density.kind, "KDE", "estimate", done.nats, None, None, None, done.seconds, None, details)


def _sandwiched(model: Model, seed: int, place: Place, watch: Watch) -> SandwichResult:
    name, bound = model.spec.name, model.sandwich_bound
    settings: dict[str, Any] = dict(bound.settings) | ({"resample_below": 0.0} if bound.method == "ais" else {})
    done = sandwich(
        model.density.model,
        model.spec.sandwich,
        **settings,
        seed=seed,
        device=place.device,
        place=place,
        progress=lambda done, total: watch(f"{name}: sandwich", done, total),
    )
    lower, upper = done.lower, done.upper
    return SandwichResult(
        name,
        bound.label,
        lower.nats,
        upper.nats,
        lower.n_evaluations + upper.n_evaluations - upper.n_pilot,  # one pilot served both
        lower.seconds + upper.seconds,
        {"lower": _details(lower), "upper": _details(upper)},
    )


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


def _provenance(prepared: Prepared, place: Place) -> dict[str, Any]:
    spec = prepared.spec
    models = [
        {
            "name": model.spec.name,
            "model": model.spec.model,
            "kind": model.density.kind,
            "weights_sha256": model.density.weights_sha256,
            "levels": model.density.levels,
            "shape": list(model.density.shape),
            "binarisation": model.density.binarisation,
        }
        for model in prepared.models
    ]
    return {
        "spec": spec.name,
        "spec_sha256": results.files_sha256([str(spec.path)]),
        "data_sha256": prepared.data.sha256,
        "models": models,
        "date": results.now(),
        "device": str(place.device),
        "n_processes": place.size,
        "n_threads": torch.get_num_threads(),
        "seed": spec.seed,
        "versions": results.versions(),
    }
