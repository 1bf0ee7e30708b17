"""Records -> the report of a task: every rule's accuracy and calibration with intervals, tables, and one row for each item.

Reads records alone: `lmeval run` and `lmeval rescore` give the same report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmeval import stats
from lmeval.errors import InputError
from lmeval.prompting import measures
from lmeval.prompting.records import Record, RecordSet
from lmeval.prompting.rules import RULES, Scores, rule_scores, same_choices
from lmeval.results import Measurement, Report
from lmeval.results.table import untyped
from lmeval.specs.tasks import CHOICE
from lmeval.stats import Estimate, SeedSpread

NAMES = {"brier": "brier_score"}  # lm-evaluation-harness's name
COLUMNS = ("acc", "balanced_acc", "macro_f1", "mcc", "log_loss", "brier_score", "ece")
LARGEST_EXPONENT = 700.0  # of e, in a float64


def summarise(found: RecordSet) -> Report:
    """The report of a task's records. Raises NonFiniteScore for records that hold NaN or infinities."""
    if found.header.get("output_type") == CHOICE:
        results, tables = _choice_tables(found)
    else:
        results, tables = _likelihood_tables(found.records)
    ledger = {**found.header.get("ledger", {}), "interval": _interval(found.records)}
    if found.header.get("output_type") == CHOICE:
        ledger["n_ties"] = measures.ties(RULES["sum"].scores(found.records) or [])
    return Report(
        "run", results, {name: untyped(rows) for name, rows in tables.items()}, ledger, found.header.get("provenance", {})
    )


def _choice_tables(found: RecordSet) -> tuple[tuple[Measurement, ...], dict[str, list[Mapping[str, Any]]]]:
    records = found.records
    gold = [record.gold for record in records]
    labels = len(records[0].choices) if same_choices(records) else None
    by_rule = rule_scores(records)
    units = _units(records)
    rows: list[Mapping[str, Any]] = []
    results: list[Measurement] = []
    main: list[Measurement] = []
    for name, scores in by_rule.items():
        measured = {NAMES.get(m.name, m.name): m for m in measures.measure(scores, gold, units, labels)}
        measured["acc"] = _over_seeds(measured["acc"], _right(scores, records), records)
        rows.append({"rule": name, "description": RULES[name].description, **_cells(measured)})
        results.append(measured["acc"]._replace(name=RULES[name].metric))
        if name == "sum":
            main = [m._replace(name=n) for n, m in measured.items() if n != "acc"]
    if "exact_match" in found.header.get("metrics", ()):
        greedy = np.array([float(any(r.choices[g].greedy for g in r.gold)) for r in records])
        main.append(_mean("exact_match", greedy, units))
    if "f1" in found.header.get("metrics", ()):
        main.append(_f1(by_rule["sum"], records, units, labels))
    tables: dict[str, list[Mapping[str, Any]]] = {"rules": rows}
    tables["reliability"] = list(measures.reliability(by_rule["sum"], gold, clusters=units))
    distinct = len({choice.text for choice in records[0].choices}) == labels
    if labels is not None and distinct and all(len(right) == 1 for right in gold):
        tables["confusion"] = _confusion(by_rule["sum"], records, labels)
    if len({record.seed for record in records}) > 1:
        tables["shot_seeds"] = _seed_rows(by_rule, records)
    tables["items"] = _items(by_rule, records)
    return (*results, *main), tables


def _likelihood_tables(records: Sequence[Record]) -> tuple[tuple[Measurement, ...], dict[str, list[Mapping[str, Any]]]]:
    """Figures of tasks with one target: is it the greedy continuation, and how likely is it.

    `perplexity` is exp(mean of -log p(target)), per target and not per token, as lm-evaluation-harness has it for LAMBADA;
    its error is the delta method's (the harness bootstraps it). Beyond e^700 a float ends, and that is a lower bound.
    """
    units = _units(records)
    greedy = np.array([float(record.choices[0].greedy) for record in records])
    nats = np.array([-record.choices[0].total_nats for record in records])
    mean = stats.mean_estimate(nats, units)
    value = math.exp(min(mean.value, LARGEST_EXPONENT))
    known = mean.ci95 is not None and mean.ci95[1] <= LARGEST_EXPONENT
    results = (
        _over_seeds(_mean("acc", greedy, units), greedy, records),
        Measurement(
            name="perplexity",
            value=value,
            unit="1/probability per target",
            side="exact" if mean.value <= LARGEST_EXPONENT else "lower",
            stderr=value * mean.stderr if known and mean.stderr is not None else None,
            ci95=(math.exp(mean.ci95[0]), math.exp(mean.ci95[1])) if known and mean.ci95 else None,
            n=mean.n_clusters,
            higher_is_better=False,
        ),
        _measurement("target_nll_nats", "nats", mean, higher=False),
    )
    items: list[Mapping[str, Any]] = [
        {"item": r.item, "row": r.number, "seed": r.seed, "cluster": r.cluster, "acc": int(g), "target_nll_nats": float(x)}
        for r, g, x in zip(records, greedy, nats, strict=True)
    ]
    return results, {"items": items}


def _units(records: Sequence[Record]) -> list[str] | None:
    """What is independent: the clusters that the task names, else items, of which each seed holds the same."""
    if all(record.cluster is not None for record in records):
        return [str(record.cluster) for record in records]
    return [record.item for record in records] if len({record.seed for record in records}) > 1 else None


def _interval(records: Sequence[Record]) -> dict[str, Any]:
    units = _units(records)
    named = records[0].cluster is not None
    method = "clusters of the task" if named else "items" if units is None else "items, and seeds of few-shot examples"
    return {"method": method, "n_units": len(records) if units is None else len(set(units))}


def _right(scores: Scores, records: Sequence[Record]) -> np.ndarray:
    predicted = measures.predictions(scores)
    return np.array([float(p in record.gold) for p, record in zip(predicted, records, strict=True)])


def _over_seeds(acc: Measurement, right: np.ndarray, records: Sequence[Record]) -> Measurement:
    """With several seeds, the error of their mean for a new draw of both items and examples."""
    table = _by_seed(right, records)
    if table is None or records[0].cluster is not None:
        return acc
    spread = stats.seed_variance(table)
    if spread.total_stderr is None or spread.item_stderr is None or not spread.total_stderr:
        return acc
    half = stats.student_quantile(_degrees_of_freedom(spread, *table.shape)) * spread.total_stderr
    interval = (max(0.0, spread.mean - half), min(1.0, spread.mean + half))
    return acc._replace(stderr=spread.total_stderr, ci95=interval)


def _degrees_of_freedom(spread: SeedSpread, seeds: int, items: int) -> int:
    """Satterthwaite's (1946): of the items where the seeds add nothing, down to those of the seeds where they add all."""
    from_items, total = (spread.item_stderr or 0.0) ** 2, (spread.total_stderr or 0.0) ** 2
    from_seeds = max(0.0, total - from_items)
    found = total**2 / (from_items**2 / (items - 1) + from_seeds**2 / (seeds - 1))
    return max(1, int(found * (1 + 1e-9)))  # whole where it is but for rounding


def _by_seed(values: np.ndarray, records: Sequence[Record]) -> np.ndarray | None:
    """Values [seeds, items] where there are several seeds."""
    seeds = sorted({record.seed for record in records})
    items = list(dict.fromkeys(record.item for record in records))
    if len(seeds) < 2 or len(seeds) * len(items) != len(records):
        return None
    places = {(r.seed, r.item): i for i, r in enumerate(records)}
    return np.array([[values[places[seed, item]] for item in items] for seed in seeds])


def _seed_rows(by_rule: Mapping[str, Scores], records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Accuracy under each seed, and what the draw of examples adds: one row a rule."""
    rows: list[Mapping[str, Any]] = []
    for name, scores in by_rule.items():
        table = _by_seed(_right(scores, records), records)
        if table is None:
            raise InputError("records of several seeds must hold every item under every seed")
        spread = stats.seed_variance(table)
        rows.append(
            {
                "rule": name,
                "acc": spread.mean,
                "acc_by_seed": [float(x) for x in spread.per_seed],
                "item_stderr": spread.item_stderr,
                "seed_sd": spread.seed_sd,
                "total_stderr": spread.total_stderr,
            }
        )
    return rows


def _cells(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """A rule's row: each measure's value, and its interval under "<measure>_ci95"."""
    cells: dict[str, Any] = {}
    for name in COLUMNS:
        m = measured.get(name)
        cells[name], cells[f"{name}_ci95"] = (None, None) if m is None else (m.value, m.ci95)
    return cells


def _confusion(scores: Scores, records: Sequence[Record], labels: int) -> list[Mapping[str, Any]]:
    table = measures.confusion(scores, [record.gold for record in records], labels)
    names = [choice.text for choice in records[0].choices]
    return [{"gold": name, **{f"predicted {other}": int(n) for other, n in zip(names, row, strict=True)}}
            for name, row in zip(names, table, strict=True)]  # fmt: skip


def _items(by_rule: Mapping[str, Scores], records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """One row an item and seed: what was predicted, and whether each rule was right; `compare` pairs runs by these."""
    right = {RULES[name].metric: _right(scores, records) for name, scores in by_rule.items()}
    predicted = measures.predictions(by_rule["sum"])
    return [
        {
            "item": record.item,
            "row": record.number,
            "seed": record.seed,
            "cluster": record.cluster,
            "gold": list(record.gold),
            "predicted": int(predicted[i]),
            "log_loss": _log_loss(by_rule["sum"][i], record.gold),
            **{metric: int(values[i]) for metric, values in right.items()},
        }
        for i, record in enumerate(records)
    ]


def _log_loss(scores: np.ndarray, gold: Sequence[int]) -> float:
    """-log p(right) of one item, nats, however unlikely."""
    return max(0.0, float(np.logaddexp.reduce(scores) - np.logaddexp.reduce(scores[sorted(set(gold))])))


def _f1(scores: Scores, records: Sequence[Record], units: Sequence[str] | None, labels: int | None) -> Measurement:
    """F1 of the second of two labels, lm-evaluation-harness's `f1` (scikit-learn's with pos_label=1): 2 TP over gold plus
    predicted, a ratio of sums over items (or what else is independent), with that estimator's error."""
    if labels != 2:
        raise InputError(f"the metric f1 needs two labels, the same for every item; this task has {labels or 'others'}")
    predicted = measures.predictions(scores) == 1
    gold = np.array([1 in record.gold for record in records])
    codes = np.arange(len(records)) if units is None else stats.cluster_codes(units, len(records))
    moments = stats.no_moments(2)
    for row in zip(np.bincount(codes, 2.0 * (gold & predicted)), np.bincount(codes, 1.0 * gold + predicted), strict=True):
        moments = stats.add_row(moments, np.array(row))
    if not moments.total[1]:
        return Measurement("f1", 0.0, "1", "exact", None, None, moments.n, True)
    found = stats.linearised_ratio(moments, 0, 1)
    return Measurement("f1", found.value, "1", "exact", found.stderr, found.ci95, found.n, True)


def _mean(name: str, values: np.ndarray, units: Sequence[str] | None) -> Measurement:
    return _measurement(name, "1", stats.mean_estimate(values, units), higher=True)


def _measurement(name: str, unit: str, found: Estimate, *, higher: bool) -> Measurement:
    return Measurement(name, found.value, unit, "exact", found.stderr, found.ci95, found.n_clusters, higher)
