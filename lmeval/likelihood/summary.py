"""The numbers of several models on one data set -> one report. Arithmetic only: no model, no file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmeval.errors import NonFiniteScore
from lmeval.likelihood.tables import (
    NATS,
    BoundResult,
    SandwichResult,
    best_of,
    bound_table,
    difference_table,
    sandwich_table,
)
from lmeval.results import ItemMetric, ItemRecord, Items, Measurement, Report, Side
from lmeval.results.measurement import flipped
from lmeval.stats import bits_per_dim

DELTA = 0.01  # of the certificate: it fails once in a hundred runs
LOG_LIKELIHOOD = "log_likelihood_nats"


def comparison_report(
    bounds: Sequence[BoundResult],
    sandwiches: Sequence[SandwichResult],
    paired: str | None,
    ledger: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Report:
    """The report of all bounds of all models.

    Args:
        bounds: The numbers of each model and bound, all on the same data.
        sandwiches: Both sides on data simulated from a model.
        paired: The reference of the paired differences (None: the first model whose numbers are exact, else the first).
        ledger: What the data are: their name as "data", "space", "n_dims" ...
        provenance: By what and when the numbers were computed.

    Raises:
        NonFiniteScore: A number of a datum is not finite.
    """
    for bound in bounds:
        _check_finite(bound)
    n_dims, data = ledger["n_dims"], f"{ledger['data']}, {ledger['space']}"
    items = _items(bounds, n_dims, data)
    tables = {
        "bounds": bound_table(bounds, n_dims),
        "sandwiches": sandwich_table(sandwiches),
        "differences": difference_table(best_of(bounds), paired),
    }
    results = tuple(measurement for row in tables["bounds"] for measurement in _measurements(row, data))
    return Report("likelihood", results, tables, ledger, provenance, items)


def _check_finite(bound: BoundResult) -> None:
    bad = ~np.isfinite(bound.nats)
    if bad.any():
        first = int(bad.argmax())
        raise NonFiniteScore(
            f"{bound.model}, {bound.bound}: log p of datum {first} is {bound.nats[first]} ({int(bad.sum())} of {len(bad)} "
            "are not finite): a mean must not leave them out; look at the model there"
        )


def _measurements(row: Mapping[str, Any], data: str) -> Iterator[Measurement]:
    """The measurements that a row of the table of bounds holds."""
    of, n = {"model": row["model"], "bound": row["bound"], "data": data}, row["n"]
    side: Side = row["side"]
    numbers: tuple[tuple[str, str, str, Side], ...] = (
        (LOG_LIKELIHOOD, "nats", NATS, side),
        ("bits_per_dim", "bits_per_dim", "bits/dim", flipped(side)),
    )
    for name, key, unit, of_side in numbers:
        ends = row[f"{key}_ci95"]
        ci95 = None if ends is None else (ends[0], ends[1])
        yield Measurement(name, row[key], unit, of_side, row[f"{key}_stderr"], ci95, n, key == "nats", of)
    if row["certificate_nats"] is not None:
        yield Measurement("certificate_nats", row["certificate_nats"], NATS, "lower", None, None, n, True, of)


def _items(bounds: Sequence[BoundResult], n_dims: int, data: str) -> Items:
    """Every number of every datum. A datum is called by its place in the set of images; `of["side"]` is that of log p."""
    metrics = (
        ItemMetric(LOG_LIKELIHOOD, NATS, LOG_LIKELIHOOD, higher_is_better=True),
        ItemMetric("bits_per_dim", "bits/dim", LOG_LIKELIHOOD, scale=bits_per_dim(1.0, n_dims)),
    )
    return Items(metrics, tuple(record for bound in bounds for record in _item_records(bound, data)))


def _item_records(bound: BoundResult, data: str) -> Iterator[ItemRecord]:
    of = {"model": bound.model, "bound": bound.bound, "side": bound.side, "data": data}
    diagnostics = {"ess": bound.ess, "pareto_k": bound.pareto_k}
    columns = {name: values.tolist() for name, values in diagnostics.items() if values is not None}
    for i, nats in enumerate(bound.nats.tolist()):
        values = {LOG_LIKELIHOOD: nats} | {name: column[i] for name, column in columns.items() if math.isfinite(column[i])}
        yield ItemRecord(str(i), of, values)
