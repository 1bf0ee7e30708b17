"""Records -> the report of a task: every rule's accuracy and calibration with intervals, tables, and every item's scores.

Reads records alone: `lmeval run` and `lmeval rescore` give the same report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmeval import stats
from lmeval.errors import InputError
from lmeval.prompting import measures
from lmeval.prompting.records import RECORDS_ONLY, Record, as_item
from lmeval.prompting.rules import RULES, Scores, rule_scores, same_choices
from lmeval.results import ItemMetric, Items, Measurement, Report, Table
from lmeval.results.table import Column, count, words
from lmeval.specs.tasks import CHOICE
from lmeval.stats import Estimate, SeedSpread

NAMES = {"brier": "brier_score"}  # lm-evaluation-harness's name
LARGEST_EXPONENT = 700.0  # of e, in a float64
MEASURES = {
    "acc": "accuracy",
    "balanced_acc": "balanced",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "log_loss": "log loss",
    "brier_score": "Brier",
    "ece": "ECE",
}
"""The measures of every rule, by name, with their titles."""
RULE_COLUMNS = (
    words("rule"),
    *(
        column
        for name, title in MEASURES.items()
        for column in (Column(name, title, digits=4), Column(f"{name}_ci95", "95% interval", digits=4))
    ),
    words("description", "score"),
)
RELIABILITY_COLUMNS = (
    Column("first", "confidence above", digits=2),
    Column("stop", "up to", digits=2),
    count("n", "answers"),
    Column("confidence", "mean", digits=3),
    Column("accuracy", "accuracy", digits=3),
    Column("ci95", "95% interval", digits=3),
)
SEED_COLUMNS = (
    words("rule"),
    Column("acc", "accuracy", digits=4),
    Column("acc_by_seed", "accuracy by seed", digits=4),
    Column("seed_sd", "spread", digits=4),
    Column("item_stderr", "error from items", digits=4),
    Column("total_stderr", "from items and seeds", digits=4),
)


class _Summary(NamedTuple):
    """Measurements, tables, and of each record its scores and the choice that the rule "sum" predicts."""

    results: tuple[Measurement, ...]
    tables: Mapping[str, Table]
    metrics: tuple[ItemMetric, ...]
    values: Sequence[Mapping[str, float]]
    predicted: Sequence[int | None]


def summarise(
    records: Sequence[Record], of: Mapping[str, str], ledger: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Report:
    """The report of a task's records.

    Args:
        records: Every item under every seed.
        of: The model and the task, as every measurement says.
        ledger: What was scored and left out; its "output_type" and "metrics" are the task's.
        provenance: Where the records come from.

    Returns:
        A report of kind "run". Each rule's accuracy is `of` that rule, and so is what is measured by the rule "sum" alone.

    Raises:
        NonFiniteScore: A record holds NaN or infinities.
        InputError: The records do not fit the metrics, or each other.
    """
    is_choice = ledger.get("output_type") == CHOICE
    summary = _choice_summary(records, ledger.get("metrics", ())) if is_choice else _target_summary(records)
    ledger = {**ledger, "interval": _interval(records)}
    if is_choice:
        ledger["n_ties"] = measures.ties(RULES["sum"].scores(records) or [])
    of = {"model": of["model"], "task": of["task"]}
    rows = zip(records, summary.values, summary.predicted, strict=True)
    items = tuple(as_item(record, of, values, predicted) for record, values, predicted in rows)
    return Report(
        kind="run",
        results=tuple(m._replace(of={**of, **m.of}) for m in summary.results),
        tables=summary.tables,
        ledger=ledger,
        provenance=provenance,
        items=Items(summary.metrics, items, records_only=RECORDS_ONLY),
    )


def _choice_summary(records: Sequence[Record], metrics: Sequence[str]) -> _Summary:
    gold = [record.gold for record in records]
    labels = len(records[0].choices) if same_choices(records) else None
    by_rule = rule_scores(records)
    units = _units(records)
    rows: list[Mapping[str, Any]] = []
    results: list[Measurement] = []
    of_sum: list[Measurement] = []
    for name, scores in by_rule.items():
        measured = {NAMES.get(m.name, m.name): m for m in measures.measure(scores, gold, units, labels)}
        measured["acc"] = _over_seeds(measured["acc"], _right(scores, records), records)
        rows.append({"rule": name, "description": RULES[name].description, **_cells(measured)})
        results.append(measured["acc"]._replace(name=RULES[name].metric, of={"rule": name}))
        if name == "sum":
            of_sum = [m._replace(name=n, of={"rule": name}) for n, m in measured.items() if n != "acc"]
    greedy = np.array([float(any(r.choices[g].greedy for g in r.gold)) for r in records])
    if "exact_match" in metrics:
        of_sum.append(_mean("exact_match", greedy, units))
    if "f1" in metrics:
        of_sum.append(_f1(by_rule["sum"], records, units, labels)._replace(of={"rule": "sum"}))
    tables = {
        "rules": Table(RULE_COLUMNS, tuple(rows)),
        "reliability": Table(RELIABILITY_COLUMNS, tuple(measures.reliability(by_rule["sum"], gold, clusters=units))),
    }
    distinct = len({choice.text for choice in records[0].choices}) == labels
    if labels is not None and distinct and all(len(right) == 1 for right in gold):
        tables["confusion"] = _confusion(by_rule["sum"], records, labels)
    if len({record.seed for record in records}) > 1:
        tables["shot_seeds"] = Table(SEED_COLUMNS, tuple(_seed_rows(by_rule, records)))
    shares = {RULES[name].metric: _right(scores, records) for name, scores in by_rule.items()}
    if "exact_match" in metrics:
        shares["exact_match"] = greedy
    losses = [_log_loss(scores, record.gold) for scores, record in zip(by_rule["sum"], records, strict=True)]
    values = [
        {"log_loss": loss, **{name: float(right[i]) for name, right in shares.items()}} for i, loss in enumerate(losses)
    ]
    item_metrics = (*map(_share, shares), ItemMetric("log_loss", "nats", "log_loss"))
    predicted = measures.predictions(by_rule["sum"]).tolist()
    return _Summary((*results, *of_sum), tables, item_metrics, values, predicted)


def _target_summary(records: Sequence[Record]) -> _Summary:
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
    values = [{"acc": float(g), "target_nll_nats": float(x)} for g, x in zip(greedy, nats, strict=True)]
    metrics = (_share("acc"), ItemMetric("target_nll_nats", "nats", "target_nll_nats"))
    return _Summary(results, {}, metrics, values, [None] * len(records))


def _share(name: str) -> ItemMetric:
    return ItemMetric(name, "1", name, higher_is_better=True, share=True)


def _units(records: Sequence[Record]) -> list[str] | None:
    """What is independent: the clusters that the task names, else items, of which each seed holds the same."""
    return stats.independent_units([record.item for record in records], [record.cluster for record in records])


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
    freedom = total**2 / (from_items**2 / (items - 1) + from_seeds**2 / (seeds - 1))
    return max(1, int(freedom * (1 + 1e-9)))  # whole where it is but for rounding


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
    for name in MEASURES:
        m = measured.get(name)
        cells[name], cells[f"{name}_ci95"] = (None, None) if m is None else (m.value, m.ci95)
    return cells


def _confusion(scores: Scores, records: Sequence[Record], labels: int) -> Table:
    counts = measures.confusion(scores, [record.gold for record in records], labels)
    names = [choice.text for choice in records[0].choices]
    columns = (words("gold", "right"), *(count(f"predicted {name}") for name in names))
    rows = [
        {"gold": name, **{f"predicted {other}": int(n) for other, n in zip(names, row, strict=True)}}
        for name, row in zip(names, counts, strict=True)
    ]
    return Table(columns, tuple(rows))


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
    rows = np.stack([2.0 * (gold & predicted), 1.0 * gold + predicted], axis=1)
    if not rows[:, 1].any():
        return Measurement("f1", 0.0, "1", "exact", None, None, len(rows) if units is None else len(set(units)), True)
    return _measurement("f1", "1", stats.ratio_estimate(rows, units), higher=True)


def _mean(name: str, values: np.ndarray, units: Sequence[str] | None) -> Measurement:
    return _measurement(name, "1", stats.mean_estimate(values, units), higher=True)


def _measurement(name: str, unit: str, mean: Estimate, *, higher: bool) -> Measurement:
    return Measurement(name, mean.value, unit, "exact", mean.stderr, mean.ci95, mean.n_clusters, higher)
