"""Two results of one kind on the same items: how far apart are they, and how sure is that? Knows no capability.

Pairing item by item removes what the items have in common: documents that are hard for both models cancel. The difference
has the interval of paired items; the correlation says how much pairing helped. Comparing two separate standard errors, as
lm-evaluation-harness's model comparator does, leaves the covariance out and makes the error of the difference too large
where models fail on the same items.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmeval.errors import InputError
from lmeval.messages import nearest
from lmeval.results.items import ItemMetric, ItemRecord, groups, has_metric, side_of
from lmeval.results.matching import Matches, different_inputs, items_of, match_groups, match_parts
from lmeval.results.measurement import Measurement, Side, difference_side, label
from lmeval.results.provenance import provenance
from lmeval.results.report import Report, leaves
from lmeval.results.table import Column, Table, count, words
from lmeval.stats import paired, significance
from lmeval.stats.estimates import Estimate

MAIN = {"run": ("acc",), "likelihood": ("log_likelihood_nats",), "perplexity": ("bits_per_byte", "bits_per_token")}
"""The metrics that are compared where nobody names any: the first that both results have; of other kinds all of them."""


class Pair(NamedTuple):
    """One metric over the items that results a and b share.

    `of` says what the two have in common, `of_a` and `of_b` what each is of alone. `correlation` is Pearson's over the
    items, None where one of them does not vary. `binary` says that every value is 0 or 1.
    """

    metric: ItemMetric
    of: Mapping[str, str]
    of_a: Mapping[str, str]
    of_b: Mapping[str, str]
    value_a: float
    value_b: float
    difference: Estimate
    correlation: float | None
    mcnemar: paired.McNemar | None
    method: str
    n_only_a: int
    n_only_b: int


def compare_reports(a: Report, b: Report, metrics: Sequence[str] = (), names: tuple[str, str] = ("a", "b")) -> Report:
    """Paired differences a - b of all metrics that two reports of one kind share, with Holm's adjustment over all rows.

    Args:
        a: A report whose items are kept.
        b: Another of the same kind.
        metrics: Names of the metrics to compare; empty for the kind's main one.
        names: What a and b are called, such as their files.

    Returns:
        A report of kind "compare" whose results are called `<metric>_difference`, each with its 95% interval, and whose
        table "differences" has a row for each.

    Raises:
        InputError: The reports are of different kinds, hold no items, hold one task twice, or have no item or metric in
            common.
    """
    parts = match_parts(a, b, names)
    pairs = [pair for part_a, part_b in parts.pairs for pair in _compare_parts(part_a, part_b, metrics)]
    if not pairs:
        raise InputError(
            f"{names[0]} and {names[1]} have no metric over the same items in common: give results on the same data, both "
            "written by --json or both by --records"
        )
    tests = [_test(pair) for pair in pairs]
    p_values = [p for _, p in tests if p is not None]
    adjusted = iter(significance.holm(p_values))
    rows = [_row(pair, test, p, None if p is None else next(adjusted)) for pair, (test, p) in zip(pairs, tests, strict=True)]
    files = {"a": names[0], "b": names[1]}
    ledger = {
        **files,
        "compared": a.kind,
        "n_comparisons": len(rows),
        "holm_over": len(p_values),
        "left_out": {"a": _left_out(parts, 0), "b": _left_out(parts, 1)},
        "different_inputs": list(dict.fromkeys(name for pair in parts.pairs for name in different_inputs(*pair))),
    }
    inputs = {
        key: {"name": files[key], "provenance": [dict(part.provenance) for part in leaves(report)]}
        for key, report in (("a", a), ("b", b))
    }
    return Report(
        kind="compare",
        results=tuple(map(_measurement, pairs)),
        tables={"differences": Table(COLUMNS, tuple(rows))},
        ledger=ledger,
        provenance=provenance("compare", inputs=inputs, settings={"metrics": list(metrics)}),
    )


COLUMNS = (
    words("of"),
    words("of_a"),
    words("of_b"),
    words("metric", "measure"),
    words("unit"),
    count("n", "items"),
    count("n_clusters"),
    count("n_only_a"),
    count("n_only_b"),
    Column("a", "A", digits=4),
    Column("b", "B", digits=4),
    Column("difference", "A - B", digits=4, style="signed"),
    Column("stderr", "standard error", digits=4),
    Column("ci95", "95% interval", digits=4),
    count("right_in_a_only", "only A right"),
    count("right_in_b_only", "only B right"),
    Column("correlation", "correlation", digits=3),
    words("method"),
    words("test"),
    Column("p_value", "p", style="words"),
    Column("p_holm", "p (Holm)", style="words"),
    Column("minimum_detectable_effect", "detectable", digits=4),
    words("higher_is_better"),
    words("side"),
    words("verdict", ""),
)


def _compare_parts(a: Report, b: Report, wanted: Sequence[str]) -> Iterator[Pair]:
    in_b = {metric.name: metric for metric in items_of(b).metrics}
    common = [metric for metric in items_of(a).metrics if metric.name in in_b]
    ordered = items_of(a).ordered and items_of(b).ordered
    for records_a, records_b in match_groups(a, b).pairs:
        available = [m for m in common if has_metric(m, records_a) and has_metric(m, records_b)]
        for metric in _choose_metrics(a.kind, available, wanted, label(records_a[0].of)):
            yield _compare_metric(metric, records_a, records_b, ordered)


def _left_out(parts: Matches[Report], side: int) -> list[str]:
    """What only one of the results has: tasks, and what the items of a common task are of."""
    alone = [[group] for part in parts.alone[side] for group in groups(items_of(part).records).values()]
    alone += [match_groups(*pair).alone[side] for pair in parts.pairs]
    return [label(records[0].of) for listed in alone for records in listed]


def _choose_metrics(kind: str, available: Sequence[ItemMetric], wanted: Sequence[str], of: str) -> Sequence[ItemMetric]:
    by_name = {metric.name: metric for metric in available}
    if not wanted:
        main = [name for name in MAIN.get(kind, ()) if name in by_name]
        return [by_name[main[0]]] if main else available
    for name in wanted:
        if name not in by_name:
            raise InputError(f"{of or kind} has no {name} in both results{nearest(name, by_name)}")
    return [by_name[name] for name in wanted]


def _compare_metric(metric: ItemMetric, a: Sequence[ItemRecord], b: Sequence[ItemRecord], ordered: bool) -> Pair:
    of_a, of_b = a[0].of, b[0].of
    values_a, values_b = _values(metric, a), _values(metric, b)
    items = [item for item in values_a if item in values_b]
    if not items:
        raise InputError(
            f"no item is in both results ({len(values_a)} and {len(values_b)} items): compare runs over the same data"
        )
    _check_same_data(a, b)
    rows_a, rows_b = (np.array([values[item] for item in items]) for values in (values_a, values_b))
    with np.errstate(over="ignore"):
        if not np.isfinite(np.square([rows_a, rows_b]).sum()):
            raise InputError(f"the values of {metric.name} are too large to add up: look at the items one by one")
    clusters = _clusters([*a, *b], items)
    if metric.denominator and not (rows_a[:, 1].any() and rows_b[:, 1].any()):
        raise InputError(f"{metric.name} needs {metric.denominator}, and the items in both results have none")
    if metric.denominator:
        compared = paired.ratio_difference(rows_a, rows_b, clusters, ordered=ordered)
    else:
        compared = paired.mean_difference(rows_a[:, 0], rows_b[:, 0], clusters)
    binary = not metric.denominator and bool(np.isin([rows_a[:, 0], rows_b[:, 0]], (0.0, 1.0)).all())
    return Pair(
        metric=metric,
        of={key: value for key, value in of_a.items() if of_b.get(key) == value},
        of_a={key: value for key, value in of_a.items() if of_b.get(key) != value},
        of_b={key: value for key, value in of_b.items() if of_a.get(key) != value},
        value_a=compared.a,
        value_b=compared.b,
        difference=compared.difference,
        correlation=compared.correlation,
        mcnemar=paired.mcnemar(rows_a[:, 0] == 1, rows_b[:, 0] == 1) if binary else None,
        method=compared.method,
        n_only_a=len(values_a) - len(items),
        n_only_b=len(values_b) - len(items),
    )


def _values(metric: ItemMetric, records: Sequence[ItemRecord]) -> dict[str, np.ndarray]:
    """Numerator and denominator (1 for a mean) of each item, scaled; means over seeds. Raises InputError where a value is
    not finite."""
    sums: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        top = metric.scale * record.values[metric.numerator]
        under = record.values[metric.denominator] if metric.denominator else 1.0
        if not np.isfinite([top, under]).all():
            raise InputError(f"item {record.item} has the {metric.name} {top}: it must be a finite number")
        sums[record.item].append((top, under))
    return {item: np.mean(rows, axis=0) for item, rows in sums.items()}


def _check_same_data(a: Sequence[ItemRecord], b: Sequence[ItemRecord]) -> None:
    """Raise InputError where an item's details name the SHA-256 of its data, and it is another in each result."""
    hashes = {record.item: record.detail["sha256"] for record in a if "sha256" in record.detail}
    for record in b:
        if "sha256" in record.detail and hashes.get(record.item, record.detail["sha256"]) != record.detail["sha256"]:
            raise InputError(f"{record.item} is not the same data in both results: its SHA-256 differs")


def _clusters(records: Sequence[ItemRecord], items: Sequence[str]) -> list[str] | None:
    """The cluster of each item; None where none has one. Raises InputError where some have and some have not."""
    named = {record.item: record.cluster for record in records if record.cluster is not None}
    if not named:
        return None
    lost = next((item for item in items if item not in named), None)
    if lost is not None:
        raise InputError(f"item {lost} has no cluster: give one to every item, or to none")
    return [named[item] for item in items]


def _test(pair: Pair) -> tuple[str | None, float | None]:
    """Name and p-value of the test that fits: exact McNemar where independent items are right or wrong, else the t test of
    the paired differences; None where there are too few items for one."""
    if pair.mcnemar is not None and pair.difference.n_clusters == pair.difference.n > 1:
        return "mcnemar", pair.mcnemar.p_value
    p = significance.t_test(pair.difference)
    return (None, None) if p is None else ("t", p)


def _verdict(pair: Pair, side: Side) -> str:
    """What the interval says at 95%: a bound speaks for one direction only, an estimate for none."""
    if pair.difference.ci95 is None:
        return "too few items to tell"
    low, high = pair.difference.ci95
    if (low > 0 and side in ("exact", "lower")) or (high < 0 and side in ("exact", "upper")):
        return "A is better" if (low > 0) == pair.metric.higher_is_better else "B is better"
    return "no difference seen" if side == "exact" else "does not order them"


def _side(pair: Pair) -> Side:
    """The side of the difference, from those of the two numbers."""
    of_a, of_b = ({**pair.of, **of} for of in (pair.of_a, pair.of_b))
    return difference_side(side_of(pair.metric, of_a), side_of(pair.metric, of_b))


def _measurement(pair: Pair) -> Measurement:
    difference = pair.difference
    apart = {f"{key}_{side}": value for side, of in (("a", pair.of_a), ("b", pair.of_b)) for key, value in of.items()}
    return Measurement(
        name=f"{pair.metric.name}_difference",
        value=difference.value,
        unit=pair.metric.unit,
        side=_side(pair),
        stderr=difference.stderr,
        ci95=difference.ci95,
        n=difference.n,
        higher_is_better=pair.metric.higher_is_better,
        of={**pair.of, **apart},
    )


def _row(pair: Pair, test: str | None, p: float | None, p_holm: float | None) -> dict[str, Any]:
    difference, side = pair.difference, _side(pair)
    effect = None if difference.stderr is None else significance.minimum_detectable_effect(difference.stderr)
    return {
        "of": dict(pair.of),
        "of_a": dict(pair.of_a),
        "of_b": dict(pair.of_b),
        "metric": pair.metric.name,
        "unit": pair.metric.unit,
        "n": difference.n,
        "n_clusters": difference.n_clusters,
        "n_only_a": pair.n_only_a,
        "n_only_b": pair.n_only_b,
        "a": pair.value_a,
        "b": pair.value_b,
        "difference": difference.value,
        "stderr": difference.stderr,
        "ci95": None if difference.ci95 is None else list(difference.ci95),
        "correlation": pair.correlation,
        "right_in_a_only": pair.mcnemar.only_a if pair.mcnemar else None,
        "right_in_b_only": pair.mcnemar.only_b if pair.mcnemar else None,
        "method": pair.method,
        "test": test,
        "p_value": p,
        "p_holm": p_holm,
        "minimum_detectable_effect": effect,
        "higher_is_better": pair.metric.higher_is_better,
        "side": side,
        "verdict": _verdict(pair, side),
    }
